// Package testca makes certificates for tests at run time: CA hierarchies,
// S/MIME end entities, TLS servers and clients, and every kind of wrong
// certificate a test has to see refused. It follows RFC 5280 and does not
// check what it is told to issue.
//
// It is for tests only. A request it cannot fulfil is a broken test, so the
// functions panic instead of returning errors and need no testing.T.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// KeyKind is a public key algorithm and size.
type KeyKind string

// Kinds of keys. The zero KeyKind is RSA2048 for an end entity and P256, which
// is fast to make, for a CA.
const (
	RSA2048 KeyKind = "rsa-2048"
	RSA3072 KeyKind = "rsa-3072"
	RSA1024 KeyKind = "rsa-1024" // to be refused
	P224    KeyKind = "p-224"    // to be refused
	P256    KeyKind = "p-256"
	P384    KeyKind = "p-384"
	P521    KeyKind = "p-521"
	Ed25519 KeyKind = "ed25519" // to be refused
)

// NoUsage as Spec.Usage leaves the keyUsage extension out.
const NoUsage x509.KeyUsage = -1

// Spec says what a certificate contains. The zero Spec is a usable end entity
// without name: RSA 2048, digitalSignature and keyEncipherment, valid from an
// hour ago for a year, signed with SHA-256.
type Spec struct {
	Name    string     // common name; the first e-mail address or DNS name if empty
	Subject *pkix.Name // the whole subject, instead of Name
	DNEmail string     // legacy emailAddress in the subject DN

	Email []string // subjectAltName rfc822Name
	DNS   []string // subjectAltName dNSName
	IP    []net.IP // subjectAltName iPAddress

	KeyKind KeyKind       // of a new key
	Key     crypto.Signer // use this key instead of a new one

	NotBefore time.Time // default: an hour ago
	NotAfter  time.Time // default: a year from now, ten for a CA
	Serial    *big.Int  // default: 127 random bits

	Usage     x509.KeyUsage // default as above, keyCertSign and cRLSign for a CA; NoUsage
	ExtUsage  []x509.ExtKeyUsage
	Algorithm x509.SignatureAlgorithm // default: SHA-256 with the issuer's key

	CRL      []string   // CRL distribution points
	AIA      []string   // caIssuers URLs
	OCSP     []string   // OCSP URLs
	Policies []x509.OID // certificatePolicies

	SubjectKeyID []byte           // default: derived from the key; copy another's to forge
	Extra        []pkix.Extension // appended as they are, see CriticalUnknown

	// Modify has the last word on the template: name constraints,
	// basicConstraints variants and whatever else.
	Modify func(*x509.Certificate)
}

// CriticalUnknown is a critical extension nobody knows.
func CriticalUnknown() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}
}

// Issued is a certificate with its private key.
type Issued struct {
	Cert  *x509.Certificate
	Key   crypto.Signer
	Chain []*x509.Certificate // Cert first, then the intermediates, without the root
	Root  *x509.Certificate
}

// CA is a certificate with its key that issues others.
type CA struct{ Issued }

// NewRoot returns a self-signed CA with the given common name.
func NewRoot(name string) *CA { return NewRootFrom(Spec{Name: name}) }

// NewRootFrom returns a self-signed CA as s says.
func NewRootFrom(s Spec) *CA {
	cert, key := create(s, nil, true)
	return &CA{Issued{Cert: cert, Key: key, Root: cert}}
}

// SelfSigned returns an end entity that is its own issuer.
func SelfSigned(s Spec) *Issued {
	cert, key := create(s, nil, false)
	return &Issued{Cert: cert, Key: key, Chain: []*x509.Certificate{cert}, Root: cert}
}

// Intermediate returns a CA issued by ca. With Key and Subject of another CA
// it is a cross certificate of that CA.
func (ca *CA) Intermediate(s Spec) *CA {
	cert, key := create(s, ca, true)
	return &CA{ca.issued(cert, key)}
}

// Issue returns an end entity issued by ca.
func (ca *CA) Issue(s Spec) *Issued {
	cert, key := create(s, ca, false)
	issued := ca.issued(cert, key)
	return &issued
}

func (ca *CA) issued(cert *x509.Certificate, key crypto.Signer) Issued {
	return Issued{Cert: cert, Key: key, Chain: append([]*x509.Certificate{cert}, ca.Chain...), Root: ca.Root}
}

// create makes the certificate; without ca it is self-signed.
func create(s Spec, ca *CA, isCA bool) (*x509.Certificate, crypto.Signer) {
	key := s.Key
	if key == nil {
		key = NewKey(keyKind(s.KeyKind, isCA))
	}
	template := s.template(isCA)
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.Cert, ca.Key
		template.AuthorityKeyId = ca.Cert.SubjectKeyId // also in a self-issued certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		panic(fmt.Sprintf("testca: %v", err))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("testca: %v", err))
	}
	return cert, key
}

func (s Spec) template(isCA bool) *x509.Certificate {
	now := time.Now()
	t := &x509.Certificate{
		Subject:               s.subject(),
		SerialNumber:          s.Serial,
		NotBefore:             s.NotBefore,
		NotAfter:              s.NotAfter,
		KeyUsage:              s.usage(isCA),
		ExtKeyUsage:           s.ExtUsage,
		BasicConstraintsValid: true,
		IsCA:                  isCA,
		MaxPathLen:            -1,
		EmailAddresses:        s.Email,
		DNSNames:              s.DNS,
		IPAddresses:           s.IP,
		SignatureAlgorithm:    s.Algorithm,
		CRLDistributionPoints: s.CRL,
		IssuingCertificateURL: s.AIA,
		OCSPServer:            s.OCSP,
		Policies:              s.Policies,
		SubjectKeyId:          s.SubjectKeyID,
		ExtraExtensions:       s.Extra,
	}
	if t.SerialNumber == nil {
		t.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		t.SerialNumber.SetBit(t.SerialNumber, 0, 1) // never zero
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = now.Add(-time.Hour)
	}
	if t.NotAfter.IsZero() {
		years := 1
		if isCA {
			years = 10
		}
		t.NotAfter = now.AddDate(years, 0, 0)
	}
	if s.Modify != nil {
		s.Modify(t)
	}
	return t
}

// oidEmailAddress is the legacy attribute of RFC 5280 appendix A.1.
var oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

func (s Spec) subject() pkix.Name {
	var n pkix.Name
	switch {
	case s.Subject != nil:
		n = *s.Subject
	case s.Name != "":
		n.CommonName = s.Name
	case len(s.Email) > 0:
		n.CommonName = s.Email[0]
	case len(s.DNS) > 0:
		n.CommonName = s.DNS[0]
	}
	if s.DNEmail != "" {
		n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{
			Type:  oidEmailAddress,
			Value: asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s.DNEmail)},
		})
	}
	return n
}

func (s Spec) usage(isCA bool) x509.KeyUsage {
	switch {
	case s.Usage == NoUsage:
		return 0
	case s.Usage != 0:
		return s.Usage
	case isCA:
		return x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
}

func keyKind(k KeyKind, isCA bool) KeyKind {
	switch {
	case k != "":
		return k
	case isCA:
		return P256
	}
	return RSA2048
}

// rsaKeys is how many RSA keys of one size are made before they are handed
// out again.
const rsaKeys = 32

// keyPool makes RSA keys when they are first wanted. Any rsaKeys successive
// keys are distinct.
type keyPool struct {
	next  atomic.Uint32
	slots []func() *rsa.PrivateKey
}

func newKeyPool(bits int) *keyPool {
	p := &keyPool{slots: make([]func() *rsa.PrivateKey, rsaKeys)}
	for i := range p.slots {
		p.slots[i] = sync.OnceValue(func() *rsa.PrivateKey {
			key, err := rsa.GenerateKey(rand.Reader, bits)
			if err != nil {
				panic(fmt.Sprintf("testca: %v", err))
			}
			return key
		})
	}
	return p
}

func (p *keyPool) take() *rsa.PrivateKey {
	return p.slots[(p.next.Add(1)-1)%rsaKeys]()
}

// pools are the process's RSA keys: they are costly and tests share them.
var pools = map[KeyKind]*keyPool{
	RSA1024: newKeyPool(1024),
	RSA2048: newKeyPool(2048),
	RSA3072: newKeyPool(3072),
}

// NewKey returns a private key. RSA keys come from a pool: any 32 successive
// keys of a size are distinct, then they repeat.
func NewKey(kind KeyKind) crypto.Signer {
	if p, ok := pools[kind]; ok {
		return p.take()
	}
	if kind == Ed25519 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(fmt.Sprintf("testca: %v", err))
		}
		return key
	}
	curves := map[KeyKind]elliptic.Curve{P224: elliptic.P224(), P256: elliptic.P256(), P384: elliptic.P384(), P521: elliptic.P521()}
	curve, ok := curves[kind]
	if !ok {
		panic("testca: unknown key kind " + string(kind))
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("testca: %v", err))
	}
	return key
}
