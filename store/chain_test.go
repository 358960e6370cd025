package store

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

func trail(n int) []AuditEntry {
	var es []AuditEntry
	var c AuditHead
	for i := range n {
		e := AuditEntry{Seq: c.Seq + 1, Prev: c.Hash, Sealed: []byte{byte(i)}, Record: hisp.AuditRecord{
			Time: time.Unix(1700000000+int64(i), 5).UTC(), Event: hisp.AuditAccept, Message: "M", Domain: "a.example",
			Outcome: hisp.OutcomeOK, Kind: "k", Detail: "d"}}
		e.Hash = e.computeHash()
		c = AuditHead{Seq: e.Seq, Hash: e.Hash}
		es = append(es, e)
	}
	return es
}

func head(e AuditEntry) AuditHead { return AuditHead{Seq: e.Seq, Hash: e.Hash} }

// Security row A2: edit, delete, swap, cut and roll back are all found.
func TestChain(t *testing.T) {
	rehash := func(es []AuditEntry, i int) {
		es[i].Hash = es[i].computeHash()
	}
	tests := []struct {
		name   string
		change func(es []AuditEntry) []AuditEntry
		want   string // in the hint of the first finding, "" for none
	}{
		{name: "untouched", change: func(es []AuditEntry) []AuditEntry { return es }},
		{name: "edited", change: func(es []AuditEntry) []AuditEntry {
			es[2].Record.Outcome = hisp.OutcomeRefused
			return es
		}, want: "entry 3 was changed"},
		{name: "edited and hashed again", change: func(es []AuditEntry) []AuditEntry {
			es[2].Record.Outcome = hisp.OutcomeRefused
			rehash(es, 2)
			return es
		}, want: "entry 4 does not follow"},
		{name: "private part replaced", change: func(es []AuditEntry) []AuditEntry {
			es[2].Sealed = []byte("other")
			return es
		}, want: "entry 3 was changed"},
		{name: "deleted", change: func(es []AuditEntry) []AuditEntry { return slices.Delete(es, 2, 4) }, want: "entries 3 to 4 are missing"},
		{name: "first deleted", change: func(es []AuditEntry) []AuditEntry { return es[1:] }, want: "before 2 are missing"},
		{name: "swapped", change: func(es []AuditEntry) []AuditEntry {
			es[1], es[2] = es[2], es[1]
			return es
		}, want: "missing"},
		{name: "inserted twice", change: func(es []AuditEntry) []AuditEntry { return slices.Insert(es, 2, es[1]) }, want: "out of order"},
		{name: "cut", change: func(es []AuditEntry) []AuditEntry { return es[:4] }, want: "ends at entry 4, but entry 6 was noted"},
		{name: "all gone", change: func(es []AuditEntry) []AuditEntry { return nil }, want: "ends at entry 0"},
		{name: "rewritten from the middle", change: func(es []AuditEntry) []AuditEntry {
			es[3].Record.Detail = "other"
			for i := 3; i < len(es); i++ {
				es[i].Prev = es[i-1].Hash
				rehash(es, i)
			}
			return es
		}, want: "entry 6 is not the one that was noted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			es := trail(6)
			noted := head(es[5])
			var c Chain
			var errs []error
			for _, e := range tt.change(es) {
				if err := c.Next(e); err != nil {
					errs = append(errs, err)
				}
			}
			if err := c.End(noted); err != nil {
				errs = append(errs, err)
			}
			switch {
			case tt.want == "" && len(errs) > 0:
				t.Errorf("found %v, want nothing", errs)
			case tt.want != "" && len(errs) == 0:
				t.Errorf("found nothing, want %q", tt.want)
			case tt.want != "" && (!strings.Contains(hisp.HintOf(errs[0]), tt.want) || !errors.Is(errs[0], hisp.Tampered)):
				t.Errorf("found %v, want Tampered with %q", errs[0], tt.want)
			}
		})
	}
}

func TestParseCanonical(t *testing.T) {
	e := trail(2)[1]
	b := e.Canonical()
	got, err := ParseCanonical(b)
	if err != nil || got.Hash != e.Hash || got.Prev != e.Prev || got.Seq != e.Seq ||
		got.Record.Detail != "d" || !got.Record.Time.Equal(e.Record.Time) {
		t.Errorf("ParseCanonical = %+v, %v, want %+v", got, err, e)
	}
	for i := range b {
		if _, err := ParseCanonical(b[:i]); err == nil {
			t.Errorf("parsed when cut to %d octets", i)
		}
	}
	if _, err := ParseCanonical(append(b, 0)); err == nil {
		t.Error("parsed with an octet after the end")
	}
}

func FuzzParseCanonical(f *testing.F) {
	for _, e := range trail(3) {
		f.Add(e.Canonical())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseCanonical(b)
		if err == nil && string(e.Canonical()) != string(b) {
			t.Errorf("%x is read as %+v but written as %x", b, e, e.Canonical())
		}
	})
}
