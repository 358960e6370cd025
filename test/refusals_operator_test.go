package test

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testnet"
)

// TestOperator: what an operator does to a running node, by signals, files and
// certificates, and what keeps a node from starting.
func TestOperator(t *testing.T) {
	w := newWorld(t, nil)
	t.Run("client certificate", w.clientCertificate)
	t.Run("SIGHUP", w.hangup)
	t.Run("SIGTERM under load", w.terminate)
	w.checkSilence(t)
	t.Run("refused at start", w.refusedAtStart)
}

// clientCertificate: row TLS-07; an account logs in with its certificate on 465
// and 993, and nobody else does.
func (w *world) clientCertificate(t *testing.T) {
	ca := testca.NewRoot("devices")
	known, unknown := ca.TLSClient("device"), ca.TLSClient("another")
	file := filepath.Join(t.TempDir(), "device.crt")
	if err := os.WriteFile(file, testca.PEM(known.Leaf), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Hospital.CLI(t, "", "account", "cert", "add", from, file)
	shows := func(c tls.Certificate) *tls.Config {
		config := w.Hospital.TLS(t)
		config.Certificates = []tls.Certificate{c}
		return config
	}
	k := w.Hospital.Talk(t, "submission_tls", "", shows(known))
	k.Must(250, "EHLO device.example")
	wantReply(t, k.Send(from, letter(from, from), from), 250)
	wantReply(t, k.Send("canary.other@hospital.example", letter(from, from), from), 550, "5.7.1", "only as the address you logged in with")
	k = w.Hospital.Talk(t, "submission_tls", "", shows(known))
	k.Must(250, "EHLO device.example")
	wantReply(t, k.Do("AUTH EXTERNAL ="), 235)
	k = w.Hospital.Talk(t, "submission_tls", "", shows(unknown))
	k.Must(250, "EHLO device.example")
	wantReply(t, k.Do("AUTH EXTERNAL ="), 535, "5.7.8")
	wantReply(t, k.Do("MAIL FROM:<%s>", from), 530, "log in first", "client certificate")

	for _, tt := range []struct {
		name string
		cert tls.Certificate
		ok   bool
	}{{"known", known, true}, {"unknown", unknown, false}} {
		c, err := imapclient.DialTLS(w.Hospital.Addr("imaps"), &imapclient.Options{TLSConfig: shows(tt.cert)})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Authenticate(sasl.NewExternalClient(""))
		if (err == nil) != tt.ok {
			t.Errorf("imap with the %s certificate: %v", tt.name, err)
		}
		if tt.ok {
			if _, err := c.Select("INBOX", nil).Wait(); err != nil {
				t.Errorf("select: %v", err)
			}
		}
		c.Close()
	}
}

// hangup: SIGHUP brings a peer's exception and a new TLS certificate into
// force; a configuration that is wrong leaves the old one.
func (w *world) hangup(t *testing.T) {
	plain := func() testnet.Reply {
		k := w.Clinic.Talk(t, "backbone", "", nil)
		k.Must(250, "EHLO mail.partner.example")
		return k.Do("MAIL FROM:<%s>", partnerFrom)
	}
	serial := func() string {
		conn, err := tls.Dial("tcp", w.Clinic.Addr("imaps"), w.Clinic.TLS(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	wantReply(t, plain(), 530, "5.7.0", "STARTTLS")
	before := serial()
	renewTLS(t, w.Clinic)
	good, err := os.ReadFile(w.Clinic.Config)
	if err != nil {
		t.Fatal(err)
	}
	exempt := strings.Replace(string(good), "\n[peer.\"partner.example\"]\n", "\n[peer.\"partner.example\"]\naccept_plain = true\n", 1)

	w.reload(t, exempt+"\nnonsense = 1\n", "reload failed")
	wantReply(t, plain(), 530, "5.7.0", "STARTTLS")
	if serial() != before {
		t.Error("a refused configuration changed the certificate")
	}
	w.reload(t, exempt, `msg="configuration read again"`)
	wantReply(t, plain(), 250)
	if serial() == before {
		t.Error("the certificate is still the old one")
	}
	w.reload(t, string(good), `msg="configuration read again"`)
	wantReply(t, plain(), 530, "5.7.0", "STARTTLS")
}

// reload sets the clinic's configuration, sends SIGHUP and waits for the log.
func (w *world) reload(t *testing.T, config, logged string) {
	t.Helper()
	if err := os.WriteFile(w.Clinic.Config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(w.Clinic.Log(), logged)
	if err := w.Clinic.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, wait, logged, func() bool { return strings.Count(w.Clinic.Log(), logged) > n })
}

// renewTLS makes a new TLS key and certificate of the site as its trial CA does.
func renewTLS(t *testing.T, s *testnet.Site) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.Dir, "trial-ca.crt"), filepath.Join(s.Dir, "trial-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca := &testca.CA{Issued: testca.Issued{Cert: pair.Leaf, Key: pair.PrivateKey.(crypto.Signer), Root: pair.Leaf}}
	issued := ca.Issue(testca.Spec{DNS: []string{"mail." + s.Domain}})
	for name, data := range map[string][]byte{"cert.pem": testca.PEM(issued.Chain...), "key.pem": issued.KeyPEM()} {
		if err := os.WriteFile(filepath.Join(s.Dir, "tls", name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	loadClients = 3
	loadBefore  = 20               // messages acknowledged before the signal
	loadMost    = 60               // that one client hands in
	drainTime   = 10 * time.Second // a node is gone by then
)

// terminate: SIGTERM in the middle of work ends a node within 10 seconds, and
// what was acknowledged arrives once; what was not, at most once.
func (w *world) terminate(t *testing.T) {
	acked, tried := map[string]bool{}, map[string]bool{}
	for _, victim := range []*testnet.Site{w.Hospital, w.Clinic} {
		a, all := w.load(t, victim)
		for id := range a {
			acked[id] = true
		}
		for id := range all {
			tried[id] = true
		}
	}
	count := func() map[string]int {
		copies := map[string]int{}
		for _, raw := range w.Clinic.Inbox(t, rcpt, w.rcptPass) {
			copies[messageIDOf([]byte(raw))]++
		}
		return copies
	}
	testnet.Eventually(t, wait, "every acknowledged message is delivered", func() bool {
		copies := count()
		for id := range acked {
			if copies[id] == 0 {
				return false
			}
		}
		return true
	})
	testnet.Eventually(t, wait, "nothing is under way", func() bool {
		return strings.TrimSpace(w.Hospital.CLI(t, "", "queue", "list", "-json")) == "[]" &&
			strings.TrimSpace(w.Clinic.CLI(t, "", "queue", "list", "-json")) == "[]"
	})
	for id, n := range count() {
		if tried[id] && n != 1 {
			t.Errorf("%d copies of one message", n)
		}
	}
	t.Logf("handed in %d, acknowledged %d, lost 0, duplicates 0", len(tried), len(acked))
}

// load hands in messages from several clients and stops the victim among them.
func (w *world) load(t *testing.T, victim *testnet.Site) (acked, tried map[string]bool) {
	acked, tried = map[string]bool{}, map[string]bool{}
	var mu sync.Mutex
	var clients sync.WaitGroup
	var done atomic.Int32
	enough := make(chan struct{})
	for range loadClients {
		clients.Go(func() {
			for range loadMost {
				raw := letter(from, to)
				id := messageIDOf(raw)
				mu.Lock()
				tried[id] = true
				mu.Unlock()
				if err := w.Hospital.Submit(t, sender, w.senderPass, raw, to); err != nil {
					return // the node is stopping
				}
				mu.Lock()
				acked[id] = true
				mu.Unlock()
				if done.Add(1) == loadBefore {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(wait):
		t.Fatalf("only %d messages were taken in %v", done.Load(), wait)
	}
	for range 5 { // entries come in while the chain is read
		w.Hospital.CLI(t, "", "audit", "verify")
	}
	began := time.Now()
	err := victim.Stop()
	if took := time.Since(began); err != nil || took > drainTime {
		t.Errorf("%s: SIGTERM: %v after %v", victim.Name, err, took)
	}
	clients.Wait()
	victim.Start(w.t)
	return acked, tried
}

// refusedAtStart: a node that finds its store in use, locked with another key or
// written by a newer version says so and changes nothing.
func (w *world) refusedAtStart(t *testing.T) {
	h := w.Hospital
	refused := func(name string, says ...string) {
		t.Helper()
		errs, err := h.TryServe(t)
		if err == nil {
			t.Fatalf("%s: serve runs or ended well", name)
		}
		for _, text := range append(says, "hisp: hint: ") {
			if !strings.Contains(errs, text) {
				t.Errorf("%s: stderr = %q, want in it %q", name, errs, text)
			}
		}
	}
	refused("second process", "another process has the store open")
	if got := len(h.Inbox(t, sender, w.senderPass)); got == 0 {
		t.Error("the first node lost its mail")
	}
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	before := digests(t, h)
	key := filepath.Join(h.Dir, "master.key")
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Map(func(r rune) rune {
		if r == '0' {
			return '1'
		}
		return r
	}, "0"+string(good)[1:])
	write(t, key, []byte(other))
	refused("another master key", "not the master key of this store", "master_key_file")
	write(t, key, good)
	wantUntouched(t, "another master key", before, digests(t, h))

	setSchema(t, filepath.Join(h.Dir, "data", "hisp.db"), 1_000)
	newer := digests(t, h)
	refused("newer schema", "written by a newer hisp", "nothing was changed")
	wantUntouched(t, "newer schema", newer, digests(t, h))
	setSchema(t, filepath.Join(h.Dir, "data", "hisp.db"), 1)
	h.Start(w.t)
	if got := len(h.Inbox(t, sender, w.senderPass)); got == 0 {
		t.Error("the mail is gone")
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// setSchema writes a schema version into the database.
func setSchema(t *testing.T, path string, version uint32) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), binary.BigEndian.AppendUint32(nil, version))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// digests are the hashes of the files in the data folder, but of the lock, which
// names the process that tried.
func digests(t *testing.T, s *testnet.Site) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(filepath.Join(s.Dir, "data"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" {
			return err
		}
		raw, err := os.ReadFile(path)
		sums[d.Name()] = fmt.Sprintf("%x", sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

func wantUntouched(t *testing.T, name string, before, after map[string]string) {
	t.Helper()
	for file, sum := range before {
		if after[file] != sum {
			t.Errorf("%s: %s was changed", name, file)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%s: %d files, before %d", name, len(after), len(before))
	}
}
