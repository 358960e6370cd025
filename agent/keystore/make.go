package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Algorithm is the kind of a new key.
type Algorithm string

// Algorithms of new keys. P256 is for signing only: Direct transports message
// keys by RSA (row SM-13).
const (
	RSA2048 Algorithm = "rsa-2048" // the default
	RSA3072 Algorithm = "rsa-3072"
	RSA4096 Algorithm = "rsa-4096"
	P256    Algorithm = "p-256"
)

func newKey(op string, role store.KeyRole, a Algorithm) (crypto.Signer, error) {
	bad := func(hint string) (crypto.Signer, error) {
		return nil, &hisp.Error{Op: op, Kind: hisp.Malformed, Hint: hint}
	}
	if role != store.RoleSign && role != store.RoleEncrypt && role != store.RoleDual {
		return bad("the role of a key is sign, encrypt or dual")
	}
	bits := map[Algorithm]int{"": 2048, RSA2048: 2048, RSA3072: 3072, RSA4096: 4096}
	switch {
	case a == P256 && role == store.RoleSign:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case a == P256:
		return bad("a P-256 key cannot be encrypted to in Direct; use it with the role sign, or take RSA")
	case bits[a] == 0:
		return bad("the algorithm of a key is rsa-2048, rsa-3072, rsa-4096 or p-256")
	}
	return rsa.GenerateKey(rand.Reader, bits[a])
}

// request makes a PKCS#10 request (RFC 2986) that asks for subjectAltName,
// keyUsage and extended key usage.
func request(op string, owner hisp.Address, role store.KeyRole, signer crypto.Signer) ([]byte, error) {
	cn, emails, names, err := nameOf(op, owner)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: cn},
		EmailAddresses:  emails,
		DNSNames:        names,
		ExtraExtensions: requestedUsage(role),
	}, signer)
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.Internal, Err: err}
	}
	return encodePEM(pemRequest, der), nil
}

// nameOf returns common name and subjectAltName of owner. An rfc822Name is
// ASCII (RFC 5280 §4.2.1.6).
func nameOf(op string, owner hisp.Address) (cn string, emails, names []string, err error) {
	if owner.Local == "" {
		return commonName(string(owner.Domain)), nil, []string{string(owner.Domain)}, nil
	}
	spec := owner.AddrSpec()
	for i := range len(spec) {
		if spec[i] >= 0x80 {
			return "", nil, nil, &hisp.Error{Op: op, Kind: hisp.Malformed,
				Hint: "an address with characters beyond ASCII gets no certificate of its own; use one for its domain"}
		}
	}
	return commonName(spec), []string{spec}, nil, nil
}

// commonName cuts to the upper bound of RFC 5280 appendix A.1. Only
// subjectAltName binds.
func commonName(s string) string {
	const maxCommonName = 64
	return s[:min(len(s), maxCommonName)]
}

func usageOf(role store.KeyRole) x509.KeyUsage {
	switch role {
	case store.RoleSign:
		return x509.KeyUsageDigitalSignature
	case store.RoleEncrypt:
		return x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
}

// requestedUsage are keyUsage and extKeyUsage as extensions of a request:
// digitalSignature is bit 0 and keyEncipherment bit 2, from the left.
func requestedUsage(role store.KeyRole) []pkix.Extension {
	bits := asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}
	switch role {
	case store.RoleEncrypt:
		bits = asn1.BitString{Bytes: []byte{0x20}, BitLength: 3}
	case store.RoleDual:
		bits = asn1.BitString{Bytes: []byte{0xa0}, BitLength: 3}
	}
	usage, _ := asn1.Marshal(bits)                                   // constant values, cannot fail
	extended, _ := asn1.Marshal([]asn1.ObjectIdentifier{oidForMail}) // as above
	return []pkix.Extension{{Id: oidKeyUsage, Critical: true, Value: usage}, {Id: oidExtKeyUsage, Value: extended}}
}

// Validity of what a trial CA makes.
const (
	trialCAYears   = 5
	trialCertYears = 1
	trialSkew      = 5 * time.Minute // for peers whose clock is behind
)

// TrialCA is a CA for trials and the demo. Nobody but its maker trusts it: for
// real exchange get certificates from a CA your partners have as anchor.
type TrialCA struct {
	Cert *x509.Certificate
	key  crypto.Signer
}

// NewTrialCA makes a self-signed CA with an RSA 2048 key and the given common
// name. It can issue end entities only.
func NewTrialCA(name string, now time.Time) (*TrialCA, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, &hisp.Error{Op: "keystore.NewTrialCA", Err: err}
	}
	t := template(now, trialCAYears)
	t.Subject = pkix.Name{CommonName: commonName(name)}
	t.IsCA, t.MaxPathLenZero = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	cert, err := sign("keystore.NewTrialCA", t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &TrialCA{Cert: cert, key: key}, nil
}

// ParseTrialCA reads what MarshalPEM wrote. Malformed.
func ParseTrialCA(data []byte) (*TrialCA, error) {
	const op = "keystore.ParseTrialCA"
	m, err := read(op, data, "")
	if err != nil {
		return nil, err
	}
	if m.key == nil || len(m.certs) != 1 || !m.certs[0].IsCA || !matches(m.key, m.certs[0]) {
		return nil, &hisp.Error{Op: op, Kind: hisp.Malformed, Hint: "the file is not a trial CA: one CA certificate and its private key as PEM"}
	}
	return &TrialCA{Cert: m.certs[0], key: m.key}, nil
}

// MarshalPEM returns certificate and private key as PEM, without encryption:
// keep the file readable for its owner only.
func (ca *TrialCA) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, &hisp.Error{Op: "keystore.MarshalPEM", Err: err}
	}
	return append(encodePEM(pemCertificate, ca.Cert.Raw), encodePEM(pemPKCS8, der)...), nil
}

// Issue makes a certificate for owner, an address or with Local "" a domain,
// with the keyUsage of role, valid for a year.
func (ca *TrialCA) Issue(owner hisp.Address, role store.KeyRole, public crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	const op = "keystore.Issue"
	cn, emails, names, err := nameOf(op, owner)
	if err != nil {
		return nil, err
	}
	t := template(now, trialCertYears)
	t.Subject = pkix.Name{CommonName: cn}
	t.EmailAddresses, t.DNSNames = emails, names
	t.KeyUsage = usageOf(role)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
	return sign(op, t, ca.Cert, public, ca.key)
}

// IssueTLS makes a key and a TLS server certificate for names, host names or
// IP addresses, valid for a year.
func (ca *TrialCA) IssueTLS(now time.Time, names ...string) (tls.Certificate, error) {
	const op = "keystore.IssueTLS"
	if len(names) == 0 {
		return tls.Certificate{}, &hisp.Error{Op: op, Kind: hisp.Malformed, Hint: "a TLS certificate needs at least one host name"}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, &hisp.Error{Op: op, Err: err}
	}
	t := template(now, trialCertYears)
	t.Subject = pkix.Name{CommonName: commonName(names[0])}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert, err := sign(op, t, ca.Cert, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// NewTrial makes a private key for owner, has ca certify it and stores both.
// Errors as of Generate.
func (k *Keys) NewTrial(ctx context.Context, ca *TrialCA, owner hisp.Address, role store.KeyRole, a Algorithm) (store.Key, error) {
	const op = "keystore.NewTrial"
	signer, err := newKey(op, role, a)
	if err != nil {
		return store.Key{}, err
	}
	cert, err := ca.Issue(owner, role, signer.Public(), k.cfg.Clock())
	if err != nil {
		return store.Key{}, err
	}
	return k.put(ctx, op, owner, signer, []*x509.Certificate{cert})
}

func template(now time.Time, years int) *x509.Certificate {
	now = now.UTC()
	return &x509.Certificate{
		NotBefore:             now.Add(-trialSkew),
		NotAfter:              now.AddDate(years, 0, 0),
		BasicConstraintsValid: true,
	}
}

// sign issues t with a random serial number of 127 bits (RFC 5280 §4.1.2.2
// allows 20 octets).
func sign(op string, t, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, &hisp.Error{Op: op, Err: err}
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always of the same length
	t.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, key)
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.Malformed, Hint: "the certificate cannot be made for this name", Err: err}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, &hisp.Error{Op: op, Err: err}
	}
	return cert, nil
}
