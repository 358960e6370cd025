package bolt

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// An operator takes an item that is not due; nobody else has it meanwhile.
func TestTake(t *testing.T) {
	ctx := context.Background()
	s, err := Open(Options{Dir: t.TempDir(), MasterKey: store.NewMasterKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	item := hisp.Item{ID: hisp.NewID(now), Work: hisp.WorkRelay, Domain: "a.example", Created: now, Due: now.Add(time.Hour),
		Message: hisp.NewMessage([]byte("Subject: x\r\n\r\nbody")), Envelope: hisp.Envelope{ID: hisp.NewID(now)}}
	if err := s.Commit(ctx, hisp.Step{Queue: []hisp.Item{item}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Take(ctx, item.ID)
	if err != nil || string(got.Message.Bytes()) != string(item.Message.Bytes()) {
		t.Fatalf("Take = %v, %v", got, err)
	}
	if _, err := s.Take(ctx, item.ID); !errors.Is(err, hisp.Conflict) {
		t.Errorf("second Take: %v, want Conflict", err)
	}
	if _, err := s.Take(ctx, "01"); !errors.Is(err, hisp.NotFound) {
		t.Errorf("Take of nothing: %v, want NotFound", err)
	}
	s.Release(item.ID)
	if _, err := s.Take(ctx, item.ID); err != nil {
		t.Errorf("Take after Release: %v", err)
	}
	if err := s.Commit(ctx, hisp.Step{Finish: item.ID}); err != nil {
		t.Errorf("finishing a taken item: %v", err)
	}
}
