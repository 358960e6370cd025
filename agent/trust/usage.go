package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
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
	_, isRSA := cert.PublicKey.(*rsa.PublicKey)
	switch {
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return CAAsLeaf
	case u != Sign && u != Encrypt, hasKeyUsage(cert) && cert.KeyUsage&bit == 0:
		return KeyUsage
	case weakKey(cert), u == Encrypt && !isRSA:
		return WeakKey
	}
	return ""
}

// hasKeyUsage tells an absent extension from one without a bit set.
func hasKeyUsage(cert *x509.Certificate) bool { return extension(cert, oidKeyUsage) != nil }

// weakKey tells whether the public key is not on the allow-list: RSA of 2048
// bits or more with an exponent above 2^16, ECDSA on P-256, P-384 or P-521.
func weakKey(cert *x509.Certificate) bool {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		return bits < minRSABits || bits > maxRSABits || key.E <= minRSAExponent || key.E&1 == 0
	case *ecdsa.PublicKey:
		return key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521()
	}
	return true
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
