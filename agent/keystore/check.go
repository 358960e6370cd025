package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Bounds of RSA keys: row SM-15, FIPS 186-5 §5.1, and what peers accept.
const (
	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 1 << 16
)

// Object identifiers of RFC 5280.
var (
	oidKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 15}               // §4.2.1.3
	oidExtKeyUsage  = asn1.ObjectIdentifier{2, 5, 29, 37}               // §4.2.1.12
	oidForMail      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}  // §4.2.1.12
	oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1} // appendix A.1
)

// checkCert refuses a certificate of ours that peers would refuse, or that is
// not for owner. Its time is not checked.
func checkCert(op string, cert *x509.Certificate, owner hisp.Address) error {
	bad := func(hint string) error { return &hisp.Error{Op: op, Kind: hisp.Malformed, Hint: hint} }
	want := byMailbox
	if owner.Local == "" {
		want = byHost
	}
	switch {
	case weakKey(cert.PublicKey):
		return bad("the key is too weak or of a kind Direct does not use; it must be RSA of at least 2048 bits or ECDSA P-256, P-384 or P-521")
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return bad("this is a CA certificate, peers refuse it for messages; use one with CA=FALSE, from your CA or from 'hisp key trial'")
	case !strongSignature(cert.SignatureAlgorithm):
		return bad("the certificate is signed with an algorithm that peers refuse; have it reissued with SHA-256")
	case !forMail(cert):
		return bad("the certificate's extended key usage lacks emailProtection; have it reissued for e-mail")
	case len(cert.EmailAddresses)+len(cert.DNSNames) == 0:
		return bad("the certificate has no subjectAltName; a Direct certificate needs the address as rfc822Name or the domain as dNSName")
	case boundBy(cert, owner) != want && want == byMailbox:
		return bad("the certificate's subjectAltName has not this address as rfc822Name; a domain-bound certificate is imported for its domain")
	case boundBy(cert, owner) != want:
		return bad("the certificate's subjectAltName has not exactly this domain as dNSName")
	case contradictory(cert):
		return bad("the certificate's subject has an emailAddress that is not in its subjectAltName, peers refuse it; have it reissued without")
	}
	return nil
}

// contradictory finds an emailAddress in the DN that no subjectAltName equals
// (row CRT-03).
func contradictory(cert *x509.Certificate) bool {
	for _, attr := range cert.Subject.Names {
		old, _ := attr.Value.(string)
		same := func(s string) bool { return strings.EqualFold(s, old) }
		if attr.Type.Equal(oidEmailAddress) && !slices.ContainsFunc(cert.EmailAddresses, same) && !slices.ContainsFunc(cert.DNSNames, same) {
			return true
		}
	}
	return false
}

// roleOf derives the role from keyUsage (row CRT-07); a certificate without
// the extension has all uses its key can have (RFC 8550 §4.4.2).
func roleOf(op string, cert *x509.Certificate) (store.KeyRole, error) {
	_, isRSA := cert.PublicKey.(*rsa.PublicKey)
	sign := allows(cert, x509.KeyUsageDigitalSignature)
	encrypt := isRSA && allows(cert, x509.KeyUsageKeyEncipherment)
	switch {
	case sign && encrypt:
		return store.RoleDual, nil
	case sign:
		return store.RoleSign, nil
	case encrypt:
		return store.RoleEncrypt, nil
	}
	return "", &hisp.Error{Op: op, Kind: hisp.Malformed,
		Hint: "the certificate's keyUsage has neither digitalSignature nor keyEncipherment; have it reissued with the uses it is for"}
}

func allows(cert *x509.Certificate, use x509.KeyUsage) bool {
	present := slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidKeyUsage) })
	return !present || cert.KeyUsage&use != 0
}

func forMail(cert *x509.Certificate) bool {
	return len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0 ||
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageEmailProtection) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}

func weakKey(public crypto.PublicKey) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		return bits < minRSABits || bits > maxRSABits || key.E <= minRSAExponent
	case *ecdsa.PublicKey:
		return key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521()
	}
	return true
}

func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return true
	}
	return false
}

// State is what a key is good for now.
type State string

// States of a key.
const (
	StatePending     State = "pending"       // waits for the certificate of its request
	StateNotYetValid State = "not yet valid" // its certificate begins later
	StateActive      State = "active"
	StateExpiring    State = "expiring" // active, 30 days or less are left
	StateExpired     State = "expired"  // decrypts, no longer signs
	StateRetired     State = "retired"  // decrypts, no longer signs
)

// expiring is how long before its end a certificate is called expiring.
const expiring = 30 * 24 * time.Hour

func stateOf(key store.Key, now time.Time) State {
	switch {
	case !key.Retired.IsZero():
		return StateRetired
	case len(key.Chain) == 0:
		return StatePending
	}
	cert := key.Chain[0]
	switch {
	case now.Before(cert.NotBefore):
		return StateNotYetValid
	case now.After(cert.NotAfter):
		return StateExpired
	case cert.NotAfter.Sub(now) <= expiring:
		return StateExpiring
	}
	return StateActive
}
