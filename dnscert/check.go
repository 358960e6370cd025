package dnscert

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Finding compares what DNS says about one name and type with what it should
// say. CERT values are SHA-256 fingerprints. Name may hold a local part: for
// the operator's eyes, never for a log.
type Finding struct {
	Name string   `json:"name"`
	Type string   `json:"type"`
	Want []string `json:"want"`
	Got  []string `json:"got"`
	OK   bool     `json:"ok"`
	Hint string   `json:"hint,omitempty"` // what to do when not OK
}

// Check asks r for everything that z should show to the world, past its cache,
// for the addresses of mail exchangers that z does not know and for a name that
// should not exist. A zone without certificates is a finding too. It returns one Finding per name and
// type in the order of Records; a lookup that failed is a Finding that is not
// OK. It ends early, with the findings so far, when ctx ends.
func Check(ctx context.Context, r *Resolver, z Zone) []Finding {
	apex, rrs, problems := zoneRecords(z)
	var findings []Finding
	for _, p := range problems {
		findings = append(findings, Finding{Name: string(z.Name), Hint: p.Text + "; correct it in the configuration"})
	}
	if apex == "" {
		return findings
	}
	var order []question
	want := make(map[question][]string)
	put := func(q question, value string) {
		if _, ok := want[q]; !ok {
			order = append(order, q)
		}
		want[q] = append(want[q], value)
	}
	soa := question{apex, dns.TypeSOA}
	put(soa, soaRecord(z, apex).Ns)
	if z.Elsewhere {
		want[soa] = []string{} // whichever it is
	}
	for _, rr := range rrs {
		put(question{rr.Header().Name, rr.Header().Rrtype}, value(rr))
	}
	for _, q := range order {
		if ctx.Err() != nil {
			return findings
		}
		findings = append(findings, r.check(ctx, q, want[q]))
	}
	for _, host := range foreignExchangers(z, want) {
		if ctx.Err() != nil {
			return findings
		}
		findings = append(findings, r.checkExchanger(ctx, host))
	}
	if !slices.ContainsFunc(order, func(q question) bool { return q.qtype == dns.TypeCERT }) {
		findings = append(findings, noCertificate(apex))
	}
	return append(findings, r.checkUnknown(ctx, apex))
}

// foreignExchangers are the canonical names of z's mail exchangers whose
// addresses are not among what the zone wants.
func foreignExchangers(z Zone, want map[question][]string) []string {
	var hosts []string
	for _, mx := range z.Mail {
		name, err := canonical(mx.Host)
		if err != nil || want[question{name, dns.TypeA}] != nil || want[question{name, dns.TypeAAAA}] != nil || slices.Contains(hosts, name) {
			continue
		}
		hosts = append(hosts, name)
	}
	return hosts
}

// checkExchanger asks for any address of a mail exchanger: without one nobody
// reaches it (RFC 5321 §5.1).
func (r *Resolver) checkExchanger(ctx context.Context, name string) Finding {
	f := Finding{Name: strings.TrimSuffix(name, "."), Type: addressTypes, Want: []string{"an address"}, Got: []string{}}
	var failed error
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		got, err := r.values(ctx, question{name, t})
		if err != nil {
			failed = err
		}
		f.Got = append(f.Got, got...)
	}
	switch {
	case len(f.Got) > 0:
		f.OK = true
	case failed != nil:
		f.Hint = failureHint(failed)
	default:
		f.Hint = "the mail exchanger has no address, so no mail arrives: publish an A or AAAA record for it; with [dns] addresses in the configuration hisp dns records prints it"
	}
	return f
}

// addressTypes is the Type of a Finding about either family.
const addressTypes = "A/AAAA"

// noCertificate is the finding for a zone without any certificate: nobody can
// encrypt to its addresses.
func noCertificate(apex string) Finding {
	return Finding{Name: strings.TrimSuffix(apex, "."), Type: dns.TypeToString[dns.TypeCERT], Want: []string{"a certificate"}, Got: []string{},
		Hint: "the domain has no certificate that others could encrypt to, so nobody can write to it: hisp key csr or hisp key trial makes a key"}
}

func (r *Resolver) check(ctx context.Context, q question, want []string) Finding {
	slices.Sort(want)
	f := Finding{Name: strings.TrimSuffix(q.name, "."), Type: dns.TypeToString[q.qtype], Want: want, Got: []string{}}
	got, err := r.values(ctx, q)
	if err != nil {
		f.Hint = failureHint(err)
		return f
	}
	f.Got = append(f.Got, got...)
	missing, extra := difference(want, got), difference(got, want)
	switch q.qtype {
	case dns.TypeSOA, dns.TypeNS: // an operator may run the zone elsewhere, under other server names
		f.OK = len(got) > 0
	default:
		f.OK = len(missing) == 0 && len(extra) == 0
	}
	if !f.OK {
		f.Hint = differenceHint(q.qtype, len(got), len(missing), len(extra))
	}
	return f
}

// checkUnknown asks for the certificate of an address nobody has: a wildcard
// would hand out somebody else's, SERVFAIL would hold mail up.
func (r *Resolver) checkUnknown(ctx context.Context, apex string) Finding {
	name := "hisp-check-" + strings.ToLower(rand.Text()[:12]) + "." + apex
	f := Finding{Name: strings.TrimSuffix(name, "."), Type: dns.TypeToString[dns.TypeCERT], Want: []string{}, Got: []string{}}
	got, err := r.values(ctx, question{name, dns.TypeCERT})
	switch {
	case err != nil:
		f.Hint = "a name that does not exist must be answered NXDOMAIN; " + failureHint(err)
	case len(got) > 0:
		f.Got = got
		f.Hint = "the zone has a wildcard for CERT records: every unknown address gets this certificate; remove the wildcard"
	default:
		f.OK = true
	}
	return f
}

// values asks past the cache.
func (r *Resolver) values(ctx context.Context, q question) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.total)
	defer cancel()
	m, err := r.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	c := newChain(q)
	if err := c.follow(m); err != nil {
		return nil, err
	}
	var got []string
	for _, rr := range c.rrs {
		got = append(got, value(rr))
	}
	slices.Sort(got)
	return slices.Compact(got), nil
}

// value is the data of rr as a Finding shows it.
func value(rr dns.RR) string {
	host := func(name string) string { return strings.TrimSuffix(dns.CanonicalName(name), ".") }
	switch rr := rr.(type) {
	case *dns.SOA:
		return host(rr.Ns)
	case *dns.NS:
		return host(rr.Ns)
	case *dns.MX:
		return strconv.Itoa(int(rr.Preference)) + " " + host(rr.Mx)
	case *dns.SRV:
		return fmt.Sprintf("%d %d %d %s", rr.Priority, rr.Weight, rr.Port, host(rr.Target))
	case *dns.A:
		return rr.A.String()
	case *dns.AAAA:
		return rr.AAAA.String()
	case *dns.CERT:
		if rr.Type != dns.CertPKIX {
			return "type " + strconv.Itoa(int(rr.Type))
		}
		der, err := base64.StdEncoding.DecodeString(rr.Certificate)
		if err != nil {
			return "unreadable"
		}
		sum := sha256.Sum256(der)
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return dns.TypeToString[rr.Header().Rrtype]
}

// difference is what a has and b has not.
func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

func failureHint(err error) string {
	var rcode rcodeError
	switch {
	case errors.As(err, &rcode) && rcode == dns.RcodeServerFailure:
		return "the resolver got SERVFAIL: the zone's name servers do not answer or DNSSEC is broken"
	case errors.As(err, &rcode):
		return rcode.Error() + ": it does not serve this name"
	case errors.Is(err, errLame):
		return "the resolver was referred elsewhere: the delegation of the domain is not complete"
	case errors.Is(err, errLoop):
		return "CNAME records form a loop"
	case errors.Is(err, errTruncated):
		return "the answer does not fit even over TCP; publish fewer certificates under this name"
	}
	return "no answer in time: check that port 53 is open on UDP and on TCP, long answers need TCP"
}

func differenceHint(qtype uint16, got, missing, extra int) string {
	t := dns.TypeToString[qtype]
	switch {
	case got == 0 && qtype == dns.TypeSOA:
		return "the domain is not in DNS: delegate it to the name servers that publish it"
	case got == 0:
		return "no " + t + " record is published: add the lines of hisp dns records"
	case missing > 0:
		return fmt.Sprintf("%d %s records are missing: add the lines of hisp dns records; caches may hold the old ones until their TTL ends", missing, t)
	case qtype == dns.TypeCERT:
		return fmt.Sprintf("%d CERT records are not ours or no longer used: remove them, senders may encrypt to them", extra)
	}
	return fmt.Sprintf("%d %s records are not ours: remove them or add them to the configuration", extra, t)
}
