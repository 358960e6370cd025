// Package testdns is a programmable DNS server for tests on 127.0.0.1, UDP and
// TCP on one free port. It answers from the records a test gave it, as a
// recursor would (RA set, CNAMEs followed), counts what it was asked, and can
// be told to misbehave per name and type. It does no recursion, no wildcards
// and no DNSSEC. It knows no package of ours.
package testdns

import (
	"encoding/base64"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Fault is a way to misbehave.
type Fault uint8

const (
	None          Fault = iota
	ServFail            // rcode SERVFAIL
	Refuse              // rcode REFUSED
	NotImp              // rcode NOTIMP
	FormErr             // rcode FORMERR when asked with EDNS, the answer without
	Drop                // no answer at all
	DropUDP             // no answer on UDP
	DropTCP             // TCP connections are closed without an answer
	Truncate            // TC on UDP with half of the answer
	TruncateAll         // TC on UDP and on TCP
	WrongID             // first an answer with another id, nothing else
	WrongQuestion       // an answer to another question
	LowerCase           // the question comes back in lower case
	Malformed           // UDP: right header, cut in the middle of a record
	Garbage             // bytes that are no DNS message
	Spoof               // a wrong-id lie first, then the right answer
	Referral            // empty answer with NS in authority, not authoritative
	NoSOA               // negative answers without SOA
)

// maxChain is how many CNAMEs one answer holds.
const maxChain = 4

// Query is one question the server was asked.
type Query struct {
	Name string // lower case, with trailing dot
	Type string // "CERT", "MX", ...
	TCP  bool
	ID   uint16
	Port uint16 // source port
	EDNS uint16 // advertised size, 0 without EDNS
}

type key struct {
	name  string
	qtype uint16
}

// Server is the test server. Its methods may be called at any time.
type Server struct {
	addr netip.AddrPort

	mu      sync.Mutex
	records map[key][]dns.RR
	zones   map[string]*dns.SOA
	faults  map[key]Fault
	delays  map[key]time.Duration
	queries []Query
	handler func(req *dns.Msg, tcp bool) *dns.Msg
	gate    chan struct{}
	closed  chan struct{}
}

// New starts a server that stops when the test ends.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		records: map[key][]dns.RR{}, zones: map[string]*dns.SOA{},
		faults: map[key]Fault{}, delays: map[key]time.Duration{}, closed: make(chan struct{}),
	}
	udp, tcp := listen(t)
	s.addr = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	var wg sync.WaitGroup
	for _, srv := range []*dns.Server{{PacketConn: udp, UDPSize: 4096}, {Listener: tcp}} {
		srv.Handler = dns.HandlerFunc(s.serve)
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		wg.Add(1)
		go func() { defer wg.Done(); _ = srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = srv.Shutdown() })
	}
	t.Cleanup(func() { close(s.closed) }) // runs first: ends delays
	return s
}

// listen finds a port that is free on UDP and on TCP.
func listen(t testing.TB) (*net.UDPConn, net.Listener) {
	t.Helper()
	var last error
	for range 50 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("testdns: %v", err)
		}
		port := tcp.Addr().(*net.TCPAddr).Port
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			return udp, tcp
		}
		last = err
		_ = tcp.Close()
	}
	t.Fatalf("testdns: no port free on UDP and TCP: %v", last)
	return nil, nil
}

// Addr is where the server listens.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Zone makes the server answer negatively with a SOA of name whose negative
// TTL is ttl. Names outside every zone are NXDOMAIN without SOA.
func (s *Server) Zone(name string, ttl time.Duration) {
	secs := uint32(ttl / time.Second)
	name = canonical(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zones[name] = &dns.SOA{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: secs},
		Ns:  "ns." + name, Mbox: "hostmaster." + name, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: secs,
	}
	s.records[key{name, dns.TypeSOA}] = []dns.RR{s.zones[name]}
}

// Add adds records in zone-file form: "a.example. 300 IN MX 10 mx.example.".
func (s *Server) Add(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil || rr == nil {
			t.Fatalf("testdns: record %q: %v", line, err)
		}
		s.AddRR(rr)
	}
}

// AddCert adds a CERT record of type PKIX, TTL 300, key tag and algorithm 0.
func (s *Server) AddCert(name string, der []byte) {
	s.AddRR(&dns.CERT{
		Hdr:  dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeCERT, Class: dns.ClassINET, Ttl: 300},
		Type: dns.CertPKIX, Certificate: base64.StdEncoding.EncodeToString(der),
	})
}

// AddRR adds one record.
func (s *Server) AddRR(rr dns.RR) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{canonical(rr.Header().Name), rr.Header().Rrtype}
	s.records[k] = append(s.records[k], rr)
}

// Remove removes all records of name and type ("CERT").
func (s *Server) Remove(name, qtype string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, key{canonical(name), dns.StringToType[qtype]})
}

// SetFault misbehaves for name and type; "" as name means every name, "ANY" as
// type every type.
func (s *Server) SetFault(name, qtype string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[faultKey(name, qtype)] = f
}

// SetDelay delays answers for name and type as SetFault names them.
func (s *Server) SetDelay(name, qtype string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays[faultKey(name, qtype)] = d
}

// SetGate holds every answer back until gate is closed.
func (s *Server) SetGate(gate chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
}

// SetHandler lets f answer first; nil from f means the usual answer.
func (s *Server) SetHandler(f func(req *dns.Msg, tcp bool) *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = f
}

// Queries returns what was asked so far.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.queries...)
}

// Count returns how often name and type were asked; "ANY" counts all types.
func (s *Server) Count(name, qtype string) int {
	n := 0
	for _, q := range s.Queries() {
		if q.Name == canonical(name) && (qtype == "ANY" || q.Type == qtype) {
			n++
		}
	}
	return n
}

// canonical brings a name to the spelling that names from the wire have, in
// lower case.
func canonical(name string) string {
	var buf [256]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), buf[:], 0, nil, false)
	if err != nil {
		return dns.CanonicalName(name)
	}
	wire, _, err := dns.UnpackDomainName(buf[:n], 0)
	if err != nil {
		return dns.CanonicalName(name)
	}
	return dns.CanonicalName(wire)
}

func faultKey(name, qtype string) key {
	if name != "" {
		name = canonical(name)
	}
	return key{name, dns.StringToType[qtype]}
}

func lookup[V any](m map[key]V, k key) (v V) {
	for _, try := range []key{k, {k.name, dns.TypeANY}, {"", k.qtype}, {"", dns.TypeANY}} {
		if v, ok := m[try]; ok {
			return v
		}
	}
	return v
}

func (s *Server) serve(w dns.ResponseWriter, req *dns.Msg) {
	if len(req.Question) != 1 {
		return
	}
	addr, tcp := w.RemoteAddr().(*net.TCPAddr)
	q := Query{Name: canonical(req.Question[0].Name), Type: dns.TypeToString[req.Question[0].Qtype], TCP: tcp, ID: req.Id}
	if tcp {
		q.Port = uint16(addr.Port)
	} else if u, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		q.Port = uint16(u.Port)
	}
	if opt := req.IsEdns0(); opt != nil {
		q.EDNS = opt.UDPSize()
	}
	k := key{q.Name, req.Question[0].Qtype}
	s.mu.Lock()
	s.queries = append(s.queries, q)
	fault, delay, handler, gate := lookup(s.faults, k), lookup(s.delays, k), s.handler, s.gate
	s.mu.Unlock()
	s.wait(delay, gate)
	if handler != nil {
		if m := handler(req, tcp); m != nil {
			_ = w.WriteMsg(m)
			return
		}
	}
	s.misbehave(w, req, fault, tcp)
}

func (s *Server) wait(delay time.Duration, gate chan struct{}) {
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-s.closed:
		}
	}
	if gate != nil {
		select {
		case <-gate:
		case <-s.closed:
		}
	}
}

// misbehave writes the answer as fault says.
func (s *Server) misbehave(w dns.ResponseWriter, req *dns.Msg, fault Fault, tcp bool) {
	m := s.answer(req)
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = int(opt.UDPSize())
		m.SetEdns0(1232, false)
	}
	if !tcp && m.Len() > size {
		m.Truncated, m.Answer = true, nil
	}
	switch fault {
	case ServFail:
		m = new(dns.Msg).SetRcode(req, dns.RcodeServerFailure)
	case Refuse:
		m = new(dns.Msg).SetRcode(req, dns.RcodeRefused)
	case NotImp:
		m = new(dns.Msg).SetRcode(req, dns.RcodeNotImplemented)
	case FormErr:
		if req.IsEdns0() != nil {
			m = new(dns.Msg).SetRcode(req, dns.RcodeFormatError)
		}
	case Drop:
		return
	case DropUDP:
		if !tcp {
			return
		}
	case DropTCP:
		if tcp {
			_ = w.Close()
			return
		}
	case Truncate, TruncateAll:
		if !tcp || fault == TruncateAll {
			m.Truncated, m.Answer = true, m.Answer[:len(m.Answer)/2]
		}
	case WrongID:
		m.Id++
	case WrongQuestion:
		m.Question[0].Name = "wrong.example."
	case LowerCase:
		m.Question[0].Name = strings.ToLower(m.Question[0].Name)
	case NoSOA:
		m.Ns = nil
	case Referral:
		m.Answer, m.Authoritative, m.RecursionAvailable = nil, false, false
		m.Rcode = dns.RcodeSuccess
		m.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 60}, Ns: "elsewhere.example."}}
	case Malformed, Garbage, Spoof:
		s.writeRaw(w, m, fault, tcp)
		return
	}
	_ = w.WriteMsg(m)
}

func (s *Server) writeRaw(w dns.ResponseWriter, m *dns.Msg, fault Fault, tcp bool) {
	raw, err := m.Pack()
	if err != nil {
		return
	}
	switch {
	case fault == Spoof:
		lie := append([]byte(nil), raw...)
		lie[0] ^= 0xff
		if !tcp {
			_, _ = w.Write(lie)
		}
	case tcp:
	case fault == Malformed:
		raw = raw[:len(raw)-3]
	case fault == Garbage:
		raw = append(raw[:2:2], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	}
	_, _ = w.Write(raw)
}

// answer is the right answer from the records.
func (s *Server) answer(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable, m.Authoritative, m.Compress = true, true, true
	q := req.Question[0]
	name := canonical(q.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for hops := 0; ; hops++ {
		if rrs := s.records[key{name, q.Qtype}]; len(rrs) > 0 {
			m.Answer = append(m.Answer, rrs...)
			return m
		}
		cname := s.records[key{name, dns.TypeCNAME}]
		if len(cname) == 0 {
			break
		}
		if hops == maxChain {
			return m // the rest of a long chain is for the client to ask
		}
		m.Answer = append(m.Answer, cname[0])
		name = canonical(cname[0].(*dns.CNAME).Target)
		if !s.exists(name) {
			break
		}
	}
	if !s.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if soa := s.zones[name[off:]]; soa != nil {
			m.Ns = []dns.RR{soa}
			break
		}
	}
	return m
}

// exists tells whether name or a name below it has a record.
func (s *Server) exists(name string) bool {
	for k := range s.records {
		if dns.IsSubDomain(name, k.name) {
			return true
		}
	}
	return false
}
