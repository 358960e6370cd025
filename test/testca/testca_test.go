package testca

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"

	"software.sslmate.com/src/go-pkcs12"
)

func TestIssue_chainVerifies(t *testing.T) {
	root := NewRoot("Root")
	leaf := root.Intermediate(Spec{Name: "Intermediate"}).Issue(Spec{Email: []string{"alice@hospital.example"}})
	pool := x509.NewCertPool()
	pool.AddCert(leaf.Chain[1])
	opts := x509.VerifyOptions{Roots: root.Pool(), Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := leaf.Cert.Verify(opts); err != nil {
		t.Error(err)
	}
	if len(leaf.Chain) != 2 || leaf.Chain[0] != leaf.Cert || leaf.Root != root.Cert {
		t.Errorf("chain of %d certificates is not leaf, intermediate", len(leaf.Chain))
	}
}

func TestNewKey_distinctWithinPool(t *testing.T) {
	seen := map[string]bool{}
	for range rsaKeys {
		seen[NewKey(RSA1024).(*rsa.PrivateKey).N.String()] = true
	}
	if len(seen) != rsaKeys {
		t.Errorf("%d distinct keys, want %d", len(seen), rsaKeys)
	}
}

func TestPKCS12_readable(t *testing.T) {
	leaf := NewRoot("Root").Issue(Spec{DNS: []string{"hospital.example"}})
	for name, data := range map[string][]byte{"modern": leaf.PKCS12("pw"), "legacy": leaf.PKCS12Legacy("pw")} {
		if _, cert, _, err := pkcs12.DecodeChain(data, "pw"); err != nil || !cert.Equal(leaf.Cert) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLSServer_handshake(t *testing.T) {
	ca := NewRoot("Root")
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(a, &tls.Config{Certificates: []tls.Certificate{ca.TLSServer("mx.hospital.example", "127.0.0.1")}}).Handshake()
	}()
	client := tls.Client(b, &tls.Config{RootCAs: ca.Pool(), ServerName: "mx.hospital.example"})
	if err := client.Handshake(); err != nil {
		t.Error(err)
	}
	b.Close()
	<-done
}
