// Package crash kills nodes in the middle of their work and counts messages
// afterwards: what was answered with 250 is in the recipient's mailbox exactly
// once, and its sender has exactly one final notice (invariants I1, I2, I3 and
// I5 of docs/security.md).
package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testnet"
)

const (
	sender, rcpt = "dr.adams", "nurse.baker"
	from         = sender + "@hospital.example"
	to           = rcpt + "@clinic.example"
	settle       = 90 * time.Second
)

// rig is two nodes with an account each.
type rig struct {
	*testnet.Net
	senderPass, rcptPass string
}

func newRig(t *testing.T) *rig {
	n := testnet.New(t)
	return &rig{n, n.Hospital.Account(t, sender), n.Clinic.Account(t, rcpt)}
}

var idPattern = regexp.MustCompile(`(?m)^Message-ID: (<[^>]*>)\r?$`)

func idOf(raw []byte) string {
	m := idPattern.FindSubmatch(raw)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// delivered counts the copies of each message in the recipient's mailbox.
func (r *rig) delivered(t *testing.T) map[string]int {
	copies := map[string]int{}
	list, err := r.Clinic.TryInbox(t, rcpt, r.rcptPass)
	if err != nil {
		return copies
	}
	for _, raw := range list {
		copies[idOf([]byte(raw))]++
	}
	return copies
}

// noticed counts the final notices for each message in the sender's mailbox.
func (r *rig) noticed(t *testing.T, ids []string) map[string]int {
	notices := map[string]int{}
	list, err := r.Hospital.TryInbox(t, sender, r.senderPass)
	if err != nil {
		return notices
	}
	for _, raw := range list {
		for _, id := range ids {
			if strings.Contains(raw, "Original-Message-ID: "+id) {
				notices[id]++
			}
		}
	}
	return notices
}

// checkCounts waits until every acknowledged message has arrived and been
// answered and then counts. tries is how often the client handed in a message:
// one it handed in twice may arrive twice.
func (r *rig) checkCounts(t *testing.T, acked []string, tries map[string]int) {
	t.Helper()
	testnet.Eventually(t, settle, "every acknowledged message is delivered and answered", func() bool {
		copies, notices := r.delivered(t), r.noticed(t, acked)
		for _, id := range acked {
			if copies[id] == 0 || notices[id] == 0 {
				return false
			}
		}
		return true
	})
	lost, twice := 0, 0
	copies, notices := r.delivered(t), r.noticed(t, acked)
	for _, id := range acked {
		if copies[id] == 0 {
			lost++
		}
		if copies[id] > tries[id] {
			t.Errorf("%d copies of a message that was handed in %d times", copies[id], tries[id])
		}
		if copies[id] > 1 {
			twice++
		}
		if notices[id] != 1 {
			t.Errorf("%d final notices for one message, want 1", notices[id])
		}
	}
	t.Logf("acknowledged %d, lost %d, delivered again after the client handed in again %d", len(acked), lost, twice)
	for _, s := range []*testnet.Site{r.Hospital, r.Clinic} {
		s.CLI(t, "", "audit", "verify")
		s.CheckCanaries(t, sender, rcpt, "CanarySubject")
	}
}

// TestSIGKILL_random kills both nodes in turn at random moments while a client
// submits, and handing in again what was not acknowledged.
func TestSIGKILL_random(t *testing.T) {
	kills := 12
	if testing.Short() {
		kills = 4
	}
	r := newRig(t)
	var mu sync.Mutex
	var acked []string
	tries := map[string]int{}
	stop := make(chan struct{})
	var client sync.WaitGroup
	client.Go(func() {
		for i := 0; ; i++ {
			raw := testnet.Message(from, to, "CanarySubject", fmt.Sprintf("body %d", i), testnet.AskDispatched)
			id := idOf(raw)
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				tries[id]++
				mu.Unlock()
				if r.Hospital.Submit(t, sender, r.senderPass, raw, to) == nil {
					mu.Lock()
					acked = append(acked, id)
					mu.Unlock()
					break
				}
			}
		}
	})
	pause := time.NewTimer(0)
	<-pause.C
	for i := range kills {
		pause.Reset(time.Duration(50+rand.IntN(700)) * time.Millisecond)
		<-pause.C
		victim := []*testnet.Site{r.Hospital, r.Clinic}[i%2]
		victim.Kill()
		victim.Start(t)
	}
	close(stop)
	client.Wait()
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged: the test proves nothing")
	}
	r.checkCounts(t, acked, tries)
}

// TestSIGKILL_everyCommit kills one node at its first, second, third … commit
// of the whole flow: at each step of accept, seal, relay, receive, open,
// deliver and notify. It stops when a flow survives.
func TestSIGKILL_everyCommit(t *testing.T) {
	strace := need.Tool(t, "strace")
	for _, victim := range []string{"hospital", "clinic"} {
		t.Run(victim, func(t *testing.T) {
			r := newRig(t)
			site := map[string]*testnet.Site{"hospital": r.Hospital, "clinic": r.Clinic}[victim]
			var acked []string
			tries := map[string]int{}
			survived := 0
			most := 30
			if testing.Short() {
				most = 4
			}
			for n := 1; n <= most && survived < 2; n++ {
				site.Kill()
				site.Wrap = []string{strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync",
					"-e", fmt.Sprintf("inject=fdatasync,fsync:signal=SIGKILL:when=%d", n)}
				alive := site.Launch(t)
				raw := testnet.Message(from, to, "CanarySubject", fmt.Sprintf("kill at %d", n), testnet.AskDispatched)
				id := idOf(raw)
				if alive {
					tries[id]++
					if r.Hospital.Submit(t, sender, r.senderPass, raw, to) == nil {
						acked = append(acked, id)
					}
					waitForEnd(site, func() bool { return r.noticedOnly(t, id) })
				}
				if !site.Dead() {
					survived++
				}
				site.Kill()
				site.Wrap = nil
				site.Start(t)
				if tries[id] > 0 && !bytes.Contains([]byte(strings.Join(acked, " ")), []byte(id)) {
					tries[id]++
					if err := r.Hospital.Submit(t, sender, r.senderPass, raw, to); err != nil {
						t.Fatalf("handing in again after the restart: %v", err)
					}
					acked = append(acked, id)
				}
			}
			r.checkCounts(t, acked, tries)
		})
	}
}

func (r *rig) noticedOnly(t *testing.T, id string) bool { return r.noticed(t, []string{id})[id] > 0 }

// waitForEnd waits until the site dies or the flow is done.
func waitForEnd(site *testnet.Site, done func() bool) {
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !site.Dead() && !done() {
		select {
		case <-deadline:
			return
		case <-tick.C:
		}
	}
}
