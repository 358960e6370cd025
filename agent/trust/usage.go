package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
)

// Usage is what an end entity's key is to be used for.
type Usage uint8

const (
	Sign    Usage = iota + 1 // verify a message's signature
	Encrypt                  // encrypt a message's key
)

// Bounds for keys.
const (
	minRSABits     = 2048    // conformance row SM-15
	maxRSABits     = 8192    // larger ones cost more than they are worth
	minRSAExponent = 1 << 16 // FIPS 186-5 §5.1: greater than 2^16
)

// CheckUsage tells whether the key of cert, an end entity's, may be used for
// u (conformance row CRT-07): Sign needs digitalSignature, Encrypt needs
// keyEncipherment and an RSA key; a certificate without keyUsage extension has
// them all (RFC 8550 §4.4.2). Weak keys and CA certificates are refused. It
// checks no path and no validity. The error is Untrusted and holds an *Error.
func CheckUsage(cert *x509.Certificate, u Usage) error {
	if reason := usageProblem(cert, u); reason != "" {
		return untrusted("trust.CheckUsage", []Refusal{{Cert: cert, Reason: reason}})
	}
	return nil
}

func usageProblem(cert *x509.Certificate, u Usage) Reason {
	bit := x509.KeyUsageDigitalSignature
	if u == Encrypt {
		bit = x509.KeyUsageKeyEncipherment
	}
	key, pssOnly := publicKey(cert)
	_, isRSA := key.(*rsa.PublicKey)
	switch {
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return CAAsLeaf
	case u != Sign && u != Encrypt, hasKeyUsage(cert) && cert.KeyUsage&bit == 0:
		return KeyUsage
	case weakKey(cert), u == Encrypt && (!isRSA || pssOnly):
		return WeakKey
	}
	return ""
}

// hasKeyUsage tells an absent extension from one without a bit set.
func hasKeyUsage(cert *x509.Certificate) bool { return extension(cert, oidKeyUsage) != nil }

// weakKey tells whether the public key is not on the allow-list: RSA of 2048
// bits or more with an exponent above 2^16, ECDSA on P-256, P-384 or P-521.
func weakKey(cert *x509.Certificate) bool {
	key, _ := publicKey(cert)
	switch key := key.(type) {
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		return bits < minRSABits || bits > maxRSABits || key.E <= minRSAExponent || key.E&1 == 0
	case *ecdsa.PublicKey:
		return key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521()
	}
	return true
}

// publicKey returns the key of cert. It also reads an RSA key that is for PSS
// signatures only (RFC 4055 §1.2), which crypto/x509 leaves nil. That key's
// parameters, which can narrow the hash further, are not enforced: all hashes
// of strongSignature are good enough.
func publicKey(cert *x509.Certificate) (key crypto.PublicKey, pssOnly bool) {
	if cert.PublicKey != nil {
		return cert.PublicKey, false
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if unmarshal(cert.RawSubjectPublicKeyInfo, &spki) != nil || !spki.Algorithm.Algorithm.Equal(oidRSAPSS) {
		return nil, false
	}
	rsaKey, err := x509.ParsePKCS1PublicKey(spki.Key.RightAlign())
	if err != nil {
		return nil, false
	}
	return rsaKey, true
}

// strongSignature tells whether the signature algorithm is on the allow-list
// (conformance row SM-09: no MD5, no SHA-1).
func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return true
	}
	return false
}

func isPSS(a x509.SignatureAlgorithm) bool {
	return a == x509.SHA256WithRSAPSS || a == x509.SHA384WithRSAPSS || a == x509.SHA512WithRSAPSS
}
