package imapd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
)

// Canary words: they must never be in a log (row AU-04).
const (
	testUser     = "canary-local@clinic.example"
	testPassword = "canary-password"
)

var testAddress = hisp.Address{Local: "canary-local", Domain: "clinic.example"}

// testAuth knows one account, by password and by certificate.
type testAuth struct {
	mu    sync.Mutex
	certs map[[32]byte]bool
	asked int
	fail  error
}

func (a *testAuth) Authenticate(_ context.Context, c hisp.Credentials) (hisp.Account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	switch {
	case a.fail != nil:
		return hisp.Account{}, a.fail
	case c.Cert != nil && a.certs[sha256.Sum256(c.Cert.Raw)]:
	case c.Cert == nil && strings.EqualFold(c.Username, testUser) && c.Password == testPassword:
	default:
		return hisp.Account{}, &hisp.Error{Op: "test", Kind: hisp.Denied}
	}
	return hisp.Account{Address: testAddress}, nil
}

// lockedBuffer is a log that tests may read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testNode is a running edge with both ports.
type testNode struct {
	t     testing.TB
	srv   *Server
	store Mailboxes
	mem   *memStore // nil when the store is another one
	auth  *testAuth
	log   *lockedBuffer
	tls   *tls.Config // of a client
	clear string      // address with STARTTLS
	full  string      // address with TLS
	stop  func()
}

// onStores runs a test on the fake and on the real store.
func onStores(t *testing.T, test func(*testing.T, *testNode)) {
	t.Run("memory", func(t *testing.T) { test(t, newTestNode(t, nil)) })
	t.Run("bolt", func(t *testing.T) {
		s := openBolt(t)
		test(t, newTestNode(t, func(c *Config) { c.Store = s }))
	})
}

// openBolt is a real store with the test account.
func openBolt(t testing.TB) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Create: true, Dir: t.TempDir(), MasterKey: store.NewMasterKey()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := context.Background()
	if err := s.AddDomain(ctx, store.Domain{Name: testAddress.Domain}); err != nil {
		t.Fatal(err)
	}
	if err := s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: testAddress}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func newTestCert(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newTestNode(t testing.TB, change func(*Config)) *testNode {
	t.Helper()
	mem := newMemStore()
	mem.addAccount(testAddress)
	cert := newTestCert(t, "localhost")
	n := &testNode{t: t, mem: mem, store: mem, auth: &testAuth{certs: make(map[[32]byte]bool)}, log: &lockedBuffer{}}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	n.tls = &tls.Config{RootCAs: pool, ServerName: "localhost"}
	c := Config{
		Auth: n.auth, Store: mem,
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert},
		Log: slog.New(slog.NewJSONHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&c)
		n.store = c.Store
	}
	srv, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	n.srv = srv
	n.start()
	t.Cleanup(func() {
		n.stop()
		for _, canary := range []string{"canary", "Canary"} {
			if strings.Contains(n.log.String(), canary) {
				t.Errorf("the log has a canary word: %s", n.log.String())
			}
		}
		if strings.Contains(n.log.String(), "panic") {
			t.Errorf("panic in the log: %s", n.log.String())
		}
	})
	return n
}

func (n *testNode) start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	listen := func(serve func(context.Context, net.Listener) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			n.t.Fatal(err)
		}
		group.Go(func() {
			if err := serve(ctx, ln); err != nil {
				n.t.Errorf("Serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	n.clear, n.full = listen(n.srv.Serve), listen(n.srv.ServeTLS)
	n.stop = func() {
		cancel()
		group.Wait()
	}
}

// deliver puts a message in a folder as the node does, behind IMAP's back.
func (n *testNode) deliver(folder, raw string, flags ...string) uint32 {
	n.t.Helper()
	_, info, err := n.store.Append(context.Background(), testAddress, folder, hisp.NewMessage([]byte(raw)), flags, time.Now())
	if err != nil {
		n.t.Fatal(err)
	}
	return info.UID
}

// client is a raw IMAP client that sees every octet.
type client struct {
	t   testing.TB
	nc  net.Conn
	r   *bufio.Reader
	num int
}

const testPatience = 20 * time.Second

func (n *testNode) dial(addr string, onTLS bool) *client {
	n.t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		n.t.Fatal(err)
	}
	if onTLS {
		nc = tls.Client(nc, n.tls)
	}
	c := &client{t: n.t, nc: nc, r: bufio.NewReader(nc)}
	n.t.Cleanup(func() { nc.Close() })
	if got := c.line(); !strings.HasPrefix(got, "* OK") {
		n.t.Fatalf("greeting = %q", got)
	}
	return c
}

// login is a connection to the TLS port that has logged in.
func (n *testNode) login() *client {
	n.t.Helper()
	c := n.dial(n.full, true)
	c.ok("LOGIN " + testUser + " " + testPassword)
	return c
}

// line reads one line without its line end. Literals are part of it.
func (c *client) line() string {
	c.t.Helper()
	s, err := c.tryLine()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return s
}

func (c *client) tryLine() (string, error) {
	c.nc.SetReadDeadline(time.Now().Add(testPatience))
	var b strings.Builder
	for {
		s, err := c.r.ReadString('\n')
		if err != nil {
			return b.String(), err
		}
		s = strings.TrimSuffix(s, "\r\n")
		b.WriteString(s)
		open := strings.LastIndexByte(s, '{')
		if open < 0 || !strings.HasSuffix(s, "}") {
			return b.String(), nil
		}
		size, err := strconv.Atoi(s[open+1 : len(s)-1])
		if err != nil {
			return b.String(), nil
		}
		lit := make([]byte, size)
		if _, err := io.ReadFull(c.r, lit); err != nil {
			return b.String(), err
		}
		b.WriteString("\r\n" + string(lit))
	}
}

func (c *client) send(s string) {
	c.t.Helper()
	c.nc.SetWriteDeadline(time.Now().Add(testPatience))
	if _, err := io.WriteString(c.nc, s); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// do sends a command and returns the untagged lines and the tagged one
// without its tag. Literals "{n}" in it are sent when the server asks.
func (c *client) do(command string) (untagged []string, tagged string) {
	c.t.Helper()
	c.num++
	tag := fmt.Sprintf("t%d", c.num)
	rest := tag + " " + command
	for {
		head, tail, split := strings.Cut(rest, "}\r\n")
		if !split {
			c.send(rest + "\r\n")
			break
		}
		c.send(head + "}\r\n")
		rest = tail
		if strings.HasSuffix(head, "+") {
			continue
		}
		if l := c.line(); !strings.HasPrefix(l, "+") {
			if t, ok := strings.CutPrefix(l, tag+" "); ok {
				return untagged, t
			}
			c.t.Fatalf("%q instead of a continuation", l)
		}
	}
	return c.until(tag)
}

// until reads up to the tagged line.
func (c *client) until(tag string) (untagged []string, tagged string) {
	c.t.Helper()
	for {
		l := c.line()
		if t, ok := strings.CutPrefix(l, tag+" "); ok {
			return untagged, t
		}
		untagged = append(untagged, l)
		if strings.HasPrefix(l, "* BYE") && tag == "" {
			return untagged, ""
		}
	}
}

// ok is do for a command that must succeed.
func (c *client) ok(command string) []string {
	c.t.Helper()
	untagged, tagged := c.do(command)
	if !strings.HasPrefix(tagged, "OK") {
		c.t.Fatalf("%s: got %q, want OK", command, tagged)
	}
	return untagged
}

// want is do for a command whose tagged answer starts with want.
func (c *client) want(command, want string) []string {
	c.t.Helper()
	untagged, tagged := c.do(command)
	if !strings.HasPrefix(tagged, want) {
		c.t.Errorf("%s: got %q, want %q", command, tagged, want)
	}
	return untagged
}

// has fails unless one of lines contains want.
func has(t testing.TB, lines []string, want string) {
	t.Helper()
	for _, l := range lines {
		if strings.Contains(l, want) {
			return
		}
	}
	t.Errorf("%q is not in %q", want, lines)
}

// hasNot fails if one of lines contains what.
func hasNot(t testing.TB, lines []string, what string) {
	t.Helper()
	for _, l := range lines {
		if strings.Contains(l, what) {
			t.Errorf("%q has %q", l, what)
		}
	}
}

// ended fails unless the server closes the connection; it returns what came
// before.
func (c *client) ended() []string {
	c.t.Helper()
	var l []string
	for {
		s, err := c.tryLine()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				c.t.Fatalf("the connection stays open; it said %q", l)
			}
			return l
		}
		l = append(l, s)
	}
}

// insecureTLS trusts whatever the node of a child process shows.
func insecureTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
