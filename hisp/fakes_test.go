package hisp_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
)

// plainAgent stands in for the security agent: it packs the message in base64
// and lets the domain names decide who is trusted.
type plainAgent struct{}

// Domains with a meaning to plainAgent.
const (
	noCert    = "nocert.example"
	untrusted = "untrusted.example"
	lost      = "lost.example"   // no name server answers
	oneWay    = "oneway.example" // we send to them, we do not hear from them
)

func (plainAgent) Seal(_ context.Context, env hisp.Envelope, msg hisp.Message) (hisp.Sealed, error) {
	var s hisp.Sealed
	index := map[hisp.Domain]int{}
	for _, rcpt := range env.To {
		switch rcpt.Domain {
		case noCert:
			s.Rejected = append(s.Rejected, hisp.Rejection{Recipient: rcpt, Err: hisp.NoCertificate})
			continue
		case untrusted:
			s.Rejected = append(s.Rejected, hisp.Rejection{Recipient: rcpt, Err: hisp.Untrusted})
			continue
		case lost:
			s.Rejected = append(s.Rejected, hisp.Rejection{Recipient: rcpt, Err: hisp.Temporary})
			continue
		}
		i, ok := index[rcpt.Domain]
		if !ok {
			i = len(s.Copies)
			index[rcpt.Domain] = i
			s.Copies = append(s.Copies, hisp.Copy{Domain: rcpt.Domain, Message: pack(msg)})
		}
		s.Copies[i].To = append(s.Copies[i].To, rcpt)
	}
	return s, nil
}

func pack(msg hisp.Message) hisp.Message {
	m, err := mail.ReadMessage(bytes.NewReader(msg.Bytes()))
	if err != nil {
		panic(err)
	}
	return hisp.NewMessage(fmt.Appendf(nil, "From: %s\r\nTo: %s\r\nMessage-ID: %s\r\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\n%s\r\n",
		m.Header.Get("From"), m.Header.Get("To"), m.Header.Get("Message-ID"), base64.StdEncoding.EncodeToString(msg.Bytes())))
}

func (plainAgent) Open(_ context.Context, env hisp.Envelope, msg hisp.Message) (hisp.Opened, error) {
	_, body, _ := bytes.Cut(msg.Bytes(), []byte("\r\n\r\n"))
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(body)))
	if err != nil {
		return hisp.Opened{}, &hisp.Error{Op: "open", Kind: hisp.CannotDecrypt}
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return hisp.Opened{}, &hisp.Error{Op: "open", Kind: hisp.Malformed}
	}
	list, err := m.Header.AddressList("From")
	if err != nil {
		return hisp.Opened{}, &hisp.Error{Op: "open", Kind: hisp.Malformed}
	}
	from, err := hisp.ParseAddress(list[0].Address)
	if err != nil || from.Domain == untrusted {
		return hisp.Opened{}, &hisp.Error{Op: "open", Kind: hisp.Untrusted}
	}
	opened := hisp.Opened{Message: hisp.NewMessage(raw), From: from, Trusted: env.To}
	if from.Domain == oneWay {
		opened.Trusted, opened.NoticeOnly = nil, env.To
	}
	return opened, nil
}

// keyring has a signing key for everyone but one.
type keyring struct{}

func (keyring) SigningKeys(_ context.Context, a hisp.Address) ([]hisp.SigningKey, error) {
	if a.Local == "keyless" {
		return nil, nil
	}
	return []hisp.SigningKey{{Chain: []*x509.Certificate{{}}}}, nil
}

func (keyring) DecryptionKeys(context.Context, hisp.Address) ([]hisp.DecryptionKey, error) {
	return nil, nil
}

// wire carries messages between sites and can be told to fail.
type wire struct {
	mu    sync.Mutex
	sites map[hisp.Domain]*site
	fail  map[string]error // by domain or addr-spec
	sent  int
	calls int
	bad   []string // breaches of the contract
}

func (w *wire) Send(ctx context.Context, env hisp.Envelope, msg hisp.Message) []hisp.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	var results []hisp.Result
	var good []hisp.Address
	for _, rcpt := range env.To {
		err := w.fail[rcpt.AddrSpec()]
		if err == nil {
			err = w.fail[string(rcpt.Domain)]
		}
		if err == nil {
			good = append(good, rcpt)
		}
		results = append(results, hisp.Result{Recipient: rcpt, Err: err})
	}
	if len(good) == 0 {
		return results
	}
	w.sent++
	peer := w.sites[good[0].Domain]
	in := hisp.Envelope{Origin: hisp.Backbone, From: env.From, To: good, Received: time.Now()}
	err := peer.node.Receive(ctx, in, msg)
	if err != nil && !errors.Is(err, hisp.Temporary) { // the peer may be stopping
		w.bad = append(w.bad, err.Error())
	}
	for i := range results {
		if results[i].Err == nil {
			results[i].Err = err
		}
	}
	return results
}

func (w *wire) set(who string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail[who] = err
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

// clock is set by the test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// site is one node with a real store.
type site struct {
	t     *testing.T
	dir   string
	key   store.MasterKey
	clock *clock
	wire  *wire
	log   *logBuffer
	edit  func(*hisp.Config)

	store *bolt.Store
	node  *hisp.Node
	stop  func()
}

func newSite(t *testing.T, w *wire, c *clock, domain hisp.Domain, locals ...string) *site {
	s := &site{t: t, dir: t.TempDir(), key: store.NewMasterKey(), clock: c, wire: w, log: &logBuffer{}}
	s.start()
	must(t, s.store.AddDomain(t.Context(), store.Domain{Name: domain}))
	for _, local := range locals {
		s.account(hisp.Account{Address: hisp.Address{Local: local, Domain: domain}})
	}
	w.sites[domain] = s
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *site) account(a hisp.Account) {
	must(s.t, s.store.PutAccount(s.t.Context(), store.AccountRecord{Account: a}))
}

// start opens the store and runs the node until stop.
func (s *site) start() {
	st, err := bolt.Open(bolt.Options{Create: true, Dir: s.dir, MasterKey: s.key, Clock: s.clock.Now})
	must(s.t, err)
	cfg := hisp.Config{
		Hostname: "mail.test.example", Clock: s.clock.Now, Agent: plainAgent{}, Queue: st, Tracker: st, Auditor: st,
		Directory: st, Keys: keyring{}, Transport: s.wire,
		Log: slog.New(hisp.NewLogHandler(slog.NewTextHandler(s.log, nil))),
	}
	if s.edit != nil {
		s.edit(&cfg)
	}
	n, err := hisp.New(cfg)
	must(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s.store, s.node = st, n
	s.stop = func() {
		cancel()
		must(s.t, <-done)
		must(s.t, st.Close())
		s.stop = func() {}
	}
}

// logBuffer can be read while the node still writes.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addr(spec string) hisp.Address {
	a, err := hisp.ParseAddress(spec)
	if err != nil {
		panic(err)
	}
	return a
}

// letter makes a message with further header lines.
func letter(from, to string, lines ...string) hisp.Message {
	head := "From: " + from + "\r\nTo: " + to + "\r\nSubject: CanarySubject\r\nDate: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + string(hisp.NewID(time.Now())) + "@client>\r\n"
	for _, l := range lines {
		head += l + "\r\n"
	}
	return hisp.NewMessage([]byte(head + "\r\nCanaryBody\r\n"))
}

const askDispatched = "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"

func (s *site) submit(msg hisp.Message, from string, to ...string) error {
	env := hisp.Envelope{Origin: hisp.Edge, From: addr(from), Account: addr(from), Auth: hisp.AuthPassword, Received: s.clock.Now()}
	for _, a := range to {
		env.To = append(env.To, addr(a))
	}
	return s.node.Submit(s.t.Context(), env, msg)
}

// inbox returns the messages of an account.
func (s *site) inbox(who string) []string {
	s.t.Helper()
	_, list, err := s.store.ListMessages(s.t.Context(), addr(who), "INBOX")
	must(s.t, err)
	var out []string
	for _, m := range list {
		msg, err := s.store.ReadMessage(s.t.Context(), addr(who), "INBOX", m.UID)
		must(s.t, err)
		out = append(out, string(msg.Bytes()))
	}
	return out
}

// retryNow makes everything that waits due.
func (s *site) retryNow() {
	items, err := s.store.ListItems(s.t.Context())
	must(s.t, err)
	for _, i := range items {
		err := s.store.Reschedule(s.t.Context(), i.ID, s.clock.Now())
		if err != nil && !errors.Is(err, hisp.Conflict) && !errors.Is(err, hisp.NotFound) {
			s.t.Fatal(err)
		}
	}
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("did not happen: %s", what)
		case <-tick.C:
		}
	}
}

// quiet waits until nothing is queued for now at any of the sites.
func quiet(t *testing.T, sites ...*site) {
	t.Helper()
	eventually(t, "queues run empty", func() bool {
		for _, s := range sites {
			items, err := s.store.ListItems(t.Context())
			must(t, err)
			for _, i := range items {
				if !i.Due.After(s.clock.Now()) {
					return false
				}
			}
		}
		return true
	})
}
