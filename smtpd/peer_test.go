package smtpd

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

const (
	testHost = "mx.hospital.example"
	canary   = "canary7f3a" // stands in every local part: it must never reach a log
)

// node is a whole fake of what stands behind the servers.
type node struct {
	mu       sync.Mutex
	accounts map[hisp.Address]string // password
	certs    map[string]hisp.Address // by raw certificate
	taken    []taken
	records  []hisp.AuditRecord
	logins   []hisp.Credentials
	answer   func(hisp.Envelope, hisp.Message) error
	auditErr error
	disabled map[hisp.Address]bool
}

type taken struct {
	env hisp.Envelope
	raw string
}

func newNode() *node {
	return &node{
		accounts: map[hisp.Address]string{
			{Local: canary, Domain: "hospital.example"}:       "s3cret",
			{Local: "other", Domain: "hospital.example"}:      "0ther",
			{Local: "with space", Domain: "hospital.example"}: "x",
		},
		certs: map[string]hisp.Address{},
	}
}

func (n *node) Hosted(_ context.Context, d hisp.Domain) (bool, error) {
	return d == "hospital.example", nil
}

func (n *node) Account(_ context.Context, a hisp.Address) (hisp.Account, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range []hisp.Address{a.Key(), a.Base().Key()} {
		if _, ok := n.accounts[a]; ok {
			return hisp.Account{Address: a, Disabled: n.disabled[a]}, nil
		}
	}
	return hisp.Account{}, &hisp.Error{Op: "node.Account", Kind: hisp.UnknownRecipient}
}

func (n *node) Authenticate(_ context.Context, c hisp.Credentials) (hisp.Account, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.logins = append(n.logins, c)
	if c.Cert != nil {
		if a, ok := n.certs[string(c.Cert.Raw)]; ok {
			return hisp.Account{Address: a}, nil
		}
		return hisp.Account{}, &hisp.Error{Op: "node.Authenticate", Kind: hisp.Denied}
	}
	if a, err := hisp.ParseAddress(c.Username); err == nil {
		if a.Local == "throttled" {
			return hisp.Account{}, &hisp.Error{Op: "node.Authenticate", Kind: hisp.Throttled}
		}
		if pw, ok := n.accounts[a.Key()]; ok && pw == c.Password {
			return hisp.Account{Address: a.Key()}, nil
		}
	}
	return hisp.Account{}, &hisp.Error{Op: "node.Authenticate", Kind: hisp.Denied}
}

func (n *node) Room(context.Context, hisp.Address, int64) error { return nil }

func (n *node) Submit(_ context.Context, env hisp.Envelope, msg hisp.Message) error {
	return n.take(env, msg)
}

func (n *node) Receive(_ context.Context, env hisp.Envelope, msg hisp.Message) error {
	return n.take(env, msg)
}

func (n *node) take(env hisp.Envelope, msg hisp.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answer != nil {
		if err := n.answer(env, msg); err != nil {
			return err
		}
	}
	n.taken = append(n.taken, taken{env, string(msg.Bytes())})
	return nil
}

func (n *node) Record(_ context.Context, r hisp.AuditRecord) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.auditErr != nil {
		return n.auditErr
	}
	n.records = append(n.records, r)
	return nil
}

func (n *node) messages() []taken {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.taken)
}

// trail returns the audit records and has the next ones fail with err.
func (n *node) trail(err error) []hisp.AuditRecord {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.auditErr = err
	return slices.Clone(n.records)
}

func (n *node) audited(detail string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.records, func(r hisp.AuditRecord) bool { return r.Detail == detail })
}

// house is a server under test with its node and log.
type house struct {
	*node
	t      testing.TB
	srv    *Server
	addr   string
	client *tls.Config
	log    *logSink
	served []chan error
}

type logSink struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *logSink) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logSink) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type option func(*SubmissionConfig, *BackboneConfig)

func limits(l Limits) option {
	return func(s *SubmissionConfig, b *BackboneConfig) { s.Limits, b.Limits = l, l }
}

// configs returns both configurations with one fake node behind them.
func configs(t testing.TB, opts ...option) (*house, SubmissionConfig, BackboneConfig) {
	t.Helper()
	cert, pool := testCert(t, testHost)
	h := &house{node: newNode(), t: t, log: &logSink{}}
	h.client = &tls.Config{RootCAs: pool, ServerName: testHost}
	c := Config{
		Hostname:  testHost,
		TLS:       &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert},
		Directory: h.node, Audit: h.node,
		Clock: func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) },
		Log:   slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	sub := SubmissionConfig{Config: c, Authenticator: h.node, Submitter: h.node}
	back := BackboneConfig{Config: c, Receiver: h.node}
	for _, o := range opts {
		o(&sub, &back)
	}
	return h, sub, back
}

func submission(t testing.TB, opts ...option) *house {
	t.Helper()
	h, cfg, _ := configs(t, opts...)
	srv, err := NewSubmission(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h.open(srv)
}

func backbone(t testing.TB, opts ...option) *house {
	t.Helper()
	h, _, cfg := configs(t, opts...)
	srv, err := NewBackbone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h.open(srv)
}

func (h *house) open(srv *Server) *house {
	h.srv = srv
	h.addr = h.listen(srv.Serve)
	h.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			h.t.Errorf("Shutdown: %v", err)
		}
		for _, done := range h.served {
			if err := <-done; err != nil {
				h.t.Errorf("Serve: %v", err)
			}
		}
		if strings.Contains(h.log.String(), canary) {
			h.t.Errorf("the log holds a local part:\n%s", h.log.String())
		}
	})
	return h
}

func (h *house) listen(serve func(context.Context, net.Listener) error) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- serve(context.Background(), ln) }()
	h.served = append(h.served, done)
	return ln.Addr().String()
}

// peer is a client that says exactly what it is told to.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	cfg  *tls.Config
}

// dial connects and reads the greeting.
func (h *house) dial() *peer {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.peer(c)
}

func (h *house) peer(c net.Conn) *peer {
	h.t.Helper()
	p := &peer{t: h.t, conn: c, r: bufio.NewReader(c), cfg: h.client}
	h.t.Cleanup(func() { c.Close() })
	p.want("220 " + testHost)
	return p
}

func (p *peer) send(s string) {
	p.t.Helper()
	p.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := p.conn.Write([]byte(s)); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// read returns one whole reply, lines joined by \n.
func (p *peer) read() (string, error) {
	p.conn.SetDeadline(time.Now().Add(10 * time.Second))
	var lines []string
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return strings.Join(lines, "\n"), err
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n"), nil
		}
	}
}

func (p *peer) want(prefix string) string {
	p.t.Helper()
	got, err := p.read()
	if err != nil {
		p.t.Fatalf("reply = %q and %v, want %q", got, err, prefix)
	}
	if !strings.HasPrefix(got, prefix) {
		p.t.Fatalf("reply = %q, want %q", got, prefix)
	}
	return got
}

func (p *peer) cmd(line, prefix string) string {
	p.t.Helper()
	p.send(line + "\r\n")
	return p.want(prefix)
}

func (p *peer) wantClosed() {
	p.t.Helper()
	if got, err := p.read(); err == nil {
		p.t.Fatalf("reply = %q, want the connection closed", got)
	}
}

func (p *peer) startTLS() *peer {
	p.t.Helper()
	p.cmd("STARTTLS", "220 2.0.0")
	c := tls.Client(p.conn, p.cfg)
	if err := c.Handshake(); err != nil {
		p.t.Fatalf("handshake: %v", err)
	}
	p.conn, p.r = c, bufio.NewReader(c)
	return p
}

// ready is a peer that may send MAIL.
func (h *house) ready() *peer {
	h.t.Helper()
	p := h.dial()
	p.cmd("EHLO client.example", "250-"+testHost)
	p.startTLS()
	p.cmd("EHLO client.example", "250-"+testHost)
	if h.srv.sub != nil {
		p.cmd("AUTH PLAIN "+plain(canary+"@hospital.example", "s3cret"), "235 ")
	}
	return p
}

func (p *peer) envelope() {
	p.t.Helper()
	p.cmd("MAIL FROM:<"+canary+"@hospital.example>", "250 ")
	p.cmd("RCPT TO:<other@hospital.example>", "250 ")
}

func plain(user, pass string) string {
	return b64("\x00" + user + "\x00" + pass)
}

// testCert makes a self-signed certificate for name and a pool that trusts it.
func testCert(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func newReader(c net.Conn) *bufio.Reader { return bufio.NewReader(c) }

// pass lets fake time pass.
func pass(d time.Duration) { <-time.After(d) }
