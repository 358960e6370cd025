package testca

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"software.sslmate.com/src/go-pkcs12"
)

// Types of PEM blocks, RFC 7468 §5 and §10.
const (
	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
)

// TLSServer issues a TLS server certificate for names, host names or IP
// addresses.
func (ca *CA) TLSServer(names ...string) tls.Certificate {
	s := Spec{Name: names[0], KeyKind: P256, ExtUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			s.IP = append(s.IP, ip)
		} else {
			s.DNS = append(s.DNS, name)
		}
	}
	return ca.Issue(s).TLS()
}

// TLSClient issues a TLS client certificate with the given common name.
func (ca *CA) TLSClient(name string) tls.Certificate {
	return ca.Issue(Spec{Name: name, KeyKind: P256, ExtUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}).TLS()
}

// Pool returns a pool with the root of ca.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Root)
	return pool
}

// TLS returns the certificate with its chain and key as crypto/tls wants it.
func (i *Issued) TLS() tls.Certificate {
	c := tls.Certificate{PrivateKey: i.Key, Leaf: i.Cert}
	for _, cert := range i.Chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// PEM returns certificates as PEM, in order.
func PEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	return out
}

// PKCS8 returns the private key as DER.
func (i *Issued) PKCS8() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(i.Key)
	if err != nil {
		panic(fmt.Sprintf("testca: %v", err))
	}
	return der
}

// KeyPEM returns the private key as PKCS#8 PEM without encryption.
func (i *Issued) KeyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: i.PKCS8()})
}

// PKCS12 returns key, certificate and intermediates as a PKCS#12 file with
// AES and SHA-256.
func (i *Issued) PKCS12(password string) []byte { return i.pkcs12(pkcs12.Modern2023, password) }

// PKCS12Legacy is like PKCS12 with 3DES, RC2 and SHA-1, as old software does.
func (i *Issued) PKCS12Legacy(password string) []byte { return i.pkcs12(pkcs12.LegacyRC2, password) }

func (i *Issued) pkcs12(enc *pkcs12.Encoder, password string) []byte {
	var cas []*x509.Certificate
	if len(i.Chain) > 1 {
		cas = i.Chain[1:]
	}
	out, err := enc.Encode(i.Key, i.Cert, cas, password)
	if err != nil {
		panic(fmt.Sprintf("testca: %v", err))
	}
	return out
}

// Files are the paths WriteFiles wrote.
type Files struct {
	Cert  string // PEM, the certificate alone
	Key   string // PEM, PKCS#8
	Chain string // PEM, the certificate and its intermediates
	Root  string // PEM
}

// WriteFiles writes the parts as PEM files NAME.crt, NAME.key, NAME.chain.crt
// and NAME.root.crt into dir, for tools such as openssl.
func (i *Issued) WriteFiles(dir, name string) (Files, error) {
	base := filepath.Join(dir, name)
	f := Files{Cert: base + ".crt", Key: base + ".key", Chain: base + ".chain.crt", Root: base + ".root.crt"}
	for _, file := range []struct {
		path string
		data []byte
	}{
		{f.Cert, PEM(i.Cert)},
		{f.Key, i.KeyPEM()},
		{f.Chain, PEM(i.Chain...)},
		{f.Root, PEM(i.Root)},
	} {
		if err := os.WriteFile(file.path, file.data, 0o600); err != nil {
			return Files{}, err
		}
	}
	return f, nil
}
