package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// TestAuditQuery_blocks: however many entries are read at a time, the newest
// that match come out, in their order.
func TestAuditQuery_blocks(t *testing.T) {
	_, b := testNode(t)
	head, err := b.store.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		rec := hisp.AuditRecord{Time: time.Now().UTC(), Event: hisp.AuditAdmin, Outcome: hisp.OutcomeOK, Detail: fmt.Sprint(i)}
		if i%5 == 0 {
			rec.Event = hisp.AuditLogin
		}
		if err := b.store.Record(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		last, first uint64
		want        string
	}{
		{last: 1, first: 1, want: "[15]"},
		{last: 3, first: 1, want: "[5 10 15]"},
		{last: 0, first: 1, want: "[0 5 10 15]"},
		{last: 99, first: 1, want: "[0 5 10 15]"},
		{last: 99, first: head.Seq + 7, want: "[10 15]"},
		{last: 1, first: head.Seq + 99, want: "[]"},
	}
	for _, tt := range tests {
		for block := uint64(1); block < 30; block++ {
			q := auditQuery{first: tt.first, end: head.Seq + 20, last: tt.last, block: block,
				match: func(r hisp.AuditRecord) bool { return r.Event == hisp.AuditLogin }}
			entries, err := q.read(&call{ctx: t.Context(), backend: b})
			got := []string{}
			for _, e := range entries {
				got = append(got, e.Record.Detail)
			}
			if err != nil || fmt.Sprint(got) != tt.want {
				t.Errorf("last %d from %d in blocks of %d = %v, %v, want %s", tt.last, tt.first, block, got, err, tt.want)
			}
		}
	}
}
