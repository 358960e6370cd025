package bench

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/hispnode/hisp/test/load"
	"github.com/hispnode/hisp/test/need"
)

// BenchmarkSyncs counts the fsync and fdatasync calls of a node for each
// message that it takes on port 25 and delivers; tracing slows it down.
func BenchmarkSyncs(b *testing.B) {
	strace := need.Tool(b, "strace")
	r := newRig(b)
	content := sealed(b, r.Hospital, from, to)
	for _, p := range []point{{1, 200}, {16, 1600}} {
		b.Run("conns="+strconv.Itoa(p.conns), func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(float64(r.syncs(b, strace, p, content))/float64(p.messages), "syncs/message")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// syncs restarts the clinic under strace, puts the load on it and stops it.
func (r *rig) syncs(b *testing.B, strace string, p point, content []byte) int {
	s := r.Clinic
	if err := s.Stop(); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "strace")
	s.Wrap = []string{strace, "-f", "-qq", "-o", file, "-e", "trace=fsync,fdatasync"}
	s.Start(b)
	l := load.Load{Addr: s.Addr("backbone"), From: from, To: own, Content: content, Conns: p.conns, Messages: p.messages}
	if res, err := l.Run(b.Context()); err != nil || res.Accepted != p.messages {
		b.Fatal(res, err)
	}
	awaitEmptyQueue(b, s)
	_ = s.Stop() // strace ends as the node does
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	s.Wrap = nil
	s.Start(b)
	return len(regexp.MustCompile(`(?m)f(data)?sync\([0-9]`).FindAll(text, -1))
}
