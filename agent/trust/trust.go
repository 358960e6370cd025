// Package trust decides whether a certificate may be used for a Direct
// address: path building from the certificate to a configured trust anchor
// (RFC 5280 §6.1, RFC 4158; Direct AS §4), binding to the address by
// subjectAltName only (Direct AS §1.4; RFC 8398) and key usage (RFC 8550 §4.4).
//
// It does not use x509.Certificate.Verify, which accepts what Direct refuses.
// An anchor is exactly the configured certificate: a certificate with the same
// name, key or key identifier is not one.
//
// It fetches nothing and checks no revocation and no policy. A caller that can
// fetch issuers looks at the refusals of a failed Path, fetches what the
// certificates of the NoPath refusals name (RFC 5280 §4.2.2.1) and asks again
// with a larger pool; a caller that checks revocation or policy does so on
// the chain that Path returns.
package trust

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

// Reason says why a certificate was refused. The text is constant and safe to
// show.
type Reason string

// Reasons, from the certificate itself to the path above it.
const (
	Expired           Reason = "expired"
	NotYetValid       Reason = "not yet valid"
	AnchorExpired     Reason = "trust anchor expired"
	NoPath            Reason = "issuer is neither a trust anchor nor among the known certificates"
	NotCA             Reason = "issuer is not a CA"
	CAAsLeaf          Reason = "CA certificate used as end entity"
	PathLength        Reason = "path length constraint exceeded"
	KeyUsage          Reason = "key usage does not allow it"
	ExtKeyUsage       Reason = "extended key usage without e-mail protection"
	WeakKey           Reason = "key too weak or of a kind not allowed"
	WeakSignature     Reason = "signature algorithm not allowed"
	BadSignature      Reason = "signature does not verify"
	BadSerial         Reason = "serial number is not positive"
	NameConstraint    Reason = "name outside the issuer's name constraints"
	CriticalExtension Reason = "critical extension that is not understood"
	TooComplex        Reason = "too many certificates, names or paths"
)

// Refusal is one certificate that was refused, and why.
type Refusal struct {
	Cert   *x509.Certificate
	Depth  int // 0 is the end entity, 1 a candidate for its issuer, and so on
	Reason Reason
}

// String shows the depth, the start of the certificate's SHA-256 fingerprint
// and the reason; never a name.
func (r Refusal) String() string {
	fp := fingerprint(r.Cert)
	return fmt.Sprintf("depth %d %x: %s", r.Depth, fp[:6], r.Reason)
}

// Error is why no path was found or a certificate may not be used. The
// functions of this package return it inside a *hisp.Error of kind Untrusted.
type Error struct {
	Refusals []Refusal // at least one, in the order of the search
}

// Error lists the refusals.
func (e *Error) Error() string {
	parts := make([]string, len(e.Refusals))
	for i, r := range e.Refusals {
		parts[i] = r.String()
	}
	return strings.Join(parts, "; ")
}

// untrusted wraps refusals with the hint of the one that says most.
func untrusted(op string, refusals []Refusal) error {
	return &hisp.Error{Op: op, Kind: hisp.Untrusted, Hint: hint(refusals), Err: &Error{Refusals: refusals}}
}

// hints tell the operator, or the peer's operator, what to do.
var hints = map[Reason]string{
	Expired:           "a certificate has expired; its holder must renew it",
	NotYetValid:       "a certificate is not valid yet; check the clock, or wait",
	AnchorExpired:     "the trust anchor has expired; replace it with 'hisp anchor add'",
	NoPath:            "no path to a trust anchor of this domain; add the issuing CA with 'hisp anchor add' if it is to be trusted",
	NotCA:             "the issuer's certificate is not a CA certificate; it must be issued by a CA",
	CAAsLeaf:          "the certificate is a CA certificate; use one issued for the address or domain",
	PathLength:        "the chain is longer than a CA in it allows; it must be issued by another CA",
	KeyUsage:          "the certificate's key usage does not allow this use; use one with the right key usage",
	ExtKeyUsage:       "the certificate is not for e-mail; use one with extended key usage emailProtection or none",
	WeakKey:           "the certificate's key is not accepted; use RSA of at least 2048 bits or ECDSA P-256, P-384 or P-521",
	WeakSignature:     "a certificate is signed with an algorithm that is not accepted; it must be reissued with SHA-256 or better",
	BadSignature:      "a certificate was not signed by the issuer it names",
	BadSerial:         "a certificate has a serial number that is not positive; it must be reissued",
	NameConstraint:    "the certificate's name is outside what its CA may issue",
	CriticalExtension: "a certificate has a critical extension that this node does not understand",
	TooComplex:        "the certificate's chain is too large or too tangled to be checked",
}

// hint picks the refusal that says most: the first that is neither NoPath nor
// BadSignature, which is what the wrong one of two issuers with the same name
// gives; then the first BadSignature.
func hint(refusals []Refusal) string {
	best := NoPath
	for _, r := range refusals {
		switch {
		case r.Reason == BadSignature:
			best = BadSignature
		case r.Reason != NoPath:
			return hints[r.Reason]
		}
	}
	return hints[best]
}
