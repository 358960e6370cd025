package bolt

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, err := Open(Options{Dir: b.TempDir(), Create: true, MasterKey: crashKey, Reserve: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := s.AddDomain(b.Context(), store.Domain{Name: crashBob.Domain}); err != nil {
		b.Fatal(err)
	}
	if err := s.PutAccount(b.Context(), store.AccountRecord{Account: hisp.Account{Address: crashBob}}); err != nil {
		b.Fatal(err)
	}
	return s
}

// each runs fn b.N times in n goroutines.
func each(b *testing.B, n int, fn func(ctx context.Context) error) {
	b.Helper()
	ctx := b.Context()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, n)
	start := time.Now()
	b.ResetTimer()
	for range n {
		go func() {
			for left.Add(-1) >= 0 {
				if err := fn(ctx); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range n {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msg/s")
}

// commits is the number of transactions so far.
func commits(b *testing.B, s *Store) (n int) {
	b.Helper()
	if err := s.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		b.Fatal(err)
	}
	return n
}

func benchItem(size int) hisp.Step {
	id := hisp.NewID(time.Now())
	raw := make([]byte, size)
	copy(raw, id)
	return hisp.Step{
		Queue: []hisp.Item{{ID: id, Work: hisp.WorkSeal, Created: time.Now(), Message: hisp.NewMessage(raw),
			Envelope: hisp.Envelope{ID: id, Origin: hisp.Edge, From: crashBob, To: []hisp.Address{crashBob}, Account: crashBob}}},
		Audit: []hisp.AuditRecord{{Event: hisp.AuditAccept, Message: id, Outcome: hisp.OutcomeOK,
			Private: hisp.AuditPrivate{From: crashBob, To: []hisp.Address{crashBob}, MessageID: string(id)}}},
	}
}

// BenchmarkCommit is the accept path: one item with its audit record, durable.
func BenchmarkCommit(b *testing.B) {
	for _, bb := range []struct{ size, workers int }{{20 << 10, 1}, {20 << 10, 8}, {20 << 10, 32}, {1 << 20, 1}, {1 << 20, 8}, {25 << 20, 2}} {
		b.Run(fmt.Sprintf("%dKB/%d", bb.size>>10, bb.workers), func(b *testing.B) {
			s := benchStore(b)
			b.SetBytes(int64(bb.size))
			before := commits(b, s)
			each(b, bb.workers, func(ctx context.Context) error { return s.Commit(ctx, benchItem(bb.size)) })
			b.ReportMetric(float64(b.N)/float64(commits(b, s)-before), "msg/commit")
		})
	}
}

// BenchmarkLeaseFinish takes 20 KB items out of the queue.
func BenchmarkLeaseFinish(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(workers), func(b *testing.B) {
			s := benchStore(b)
			st := hisp.Step{}
			for range b.N {
				st.Queue = append(st.Queue, benchItem(20<<10).Queue...)
				if len(st.Queue) == 200 {
					if err := s.Commit(b.Context(), st); err != nil {
						b.Fatal(err)
					}
					st.Queue = nil
				}
			}
			if err := s.Commit(b.Context(), st); err != nil {
				b.Fatal(err)
			}
			each(b, workers, func(ctx context.Context) error {
				it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkSeal})
				if err != nil {
					return err
				}
				return s.Commit(ctx, hisp.Step{Finish: it.ID, Audit: []hisp.AuditRecord{{Event: hisp.AuditSend, Message: it.ID}}})
			})
		})
	}
}

// BenchmarkDeliver puts 20 KB messages in one mailbox.
func BenchmarkDeliver(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(workers), func(b *testing.B) {
			s := benchStore(b)
			each(b, workers, func(ctx context.Context) error {
				st := benchItem(20 << 10)
				it := st.Queue[0]
				st.Queue = nil
				st.Deliver = []hisp.Delivery{{ID: it.ID, Recipient: crashBob, Message: it.Message}}
				return s.Commit(ctx, st)
			})
		})
	}
}

// BenchmarkOpen opens a store with 100,000 deferred items of 4 KB (reliability
// R11), after a clean close.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	o := Options{Dir: dir, Create: true, MasterKey: crashKey, Reserve: 1 << 20}
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	for range 100 {
		var st hisp.Step
		for range 1000 {
			st.Queue = append(st.Queue, benchItem(4<<10).Queue...)
		}
		if err := s.Commit(b.Context(), st); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for _, how := range []string{"clean", "crashed"} {
		b.Run(how, func(b *testing.B) {
			for b.Loop() {
				s, err := Open(o)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
				if how == "crashed" { // a commit leaves the list of free pages out
					if err := s.Record(b.Context(), hisp.AuditRecord{Event: hisp.AuditAdmin}); err != nil {
						b.Fatal(err)
					}
					s.failed.Store(true)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkBareBolt is the measure beside BenchmarkCommit: the same 20 KB as
// one plain value in a bare bbolt, committed in groups of as many as there are
// workers, without sealing, records, audit or index.
func BenchmarkBareBolt(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(workers), func(b *testing.B) {
			db, err := openBare(filepath.Join(b.TempDir(), "bare.db"))
			if err != nil {
				b.Fatal(err)
			}
			raw := make([]byte, 20<<10)
			start, n := time.Now(), 0
			for b.Loop() {
				if n++; n%workers != 0 {
					continue
				}
				err := db.Update(func(tx *bbolt.Tx) error {
					bk, err := tx.CreateBucketIfNotExists([]byte("x"))
					for i := 0; i < workers && err == nil; i++ {
						err = bk.Put(seqKey(uint64(n+i)), raw)
					}
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)/time.Since(start).Seconds(), "msg/s")
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func openBare(path string) (*bbolt.DB, error) {
	return bbolt.Open(path, fileMode, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mmapSize})
}
