// Package bench measures the whole node: beside a Postfix on the same machine
// under the same load, and from submission to the notice that comes back. It
// holds benchmarks only. They report ratios taken in one run, because the
// absolute numbers are those of the machine; docs/performance.md explains them.
package bench

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/load"
	"github.com/hispnode/hisp/test/testnet"
)

const (
	sender, rcpt = "dr.adams", "nurse.baker"
	from         = sender + "@hospital.example"
	to           = rcpt + "@clinic.example"
	own          = "device@clinic.example" // gets its messages sealed

	octets = 20 << 10 // of a message on the wire
)

// point is a number of connections and how many messages go over them.
type point struct{ conns, messages int }

var points = []point{{1, 500}, {8, 1500}, {32, 2000}}

func TestMain(m *testing.M) {
	if dir := os.Getenv(heldDir); dir != "" {
		if err := serveHeld(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// rig is two nodes; the clinic also takes mail from the hospital in the clear,
// as a Postfix does.
type rig struct {
	*testnet.Net
	senderPass, rcptPass, ownPass string
}

func newRig(b *testing.B) *rig {
	n := testnet.New(b)
	r := &rig{Net: n, senderPass: n.Hospital.Account(b, sender), rcptPass: n.Clinic.Account(b, rcpt)}
	r.ownPass = strings.TrimSpace(n.Clinic.CLI(b, "", "account", "add", "-generate", "-pass-through", own))
	n.Clinic.Append(b, "accept_plain = true\n") // of the peer, which is the last table
	if err := n.Clinic.Signal(syscall.SIGHUP); err != nil {
		b.Fatal(err)
	}
	testnet.Eventually(b, 10*time.Second, "the clinic reads its configuration again", func() bool {
		return strings.Contains(n.Clinic.Log(), "configuration read again")
	})
	return r
}

// plain makes a message that has size octets.
func plain(from, to string, size int) []byte {
	body := strings.Repeat(strings.Repeat("0123456789", 7)+"\r\n", size/72)
	return testnet.Message(from, to, "load", body, testnet.AskDispatched)
}

// sealed has one node seal a message, so that it has about octets on the wire.
func sealed(b *testing.B, s *testnet.Site, from, to string) []byte {
	raw := plain(from, to, octets*7/10)
	out := s.CLI(b, string(raw), "seal", "-from", from, "-to", to)
	return []byte(strings.ReplaceAll(strings.ReplaceAll(out, "\r\n", "\n"), "\n", "\r\n"))
}

func plainLogin(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// side is one server under load.
type side struct {
	name string
	load load.Load
	// done waits until everything accepted so far is done, nil if nothing is.
	done func()

	accepted, finished []float64 // messages/s of each round
	p99                []float64 // ms
}

func (s *side) round(b *testing.B, p point) {
	s.load.Conns, s.load.Messages = p.conns, p.messages
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	started := time.Now()
	res, err := s.load.Run(ctx)
	if err != nil || res.Accepted != p.messages {
		b.Fatalf("%s: %v: %v", s.name, res, err)
	}
	s.accepted = append(s.accepted, res.PerSec)
	s.p99 = append(s.p99, float64(res.P99.Microseconds())/1000)
	if s.done != nil {
		s.done()
		s.finished = append(s.finished, float64(p.messages)/time.Since(started).Seconds())
	}
}

func (s *side) report(b *testing.B) {
	b.ReportMetric(median(s.accepted), s.name+"-msg/s")
	b.ReportMetric(median(s.p99), s.name+"-p99-ms")
	if s.done != nil {
		b.ReportMetric(median(s.finished), s.name+"-done/s")
	}
}

// duel puts the same load on both sides in turn, one round each per iteration,
// and reports the medians and their ratio.
func duel(b *testing.B, p point, ours, theirs *side) {
	warm := point{p.conns, 200}
	ours.round(b, warm)
	theirs.round(b, warm)
	for _, s := range []*side{ours, theirs} {
		s.accepted, s.finished, s.p99 = nil, nil, nil
	}
	for b.Loop() {
		ours.round(b, p)
		theirs.round(b, p)
	}
	ours.report(b)
	theirs.report(b)
	b.ReportMetric(median(ours.accepted)/median(theirs.accepted), "x-postfix")
	if ours.done != nil && theirs.done != nil {
		b.ReportMetric(median(ours.finished)/median(theirs.finished), "x-postfix-done")
	}
	b.ReportMetric(0, "ns/op") // a round, of no interest
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}
