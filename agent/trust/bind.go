package trust

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

// Binding says how a certificate is bound to an address.
type Binding uint8

const (
	None         Binding = iota // for neither the address nor its domain
	AddressBound                // for this address alone
	DomainBound                 // for all addresses of its domain
)

// String returns "none", "address-bound" or "domain-bound".
func (b Binding) String() string {
	switch b {
	case AddressBound:
		return "address-bound"
	case DomainBound:
		return "domain-bound"
	}
	return "none"
}

// Bound tells how cert is bound to addr, by subjectAltName only (conformance
// rows CRT-02, CRT-03, CRT-05): an rfc822Name, or for a local part beyond ASCII
// a SmtpUTF8Mailbox (RFC 8398 §3), that equals the address without case; or a
// dNSName that equals its domain, not a parent and no wildcard. An emailAddress
// in the subject DN never binds, and one that is not among the
// subjectAltNames refuses.
func Bound(cert *x509.Certificate, addr hisp.Address) Binding {
	n, err := namesOf(cert)
	if err != nil || addr.Local == "" || addr.Domain == "" || n.contradictory() {
		return None
	}
	for _, mailbox := range n.mailboxes {
		if sameMailbox(mailbox, addr) {
			return AddressBound
		}
	}
	for _, mailbox := range n.utf8Mailboxes {
		if sameUTF8Mailbox(mailbox, addr) {
			return AddressBound
		}
	}
	for _, name := range n.dns {
		if strings.EqualFold(name, string(addr.Domain)) {
			return DomainBound
		}
	}
	return None
}

// contradictory tells whether the DN has an emailAddress that is neither an
// rfc822Name nor, as old domain-bound certificates have it, a dNSName of the
// certificate.
func (n *names) contradictory() bool {
	for _, old := range n.dnEmails {
		same := func(s string) bool { return strings.EqualFold(s, old) }
		if !slices.ContainsFunc(n.mailboxes, same) && !slices.ContainsFunc(n.dns, same) {
			return true
		}
	}
	return false
}

// sameMailbox compares an rfc822Name, which is ASCII, with an address.
func sameMailbox(mailbox string, addr hisp.Address) bool {
	if !isASCII(mailbox) || !isASCII(addr.Local) || strings.HasSuffix(mailbox, ".") {
		return false
	}
	a, err := hisp.ParseAddress(mailbox)
	return err == nil && a.Equal(addr)
}

// sameUTF8Mailbox compares a SmtpUTF8Mailbox, whose local part has a character
// beyond ASCII (RFC 8398 §3), with an address.
func sameUTF8Mailbox(mailbox string, addr hisp.Address) bool {
	a, err := hisp.ParseAddress(mailbox)
	return err == nil && !isASCII(a.Local) && !strings.HasSuffix(mailbox, ".") && a.Equal(addr)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Object identifiers.
var (
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}                // RFC 5280 §4.2.1.3
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}                // RFC 5280 §4.2.1.6
	oidEmailAddress    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}  // RFC 5280 appendix A.1
	oidRSAPSS          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10} // RFC 4055 §3.1
	oidSmtpUTF8Mailbox = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 9}   // RFC 8398 §3
)
