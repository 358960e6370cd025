package bolt

import (
	"context"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	key := store.NewMasterKey()
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir, MasterKey: key})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.AddDomain(ctx, store.Domain{Name: "a.example"}))
	addr := hisp.Address{Local: "Bob", Domain: "a.example"}
	h, err := store.HashPassword("secret")
	must(err)
	must(s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: addr, Quota: 1 << 20}, PasswordHash: h}))
	a, err := s.Account(ctx, hisp.Address{Local: "bob+x", Domain: "a.example"})
	must(err)
	if a.Address != addr || a.Quota != 1<<20 {
		t.Error(a.Address.AddrSpec(), a.Quota)
	}
	t0 := time.Now()
	_, err = s.Authenticate(ctx, hisp.Credentials{Username: "bob@a.example", Password: "secret"})
	must(err)
	t.Log(time.Since(t0))
	id := hisp.NewID(time.Now())
	big := make([]byte, 3<<20)
	must(s.Commit(ctx, hisp.Step{Queue: []hisp.Item{{ID: id, Work: hisp.WorkOpen, Envelope: hisp.Envelope{ID: id, To: []hisp.Address{addr}}, Message: hisp.NewMessage(big)}},
		Audit: []hisp.AuditRecord{{Event: hisp.AuditReceive, Message: id, Private: hisp.AuditPrivate{From: addr}}}}))
	must(s.Close())
	s, err = Open(Options{Dir: dir, MasterKey: key})
	must(err)
	it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkOpen})
	must(err)
	if it.Message.Size() != 3<<20 {
		t.Error(it.Message.Size())
	}
	must(s.Commit(ctx, hisp.Step{Finish: it.ID, Deliver: []hisp.Delivery{{ID: id, Recipient: addr, Message: it.Message}}}))
	f, infos, err := s.ListMessages(ctx, addr, "INBOX")
	must(err)
	t.Log(f, infos)
	m, err := s.ReadMessage(ctx, addr, "INBOX", 1)
	must(err)
	if m.Size() != 3<<20 {
		t.Error(m.Size())
	}
	es, err := s.MessageAudit(ctx, id)
	must(err)
	t.Logf("%+v", es)
	must(s.Close())
}
