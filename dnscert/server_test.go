package dnscert

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testca"
	"github.com/miekg/dns"
)

// memory is a Source a test changes.
type memory struct {
	mu    sync.Mutex
	zones []Zone
	err   error
}

func (m *memory) Zones(context.Context) ([]Zone, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.zones), m.err
}

func (m *memory) set(err error, zones ...Zone) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zones, m.err = zones, err
}

func issue(name string, usage testca.Spec) *testca.Issued {
	usage.Name = name
	if usage.KeyKind == "" {
		usage.KeyKind = testca.P256
	}
	return testCA().Issue(usage)
}

func hospital() Zone {
	padding := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Value: make([]byte, 700)}}
	local := func(l string) hisp.Address { return hisp.Address{Local: l, Domain: "hospital.example"} }
	return Zone{
		Name: "hospital.example", NS: []string{"ns1.hospital.example", "ns2.other.example"}, Contact: "dns.admin@hospital.example", TTL: 10 * time.Minute,
		Mail: []hisp.MX{{Host: "mx.hospital.example", Pref: 10}},
		Hosts: []Host{
			{Name: "hospital.example", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			{Name: "ns1.hospital.example", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
			{Name: "mx.hospital.example", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}},
		},
		Services: []Service{{Name: "_ldap._tcp.hospital.example", Port: 389, Target: "ldap.hospital.example"}},
		Certs: []Published{
			{Owner: hisp.Address{Domain: "hospital.example"}, Cert: issue("domain", testca.Spec{}).Cert},
			{Owner: local("amy"), Cert: issue("amy", testca.Spec{}).Cert},
			{Owner: local("a.b"), Cert: issue("dots", testca.Spec{}).Cert},
			{Owner: local("Big"), Cert: issue("big1", testca.Spec{Extra: padding}).Cert},
			{Owner: local("big"), Cert: issue("big2", testca.Spec{Extra: padding}).Cert},
			{Owner: local("signer"), Cert: issue("signer", testca.Spec{Usage: 1}).Cert}, // digitalSignature only
			{Owner: local("free"), Cert: issue("free", testca.Spec{Usage: testca.NoUsage}).Cert},
			{Owner: local("*"), Cert: issue("wild", testca.Spec{}).Cert},
		},
	}
}

// startServer runs a server until the test ends.
func startServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	s, err := NewServer(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// question of the tests: a message with one question, without EDNS.
func newQuestion(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.RecursionDesired = false
	return m
}

func summary(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		if _, ok := rr.(*dns.OPT); ok {
			continue
		}
		out = append(out, rr.Header().Name+" "+dns.TypeToString[rr.Header().Rrtype])
	}
	return strings.Join(out, ", ")
}

func TestServer_answers(t *testing.T) {
	src := &memory{zones: []Zone{hospital(), {Name: "sub.hospital.example"}}}
	s := startServer(t, ServerConfig{Source: src})
	const refused, nx, ok = dns.RcodeRefused, dns.RcodeNameError, dns.RcodeSuccess
	const soa = "hospital.example. SOA"
	tests := []struct {
		rule, name string
		qtype      uint16
		rcode      int
		answer     string
		authority  string
		extra      string
	}{
		{"H1 address", "amy.hospital.example", dns.TypeCERT, ok, "amy.hospital.example. CERT", "", ""},
		{"H2 domain", "hospital.example", dns.TypeCERT, ok, "hospital.example. CERT", "", ""},
		{"letter case comes back", "AMY.hospital.Example", dns.TypeCERT, ok, "AMY.hospital.Example. CERT", "", ""},
		{"DISC-17 dots", "a.b.hospital.example", dns.TypeCERT, ok, "a.b.hospital.example. CERT", "", ""},
		{"empty non-terminal is NODATA", "b.hospital.example", dns.TypeCERT, ok, "", soa, ""},
		{"empty non-terminal, ANY", "b.hospital.example", dns.TypeANY, ok, "", soa, ""},
		{"DISC-13 unknown is NXDOMAIN, never the domain's", "bob.hospital.example", dns.TypeCERT, nx, "", soa, ""},
		{"below a name is NXDOMAIN", "x.amy.hospital.example", dns.TypeCERT, nx, "", soa, ""},
		{"DISC-13 no wildcard", "*.hospital.example", dns.TypeCERT, nx, "", soa, ""},
		{"NODATA", "amy.hospital.example", dns.TypeMX, ok, "", soa, ""},
		{"DISC-14 signing-only is not published", "signer.hospital.example", dns.TypeCERT, nx, "", soa, ""},
		{"no key usage is published", "free.hospital.example", dns.TypeCERT, ok, "free.hospital.example. CERT", "", ""},
		{"MX with addresses", "hospital.example", dns.TypeMX, ok, "hospital.example. MX", "", "mx.hospital.example. A, mx.hospital.example. AAAA"},
		{"NS", "hospital.example", dns.TypeNS, ok, "hospital.example. NS, hospital.example. NS", "", "ns1.hospital.example. A"},
		{"SOA", "hospital.example", dns.TypeSOA, ok, soa, "", ""},
		{"A", "hospital.example", dns.TypeA, ok, "hospital.example. A", "", ""},
		{"AAAA", "mx.hospital.example", dns.TypeAAAA, ok, "mx.hospital.example. AAAA", "", ""},
		{"SRV", "_ldap._tcp.hospital.example", dns.TypeSRV, ok, "_ldap._tcp.hospital.example. SRV", "", ""},
		{"deepest zone", "x.sub.hospital.example", dns.TypeCERT, nx, "", "sub.hospital.example. SOA", ""},
		{"outside", "example", dns.TypeCERT, refused, "", "", ""},
		{"the root", ".", dns.TypeNS, refused, "", "", ""},
		{"a name that ends alike", "nothospital.example", dns.TypeCERT, refused, "", "", ""},
		{"no transfer", "hospital.example", dns.TypeAXFR, refused, "", "", ""},
		{"no incremental transfer", "hospital.example", dns.TypeIXFR, refused, "", "", ""},
		{"RFC 8482 ANY", "hospital.example", dns.TypeANY, ok, "hospital.example. HINFO", "", ""},
		{"ANY of nothing", "bob.hospital.example", dns.TypeANY, nx, "", soa, ""},
		{"meta type", "hospital.example", dns.TypeMAILB, dns.RcodeNotImplemented, "", "", ""},
		{"OPT as a type", "hospital.example", dns.TypeOPT, dns.RcodeFormatError, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			got := exchange(t, s, newQuestion(tt.name, tt.qtype), "tcp")
			if got.Rcode != tt.rcode || summary(got.Answer) != tt.answer || summary(got.Ns) != tt.authority || summary(got.Extra) != tt.extra {
				t.Errorf("answer:\n%v\nwant rcode %d, answer %q, authority %q, additional %q", got, tt.rcode, tt.answer, tt.authority, tt.extra)
			}
			if inZone := tt.rcode == ok || tt.rcode == nx; got.Authoritative != inZone || got.RecursionAvailable {
				t.Errorf("AA = %v, RA = %v, want %v, false", got.Authoritative, got.RecursionAvailable, inZone)
			}
		})
	}
}

func exchange(t testing.TB, s *Server, m *dns.Msg, network string) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	got, _, err := c.Exchange(m, s.Addr().String())
	if err != nil {
		t.Fatalf("exchange over %s: %v", network, err)
	}
	return got
}

func TestServer_negativeTTL(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}})
	got := exchange(t, s, newQuestion("bob.hospital.example", dns.TypeCERT), "udp")
	soa := soaOf(got)
	if soa == nil || soa.Hdr.Ttl != soaMinimum || soa.Minttl != soaMinimum {
		t.Errorf("SOA = %v, want TTL and minimum %d (RFC 2308 §3)", soa, soaMinimum)
	}
	if soa.Ns != "ns1.hospital.example." || soa.Mbox != `dns\.admin.hospital.example.` {
		t.Errorf("SOA names = %s %s", soa.Ns, soa.Mbox)
	}
}

func TestServer_truncation(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}})
	tests := []struct {
		rule, name string
		edns       uint16
		network    string
		truncated  bool
		answers    int
	}{
		{"fits 512", "amy.hospital.example", 0, "udp", false, 1},
		{"above 512 without EDNS", "big.hospital.example", 0, "udp", true, 0},
		{"EDNS 1232", "big.hospital.example", 1232, "udp", true, 0},
		{"never above 1232, whatever is offered", "big.hospital.example", 65535, "udp", true, 0},
		{"EDNS below 512 counts as 512", "amy.hospital.example", 100, "udp", false, 1},
		{"TCP", "big.hospital.example", 0, "tcp", false, 2},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			q := newQuestion(tt.name, dns.TypeCERT)
			if tt.edns > 0 {
				q.SetEdns0(tt.edns, true)
			}
			got := exchange(t, s, q, tt.network)
			if got.Truncated != tt.truncated || len(got.Answer) != tt.answers {
				t.Errorf("TC = %v with %d answers, want %v with %d", got.Truncated, len(got.Answer), tt.truncated, tt.answers)
			}
			if opt := got.IsEdns0(); (opt != nil) != (tt.edns > 0) || opt != nil && (!opt.Do() || opt.UDPSize() != ednsSize) {
				t.Errorf("OPT = %v, want one only if asked with one, DO copied", opt)
			}
		})
	}
}

func TestServer_oddQueries(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}})
	q := func(change func(*dns.Msg)) *dns.Msg {
		m := newQuestion("amy.hospital.example", dns.TypeCERT)
		change(m)
		return m
	}
	tests := []struct {
		rule  string
		m     *dns.Msg
		rcode int
	}{
		{"EDNS version 1", q(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		{"CHAOS version.bind", q(func(m *dns.Msg) {
			m.Question[0] = dns.Question{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}
		}), dns.RcodeRefused},
		{"class ANY", q(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		{"two questions", q(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"no question", q(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		{"NOTIFY", q(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"UPDATE", q(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"recursion asked for elsewhere", q(func(m *dns.Msg) { m.RecursionDesired = true; m.Question[0].Name = "www.example." }), dns.RcodeRefused},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			got := exchange(t, s, tt.m, "udp")
			if got.Rcode != tt.rcode || len(got.Answer) > 0 {
				t.Errorf("answer:\n%v\nwant rcode %s", got, dns.RcodeToString[tt.rcode])
			}
		})
	}
}

// TestServer_silence: what is no query gets no answer, and the server lives on.
func TestServer_silence(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}})
	conn, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good, err := newQuestion("amy.hospital.example", dns.TypeCERT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := slices.Clone(good)
	reply[0], reply[1], reply[2] = 7, 7, reply[2]|0x80
	for _, raw := range [][]byte{{0}, good[:11], reply} {
		if _, err := conn.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(good); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:2], good[:2]) {
		t.Errorf("first answer = %x, %v, want the one to the good query", buf[:min(n, 2)], err)
	}
}

// TestServer_serial: the serial changes exactly when the data do.
func TestServer_serial(t *testing.T) {
	clock, src := newClock(), &memory{zones: []Zone{hospital()}}
	s := startServer(t, ServerConfig{Source: src, Clock: clock.Now})
	serial := func() uint32 {
		return exchange(t, s, newQuestion("hospital.example", dns.TypeSOA), "udp").Answer[0].(*dns.SOA).Serial
	}
	reload := func() {
		t.Helper()
		if err := s.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first := serial()
	clock.add(time.Hour)
	z := hospital()
	z.Certs, z.Hosts = src.zones[0].Certs, slices.Clone(z.Hosts)
	slices.Reverse(z.Hosts)
	src.set(nil, z)
	reload()
	if got := serial(); got != first {
		t.Errorf("serial = %d after the same data in another order, want %d", got, first)
	}
	z.Certs = append(slices.Clone(z.Certs), Published{Owner: hisp.Address{Local: "new", Domain: z.Name}, Cert: issue("new", testca.Spec{}).Cert})
	src.set(nil, z)
	reload()
	second := serial()
	if second != first+3600 {
		t.Errorf("serial = %d after a new certificate, want the time, %d", second, first+3600)
	}
	z.Certs = z.Certs[1:]
	src.set(nil, z)
	reload()
	if got := serial(); got != second+1 {
		t.Errorf("serial = %d after a second change in the same second, want %d", got, second+1)
	}
	if got := exchange(t, s, newQuestion("hospital.example", dns.TypeCERT), "udp"); len(got.Answer) != 0 {
		t.Errorf("the removed certificate is still there")
	}
	src.set(errors.New("store closed"))
	if err := s.Reload(t.Context()); err == nil {
		t.Error("Reload = nil, want the source's error")
	}
	if got := exchange(t, s, newQuestion("new.hospital.example", dns.TypeCERT), "udp"); len(got.Answer) != 1 {
		t.Error("after a failed reload the last zones must be served")
	}
}

func TestServer_refresh(t *testing.T) {
	src := &memory{}
	s := startServer(t, ServerConfig{Source: src, Refresh: time.Millisecond})
	src.set(nil, hospital())
	waitFor(t, func() bool {
		return len(exchange(t, s, newQuestion("amy.hospital.example", dns.TypeCERT), "udp").Answer) == 1
	})
}

// TestServer_pipelining: several questions on one connection (RFC 7766 §6.2.1).
func TestServer_pipelining(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}})
	conn := dialTCP(t, s)
	var all []byte
	const n = 20
	for i := range n {
		m := newQuestion("big.hospital.example", dns.TypeCERT)
		m.Id = uint16(i)
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(raw))), raw...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	co := &dns.Conn{Conn: conn}
	for range n {
		m, err := co.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		seen[m.Id] = len(m.Answer) == 2
	}
	if len(seen) != n || !seen[0] || !seen[n-1] {
		t.Errorf("answers = %v, want one with two certificates for each of %d ids", seen, n)
	}
}

func dialTCP(t testing.TB, s *Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestServer_idleAndCaps(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}, ConnsPerIP: 3, IdleTimeout: 300 * time.Millisecond})
	var conns []net.Conn
	for range 4 {
		conns = append(conns, dialTCP(t, s))
	}
	for i, conn := range conns {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
			t.Errorf("connection %d: %v, want it closed: idle or above the limit", i, err)
		}
	}
	waitFor(t, func() bool { s.tcp.mu.Lock(); defer s.tcp.mu.Unlock(); return s.tcp.sum == 0 && len(s.tcp.open) == 0 })
	if got := exchange(t, s, newQuestion("big.hospital.example", dns.TypeCERT), "tcp"); len(got.Answer) != 2 {
		t.Error("no answer after the idle connections were closed")
	}
}

func TestCappedListener(t *testing.T) {
	l := &cappedListener{total: 3, perIP: 2, idle: 10 * time.Second, open: map[netip.Prefix]int{}}
	a, b, c := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("192.0.2.3/32")
	for i, step := range []struct {
		from netip.Prefix
		want bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {c, false}} {
		if got := l.take(step.from); got != step.want {
			t.Errorf("step %d: take = %v, want %v", i, got, step.want)
		}
	}
	if got := l.idleTimeout(); got != 2*time.Second {
		t.Errorf("idle = %v when connections are scarce, want 2s", got)
	}
	l.give(a)
	if !l.take(c) {
		t.Error("a place that was given back is not free")
	}
}

func TestLimiter(t *testing.T) {
	clock := newClock()
	l := newLimiter(2, clock.Now)
	a, neighbour, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("::ffff:198.51.100.1")
	want := []verdict{pass, pass, drop, slip, drop, slip}
	for i, addr := range []netip.Addr{a, neighbour, a, a, neighbour, a} {
		if got := l.allow(addr); got != want[i] {
			t.Errorf("answer %d: %d, want %d", i, got, want[i])
		}
	}
	if got := l.allow(other); got != pass {
		t.Errorf("another network: %d, want pass", got)
	}
	clock.add(time.Second)
	if got := l.allow(a); got != pass {
		t.Errorf("a second later: %d, want pass", got)
	}
	for i := range 3 * maxBuckets {
		l.allow(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}))
	}
	if n := len(l.now) + len(l.old); n > 2*maxBuckets {
		t.Errorf("%d buckets, want at most %d", n, 2*maxBuckets)
	}
}

// TestServer_rate: above the rate a client gets nothing or an empty answer
// with TC, over TCP everything.
func TestServer_rate(t *testing.T) {
	clock := newClock()
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}, Rate: 1, Clock: clock.Now})
	q := newQuestion("amy.hospital.example", dns.TypeCERT)
	if got := exchange(t, s, q, "udp"); len(got.Answer) != 1 {
		t.Fatal("first question not answered")
	}
	c := dns.Client{Timeout: 200 * time.Millisecond}
	if _, _, err := c.Exchange(q, s.Addr().String()); err == nil {
		t.Error("second question answered, want silence")
	}
	if got := exchange(t, s, q, "udp"); !got.Truncated || len(got.Answer) != 0 {
		t.Errorf("third question: TC = %v with %d answers, want TC and none", got.Truncated, len(got.Answer))
	}
	if got := exchange(t, s, q, "tcp"); len(got.Answer) != 1 {
		t.Error("TCP question not answered")
	}
}

func TestNewServer_errors(t *testing.T) {
	src := &memory{zones: []Zone{hospital()}}
	s := startServer(t, ServerConfig{Source: src})
	_, err := NewServer(t.Context(), ServerConfig{Source: src, Addr: s.Addr().String()})
	if !errors.Is(err, hisp.Conflict) || !strings.Contains(hisp.HintOf(err), "in use") {
		t.Errorf("port in use: %v, want Conflict", err)
	}
	if _, err := NewServer(t.Context(), ServerConfig{Source: src, Addr: "nonsense"}); err == nil || hisp.HintOf(err) == "" {
		t.Errorf("bad address: %v, want an error with a hint", err)
	}
	src.set(&hisp.Error{Kind: hisp.Temporary})
	if _, err := NewServer(t.Context(), ServerConfig{Source: src, Addr: "127.0.0.1:0"}); !errors.Is(err, hisp.Temporary) {
		t.Errorf("source fails: %v, want Temporary", err)
	}
}

// TestServer_problems: what cannot be published is left out, the rest is
// served, and the log names the domain but nobody's local part.
func TestServer_problems(t *testing.T) {
	z := hospital()
	cert := z.Certs[0].Cert
	z.Certs = append(z.Certs,
		Published{Owner: hisp.Address{Local: "canary..x", Domain: z.Name}, Cert: cert},
		Published{Owner: hisp.Address{Local: "canary", Domain: "elsewhere.example"}, Cert: cert})
	z.Hosts = append(z.Hosts, Host{Name: "bad..name", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.9")}}, Host{Name: "x.hospital.example", Addrs: make([]netip.Addr, 1)})
	z.Mail = append(z.Mail, hisp.MX{})
	var log bytes.Buffer
	s := startServer(t, ServerConfig{
		Source: &memory{zones: []Zone{z, {Name: "bad..zone"}, {Name: "hospital.example"}}},
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
	})
	if got := exchange(t, s, newQuestion("amy.hospital.example", dns.TypeCERT), "udp"); len(got.Answer) != 1 {
		t.Error("good records are not served beside bad ones")
	}
	if got := exchange(t, s, newQuestion("canary.elsewhere.example", dns.TypeCERT), "udp"); got.Rcode != dns.RcodeRefused {
		t.Error("a record outside the zone is served")
	}
	for _, want := range []string{"wildcard", "outside the zone", "cannot be written", "host is not a DNS name", "none", "mail exchanger", "twice"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log does not tell %q:\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "canary") {
		t.Errorf("log holds a local part:\n%s", log.String())
	}
}

// TestServer_resolver: both halves of the package together.
func TestServer_resolver(t *testing.T) {
	s := startServer(t, ServerConfig{Source: &memory{zones: []Zone{hospital()}}})
	r, err := NewResolver(ResolverConfig{Servers: []netip.AddrPort{s.Addr()}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"amy@hospital.example": "dns-address:amy", "bob@hospital.example": "dns-domain:domain",
		"big@hospital.example": "dns-address:big1 dns-address:big2", "a.b+c@hospital.example": "dns-address:dots",
	} {
		certs, err := r.LookupCerts(t.Context(), address(t, addr))
		if got := certNames(certs); got != want || err != nil {
			t.Errorf("LookupCerts(%s) = %q, %v, want %q", addr, got, err, want)
		}
	}
	if _, err := r.LookupCerts(t.Context(), address(t, "amy@elsewhere.example")); !errors.Is(err, hisp.Temporary) {
		t.Errorf("a refused zone: %v, want Temporary", err)
	}
}
