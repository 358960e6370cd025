package dnscert

import (
	"github.com/miekg/dns"
)

// RFC 8482 §4.2: the answer to ANY is one HINFO record.
const (
	anyCPU = "RFC8482"
	anyTTL = 3600 // seconds
)

// answerQuery is the reply to req, nil if there must be none. udp says that it
// has to fit the requester's datagram.
func (ix *index) answerQuery(req *dns.Msg, udp bool) *dns.Msg {
	if req.Response {
		return nil // never talk to another server's answers
	}
	m := new(dns.Msg).SetReply(req)
	m.Compress = true
	m.RecursionAvailable = false
	opt := req.IsEdns0()
	switch {
	case req.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		m.Opcode = req.Opcode
	case len(req.Question) != 1:
		m.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		m.Rcode = dns.RcodeBadVers // RFC 6891 §6.1.3
	default:
		ix.answerQuestion(m, req.Question[0])
	}
	if opt != nil {
		m.SetEdns0(ednsSize, opt.Do())
	}
	if udp {
		fit(m, opt)
	}
	return m
}

func (ix *index) answerQuestion(m *dns.Msg, q dns.Question) {
	name := dns.CanonicalName(q.Name)
	zone := ix.zone(name)
	switch {
	case q.Qclass != dns.ClassINET, zone == nil:
		m.Rcode = dns.RcodeRefused // no recursion, nothing about ourselves in CHAOS
		return
	case q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
		return
	case q.Qtype == dns.TypeOPT:
		m.Rcode = dns.RcodeFormatError
		return
	case q.Qtype >= dns.TypeTKEY && q.Qtype < dns.TypeANY:
		m.Rcode = dns.RcodeNotImplemented // the other meta types
		return
	}
	m.Authoritative = true
	node, exists := ix.nodes[name]
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	set := node[q.Qtype]
	if q.Qtype == dns.TypeANY && len(node) > 0 {
		set = rrset{&dns.HINFO{Hdr: header(name, dns.TypeHINFO, anyTTL), Cpu: anyCPU}}
	}
	if len(set) == 0 {
		m.Ns = []dns.RR{negativeSOA(zone.soa)}
		return
	}
	for _, rr := range set {
		rr = dns.Copy(rr)
		rr.Header().Name = q.Name // the asker's letter case (0x20)
		m.Answer = append(m.Answer, rr)
	}
	ix.additional(m, set)
}

// negativeSOA has the negative TTL as its own (RFC 2308 §3).
func negativeSOA(soa *dns.SOA) *dns.SOA {
	neg := *soa
	neg.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
	return &neg
}

// additional adds the addresses we know of the hosts that set names.
func (ix *index) additional(m *dns.Msg, set rrset) {
	added := make(map[string]bool)
	for _, rr := range set {
		host := ""
		switch rr := rr.(type) {
		case *dns.MX:
			host = rr.Mx
		case *dns.NS:
			host = rr.Ns
		case *dns.SRV:
			host = rr.Target
		}
		if host == "" || added[host] {
			continue
		}
		added[host] = true
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
			m.Extra = append(m.Extra, ix.nodes[host][t]...)
		}
	}
}

// fit makes m fit the datagram the requester takes: 512 octets without EDNS,
// never above what passes unfragmented. Additional records go first; an answer
// that still does not fit is sent empty with TC, since a part of an RRset is
// of no use (RFC 2181 §9) and an empty one does not amplify.
func fit(m *dns.Msg, opt *dns.OPT) {
	size := dns.MinMsgSize
	if opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), ednsSize)
	}
	if m.Len() <= size {
		return
	}
	keep := m.Extra[:0:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			keep = append(keep, rr)
		}
	}
	m.Extra = keep
	if m.Len() <= size {
		return
	}
	m.Answer, m.Ns, m.Truncated = nil, nil, true
}
