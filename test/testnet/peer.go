package testnet

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testdns"
)

// Peer is a HISP that a test plays: a domain with its CA, its records in DNS
// and an exchanger that takes every message, answers none, and keeps them. Its
// messages are made by openssl.
type Peer struct {
	Domain string
	CA     *testca.CA
	Key    *testca.Issued // bound to the domain
	Port   int

	dir string
	mu  sync.Mutex
	got []Taken
}

// Taken is a message the peer's exchanger took.
type Taken struct {
	From string
	To   []string
	Data []byte
}

// NewPeer makes a peer whose records are served by dns.
func NewPeer(t testing.TB, dns *testdns.Server, domain string) *Peer {
	t.Helper()
	ca := testca.NewRootFrom(testca.Spec{Name: "CA of " + domain, KeyKind: testca.RSA2048})
	p := &Peer{Domain: domain, CA: ca, Key: ca.Issue(testca.Spec{DNS: []string{domain}}), dir: t.TempDir()}
	host := "mail." + domain
	dns.AddCert(domain+".", p.Key.Cert.Raw)
	dns.Add(t, domain+". 60 IN MX 10 "+host+".", host+". 60 IN A 127.0.0.1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Port = ln.Addr().(*net.TCPAddr).Port
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &peerSession{p: p}, nil }))
	srv.Domain, srv.TLSConfig = host, &tls.Config{Certificates: []tls.Certificate{ca.TLSServer(host)}}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return p
}

// peerSession takes everything.
type peerSession struct {
	p  *Peer
	in Taken
}

func (s *peerSession) Mail(from string, _ *smtp.MailOptions) error {
	s.in = Taken{From: from}
	return nil
}

func (s *peerSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.in.To = append(s.in.To, to)
	return nil
}

func (s *peerSession) Data(r io.Reader) error {
	var err error
	if s.in.Data, err = io.ReadAll(r); err != nil {
		return err
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.got = append(s.p.got, s.in)
	return nil
}

func (s *peerSession) Reset()        {}
func (s *peerSession) Logout() error { return nil }

// Taken returns what the exchanger took so far.
func (p *Peer) Taken() []Taken {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Taken(nil), p.got...)
}

// Anchor writes the peer's CA certificate and returns the file.
func (p *Peer) Anchor(t testing.TB) string {
	t.Helper()
	return writeFile(t, filepath.Join(p.dir, "ca.crt"), testca.PEM(p.CA.Cert))
}

func writeFile(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Sign wraps raw in message/rfc822 and returns the signed entity that openssl
// makes of it with signer's key.
func (p *Peer) Sign(t testing.TB, raw []byte, signer *testca.Issued) []byte {
	t.Helper()
	dir := t.TempDir()
	f, err := signer.WriteFiles(dir, "signer")
	if err != nil {
		t.Fatal(err)
	}
	entity := append([]byte("Content-Type: message/rfc822\r\n\r\n"), raw...)
	return lines(openssl(t, "cms", "-sign", "-md", "sha256", "-in", writeFile(t, filepath.Join(dir, "entity"), entity),
		"-signer", f.Cert, "-inkey", f.Key))
}

// EncryptDER returns entity as EnvelopedData that openssl makes for cert.
func EncryptDER(t testing.TB, entity []byte, cert *x509.Certificate) []byte {
	t.Helper()
	dir := t.TempDir()
	return openssl(t, "cms", "-encrypt", "-binary", "-aes256", "-outform", "DER", "-in", writeFile(t, filepath.Join(dir, "signed"), entity),
		writeFile(t, filepath.Join(dir, "rcpt.crt"), testca.PEM(cert)))
}

// Enveloped is the message on the backbone that carries der.
func Enveloped(from, to string, der []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nMIME-Version: 1.0\r\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\r\n"+
		"Content-Transfer-Encoding: base64\r\n\r\n", from, to)
	for text := base64.StdEncoding.EncodeToString(der); text != ""; {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	return b.Bytes()
}

// Seal makes the whole message to a recipient of site: signed by signer, then
// encrypted for the site's domain.
func (p *Peer) Seal(t testing.TB, s *Site, raw []byte, signer *testca.Issued, from, to string) []byte {
	t.Helper()
	return Enveloped(from, to, EncryptDER(t, p.Sign(t, raw, signer), s.Cert(t)))
}

func openssl(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(need.Tool(t, "openssl"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, stderr.Bytes())
	}
	return out
}

// Cert returns the certificate of the site's domain.
func (s *Site) Cert(t testing.TB) *x509.Certificate {
	t.Helper()
	var keys []struct {
		Owner string
		State string
		Chain string `json:"chain_pem"`
	}
	if err := json.Unmarshal([]byte(s.CLI(t, "", "key", "list", "-json")), &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if k.Owner != s.Domain || k.State != "active" {
			continue
		}
		block, _ := pem.Decode([]byte(k.Chain))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	t.Fatalf("%s has no active key", s.Name)
	return nil
}

// Knows makes the site find the peer: its exchanger's port and TLS roots.
// Trust in its messages is another matter (hisp anchor add).
func (s *Site) Knows(t testing.TB, peers ...*Peer) {
	t.Helper()
	for _, p := range peers {
		s.roots = append(s.roots, p.Anchor(t))
		s.Append(t, fmt.Sprintf("[peer.%q]\nport = %d\n", p.Domain, p.Port))
	}
	list, err := json.Marshal(s.roots)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(t, "relay.roots", string(list))
}

// Resolve makes both sites ask dns for what neither of them serves.
func (n *Net) Resolve(t testing.TB, dns *testdns.Server) {
	t.Helper()
	for _, s := range []*Site{n.Hospital, n.Clinic} {
		s.Set(t, "dns.servers", fmt.Sprintf("[\"127.0.0.1:%d\", \"127.0.0.1:%d\", %q]",
			n.Hospital.Ports["dns"], n.Clinic.Ports["dns"], dns.Addr()))
	}
}
