package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

func testOptions(t *testing.T) Options {
	return Options{Dir: filepath.Join(t.TempDir(), "store"), Create: true, MasterKey: store.NewMasterKey(), Reserve: 1 << 20,
		LockTimeout: time.Millisecond, Fatal: func(err error) { t.Errorf("fatal: %v", err) }}
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, s.Close()) })
	return s
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// filled puts a bit of everything in: a small and a large body in queue and
// mailbox, tracks, anchors' buckets, audit.
func filled(t *testing.T, o Options, canary string) *Store {
	t.Helper()
	s, ctx := open(t, o), t.Context()
	bob := hisp.Address{Local: canary, Domain: "hospital.example"}
	ok(t, s.AddDomain(ctx, store.Domain{Name: bob.Domain}))
	ok(t, s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: bob}}))
	ok(t, s.CreateFolder(ctx, bob, canary, ""))
	ok(t, s.PutKey(ctx, store.Key{ID: "k", Owner: bob, PKCS8: []byte(canary)}))
	for i, size := range []int{100, 100 << 10} {
		msg := hisp.NewMessage(bytes.Repeat([]byte(canary+"\r\n"), size/len(canary)+1))
		id := hisp.ID(fmt.Sprint("ID", i))
		ok(t, s.Commit(ctx, hisp.Step{
			Queue: []hisp.Item{{ID: id, Work: hisp.WorkSeal, Message: msg, LastErr: canary,
				Envelope: hisp.Envelope{ID: id, From: bob, To: []hisp.Address{bob}, Account: bob}}},
			Deliver: []hisp.Delivery{{ID: id, Recipient: bob, Mailbox: canary, Message: msg}},
			Track:   []hisp.Track{{Message: id, MessageID: "<" + canary + string(id) + ">", Sender: bob, Recipient: bob, Header: msg.Bytes()[:50]}},
			Seen:    []hisp.Seen{{Digest: [32]byte{9, byte(i)}, Expires: time.Now().Add(time.Hour)}},
			Audit: []hisp.AuditRecord{{Event: hisp.AuditAccept, Message: id, Outcome: hisp.OutcomeOK,
				Private: hisp.AuditPrivate{From: bob, To: []hisp.Address{bob}, MessageID: canary}}},
		}))
	}
	return s
}

// Security rows A1 and S17, conformance row AU-04: no octet of a name, a
// message or a key is readable in the data folder, and none is in the log.
func TestStore_nothingReadableAtRest(t *testing.T) {
	const canary = "PHI-7f3a-canary"
	o := testOptions(t)
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := filled(t, o, canary)
	ok(t, s.Backup(t.Context(), filepath.Join(o.Dir, "backup")))
	ok(t, s.Close())
	files := 0
	ok(t, filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		files++
		for _, word := range []string{canary, "Ym9i", "<" + canary} {
			if bytes.Contains(bytes.ToLower(raw), []byte(strings.ToLower(word))) || strings.Contains(path, canary) {
				t.Errorf("%s shows %q", path, word)
			}
		}
		return err
	}))
	if files < 6 {
		t.Errorf("looked at %d files, want the database, bodies and backup", files)
	}
	if strings.Contains(log.String(), canary) || !strings.Contains(log.String(), "audit head") {
		t.Errorf("log = %s, want the audit head and no name", log.String())
	}
}

func TestOpen_refuses(t *testing.T) {
	o := testOptions(t)
	s := open(t, o)
	tests := []struct {
		name   string
		change func(*Options)
		kind   hisp.Kind
		hint   string
	}{
		{"locked", func(*Options) {}, hisp.Conflict, fmt.Sprintf("locked by another process (pid %d)", os.Getpid())},
		{"locked, reading", func(o *Options) { o.ReadOnly = true }, hisp.Conflict, "locked by another process"},
		{"nothing there, reading", func(o *Options) { o.ReadOnly, o.Dir = true, t.TempDir() }, hisp.NotFound, "hisp init makes one"},
	}
	for _, tt := range tests {
		other := o
		tt.change(&other)
		_, err := Open(other)
		if !errors.Is(err, tt.kind) || !strings.Contains(hisp.HintOf(err), tt.hint) {
			t.Errorf("%s: Open = %v, want %v with %q", tt.name, err, tt.kind, tt.hint)
		}
	}
	ok(t, s.Close())
	wrong := o
	wrong.MasterKey = store.NewMasterKey()
	if _, err := Open(wrong); !errors.Is(err, hisp.Denied) || !strings.Contains(hisp.HintOf(err), "master key") {
		t.Errorf("with the wrong master key: %v, want Denied", err)
	}
	open(t, o) // the refusals broke nothing
}

// A newer schema is refused and the file left as it is.
func TestOpen_newerSchema(t *testing.T) {
	o := testOptions(t)
	ok(t, filled(t, o, "bob").Close())
	path := filepath.Join(o.Dir, dbName)
	change(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(keySchema, binary.BigEndian.AppendUint32(nil, schemaVersion+1))
	})
	before, err := os.ReadFile(path)
	ok(t, err)
	_, err = Open(o)
	if !errors.Is(err, hisp.Refused) || !strings.Contains(hisp.HintOf(err), "newer hisp") {
		t.Errorf("Open = %v, want Refused", err)
	}
	after, err := os.ReadFile(path)
	ok(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestOpen_damaged(t *testing.T) {
	o := testOptions(t)
	ok(t, filled(t, o, "bob").Close())
	path := filepath.Join(o.Dir, dbName)
	ok(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10), 0o600))
	if _, err := Open(o); !errors.Is(err, hisp.Malformed) {
		t.Errorf("Open of a ruined file = %v, want Malformed", err)
	}
	ok(t, os.Remove(path))
	if _, err := Open(o); !errors.Is(err, hisp.Conflict) {
		t.Errorf("Open of bodies without database = %v, want Conflict", err)
	}
}

// What one process committed the next one finds.
func TestOpen_again(t *testing.T) {
	o := testOptions(t)
	ok(t, filled(t, o, "bob").Close())
	s := open(t, o)
	bob := hisp.Address{Local: "bob", Domain: "hospital.example"}
	f, infos, err := s.ListMessages(t.Context(), bob, "bob")
	if err != nil || f.UIDNext != 3 || len(infos) != 2 {
		t.Errorf("folder = %+v with %d messages, %v", f, len(infos), err)
	}
	for range 2 {
		if _, err := s.Lease(t.Context(), hisp.LeaseRequest{Work: hisp.WorkSeal}); err != nil {
			t.Error(err)
		}
	}
	ok(t, s.Close())
	o.ReadOnly = true
	r := open(t, o)
	if report, err := r.Verify(t.Context()); err != nil || !report.OK() || report.Items != 2 || report.Messages != 2 || report.Head.Seq != 2 {
		t.Errorf("verify, reading only = %+v, %v", report, err)
	}
	if err := r.Record(t.Context(), hisp.AuditRecord{}); !errors.Is(err, hisp.Denied) {
		t.Errorf("Record, reading only = %v, want Denied", err)
	}
}

// change edits the database behind the store's back.
func change(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, fileMode, nil)
	ok(t, err)
	ok(t, db.Update(fn))
	ok(t, db.Close())
}

// Each kind of damage is found and told apart.
func TestVerify_findsDamage(t *testing.T) {
	first := func(tx *bbolt.Tx, bucket string) ([]byte, []byte, *bbolt.Bucket) {
		b := tx.Bucket([]byte(bucket))
		k, v := b.Cursor().First()
		return bytes.Clone(k), bytes.Clone(v), b
	}
	flip := func(bucket string) func(tx *bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			k, v, b := first(tx, bucket)
			v[len(v)-1] ^= 1
			return b.Put(k, v)
		}
	}
	remove := func(bucket string) func(tx *bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			k, _, b := first(tx, bucket)
			return b.Delete(k)
		}
	}
	tests := []struct {
		name string
		db   func(tx *bbolt.Tx) error
		dir  func(dir string) error
		area string
		text string
	}{
		{name: "body changed", db: flip(bBodies), area: areaBodies, text: "damaged"},
		{name: "body gone", db: remove(bBodies), area: areaBodies, text: "missing"},
		{name: "body without owner", db: func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bBodies)).Put(seqKey(99), []byte("x")) },
			area: areaBodies, text: "nothing refers"},
		{name: "body file changed", dir: func(dir string) error {
			paths, err := filepath.Glob(filepath.Join(dir, bodiesName, "*", "*"))
			if err != nil || len(paths) != 1 {
				return fmt.Errorf("%d body files, %v", len(paths), err)
			}
			raw, err := os.ReadFile(paths[0])
			if err != nil {
				return err
			}
			raw[len(raw)/2] ^= 1
			return os.WriteFile(paths[0], raw, 0o600)
		}, area: areaBodies, text: "damaged"},
		{name: "reference count wrong", db: remove(bRefs), area: areaBodies, text: "counted with 1 references but has 2"},
		{name: "account changed", db: flip(bAccounts), area: areaRecords, text: "accounts"},
		{name: "message record gone", db: remove(bMessages), area: areaFolders, text: "counters"},
		{name: "folder gone", db: func(tx *bbolt.Tx) error {
			_, _, b := first(tx, bFolders)
			var keys [][]byte
			ok(t, b.ForEach(func(k, _ []byte) error { keys = append(keys, bytes.Clone(k)); return nil }))
			for _, k := range keys {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			return nil
		}, area: areaFolders, text: "belongs to no folder"},
		{name: "usage wrong", db: remove(bUsage), area: areaFolders, text: "counted with 0 octets"},
		{name: "track not in the index of times", db: remove(bOverdue), area: areaTracks, text: "deadline"},
		{name: "audit entry changed", db: func(tx *bbolt.Tx) error {
			k, v, b := first(tx, bAudit)
			return b.Put(k, bytes.Replace(v, []byte("accept"), []byte("reject"), 1))
		}, area: areaAudit, text: "entry 1 was changed"},
		{name: "audit entry deleted", db: remove(bAudit), area: areaAudit, text: "before 2 are missing"},
		{name: "audit trail cut", db: func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bAudit)).Delete(seqKey(2)) },
			area: areaAudit, text: "was cut"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := testOptions(t)
			ok(t, filled(t, o, "bob").Close())
			if tt.db != nil {
				change(t, filepath.Join(o.Dir, dbName), tt.db)
			}
			if tt.dir != nil {
				ok(t, tt.dir(o.Dir))
			}
			o.ReadOnly = true
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			report, err := s.Verify(t.Context())
			ok(t, errors.Join(err, s.Close()))
			for _, f := range report.Findings {
				if f.Area == tt.area && strings.Contains(f.Text, tt.text) {
					return
				}
			}
			t.Errorf("findings = %v, want %q in %s", report.Findings, tt.text, tt.area)
		})
	}
}

// A rolled back database is whole in itself; only the noted head shows it
// (security row A2).
func TestVerify_rolledBack(t *testing.T) {
	o := testOptions(t)
	s := filled(t, o, "bob")
	ok(t, s.Close())
	path := filepath.Join(o.Dir, dbName)
	old, err := os.ReadFile(path)
	ok(t, err)
	s = open(t, o)
	ok(t, s.Record(t.Context(), hisp.AuditRecord{Event: hisp.AuditAdmin}))
	ok(t, s.Close())
	ok(t, os.WriteFile(path, old, 0o600))
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s = open(t, o)
	report, err := s.Verify(t.Context())
	ok(t, err)
	if report.OK() || !strings.Contains(report.Findings[0].Text, "entry 3 was noted") {
		t.Errorf("findings = %v, want the cut trail", report.Findings)
	}
	if !strings.Contains(log.String(), "entry 3 was noted") {
		t.Errorf("log = %s, want the cut trail at open", log.String())
	}
}

// A backup taken under load is a store that passes verify and
// has everything acknowledged before it began.
func TestBackup_underLoad(t *testing.T) {
	o := testOptions(t)
	o.MasterKey = crashKey
	s := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ok(t, s.AddDomain(ctx, store.Domain{Name: crashBob.Domain}))
	ok(t, s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: crashBob}}))
	l := newLedger()
	var mu sync.Mutex
	var wg sync.WaitGroup
	commit := func(n int) {
		id := hisp.NewID(time.Now())
		err := s.Commit(ctx, hisp.Step{Queue: []hisp.Item{{ID: id, Work: hisp.WorkOpen, Message: crashMessage(id, 500+n%3*inlineMax)}},
			Audit: []hisp.AuditRecord{{Event: hisp.AuditReceive, Message: id}}})
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		l.queued[id] = true
		mu.Unlock()
	}
	for n := range 30 {
		commit(n)
	}
	before := newLedger()
	for id := range l.queued {
		before.queued[id] = true
	}
	stop := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if commit(n); w == 0 { // large messages come and go
					if err := crashExpunge(ctx, s); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	backup := filepath.Join(t.TempDir(), "backup")
	err := s.Backup(ctx, backup)
	close(stop)
	wg.Wait()
	ok(t, err)
	if err := s.Backup(ctx, backup); !errors.Is(err, hisp.Conflict) {
		t.Errorf("backup into a full folder = %v, want Conflict", err)
	}
	restored := o
	restored.Dir = filepath.Join(t.TempDir(), "restored")
	report, err := Restore(ctx, backup, restored)
	if err != nil || !report.OK() || report.Orphans > 0 {
		t.Fatalf("restore = %+v, %v", report, err)
	}
	r := open(t, restored)
	in, _, err := r.ListMessages(ctx, crashBob, "INBOX")
	if err != nil || in.UIDNext <= uidGap {
		t.Errorf("next UID = %d, %v, want a gap after what the lost store may have used", in.UIDNext, err)
	}
	ok(t, r.Close())
	checkCrashed(t, restored.Dir, before)
}

func TestRestore_refuses(t *testing.T) {
	o := testOptions(t)
	s := filled(t, o, "bob")
	backup := filepath.Join(t.TempDir(), "backup")
	ok(t, s.Backup(t.Context(), backup))
	to := o
	to.Dir = filepath.Join(t.TempDir(), "new")
	wrong := to
	wrong.MasterKey = store.NewMasterKey()
	check := func(what, from string, o Options, kind hisp.Kind) {
		t.Helper()
		if _, err := Restore(t.Context(), from, o); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", what, err, kind)
		}
	}
	check("wrong master key", backup, wrong, hisp.Denied)
	check("into the running store", backup, o, hisp.Conflict)
	check("no backup", t.TempDir(), to, hisp.Malformed)
	paths, err := filepath.Glob(filepath.Join(backup, bodiesName, "*", "*"))
	ok(t, err)
	ok(t, os.Remove(paths[0]))
	check("a body missing", backup, to, hisp.Malformed)
	if _, err := os.Stat(filepath.Join(to.Dir, dbName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused restore left a database (%v)", err)
	}
}

// Security rows A3 and I6, on a small file system of its own.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: cannot mount a small tmpfs; run as root to run this test")
	}
	for name, size := range map[string]int{"in the database": 20 << 10, "in files": 500 << 10} {
		t.Run(name, func(t *testing.T) { testDiskFull(t, size) })
	}
}

func testDiskFull(t *testing.T, size int) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	defer func() { ok(t, syscall.Unmount(dir, 0)) }()
	o := testOptions(t)
	o.Dir, o.MasterKey, o.Reserve = filepath.Join(dir, "store"), crashKey, 8<<20
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s, err := Open(o)
	ok(t, err)
	ctx := t.Context()
	ok(t, s.AddDomain(ctx, store.Domain{Name: crashBob.Domain}))
	ok(t, s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: crashBob}}))
	_, _, err = s.Append(ctx, crashBob, "INBOX", crashMessage("INBOXINBOXINBOXINBOXINBOXI", size), nil, time.Now())
	ok(t, err)
	l := newLedger()
	accept := func() error {
		id := hisp.NewID(time.Now())
		err := s.Commit(ctx, hisp.Step{Queue: []hisp.Item{{ID: id, Work: hisp.WorkOpen, Message: crashMessage(id, size)}},
			Audit: []hisp.AuditRecord{{Event: hisp.AuditReceive, Message: id}}})
		if err == nil {
			l.queued[id] = true
		}
		return err
	}
	for err == nil {
		err = accept()
	}
	if !errors.Is(err, hisp.Full) || hisp.HintOf(err) != hintFull || len(l.queued) < 20 {
		t.Fatalf("on a full disk, after %d: %v, want Full", len(l.queued), err)
	}
	ballast := filepath.Join(dir, "ballast") // another program takes the rest
	fillUp(t, ballast)
	if err := accept(); !errors.Is(err, hisp.Full) {
		t.Fatalf("with no octet left: %v, want Full", err)
	}
	for range 2000 {
		ok(t, s.Record(ctx, hisp.AuditRecord{Event: hisp.AuditReject, Outcome: hisp.OutcomeRefused}))
	}
	it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkOpen})
	ok(t, err)
	ok(t, s.Retry(ctx, it.ID, time.Now(), "452 full", nil))
	_, err = s.ReadMessage(ctx, crashBob, "INBOX", 1)
	ok(t, err)
	_, err = s.SetFlags(ctx, crashBob, "INBOX", []uint32{1}, store.FlagsAdd, []string{flagDeleted})
	ok(t, err)
	removed, err := s.Expunge(ctx, crashBob, "INBOX", nil)
	if err != nil || len(removed) != 1 {
		t.Fatalf("expunge on a full disk = %v, %v", removed, err)
	}
	ok(t, os.Remove(ballast)) // room again: mail is taken without a restart
	for range 20 {
		it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkOpen})
		ok(t, err)
		ok(t, s.Commit(ctx, hisp.Step{Finish: it.ID}))
		delete(l.queued, it.ID)
	}
	s.bodies.reap()
	for range 5 {
		ok(t, accept())
	}
	ok(t, s.Close())
	for _, line := range []string{"new mail is refused", "new mail is taken"} { // not one for each message
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%q is logged %d times, want once:\n%s", line, n, log.String())
		}
	}
	checkCrashed(t, o.Dir, l)
}

func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	ok(t, err)
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	ok(t, f.Close())
}

// An item whose body is ruined does not hold up those behind it.
func TestLease_damagedBody(t *testing.T) {
	o := testOptions(t)
	ok(t, filled(t, o, "bob").Close())
	change(t, filepath.Join(o.Dir, dbName), func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bBodies))
		k, _ := b.Cursor().First()
		return b.Delete(k)
	})
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, o)
	it, err := s.Lease(t.Context(), hisp.LeaseRequest{Work: hisp.WorkSeal})
	if err != nil || it.ID != "ID1" {
		t.Errorf("Lease = %q, %v, want the second item", it.ID, err)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "id=ID0") {
		t.Errorf("log = %s, want an error about the first item", log.String())
	}
}

// A message that is delivered as it was leased is not written again.
func TestCommit_sharesTheLeasedBody(t *testing.T) {
	o := testOptions(t)
	s := open(t, o)
	ctx := t.Context()
	ok(t, s.AddDomain(ctx, store.Domain{Name: crashBob.Domain}))
	ok(t, s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: crashBob}}))
	ok(t, s.Commit(ctx, hisp.Step{Queue: []hisp.Item{{ID: "A", Work: hisp.WorkOpen, Message: crashMessage("AAAAAAAAAAAAAAAAAAAAAAAAAA", 1<<20)}}}))
	it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkOpen})
	ok(t, err)
	last := s.bodies.next.Load()
	ok(t, s.Commit(ctx, hisp.Step{Finish: "A", Deliver: []hisp.Delivery{{ID: "A", Recipient: crashBob, Message: it.Message}}}))
	if now := s.bodies.next.Load(); now != last {
		t.Errorf("%d bodies were written, want none", now-last)
	}
	report, err := s.Verify(ctx)
	if err != nil || !report.OK() || report.Bodies != 1 {
		t.Errorf("verify = %+v, %v", report, err)
	}
}

func FuzzDecode(f *testing.F) {
	it := storedItem{Item: hisp.Item{ID: "A", Due: time.Now(), Domain: "d", Envelope: hisp.Envelope{To: []hisp.Address{crashBob}}}}
	f.Add(it.encode())
	f.Add(encodeTrack(hisp.Track{Message: "M", Header: []byte("h")}))
	f.Add((&storedMessage{Flags: []string{flagSeen}}).encode())
	f.Add(encodeFolder(&store.Folder{Name: inbox}))
	f.Add(encodePrivate(hisp.AuditPrivate{To: []hisp.Address{crashBob}}))
	f.Fuzz(func(t *testing.T, b []byte) { // a damaged record must never end the node
		decodeItem("A", b)
		decodeEntry("A", b)
		decodeTrack(b)
		decodeMessage(b)
		decodeFolder(b)
		decodePrivate(b)
	})
}

// A typing error in the path or a volume that is not mounted is no new store.
func TestOpen_noStoreIsNotMade(t *testing.T) {
	o := testOptions(t)
	o.Create = false
	for _, readOnly := range []bool{false, true} {
		o.ReadOnly = readOnly
		if _, err := Open(o); !errors.Is(err, hisp.NotFound) || !strings.Contains(hisp.HintOf(err), "hisp restore") {
			t.Errorf("ReadOnly %v: %v, hint %q; want NotFound", readOnly, err, hisp.HintOf(err))
		}
		if _, err := os.Stat(o.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("ReadOnly %v: the folder was made: %v", readOnly, err)
		}
	}
	// A database that is gone is not replaced, whatever else is left.
	o.ReadOnly, o.Create = false, true
	ok(t, open(t, o).Close())
	ok(t, os.Remove(filepath.Join(o.Dir, dbName)))
	o.Create = false
	if _, err := Open(o); !errors.Is(err, hisp.NotFound) {
		t.Errorf("without its database: %v, want NotFound", err)
	}
}
