package storetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// RunTracker tests hisp.Tracker and the tracks of hisp.Queue.Commit.
func RunTracker(t *testing.T, open func(t *testing.T) store.Store) {
	runAll(t, open, []test[store.Store]{
		{"a track comes back as it was stored", testTrackRoundTrip},
		{"a track changed by another is a conflict", testTrackConflict},
		{"of many writers of one version one wins", testTrackRace},
		{"overdue gives waiting tracks only", testOverdue},
		{"forget removes ended tracks only", testForget},
	})
}

func track(n int) hisp.Track {
	now := time.Now().UTC().Round(0)
	return hisp.Track{Message: "M1", MessageID: fmt.Sprintf("<%d@hospital.example>", n), Sender: addr("bob", home),
		Recipient: addr("Amy", other), Requested: true, Sent: now, Deadline: now.Add(time.Duration(n) * time.Minute),
		Header: []byte("Subject: x\r\n")}
}

func put(t *testing.T, s hisp.Queue, ts ...hisp.Track) {
	t.Helper()
	ok(t, s.Commit(t.Context(), hisp.Step{Track: ts}))
}

func testTrackRoundTrip(t *testing.T, s store.Store) {
	a, b := track(1), track(2)
	put(t, s, a, b)
	got, err := s.Track(t.Context(), a.MessageID, addr("aMY", other))
	ok(t, err)
	a.Version = 1
	if !reflect.DeepEqual(got, a) {
		t.Errorf("track = %+v, want %+v", got, a)
	}
	all, err := s.Tracks(t.Context(), "M1")
	ok(t, err)
	equal(t, "tracks of the message", len(all), 2)
	none, err := s.Tracks(t.Context(), "M")
	ok(t, err)
	equal(t, "tracks of another message", len(none), 0)
	_, err = s.Track(t.Context(), a.MessageID, addr("tom", other))
	want(t, err, hisp.NotFound)
	_, err = s.Track(t.Context(), "<9@hospital.example>", a.Recipient)
	want(t, err, hisp.NotFound)
}

func testTrackConflict(t *testing.T, s store.Store) {
	a := track(1)
	put(t, s, a)
	want(t, s.Commit(t.Context(), hisp.Step{Track: []hisp.Track{a}}), hisp.Conflict)
	a.Version = 1
	a.Processed = time.Now()
	put(t, s, a)
	want(t, s.Commit(t.Context(), hisp.Step{Track: []hisp.Track{a}}), hisp.Conflict)
	b := track(2)
	b.Version = 1 // never stored
	want(t, s.Commit(t.Context(), hisp.Step{Track: []hisp.Track{b}}), hisp.Conflict)
	b.Version = 0
	want(t, s.Commit(t.Context(), hisp.Step{Track: []hisp.Track{b, b}}), hisp.Conflict)
}

func testTrackRace(t *testing.T, s store.Store) {
	put(t, s, track(1))
	var mu sync.Mutex
	won := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			tr, err := s.Track(t.Context(), track(1).MessageID, track(1).Recipient)
			if err != nil || tr.Version != 1 {
				return
			}
			if s.Commit(t.Context(), hisp.Step{Track: []hisp.Track{tr}}) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	equal(t, "winners", won, 1)
}

func testOverdue(t *testing.T, s store.Store) {
	for n := range 5 {
		put(t, s, track(4-n))
	}
	done := track(0)
	done.Version, done.Final, done.Ended = 1, hisp.Succeeded, time.Now()
	put(t, s, done)
	later := track(1)
	later.Version, later.Deadline = 1, time.Now().Add(time.Hour)
	put(t, s, later)
	got, err := s.Overdue(t.Context(), time.Now().Add(3*time.Minute), 10)
	ok(t, err)
	equal(t, "overdue", len(got), 2)
	equal(t, "first", got[0].MessageID, track(2).MessageID)
	got, err = s.Overdue(t.Context(), time.Now().Add(3*time.Minute), 1)
	ok(t, err)
	equal(t, "limited", len(got), 1)
}

func testForget(t *testing.T, s store.Store) {
	now := time.Now()
	var ts []hisp.Track
	for n := range 4 {
		tr := track(n)
		if n > 0 {
			tr.Final, tr.Ended = hisp.TimedOut, now.Add(time.Duration(n-3)*24*time.Hour)
		}
		ts = append(ts, tr)
	}
	put(t, s, ts...)
	ok(t, s.Forget(t.Context(), now.Add(-25*time.Hour)))
	left, err := s.Tracks(t.Context(), "M1")
	ok(t, err)
	equal(t, "tracks left", len(left), 3)
	_, err = s.Track(t.Context(), track(1).MessageID, track(1).Recipient)
	want(t, err, hisp.NotFound)
	ok(t, s.Forget(t.Context(), now.Add(time.Hour)))
	left, err = s.Tracks(t.Context(), "M1")
	ok(t, err)
	equal(t, "tracks left", len(left), 1)
	equal(t, "state", left[0].Final, hisp.Waiting)
}

// RunAudit tests hisp.Auditor and store.AuditTrail.
func RunAudit(t *testing.T, open func(t *testing.T) store.Store) {
	runAll(t, open, []test[store.Store]{
		{"a record comes back as it was written", testAuditRoundTrip},
		{"the chain holds under many writers", testAuditChain},
		{"reading stops when told", testAuditStop},
	})
}

func testAuditRoundTrip(t *testing.T, s store.Store) {
	head, err := s.AuditHead(t.Context())
	ok(t, err)
	equal(t, "empty head", head, store.AuditHead{})
	r := hisp.AuditRecord{Time: time.Now().UTC().Round(0), Event: hisp.AuditReject, Message: "M1", Domain: other,
		Outcome: hisp.OutcomeRefused, Kind: "untrusted", Detail: "550 5.7.1",
		Private: hisp.AuditPrivate{From: addr("bob", home), To: []hisp.Address{addr("amy", other)}, Account: addr("bob", home),
			MessageID: "<1@a>", Auth: hisp.AuthPassword}}
	ok(t, s.Record(t.Context(), r))
	ok(t, s.Record(t.Context(), hisp.AuditRecord{Event: hisp.AuditLogin}))
	ok(t, s.Record(t.Context(), hisp.AuditRecord{Event: hisp.AuditSend, Message: "M2"}))
	es, err := s.MessageAudit(t.Context(), "M1")
	ok(t, err)
	equal(t, "entries of the message", len(es), 1)
	if !reflect.DeepEqual(es[0].Record, r) {
		t.Errorf("record = %+v, want %+v", es[0].Record, r)
	}
	head, err = s.AuditHead(t.Context())
	ok(t, err)
	equal(t, "sequence number", head.Seq, 3)
}

func testAuditChain(t *testing.T, s store.Store) {
	const n = 600
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range n / 8 {
				var err error
				if i%2 == 0 {
					err = s.Record(t.Context(), hisp.AuditRecord{Event: hisp.AuditLogin, Detail: fmt.Sprint(w)})
				} else {
					err = s.Commit(t.Context(), hisp.Step{Audit: []hisp.AuditRecord{{Event: hisp.AuditAccept}, {Event: hisp.AuditSeal}}})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var c store.Chain
	ok(t, s.ReadAudit(t.Context(), 0, func(e store.AuditEntry) bool {
		if err := c.Next(e); err != nil {
			t.Error(err)
		}
		return true
	}))
	head, err := s.AuditHead(t.Context())
	ok(t, err)
	equal(t, "head", c.Head(), head)
	ok(t, c.End(head))
}

func testAuditStop(t *testing.T, s store.Store) {
	for range 5 {
		ok(t, s.Record(t.Context(), hisp.AuditRecord{Event: hisp.AuditAdmin}))
	}
	var seqs []uint64
	ok(t, s.ReadAudit(t.Context(), 3, func(e store.AuditEntry) bool {
		seqs = append(seqs, e.Seq)
		return len(seqs) < 2
	}))
	if !reflect.DeepEqual(seqs, []uint64{3, 4}) {
		t.Errorf("read %v, want 3 and 4", seqs)
	}
}

// RunDirectory tests hisp.Directory.
func RunDirectory(t *testing.T, open func(t *testing.T) store.Store) {
	runAll(t, open, []test[store.Store]{
		{"hosted domains and accounts", testDirectory},
		{"authentication", testAuthenticate},
		{"room", testRoom},
	})
}

func testDirectory(t *testing.T, s store.Store) {
	people(t, s, "Bob", "ann+lab")
	for d, wanted := range map[hisp.Domain]bool{home: true, other: false} {
		got, err := s.Hosted(t.Context(), d)
		ok(t, err)
		equal(t, string(d), got, wanted)
	}
	for asked, wanted := range map[string]string{"bob": "Bob", "BOB+x": "Bob", "bob+": "Bob", "ann+LAB": "ann+lab"} {
		a, err := s.Account(t.Context(), addr(asked, home))
		ok(t, err)
		equal(t, asked, a.Address.Local, wanted)
	}
	for _, a := range []hisp.Address{addr("ann", home), addr("ann+x", home), addr("bob", other), {}} {
		_, err := s.Account(t.Context(), a)
		want(t, err, hisp.UnknownRecipient)
	}
}

func testAuthenticate(t *testing.T, s store.Store) {
	people(t, s)
	hash, err := store.HashPassword("right")
	ok(t, err)
	mine, shared, strange := certificate(t, 1), certificate(t, 2), certificate(t, 3)
	bob := store.AccountRecord{Account: hisp.Account{Address: addr("Bob", home), Quota: 9}, PasswordHash: hash,
		ClientCerts: [][32]byte{sha256.Sum256(mine.Raw), sha256.Sum256(shared.Raw)}}
	eve := store.AccountRecord{Account: hisp.Account{Address: addr("eve", home), Disabled: true}, PasswordHash: hash}
	gw := store.AccountRecord{Account: hisp.Account{Address: addr("gw", home)}, ClientCerts: [][32]byte{sha256.Sum256(shared.Raw)}}
	for _, a := range []store.AccountRecord{bob, eve, gw} {
		ok(t, s.PutAccount(t.Context(), a))
	}
	tests := []struct {
		name string
		c    hisp.Credentials
		want string // local part, "" is Denied
	}{
		{"password, any case of the name", hisp.Credentials{Username: "bOB@Hospital.Example", Password: "right"}, "Bob"},
		{"wrong password", hisp.Credentials{Username: "bob@hospital.example", Password: "wrong"}, ""},
		{"no password", hisp.Credentials{Username: "bob@hospital.example"}, ""},
		{"unknown user", hisp.Credentials{Username: "nobody@hospital.example", Password: "right"}, ""},
		{"not an address", hisp.Credentials{Username: "bob", Password: "right"}, ""},
		{"nothing", hisp.Credentials{}, ""},
		{"disabled", hisp.Credentials{Username: "eve@hospital.example", Password: "right"}, ""},
		{"tag is not the account", hisp.Credentials{Username: "bob+x@hospital.example", Password: "right"}, ""},
		{"certificate and name", hisp.Credentials{Username: "bob@hospital.example", Cert: mine}, "Bob"},
		{"certificate alone", hisp.Credentials{Cert: mine}, "Bob"},
		{"shared certificate and name", hisp.Credentials{Username: "gw@hospital.example", Cert: shared}, "gw"},
		{"shared certificate alone", hisp.Credentials{Cert: shared}, ""},
		{"certificate of another", hisp.Credentials{Username: "gw@hospital.example", Cert: mine}, ""},
		{"strange certificate", hisp.Credentials{Username: "bob@hospital.example", Cert: strange}, ""},
		{"strange certificate, right password", hisp.Credentials{Username: "bob@hospital.example", Password: "right", Cert: strange}, "Bob"},
	}
	for _, tt := range tests {
		a, err := s.Authenticate(t.Context(), tt.c)
		if tt.want == "" {
			want(t, err, hisp.Denied)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		equal(t, tt.name, a.Address.Local, tt.want)
	}
	bob.ClientCerts = nil
	ok(t, s.PutAccount(t.Context(), bob))
	_, err = s.Authenticate(t.Context(), hisp.Credentials{Cert: mine})
	want(t, err, hisp.Denied)
	a, err := s.Authenticate(t.Context(), hisp.Credentials{Cert: shared}) // now of one account only
	ok(t, err)
	equal(t, "sole owner", a.Address.Local, "gw")
}

func testRoom(t *testing.T, s store.Store) {
	people(t, s)
	bob := addr("bob", home)
	ok(t, s.PutAccount(t.Context(), store.AccountRecord{Account: hisp.Account{Address: bob, Quota: 1000}}))
	ok(t, s.Room(t.Context(), bob, 1000))
	want(t, s.Room(t.Context(), bob, 1001), hisp.Full)
	want(t, s.Room(t.Context(), addr("nobody", home), 1), hisp.UnknownRecipient)
	_, info, err := s.Append(t.Context(), bob, "INBOX", message("m", 700), nil, time.Now())
	ok(t, err)
	ok(t, s.Room(t.Context(), addr("bob+x", home), 1000-info.Size))
	want(t, s.Room(t.Context(), bob, 1001-info.Size), hisp.Full)
	_, _, err = s.Append(t.Context(), bob, "Sent", message("m", 700), nil, time.Now())
	want(t, err, hisp.Full)
	_, _, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{1}, "Trash", store.Copy)
	want(t, err, hisp.Full)
	_, _, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{1}, "Trash", store.Move)
	ok(t, err)
	_, err = s.SetFlags(t.Context(), bob, "Trash", []uint32{1}, store.FlagsAdd, []string{`\Deleted`})
	ok(t, err)
	_, err = s.Expunge(t.Context(), bob, "Trash", nil)
	ok(t, err)
	ok(t, s.Room(t.Context(), bob, 1000))
}

// RunAdmin tests the operator's lists.
func RunAdmin(t *testing.T, open func(t *testing.T) store.Store) {
	runAll(t, open, []test[store.Store]{
		{"domains", testDomains},
		{"accounts", testAccounts},
		{"anchors per domain and direction", testAnchors},
		{"keys", testKeys},
	})
}

func testDomains(t *testing.T, s store.Store) {
	for _, d := range []hisp.Domain{home, other} {
		ok(t, s.AddDomain(t.Context(), store.Domain{Name: d, Created: time.Now()}))
	}
	want(t, s.AddDomain(t.Context(), store.Domain{Name: home}), hisp.Conflict)
	ds, err := s.ListDomains(t.Context())
	ok(t, err)
	equal(t, "domains", len(ds), 2)
	equal(t, "first by name", ds[0].Name, other)
	people(t, s, "bob")
	want(t, s.RemoveDomain(t.Context(), home), hisp.Conflict)
	ok(t, s.RemoveAccount(t.Context(), addr("bob", home)))
	ok(t, s.RemoveDomain(t.Context(), home))
	want(t, s.RemoveDomain(t.Context(), home), hisp.NotFound)
}

func testAccounts(t *testing.T, s store.Store) {
	want(t, s.PutAccount(t.Context(), store.AccountRecord{Account: hisp.Account{Address: addr("bob", other)}}), hisp.NotFound)
	people(t, s, "bob", "Amy")
	ok(t, s.AddDomain(t.Context(), store.Domain{Name: other}))
	rec := store.AccountRecord{Account: hisp.Account{Address: addr("zoe", other), PassThrough: true, Quota: 5},
		PasswordHash: "h", ClientCerts: [][32]byte{{1}}, Created: time.Now().UTC().Round(0)}
	ok(t, s.PutAccount(t.Context(), rec))
	got, err := s.GetAccount(t.Context(), addr("ZOE", other))
	ok(t, err)
	if !reflect.DeepEqual(got, rec) {
		t.Errorf("account = %+v, want %+v", got, rec)
	}
	for d, n := range map[hisp.Domain]int{"": 3, home: 2, other: 1, "none.example": 0} {
		as, err := s.ListAccounts(t.Context(), d)
		ok(t, err)
		equal(t, "accounts of "+string(d), len(as), n)
	}
	as, err := s.ListAccounts(t.Context(), home)
	ok(t, err)
	equal(t, "first by address", as[0].Address.Local, "Amy")
	_, _, err = s.Append(t.Context(), addr("bob", home), "INBOX", message("m", 100<<10), nil, time.Now())
	ok(t, err)
	ok(t, s.PutAccount(t.Context(), store.AccountRecord{Account: hisp.Account{Address: addr("BOB", home)}})) // replaced: mail stays
	f, _, err := s.ListMessages(t.Context(), addr("bob", home), "INBOX")
	ok(t, err)
	equal(t, "messages", f.Messages, 1)
	ok(t, s.RemoveAccount(t.Context(), addr("Bob", home)))
	want(t, s.RemoveAccount(t.Context(), addr("Bob", home)), hisp.NotFound)
	_, err = s.GetAccount(t.Context(), addr("bob", home))
	want(t, err, hisp.NotFound)
	_, _, err = s.ListMessages(t.Context(), addr("bob", home), "INBOX")
	want(t, err, hisp.NotFound)
	people(t, s, "bob") // again: an empty mailbox with another UIDVALIDITY
	again, _, err := s.ListMessages(t.Context(), addr("bob", home), "INBOX")
	ok(t, err)
	equal(t, "messages", again.Messages, 0)
	equal(t, "UIDVALIDITY reused", again.UIDValidity == f.UIDValidity, false)
}

// Conformance row TR-02: lists differ by domain and direction.
func testAnchors(t *testing.T, s store.Store) {
	for _, d := range []hisp.Domain{home, other} {
		ok(t, s.AddDomain(t.Context(), store.Domain{Name: d}))
	}
	a, b := certificate(t, 1), certificate(t, 2)
	want(t, s.PutAnchor(t.Context(), store.Anchor{Domain: "none.example", Direction: hisp.Both, Cert: a}), hisp.NotFound)
	ok(t, s.PutAnchor(t.Context(), store.Anchor{Domain: home, Direction: hisp.Incoming, Cert: a, Added: time.Now()}))
	ok(t, s.PutAnchor(t.Context(), store.Anchor{Domain: home, Direction: hisp.Both, Cert: b, Added: time.Now().Add(1)}))
	ok(t, s.PutAnchor(t.Context(), store.Anchor{Domain: other, Direction: hisp.Outgoing, Cert: a}))
	counts := func(wanted map[hisp.Domain][2]int) {
		t.Helper()
		for d, n := range wanted {
			for i, dir := range []hisp.Direction{hisp.Incoming, hisp.Outgoing} {
				got, err := s.Anchors(t.Context(), addr("bob", d), dir)
				ok(t, err)
				equal(t, fmt.Sprintf("%v anchors of %s", dir, d), len(got), n[i])
			}
		}
	}
	counts(map[hisp.Domain][2]int{home: {2, 1}, other: {0, 1}, "example": {}, "": {}})
	ok(t, s.PutAnchor(t.Context(), store.Anchor{Domain: home, Direction: hisp.Outgoing, Cert: a, Added: time.Now()}))
	counts(map[hisp.Domain][2]int{home: {1, 2}, other: {0, 1}})
	all, err := s.ListAnchors(t.Context(), "")
	ok(t, err)
	equal(t, "all anchors", len(all), 3)
	equal(t, "same certificate", all[0].Cert.Equal(a), true)
	ok(t, s.RemoveAnchor(t.Context(), home, sha256.Sum256(a.Raw)))
	want(t, s.RemoveAnchor(t.Context(), home, sha256.Sum256(a.Raw)), hisp.NotFound)
	counts(map[hisp.Domain][2]int{home: {1, 1}, other: {0, 1}})
}

func testKeys(t *testing.T, s store.Store) {
	now := time.Now().UTC().Round(0)
	c := certificate(t, 1)
	ks := []store.Key{
		{ID: "k1", Owner: addr("", home), Role: store.RoleDual, Chain: []*x509.Certificate{c, c}, PKCS8: []byte("one"), Created: now},
		{ID: "k2", Owner: addr("Bob", home), Role: store.RoleSign, PKCS8: []byte("two"), Created: now.Add(time.Second)},
		{ID: "k3", Owner: addr("", other), Role: store.RoleEncrypt, PKCS8: []byte("three"), Created: now.Add(-time.Second), Retired: now},
	}
	for _, k := range ks {
		ok(t, s.PutKey(t.Context(), k))
	}
	for _, tt := range []struct {
		owner hisp.Address
		want  string
	}{{addr("bob", home), "k2 k1 "}, {addr("amy", home), "k1 "}, {addr("", home), "k1 "}, {addr("bob", other), "k3 "}, {hisp.Address{}, "k2 k1 k3 "}} {
		got, err := s.ListKeys(t.Context(), tt.owner)
		ok(t, err)
		ids := ""
		for _, k := range got {
			ids += k.ID + " "
		}
		equal(t, fmt.Sprintf("keys of %q at %q", tt.owner.Local, tt.owner.Domain), ids, tt.want)
	}
	got, err := s.ListKeys(t.Context(), addr("bob", other))
	ok(t, err)
	if len(got) != 1 || !reflect.DeepEqual(got[0], ks[2]) {
		t.Errorf("key = %+v, want %+v", got, ks[2])
	}
	ks[0].Retired = now
	ok(t, s.PutKey(t.Context(), ks[0]))
	got, err = s.ListKeys(t.Context(), addr("", home))
	ok(t, err)
	equal(t, "retired", got[0].Retired, now)
	equal(t, "chain", len(got[0].Chain), 2)
	ok(t, s.RemoveKey(t.Context(), "k1"))
	want(t, s.RemoveKey(t.Context(), "k1"), hisp.NotFound)
}

func certificate(t *testing.T, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	ok(t, err)
	c, err := x509.ParseCertificate(der)
	ok(t, err)
	return c
}
