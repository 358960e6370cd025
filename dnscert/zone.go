package dnscert

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

// Values of the SOA we publish (RFC 1912 §2.2) and of our TTLs, in seconds.
const (
	defaultTTL = 3600
	soaRefresh = 3600
	soaRetry   = 600
	soaExpire  = 14 * 24 * 3600
	soaMinimum = 300 // negative TTL: a certificate published now is seen soon
)

// maxPerName is how many records of one type a name may have: with
// certificates of 4096-bit keys 24 still fit in one message over TCP.
const maxPerName = 24

const hostmaster = "hostmaster."

// rrset is the records of one name and type, complete.
type rrset []dns.RR

// zoneData is the apex of a zone.
type zoneData struct {
	soa    *dns.SOA
	digest [32]byte // of everything but the serial
}

// index is everything the server answers from. It is never changed, only
// replaced.
type index struct {
	zones map[string]*zoneData
	nodes map[string]map[uint16]rrset // an empty node is an empty non-terminal
}

// problem is something that could not be published; Text holds no local part.
type problem struct {
	Zone hisp.Domain
	Text string
}

// compile builds the index for zones. A zone whose data differ from prev gets
// a higher serial; prev may be nil.
func compile(zones []Zone, prev *index, now time.Time) (*index, []problem) {
	ix := &index{zones: make(map[string]*zoneData), nodes: make(map[string]map[uint16]rrset)}
	var problems []problem
	for _, z := range zones {
		apex, rrs, bad := zoneRecords(z)
		problems = append(problems, bad...)
		if apex == "" {
			continue
		}
		if ix.zones[apex] != nil {
			problems = append(problems, problem{z.Name, "the zone is there twice, the first counts"})
			continue
		}
		data := &zoneData{soa: soaRecord(z, apex), digest: digest(rrs)}
		data.soa.Serial = nextSerial(prev, apex, data.digest, now)
		ix.zones[apex] = data
		ix.node(apex, apex)[dns.TypeSOA] = rrset{data.soa}
		for _, rr := range rrs {
			if !ix.add(apex, rr) {
				problems = append(problems, problem{z.Name,
					fmt.Sprintf("a name has more than %d %s records, the rest is left out", maxPerName, dns.TypeToString[rr.Header().Rrtype])})
			}
		}
	}
	return ix, problems
}

// node returns the node of name and makes the empty non-terminals between it
// and the apex (RFC 8020 §2).
func (ix *index) node(apex, name string) map[uint16]rrset {
	if n := ix.nodes[name]; n != nil {
		return n
	}
	n := make(map[uint16]rrset)
	ix.nodes[name] = n
	if name != apex {
		if off, end := dns.NextLabel(name, 0); !end {
			ix.node(apex, name[off:])
		}
	}
	return n
}

func (ix *index) add(apex string, rr dns.RR) bool {
	h := rr.Header()
	n := ix.node(apex, h.Name)
	if len(n[h.Rrtype]) >= maxPerName {
		return false
	}
	n[h.Rrtype] = append(n[h.Rrtype], rr)
	return true
}

// zone returns the deepest of our zones that holds name, nil if none.
func (ix *index) zone(name string) *zoneData {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if z := ix.zones[name[off:]]; z != nil {
			return z
		}
	}
	return nil
}

// nextSerial keeps the serial of unchanged data; changed data get the time, or
// one more than before if that is not higher (RFC 1982).
func nextSerial(prev *index, apex string, digest [32]byte, now time.Time) uint32 {
	serial := uint32(now.Unix())
	if prev == nil || prev.zones[apex] == nil {
		return serial
	}
	old := prev.zones[apex]
	if old.digest == digest {
		return old.soa.Serial
	}
	if int32(serial-old.soa.Serial) <= 0 {
		return old.soa.Serial + 1
	}
	return serial
}

func digest(rrs []dns.RR) [32]byte {
	sums := make([][]byte, 0, len(rrs))
	for _, rr := range rrs {
		buf := make([]byte, dns.Len(rr)+1)
		n, err := dns.PackRR(rr, buf, 0, nil, false)
		if err != nil {
			continue // cannot be: zoneRecords packed it
		}
		sum := sha256.Sum256(buf[:n])
		sums = append(sums, sum[:])
	}
	slices.SortFunc(sums, bytes.Compare)
	h := sha256.New()
	for _, sum := range sums {
		h.Write(sum)
	}
	return [32]byte(h.Sum(nil))
}

// soaRecord is the SOA without its serial.
func soaRecord(z Zone, apex string) *dns.SOA {
	soa := &dns.SOA{
		Hdr: header(apex, dns.TypeSOA, z.ttl()),
		Ns:  apex, Mbox: hostmaster + apex,
		Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: soaMinimum,
	}
	if len(z.NS) > 0 {
		if ns, err := canonical(z.NS[0]); err == nil {
			soa.Ns = ns
		}
	}
	if z.Contact != "" {
		if addr, err := hisp.ParseAddress(z.Contact); err == nil {
			if mbox, err := contactName(addr); err == nil {
				soa.Mbox = mbox
			}
		}
	}
	return soa
}

func (z Zone) ttl() uint32 {
	if z.TTL <= 0 {
		return defaultTTL
	}
	return uint32(min(max(z.TTL, time.Second), maxTTL) / time.Second)
}

func header(owner string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// builder collects the records of one zone.
type builder struct {
	zone     Zone
	apex     string
	rrs      []dns.RR
	seen     map[[32]byte]bool
	problems []problem
}

// zoneRecords returns z's apex and records without the SOA, checked and
// without duplicates. The apex is "" when the zone cannot be served at all.
func zoneRecords(z Zone) (string, []dns.RR, []problem) {
	b := &builder{zone: z, seen: make(map[[32]byte]bool)}
	apex, err := ownerName(hisp.Address{Domain: z.Name})
	if err != nil || apex == "." {
		b.problem("the zone's name is not a DNS name")
		return "", nil, b.problems
	}
	b.apex = apex
	ttl := z.ttl()
	if !z.Elsewhere {
		b.nameServers(ttl)
	}
	for _, mx := range z.Mail {
		b.target(apex, mx.Host, "mail exchanger", func(host string) dns.RR {
			return &dns.MX{Hdr: header(apex, dns.TypeMX, ttl), Preference: mx.Pref, Mx: host}
		})
	}
	for _, host := range z.Hosts {
		b.host(host, ttl)
	}
	for _, srv := range z.Services {
		b.target(srv.Name, srv.Target, "service", func(host string) dns.RR {
			return &dns.SRV{Hdr: header("", dns.TypeSRV, ttl), Priority: srv.Priority, Weight: srv.Weight, Port: srv.Port, Target: host}
		})
	}
	for _, pub := range z.Certs {
		b.cert(pub, ttl)
	}
	return apex, b.rrs, b.problems
}

func (b *builder) problem(format string, args ...any) {
	b.problems = append(b.problems, problem{b.zone.Name, fmt.Sprintf(format, args...)})
}

func (b *builder) nameServers(ttl uint32) {
	servers := b.zone.NS
	if len(servers) == 0 {
		servers = []string{string(b.zone.Name)}
	}
	for _, ns := range servers {
		b.target(b.apex, ns, "name server", func(host string) dns.RR {
			return &dns.NS{Hdr: header(b.apex, dns.TypeNS, ttl), Ns: host}
		})
	}
}

// target adds the record make returns for host, owned by owner.
func (b *builder) target(owner, host, what string, make func(host string) dns.RR) {
	name, err := canonical(host)
	if err != nil || host == "" {
		b.problem("a %s is not a DNS name", what)
		return
	}
	b.add(owner, make(name), what)
}

func (b *builder) host(host Host, ttl uint32) {
	for _, addr := range host.Addrs {
		addr = addr.Unmap()
		var rr dns.RR
		switch {
		case addr.Is4():
			rr = &dns.A{Hdr: header("", dns.TypeA, ttl), A: addr.AsSlice()}
		case addr.Is6():
			rr = &dns.AAAA{Hdr: header("", dns.TypeAAAA, ttl), AAAA: addr.WithZone("").AsSlice()}
		default:
			b.problem("a host has an address that is none")
			continue
		}
		b.add(host.Name, rr, "host")
	}
}

func (b *builder) cert(pub Published, ttl uint32) {
	if pub.Cert == nil || !publishable(pub.Cert) {
		return // row DISC-14: signing-only certificates stay out
	}
	owner, err := ownerName(pub.Owner)
	if err != nil {
		b.problem("an address cannot be written as a DNS name; its certificate is not published")
		return
	}
	b.add(owner, certRR(owner, ttl, pub.Cert), "certificate")
}

// add checks that the owner is in the zone and no wildcard: a certificate for
// *@domain would be everyone's (row DISC-13).
func (b *builder) add(owner string, rr dns.RR, what string) {
	name, err := canonical(owner)
	switch {
	case err != nil:
		b.problem("the name of a %s is not a DNS name", what)
		return
	case !dns.IsSubDomain(b.apex, name):
		b.problem("the name of a %s is outside the zone", what)
		return
	case strings.HasPrefix(name, "*."):
		b.problem("the name of a %s is a wildcard, which is not published", what)
		return
	}
	rr.Header().Name = name
	buf := make([]byte, dns.Len(rr)+1)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		b.problem("a %s record is too large", what)
		return
	}
	binary.BigEndian.PutUint32(buf[ttlOffset(buf):], 0) // the same record with another TTL is the same
	sum := sha256.Sum256(buf[:n])
	if !b.seen[sum] {
		b.seen[sum] = true
		b.rrs = append(b.rrs, rr)
	}
}

// ttlOffset is where the TTL of the packed record rr stands: after the owner,
// type and class.
func ttlOffset(rr []byte) int {
	off := 0
	for rr[off] != 0 {
		off += int(rr[off]) + 1
	}
	return off + 1 + 4
}
