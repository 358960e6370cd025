package dnscert

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

// Sources of a hisp.Cert.
const (
	fromAddress = "dns-address"
	fromDomain  = "dns-domain"
)

// maxSkipped bounds what Step.Skipped tells about one answer.
const maxSkipped = 16

// certSet is what the CERT RRs of one name hold.
type certSet struct {
	certs   []*x509.Certificate
	pkix    int // records of type PKIX, readable or not
	skipped []string
}

// decodeCerts reads the PKIX records (RFC 4398 §2.1); key tag and algorithm
// are not looked at (row DISC-02), types IPKIX and URI are never fetched. Of
// more than limit certificates those stay that are valid longest, whatever
// order the server chose.
func decodeCerts(rrs []dns.RR, limit int) certSet {
	var set certSet
	skip := func(format string, args ...any) {
		if len(set.skipped) < maxSkipped {
			set.skipped = append(set.skipped, fmt.Sprintf(format, args...))
		}
	}
	seen := make(map[string]bool)
	for _, rr := range rrs {
		rec, ok := rr.(*dns.CERT)
		if !ok {
			continue
		}
		if rec.Type != dns.CertPKIX {
			skip("a record of type %d is not PKIX", rec.Type)
			continue
		}
		set.pkix++
		if seen[rec.Certificate] {
			continue
		}
		seen[rec.Certificate] = true
		der, err := base64.StdEncoding.DecodeString(rec.Certificate)
		if err != nil || len(der) == 0 {
			skip("a PKIX record holds no certificate")
			continue
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			skip("a PKIX record of %d octets is not a readable X.509 certificate", len(der))
			continue
		}
		set.certs = append(set.certs, cert)
	}
	if n := len(set.certs); n > limit {
		slices.SortFunc(set.certs, func(a, b *x509.Certificate) int {
			return cmp.Or(b.NotAfter.Compare(a.NotAfter), bytes.Compare(a.Raw, b.Raw))
		})
		set.certs = set.certs[:limit:limit]
		skip("%d of %d certificates are above the limit", n-limit, n)
	}
	return set
}

// Step is one question of a certificate search, for the operator's eyes: Name
// holds a local part and must never reach a log.
type Step struct {
	Name    string      // owner name asked, "" when the address has none in DNS
	Source  string      // "dns-address" or "dns-domain"
	Certs   []hisp.Cert // found, nothing filtered
	Skipped []string    // records that were not used, and why
	Err     error       // Temporary or NoCertificate: the search ended here without a result
}

// LookupCerts asks DNS for the CERT RRs (type 37) of addr without its +tag
// (row BB-18): first the address name, local part and domain joined by a dot,
// then the domain. The first step with a PKIX record ends the search (row
// DISC-05); usable or not is the caller's question. At most
// ResolverConfig.MaxCerts come back. An address with an empty Local asks for
// the domain only.
//
// No record is an empty slice and nil. SERVFAIL, time-outs and everything else
// that leaves the question open is Temporary. When a step has PKIX records of
// which none can be read the error is NoCertificate: the address has
// certificates of its own, so nobody may go on to the domain's or to another
// directory and seal to a key that was not meant for it.
func (r *Resolver) LookupCerts(ctx context.Context, addr hisp.Address) ([]hisp.Cert, error) {
	steps := r.Explain(ctx, addr)
	last := steps[len(steps)-1]
	return last.Certs, last.Err
}

// Explain does what LookupCerts does and tells each step it took, at least
// one; the last holds the result.
func (r *Resolver) Explain(ctx context.Context, addr hisp.Address) []Step {
	ctx, cancel := context.WithTimeout(ctx, r.total)
	defer cancel()
	addr = addr.Base()
	var steps []Step
	if addr.Local != "" {
		step := r.certStep(ctx, addr, fromAddress)
		steps = append(steps, step)
		if len(step.Certs) > 0 || step.Err != nil {
			return steps
		}
	}
	return append(steps, r.certStep(ctx, hisp.Address{Domain: addr.Domain}, fromDomain))
}

func (r *Resolver) certStep(ctx context.Context, owner hisp.Address, source string) Step {
	const op = "dnscert.LookupCerts"
	name, err := ownerName(owner)
	if err != nil && source == fromAddress {
		return Step{Source: source, Skipped: []string{"the local part cannot be written as a DNS name"}}
	}
	if err != nil {
		return Step{Source: source, Err: &hisp.Error{Op: op, Kind: hisp.Malformed, Hint: "the domain is not a DNS name"}}
	}
	step := Step{Name: name, Source: source}
	ans, err := r.resolve(ctx, question{name, dns.TypeCERT})
	if err != nil {
		step.Err = temporary(op, err)
		return step
	}
	step.Skipped = slices.Clone(ans.certs.skipped)
	for _, cert := range ans.certs.certs {
		step.Certs = append(step.Certs, hisp.Cert{Certificate: cert, Source: source})
	}
	if ans.certs.pkix > 0 && len(step.Certs) == 0 {
		step.Err = &hisp.Error{Op: op, Kind: hisp.NoCertificate,
			Hint: "certificates are published in DNS, but none can be read; their publisher must correct the CERT records"}
	}
	return step
}
