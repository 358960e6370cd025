package dnscert

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"

	"github.com/miekg/dns"
)

// Fields of the DNSKEY form in which a key is put to compute its tag (RFC 4034
// §2.1): a zone key for DNSSEC.
const (
	keyFlags    = 256
	keyProtocol = 3
)

// maxRSABits is the largest key DNSSEC knows (RFC 3110 §2, RFC 5702 §2).
const maxRSABits = 4096

// publishable tells whether cert may be encrypted to: no key usage, or one
// with keyEncipherment (rows CRT-07, DISC-14).
func publishable(cert *x509.Certificate) bool {
	return cert.KeyUsage == 0 || cert.KeyUsage&x509.KeyUsageKeyEncipherment != 0
}

// certRR is the CERT RR of type PKIX for cert (RFC 4398 §2.1).
func certRR(owner string, ttl uint32, cert *x509.Certificate) *dns.CERT {
	alg, tag := algorithmAndTag(cert)
	return &dns.CERT{
		Hdr:  header(owner, dns.TypeCERT, ttl),
		Type: dns.CertPKIX, KeyTag: tag, Algorithm: alg,
		Certificate: base64.StdEncoding.EncodeToString(cert.Raw),
	}
}

// algorithmAndTag computes the tag of RFC 4034 appendix B over the key as a
// DNSKEY would hold it. A key that DNSSEC has no algorithm for gets 0 and 0
// (RFC 4398 §2.1).
func algorithmAndTag(cert *x509.Certificate) (uint8, uint16) {
	alg, key := dnsKey(cert)
	if alg == 0 {
		return 0, 0
	}
	k := dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: ".", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET},
		Flags: keyFlags, Protocol: keyProtocol, Algorithm: alg,
		PublicKey: base64.StdEncoding.EncodeToString(key),
	}
	return alg, k.KeyTag()
}

// dnsKey is the DNSSEC algorithm number and public key field of cert's key.
func dnsKey(cert *x509.Certificate) (uint8, []byte) {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() > maxRSABits {
			return 0, nil
		}
		return rsaAlgorithm(cert.SignatureAlgorithm), rsaKey(key)
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return 0, nil
		}
		switch key.Curve { // RFC 6605 §4: the point without its first octet
		case elliptic.P256():
			return dns.ECDSAP256SHA256, point[1:]
		case elliptic.P384():
			return dns.ECDSAP384SHA384, point[1:]
		}
	case ed25519.PublicKey:
		return dns.ED25519, key // RFC 8080 §3
	}
	return 0, nil
}

// rsaAlgorithm goes by the hash the certificate was signed with, as other
// publishers do; an RSA key under another kind of signature counts as SHA-256.
func rsaAlgorithm(sig x509.SignatureAlgorithm) uint8 {
	switch sig {
	case x509.SHA1WithRSA:
		return dns.RSASHA1
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS:
		return dns.RSASHA512
	}
	return dns.RSASHA256
}

// rsaKey is RFC 3110 §2: length of the exponent, exponent, modulus.
func rsaKey(key *rsa.PublicKey) []byte {
	exp := big.NewInt(int64(key.E)).Bytes()
	return append(append([]byte{byte(len(exp))}, exp...), key.N.Bytes()...)
}
