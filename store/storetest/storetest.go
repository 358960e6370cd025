// Package storetest is the contract of store.Store as tests. Every backend and
// every fake passes it; a promise that is not tested here is not a promise.
//
// The suites run in a testing/synctest bubble: time is fake, so open must use
// time.Now as its clock and start its goroutines itself. The suite closes what
// open returned. What survives a crash or a restart is tested by each backend.
package storetest

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Mail is the part of a store that an IMAP server uses.
type Mail interface {
	store.Domains
	store.Accounts
	store.Folders
	store.Messages
	Close() error
}

// Run runs all suites.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Run("queue", func(t *testing.T) { RunQueue(t, open) })
	t.Run("tracker", func(t *testing.T) { RunTracker(t, open) })
	t.Run("audit", func(t *testing.T) { RunAudit(t, open) })
	t.Run("directory", func(t *testing.T) { RunDirectory(t, open) })
	t.Run("admin", func(t *testing.T) { RunAdmin(t, open) })
	t.Run("mail", func(t *testing.T) { RunMail(t, func(t *testing.T) Mail { return open(t) }) })
}

type test[S any] struct {
	name string
	run  func(t *testing.T, s S)
}

func runAll[S interface{ Close() error }](t *testing.T, open func(t *testing.T) S, tests []test[S]) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				tt.run(t, s)
				ok(t, s.Close())
			})
		})
	}
}

const (
	home  hisp.Domain = "hospital.example"
	other hisp.Domain = "clinic.example"
)

func addr(local string, d hisp.Domain) hisp.Address { return hisp.Address{Local: local, Domain: d} }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("error = %v, want none", err)
	}
}

func want(t *testing.T, err error, kind hisp.Kind) {
	t.Helper()
	if err == nil || !errors.Is(err, kind) {
		t.Fatalf("error = %v, want %v", err, kind)
	}
}

func equal[T comparable](t *testing.T, what string, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Errorf("%s = %v, want %v", what, got, wanted)
	}
}

// message makes a message of a size whose octets differ from place to place.
func message(tag string, size int) hisp.Message {
	raw := append([]byte("Subject: "+tag+"\r\n\r\n"), make([]byte, max(size-len(tag)-13, 0))...)
	for i := range raw {
		if raw[i] == 0 {
			raw[i] = byte('a' + (i*7+i/251)%26)
		}
	}
	return hisp.NewMessage(raw)
}

func sameMessage(t *testing.T, got, wanted hisp.Message) {
	t.Helper()
	if string(got.Bytes()) != string(wanted.Bytes()) {
		t.Errorf("message = %v, want the same %d octets as stored", got, wanted.Size())
	}
}

// people makes the home domain with an account for each local part.
func people(t *testing.T, s interface {
	store.Domains
	store.Accounts
}, locals ...string) []hisp.Address {
	t.Helper()
	err := s.AddDomain(t.Context(), store.Domain{Name: home})
	if err != nil && !errors.Is(err, hisp.Conflict) {
		t.Fatal(err)
	}
	var as []hisp.Address
	for _, l := range locals {
		a := addr(l, home)
		ok(t, s.PutAccount(t.Context(), store.AccountRecord{Account: hisp.Account{Address: a}}))
		as = append(as, a)
	}
	return as
}

// item makes a queue item due now.
func item(w hisp.Work, d hisp.Domain, n int) hisp.Item {
	now := time.Now()
	id := hisp.ID(fmt.Sprintf("ITEM-%08d", n))
	return hisp.Item{ID: id, Work: w, Domain: d, Created: now, Due: now, Message: message(string(id), 300),
		Envelope: hisp.Envelope{ID: "MSG-" + id, Origin: hisp.Edge, From: addr("from", home),
			To: []hisp.Address{addr("to", d), addr("To Too", d)}, Received: now.UTC(), Account: addr("from", home),
			Auth: hisp.AuthPassword, TLS: true}}
}
