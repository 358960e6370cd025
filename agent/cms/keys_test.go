package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
)

// pair is a private key with its certificate and that of its CA.
type pair struct {
	name string
	key  crypto.Signer
	cert *x509.Certificate
	ca   *x509.Certificate
}

var (
	testCA    = sync.OnceValue(func() pair { return makeCA("Test CA") })
	rsaPair   = sync.OnceValue(func() pair { return issue("rsa", rsaKey(2048)) })
	otherPair = sync.OnceValue(func() pair { return issue("other", rsaKey(2048)) })
	bigPair   = sync.OnceValue(func() pair { return issue("big", rsaKey(3072)) })
	weakPair  = sync.OnceValue(func() pair { return issue("weak", rsaKey(1024)) })
	p256Pair  = sync.OnceValue(func() pair { return issue("p256", ecKey(elliptic.P256())) })
	p384Pair  = sync.OnceValue(func() pair { return issue("p384", ecKey(elliptic.P384())) })
	p521Pair  = sync.OnceValue(func() pair { return issue("p521", ecKey(elliptic.P521())) })
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func rsaKey(bits int) crypto.Signer { return must(rsa.GenerateKey(rand.Reader, bits)) }

func ecKey(c elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(c, rand.Reader)) }

func template(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Test"}},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		SubjectKeyId: []byte(name + "-key-identifier-octets")[:20],
	}
}

func makeCA(name string) pair {
	key := ecKey(elliptic.P256())
	t := template(name, 1)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, t, key.Public(), key))))
	return pair{name: name, key: key, cert: cert, ca: cert}
}

func issue(name string, key crypto.Signer) pair {
	ca := testCA()
	// A serial number with its top bit set needs a leading zero octet.
	t := template(name, 0x80000000+int64(len(name))<<16+int64(name[0]))
	t.EmailAddresses = []string{name + "@direct.example"}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key))))
	return pair{name: name, key: key, cert: cert, ca: ca.cert}
}

func (p pair) signer() Signer {
	return Signer{Chain: []*x509.Certificate{p.cert, p.ca}, Key: p.key}
}

func (p pair) recipient(k KeyTransport) Recipient { return Recipient{Cert: p.cert, KeyTransport: k} }

func (p pair) decryption() Key {
	switch key := p.key.(type) {
	case *rsa.PrivateKey:
		return Key{Cert: p.cert, Decrypter: key}
	case *ecdsa.PrivateKey:
		return Key{Cert: p.cert, Exchanger: must(key.ECDH())}
	}
	panic("no such key")
}

// tool runs openssl in a folder that holds NAME.pem (certificate) and NAME.key
// for every pair.
type tool struct {
	t    testing.TB
	path string
	dir  string
}

func openssl(t testing.TB, pairs ...pair) tool {
	t.Helper()
	o := tool{t: t, path: need.Tool(t, "openssl"), dir: t.TempDir()}
	o.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCA().cert.Raw}))
	for _, p := range pairs {
		o.write(p.name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}))
		key := must(x509.MarshalPKCS8PrivateKey(p.key))
		o.write(p.name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	}
	return o
}

func (o tool) write(name string, data []byte) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}

func (o tool) try(args ...string) ([]byte, error) {
	cmd := exec.Command(o.path, args...)
	cmd.Dir = o.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, errors.New(err.Error() + ": " + errs.String())
	}
	return out.Bytes(), nil
}

// cms runs "openssl cms" with the words of line and returns what it wrote.
func (o tool) cms(line string) []byte {
	o.t.Helper()
	out, err := o.try(append([]string{"cms"}, strings.Fields(line)...)...)
	if err != nil {
		o.t.Fatalf("openssl cms %s: %v", line, err)
	}
	return out
}

// text is MIME-like content without a pair of zero octets.
func text(n int) []byte {
	return bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog.\r\n"), n/46+1)[:n]
}
