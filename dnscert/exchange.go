package dnscert

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// ednsSize is what we say we can take over UDP: no fragments on any path
	// (RFC 6891 §6.2.5, RFC 9715 §3.1).
	ednsSize = 1232
	// maxStrays is how many datagrams that do not answer our question are
	// passed over before TCP is asked, where guessing does not work.
	maxStrays = 16
)

var (
	errUseTCP    = errors.New("the answer over UDP cannot be used")
	errStray     = errors.New("not an answer to the question")
	errTruncated = errors.New("the answer is truncated over TCP")
	errLame      = errors.New("the server does not know the name")
	errLoop      = errors.New("CNAME records form a loop or a chain that is too long")
)

// rcodeError is an answer that says that the server could not or would not.
type rcodeError int

func (e rcodeError) Error() string {
	if name, ok := dns.RcodeToString[int(e)]; ok {
		return "the server answered " + name
	}
	return fmt.Sprintf("the server answered rcode %d", int(e))
}

// transport is how a question goes first.
type transport uint8

const (
	udpFirst transport = iota
	tcpOnly
)

// query is one question in the form it has on the wire.
type query struct {
	msg  *dns.Msg
	wire []byte
}

// newQuery builds a question with a random id and random letter case. The
// source port is random because each question has its own socket.
func newQuery(q question, recurse bool, edns bool) (query, error) {
	var random [2 + 32]byte
	rand.Read(random[:])
	m := &dns.Msg{Question: []dns.Question{{
		Name: mixCase(q.name, random[2:]), Qtype: q.qtype, Qclass: dns.ClassINET,
	}}}
	m.Id = binary.BigEndian.Uint16(random[:])
	m.RecursionDesired = recurse
	if edns {
		m.SetEdns0(ednsSize, false)
	}
	wire, err := m.Pack()
	return query{m, wire}, err
}

// exchange asks one server one question: UDP, then TCP when the answer is
// truncated or damaged; without EDNS when the server does not know it. Each
// transport has timeout at most.
func (r *Resolver) exchange(ctx context.Context, server netip.AddrPort, q question, recurse bool, first transport) (*dns.Msg, error) {
	m, err := r.exchangeEDNS(ctx, server, q, recurse, first, true)
	var rcode rcodeError
	if errors.As(err, &rcode) && (rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented || rcode == dns.RcodeBadVers) {
		return r.exchangeEDNS(ctx, server, q, recurse, first, false) // RFC 6891 §7
	}
	return m, err
}

func (r *Resolver) exchangeEDNS(ctx context.Context, server netip.AddrPort, q question, recurse bool, first transport, edns bool) (*dns.Msg, error) {
	qry, err := newQuery(q, recurse, edns)
	if err != nil {
		return nil, err
	}
	var m *dns.Msg
	if first == udpFirst {
		m, err = r.overUDP(ctx, server, qry)
		if errors.Is(err, errUseTCP) {
			m, err = r.overTCP(ctx, server, qry)
		}
	} else {
		m, err = r.overTCP(ctx, server, qry)
	}
	if err != nil {
		return nil, err
	}
	return m, judge(m)
}

func (r *Resolver) dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	deadline := time.Now().Add(r.timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(deadline)
}

// overUDP passes over datagrams that do not answer qry, so that a forged one
// does not end the wait for the true one.
func (r *Resolver) overUDP(ctx context.Context, server netip.AddrPort, qry query) (*dns.Msg, error) {
	conn, err := r.dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(qry.wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // some servers send more than we said
	for range maxStrays {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if m, err := readAnswer(buf[:n], qry.msg, exactCase); !errors.Is(err, errStray) {
			return m, err
		}
	}
	return nil, errUseTCP
}

func (r *Resolver) overTCP(ctx context.Context, server netip.AddrPort, qry query) (*dns.Msg, error) {
	conn, err := r.dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(qry.wire)))
	if _, err := conn.Write(append(framed, qry.wire...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m, err := readAnswer(buf, qry.msg, anyCase)
	if errors.Is(err, errUseTCP) {
		return nil, errTruncated
	}
	return m, err
}

// caseRule says whether the letter case of the question must come back.
type caseRule uint8

const (
	exactCase caseRule = iota
	anyCase            // TCP: the three-way handshake is the proof
)

// readAnswer reads one message. errStray: not for us, wait on; errUseTCP: ours
// but cut or damaged.
func readAnswer(raw []byte, asked *dns.Msg, rule caseRule) (*dns.Msg, error) {
	if len(raw) < 12 || binary.BigEndian.Uint16(raw) != asked.Id {
		return nil, errStray
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return nil, errUseTCP
	}
	if !m.Response || m.Opcode != dns.OpcodeQuery {
		return nil, errStray
	}
	if len(m.Question) == 0 && m.Rcode == dns.RcodeFormatError {
		return m, nil // a server that could not read EDNS cannot repeat the question
	}
	if len(m.Question) != 1 {
		return nil, errStray
	}
	want, got := asked.Question[0], m.Question[0]
	switch {
	case got.Qtype != want.Qtype || got.Qclass != want.Qclass || !strings.EqualFold(got.Name, want.Name):
		return nil, errStray
	case rule == exactCase && got.Name != want.Name:
		return nil, errUseTCP // perhaps a server that folds case: TCP will tell
	case m.Truncated:
		return nil, errUseTCP
	}
	return m, nil
}

// judge tells whether m says anything about the name: an error is a server
// that failed, refused, or referred us elsewhere.
func judge(m *dns.Msg) error {
	rcode := m.Rcode
	if rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return rcodeError(rcode)
	}
	if rcode == dns.RcodeNameError || len(m.Answer) > 0 || m.Authoritative || soaOf(m) != nil {
		return nil
	}
	if !m.RecursionAvailable {
		return errLame
	}
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeNS {
			return errLame
		}
	}
	return nil
}

// soaOf is the SOA in the authority section, nil if none.
func soaOf(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}
