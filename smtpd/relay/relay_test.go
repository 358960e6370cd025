package relay

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hispnode/hisp/hisp"
)

const mxHost = "mx.clinic.example"

// names is a whole HostResolver over maps.
type names struct {
	mx    map[hisp.Domain][]hisp.MX
	addrs map[string][]netip.Addr
}

func (n names) LookupMX(_ context.Context, d hisp.Domain) ([]hisp.MX, error) {
	if mx, ok := n.mx[d]; ok {
		return mx, nil
	}
	return nil, &hisp.Error{Op: "names.LookupMX", Kind: hisp.UnknownRecipient, Hint: "no such domain"}
}

func (n names) LookupAddrs(_ context.Context, host string) ([]netip.Addr, error) {
	return n.addrs[host], nil
}

// script is how a fake exchanger answers: by the first word of the command, the
// whole command before it. "" closes the connection.
type script map[string]string

var polite = script{
	"EHLO": "250-" + mxHost + "\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 STARTTLS\r\n",
	"MAIL": "250 2.1.0 ok\r\n", "RCPT": "250 2.1.5 ok\r\n", "DATA": "354 go\r\n", ".": "250 2.0.0 ok\r\n",
	"RSET": "250 2.0.0 ok\r\n", "QUIT": "221 2.0.0 bye\r\n", "STARTTLS": "220 2.0.0 go\r\n", "greeting": "220 " + mxHost + "\r\n",
}

func (s script) with(kv ...string) script {
	out := script{}
	for k, v := range s {
		out[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}

// exchanger is a fake peer. It records what it was told.
type exchanger struct {
	t      testing.TB
	script script
	cert   tls.Certificate
	ln     net.Listener
	mu     sync.Mutex
	said   []string
	bodies []string
	conns  int
}

func newExchanger(t testing.TB, s script, certName string) (*exchanger, *x509.CertPool) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, pool := testCert(t, certName)
	e := &exchanger{t: t, script: s, cert: cert, ln: ln}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { e.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return e, pool
}

func (e *exchanger) port() uint16 { return uint16(e.ln.Addr().(*net.TCPAddr).Port) }

func (e *exchanger) answer(line string) (string, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.said = append(e.said, line)
	if a, ok := e.script[line]; ok {
		return a, a != ""
	}
	word, _, _ := strings.Cut(line, " ")
	a := e.script[word]
	return a, a != ""
}

func (e *exchanger) serve(c net.Conn) {
	defer func() { c.Close() }()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	e.mu.Lock()
	e.conns++
	e.mu.Unlock()
	fmt.Fprint(c, e.script["greeting"])
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		reply, ok := e.answer(line)
		if !ok {
			return
		}
		fmt.Fprint(c, reply)
		switch {
		case line == "STARTTLS" && strings.HasPrefix(reply, "220"):
			tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{e.cert}})
			if tc.Handshake() != nil {
				return
			}
			c, r = tc, bufio.NewReader(tc)
		case line == "DATA" && strings.HasPrefix(reply, "354"):
			var body strings.Builder
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				body.WriteString(l)
			}
			e.mu.Lock()
			e.bodies = append(e.bodies, body.String())
			e.mu.Unlock()
			reply, ok := e.answer(".")
			if !ok {
				return
			}
			fmt.Fprint(c, reply)
		case line == "QUIT":
			return
		}
	}
}

func (e *exchanger) heard() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.said, "\n") + "\n"
}

func envelope(rcpts ...string) hisp.Envelope {
	env := hisp.Envelope{From: hisp.Address{Local: "dr", Domain: "hospital.example"}}
	for _, r := range rcpts {
		env.To = append(env.To, hisp.Address{Local: r, Domain: "clinic.example"})
	}
	return env
}

const text = "From: <dr@hospital.example>\r\n\r\n.dot\r\n..\r\nend\r\n"

func relayTo(t testing.TB, e *exchanger, pool *x509.CertPool, p Peer) *Relay {
	t.Helper()
	p.Port = e.port()
	r, err := New(Config{
		Hostname: "mx.hospital.example", Roots: pool,
		Resolver: names{
			mx:    map[hisp.Domain][]hisp.MX{"clinic.example": {{Host: mxHost, Pref: 10}}},
			addrs: map[string][]netip.Addr{mxHost: {netip.MustParseAddr("127.0.0.1")}},
		},
		Peer: func(hisp.Domain) Peer { return p },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestSend_delivers(t *testing.T) {
	e, pool := newExchanger(t, polite, mxHost)
	r := relayTo(t, e, pool, Peer{})
	for range 3 {
		for i, res := range r.Send(t.Context(), envelope("a", "b"), hisp.NewMessage([]byte(text))) {
			if res.Err != nil || res.Code != 250 || res.Enhanced != "2.0.0" || res.Host != mxHost {
				t.Fatalf("result %d = %+v, want 250 2.0.0", i, res)
			}
		}
	}
	if e.conns != 1 {
		t.Errorf("connections = %d, want 1: they are to be reused", e.conns)
	}
	if want := strings.NewReplacer("\r\n.", "\r\n..").Replace(text); e.bodies[2] != want {
		t.Errorf("wire = %q, want %q", e.bodies[2], want)
	}
	heard := e.heard()
	before, after, _ := strings.Cut(heard, "STARTTLS\n")
	if before != "EHLO mx.hospital.example\n" || !strings.HasPrefix(after, "EHLO mx.hospital.example\n") {
		t.Errorf("dialogue = %q, want only EHLO before TLS", heard)
	}
	if !strings.Contains(heard, "MAIL FROM:<dr@hospital.example> SIZE=46\n") {
		t.Errorf("dialogue = %q, want SIZE", heard)
	}
}

// One recipient each: every reply becomes the right kind.
func TestSend_results(t *testing.T) {
	s := polite.with(
		"RCPT TO:<nobody@clinic.example>", "550 5.1.1 <nobody@clinic.example> unknown\r\n",
		"RCPT TO:<full@clinic.example>", "452 4.2.2 full\r\n",
		"RCPT TO:<no@clinic.example>", "550-5.7.1 multi\r\n550 5.7.1 line\r\n",
		"RCPT TO:<big@clinic.example>", "552 too big\r\n",
		"RCPT TO:<odd@clinic.example>", "354 what\r\n")
	e, pool := newExchanger(t, s, mxHost)
	r := relayTo(t, e, pool, Peer{})
	res := r.Send(t.Context(), envelope("nobody", "ok", "full", "no", "big", "odd"), hisp.NewMessage([]byte(text)))
	for i, want := range []struct {
		kind     hisp.Kind
		code     int
		enhanced string
	}{{hisp.UnknownRecipient, 550, "5.1.1"}, {0, 250, "2.0.0"}, {hisp.Temporary, 452, "4.2.2"},
		{hisp.Refused, 550, "5.7.1"}, {hisp.TooLarge, 552, ""}, {hisp.Temporary, 451, ""}} {
		if i == 1 {
			if res[i].Err != nil {
				t.Errorf("result 1 = %v, want success", res[i].Err)
			}
			continue
		}
		if hisp.KindOf(res[i].Err) != want.kind || res[i].Code != want.code || res[i].Enhanced != want.enhanced {
			t.Errorf("result %d = %+v, want %+v", i, res[i], want)
		}
		if strings.Contains(res[i].Err.Error(), "nobody") {
			t.Errorf("error %q repeats the address", res[i].Err)
		}
	}
}

func TestSend_whole(t *testing.T) {
	noTLS := polite.with("EHLO", "250-"+mxHost+"\r\n250 SIZE 40\r\n")
	for _, c := range []struct {
		name   string
		script script
		cert   string
		peer   Peer
		kind   hisp.Kind
		ok     bool
		silent string // must not be heard
	}{
		{"no STARTTLS", noTLS, mxHost, Peer{}, hisp.Temporary, false, "MAIL"},
		{"no STARTTLS, encrypt", noTLS, mxHost, Peer{TLS: Encrypt}, hisp.Temporary, false, "MAIL"},
		{"no STARTTLS, opportunistic, too large", noTLS, mxHost, Peer{TLS: Opportunistic}, hisp.TooLarge, false, "MAIL"},
		{"HELO only, opportunistic", polite.with("EHLO", "502 no\r\n", "HELO", "250 x\r\n"), mxHost, Peer{TLS: Opportunistic}, 0, true, ""},
		{"HELO only", polite.with("EHLO", "502 no\r\n", "HELO", "250 x\r\n"), mxHost, Peer{}, hisp.Temporary, false, "HELO"},
		{"certificate of another", polite, "mx.evil.example", Peer{}, hisp.Temporary, false, "MAIL"},
		{"certificate of another, encrypt", polite, "mx.evil.example", Peer{TLS: Encrypt}, 0, true, ""},
		{"STARTTLS refused", polite.with("STARTTLS", "454 4.7.0 no\r\n"), mxHost, Peer{}, hisp.Temporary, false, "MAIL"},
		{"T4: data behind the 220", polite.with("STARTTLS", "220 go\r\n250-AUTH PLAIN\r\n250 ok\r\n"), mxHost, Peer{TLS: Encrypt}, hisp.Temporary, false, "MAIL"},
		{"greeting 554", polite.with("greeting", "554 no\r\n"), mxHost, Peer{}, hisp.Temporary, false, "EHLO"},
		{"greeting garbage", polite.with("greeting", "HTTP/1.1 400\r\n"), mxHost, Peer{}, hisp.Temporary, false, "EHLO"},
		{"M2: a million lines", polite.with("greeting", strings.Repeat("220-x\r\n", 1e6)), mxHost, Peer{}, hisp.Temporary, false, "EHLO"},
		{"endless line", polite.with("greeting", "220 "+strings.Repeat("x", 1e6)), mxHost, Peer{}, hisp.Temporary, false, "EHLO"},
		{"codes differ", polite.with("greeting", "220-a\r\n250 b\r\n"), mxHost, Peer{}, hisp.Temporary, false, "EHLO"},
		{"MAIL 5xx", polite.with("MAIL", "550 5.7.1 no\r\n"), mxHost, Peer{}, hisp.Refused, false, "DATA"},
		{"MAIL 421", polite.with("MAIL", "421 4.3.2 bye\r\n"), mxHost, Peer{}, hisp.Temporary, false, "DATA"},
		{"DATA 451", polite.with("DATA", "451 4.3.0 no\r\n"), mxHost, Peer{}, hisp.Temporary, false, ""},
		{"DATA 250 is no 354", polite.with("DATA", "250 ok\r\n"), mxHost, Peer{}, hisp.Temporary, false, ""},
		{"dot 554", polite.with(".", "554 5.6.0 no\r\n"), mxHost, Peer{}, hisp.Refused, false, ""},
		{"closed after dot", polite.with(".", ""), mxHost, Peer{}, hisp.Temporary, false, ""},
		{"closed at RCPT", polite.with("RCPT", ""), mxHost, Peer{}, hisp.Temporary, false, "DATA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, pool := newExchanger(t, c.script, c.cert)
			start := time.Now()
			res := relayTo(t, e, pool, c.peer).Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0]
			if c.ok != (res.Err == nil) || !c.ok && hisp.KindOf(res.Err) != c.kind {
				t.Errorf("result = %v, want %v", res.Err, c.kind)
			}
			if c.silent != "" && strings.Contains(e.heard(), "\n"+c.silent) {
				t.Errorf("dialogue = %q, want no %s", e.heard(), c.silent)
			}
			if d := time.Since(start); d > 30*time.Second { // far below the time-outs: nothing waited for more
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestSend_neverOnTheWire(t *testing.T) {
	e, pool := newExchanger(t, polite.with("EHLO", "250-x\r\n250 STARTTLS\r\n"), mxHost)
	r := relayTo(t, e, pool, Peer{})
	ok := envelope("a")
	bad := envelope("a")
	bad.From.Local = "x\r\nRCPT TO:<y"
	two := envelope("a")
	two.To = append(two.To, hisp.Address{Local: "b", Domain: "other.example"})
	for _, c := range []struct {
		name string
		env  hisp.Envelope
		msg  string
		kind hisp.Kind
	}{
		{"bare LF", ok, "a\n.\nb\r\n", hisp.Malformed}, {"bare CR", ok, "a\rb\r\n", hisp.Malformed},
		{"NUL", ok, "a\x00\r\n", hisp.Malformed}, {"long line", ok, strings.Repeat("x", 999) + "\r\n", hisp.Malformed},
		{"CRLF in an address", bad, text, hisp.Malformed}, {"two domains", two, text, hisp.Malformed},
		{"8 bit to a 7-bit peer", ok, "A: b\r\n\r\nä\r\n", hisp.Refused},
	} {
		res := r.Send(t.Context(), c.env, hisp.NewMessage([]byte(c.msg)))
		if len(res) != len(c.env.To) || hisp.KindOf(res[0].Err) != c.kind {
			t.Errorf("%s: result = %+v, want %v", c.name, res, c.kind)
		}
	}
	if strings.Contains(e.heard(), "MAIL") {
		t.Errorf("dialogue = %q, want no MAIL", e.heard())
	}
}

func TestSend_nextExchanger(t *testing.T) {
	e, pool := newExchanger(t, polite, mxHost)
	r := relayTo(t, e, pool, Peer{})
	n := r.cfg.Resolver.(names)
	n.mx["clinic.example"] = []hisp.MX{{Host: mxHost, Pref: 20}, {Host: "dead.clinic.example", Pref: 10}, {Host: "none.clinic.example", Pref: 5}}
	n.addrs["dead.clinic.example"] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	dial := r.cfg.Dial
	tries := 0
	r.cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if tries++; tries == 1 {
			return nil, errors.New("connection refused")
		}
		return dial(ctx, network, addr)
	}
	if res := r.Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0]; res.Err != nil || res.Host != mxHost {
		t.Errorf("result = %+v, want delivery by %s", res, mxHost)
	}
}

func TestSend_loop(t *testing.T) {
	e, pool := newExchanger(t, polite, mxHost)
	r := relayTo(t, e, pool, Peer{})
	r.cfg.Resolver.(names).mx["clinic.example"] = []hisp.MX{{Host: "MX.hospital.example.", Pref: 10}, {Host: mxHost, Pref: 20}}
	if res := r.Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0]; hisp.KindOf(res.Err) != hisp.Refused {
		t.Errorf("result = %+v, want refused: the mail would loop", res)
	}
	env := envelope("a")
	env.To[0].Domain = "nowhere.example"
	if res := r.Send(t.Context(), env, hisp.NewMessage([]byte(text)))[0]; hisp.KindOf(res.Err) != hisp.UnknownRecipient {
		t.Errorf("result = %+v, want unknown recipient", res)
	}
}

// An idle connection that the peer closed is replaced without an error.
func TestSend_staleConnection(t *testing.T) {
	for _, goodbye := range []string{"", "421 4.4.2 idle\r\n"} {
		e, pool := newExchanger(t, polite, mxHost)
		r := relayTo(t, e, pool, Peer{})
		send := func() error { return r.Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0].Err }
		if err := send(); err != nil {
			t.Fatal(err)
		}
		e.mu.Lock()
		e.script = polite.with("MAIL", goodbye)
		e.mu.Unlock()
		r.cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			e.mu.Lock()
			e.script = polite
			e.mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		if err := send(); err != nil {
			t.Errorf("after %q: %v, want delivery over a new connection", goodbye, err)
		}
	}
}

func TestSend_smartRoute(t *testing.T) {
	e, pool := newExchanger(t, polite, "localhost")
	r := relayTo(t, e, pool, Peer{})
	r.cfg.Peer = func(hisp.Domain) Peer { return Peer{TLS: Encrypt, Host: e.ln.Addr().String()} }
	if res := r.Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0]; res.Err != nil {
		t.Errorf("result = %+v, want delivery", res)
	}
}

// A peer that says nothing costs its time-out and no more; a cancelled context
// ends it at once.
func TestSend_silentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(Config{Hostname: "x.example", Resolver: names{},
			Peer: func(hisp.Domain) Peer { return Peer{Host: "192.0.2.1"} },
			Dial: func(context.Context, string, string) (net.Conn, error) {
				a, b := net.Pipe()
				go func() { b.Read(make([]byte, 1)) }() // until the relay closes
				return a, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		res := r.Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0]
		if d := time.Since(start); hisp.KindOf(res.Err) != hisp.Temporary || d > 3*time.Minute || d < 2*time.Minute {
			t.Errorf("result = %v after %v, want temporary after 2 min", res.Err, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		res = r.Send(ctx, envelope("a"), hisp.NewMessage([]byte(text)))[0]
		if d := time.Since(start); hisp.KindOf(res.Err) != hisp.Temporary || d > 3*time.Second {
			t.Errorf("result = %v after %v, want temporary when the context ends", res.Err, d)
		}
	})
}

func testCert(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
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
