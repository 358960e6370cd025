package main

import (
	"testing"

	"github.com/hispnode/hisp/hisp"
)

// A notice that another one has overtaken is no fault.
func TestInWords_overtakenNotice(t *testing.T) {
	got := inWords(hisp.AuditRecord{Event: hisp.AuditNotify, Outcome: hisp.OutcomeOK, Detail: "received: late"})
	if want := "received, after dispatched"; len(got) < len(want) || got[len(got)-len(want):] != want {
		t.Errorf("got %q, want %q at its end", got, want)
	}
}
