// Package interop proves the node against programs that others wrote.
package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/smtpd"
	"github.com/hispnode/hisp/smtpd/relay"
	"github.com/hispnode/hisp/test/load"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/postfix"
	"github.com/hispnode/hisp/test/testca"
)

const (
	smtpUser = "dr@hospital.example"
	smtpPass = "s3cret"
	smtpMail = "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-Id: <1@hospital.example>\r\nFrom: <dr@hospital.example>\r\nTo: <x@clinic.example>\r\nSubject: t\r\n\r\n.dot\r\n..\r\nlast\r\n"
)

// smtpNode is what stands behind the SMTP servers in these tests: one hosted
// domain, one account, messages kept in memory.
type smtpNode struct {
	cert  *x509.Certificate // logs smtpUser in
	taken chan smtpTaken
	keep  bool
}

type smtpTaken struct {
	env hisp.Envelope
	raw string
}

func (n *smtpNode) Hosted(_ context.Context, d hisp.Domain) (bool, error) {
	return d == "hospital.example", nil
}

func (n *smtpNode) Account(_ context.Context, a hisp.Address) (hisp.Account, error) {
	if strings.EqualFold(a.AddrSpec(), smtpUser) {
		return hisp.Account{Address: a}, nil
	}
	return hisp.Account{}, &hisp.Error{Op: "smtpNode.Account", Kind: hisp.UnknownRecipient}
}

func (n *smtpNode) Authenticate(ctx context.Context, c hisp.Credentials) (hisp.Account, error) {
	if c.Username == smtpUser && c.Password == smtpPass || c.Cert != nil && c.Cert.Equal(n.cert) {
		return hisp.Account{Address: hisp.Address{Local: "dr", Domain: "hospital.example"}}, nil
	}
	return hisp.Account{}, &hisp.Error{Op: "smtpNode.Authenticate", Kind: hisp.Denied}
}

func (n *smtpNode) Room(context.Context, hisp.Address, int64) error { return nil }
func (n *smtpNode) Record(context.Context, hisp.AuditRecord) error  { return nil }
func (n *smtpNode) Submit(c context.Context, e hisp.Envelope, m hisp.Message) error {
	return n.Receive(c, e, m)
}

func (n *smtpNode) Receive(_ context.Context, env hisp.Envelope, msg hisp.Message) error {
	if n.keep {
		n.taken <- smtpTaken{env, string(msg.Bytes())}
	}
	return nil
}

// smtpHouse is both servers on loopback with certificates of a test CA.
type smtpHouse struct {
	*smtpNode
	ca                          *testca.CA
	plain, implicit, mx         string // host:port of 587, 465 and 25
	root, clientCert, clientKey string // files
}

func startSMTP(t testing.TB, mxListen string) *smtpHouse {
	t.Helper()
	ca := testca.NewRoot("smtp test root")
	client := ca.Issue(testca.Spec{DNS: []string{"device.hospital.example"}})
	files, err := client.WriteFiles(t.TempDir(), "client")
	if err != nil {
		t.Fatal(err)
	}
	h := &smtpHouse{smtpNode: &smtpNode{cert: client.Cert, taken: make(chan smtpTaken, 100), keep: true}, ca: ca,
		root: files.Root, clientCert: files.Cert, clientKey: files.Key}
	cfg := smtpd.Config{Hostname: "localhost", Directory: h.smtpNode, Audit: h.smtpNode,
		Limits: smtpd.Limits{ConnectionsPerIP: 1000},
		TLS:    &tls.Config{Certificates: []tls.Certificate{ca.TLSServer("localhost")}, ClientAuth: tls.RequestClientCert}}
	sub, err := smtpd.NewSubmission(smtpd.SubmissionConfig{Config: cfg, Authenticator: h.smtpNode, Submitter: h.smtpNode})
	if err != nil {
		t.Fatal(err)
	}
	back, err := smtpd.NewBackbone(smtpd.BackboneConfig{Config: cfg, Receiver: h.smtpNode})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	open := func(serve func(context.Context, net.Listener) error, addr string) string {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := serve(context.Background(), ln); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	h.plain = open(sub.Serve, "127.0.0.1:0")
	h.implicit = open(sub.ServeTLS, "127.0.0.1:0")
	h.mx = open(back.Serve, mxListen)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, s := range []*smtpd.Server{sub, back} {
			if err := s.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		}
		wg.Wait()
	})
	return h
}

func (h *smtpHouse) next(t *testing.T) smtpTaken {
	t.Helper()
	select {
	case got := <-h.taken:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("no message arrived")
		return smtpTaken{}
	}
}

func smtpPort(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func TestSMTP_curl(t *testing.T) {
	curl := need.Tool(t, "curl")
	h := startSMTP(t, "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "mail")
	if err := os.WriteFile(file, []byte(smtpMail), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		url  string
		auth hisp.AuthKind
		args []string
	}{
		{"STARTTLS and PLAIN", "smtp://localhost:" + smtpPort(h.plain), hisp.AuthPassword, []string{"--ssl-reqd", "--user", smtpUser + ":" + smtpPass, "--login-options", "AUTH=PLAIN"}},
		{"TLS and LOGIN", "smtps://localhost:" + smtpPort(h.implicit), hisp.AuthPassword, []string{"--user", smtpUser + ":" + smtpPass, "--login-options", "AUTH=LOGIN"}},
		{"client certificate", "smtps://localhost:" + smtpPort(h.implicit), hisp.AuthCertificate, []string{"--cert", h.clientCert, "--key", h.clientKey}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"-sS", "-4", "--max-time", "20", "--cacert", h.root, "--mail-from", smtpUser, "--mail-rcpt", "x@clinic.example", "-T", file}, c.args...)
			if out, err := exec.Command(curl, append(args, c.url)...).CombinedOutput(); err != nil {
				t.Fatalf("curl: %v\n%s", err, out)
			}
			got := h.next(t)
			if got.env.Auth != c.auth || !got.env.TLS || !strings.HasSuffix(got.raw, smtpMail) {
				t.Errorf("got %+v with %q, want %v and the message byte for byte", got.env, got.raw, c.auth)
			}
		})
	}
	out, err := exec.Command(curl, "-sS", "-4", "--max-time", "20", "--cacert", h.root, "--ssl-reqd", "--user", smtpUser+":wrong",
		"--mail-from", smtpUser, "--mail-rcpt", "x@clinic.example", "-T", file, "smtp://localhost:"+smtpPort(h.plain)).CombinedOutput()
	if err == nil {
		t.Errorf("curl with a wrong password succeeded: %s", out)
	}
}

func TestSMTP_swaks(t *testing.T) {
	swaks := need.Tool(t, "swaks")
	h := startSMTP(t, "127.0.0.1:0")
	for _, c := range []struct {
		name string
		ok   bool
		args []string
	}{
		{"STARTTLS and PLAIN", true, []string{"-p", smtpPort(h.plain), "-tls", "-a", "PLAIN", "-au", smtpUser, "-ap", smtpPass}},
		{"STARTTLS and LOGIN", true, []string{"-p", smtpPort(h.plain), "-tls", "-a", "LOGIN", "-au", smtpUser, "-ap", smtpPass}},
		{"TLS and PLAIN, pipelining", true, []string{"-p", smtpPort(h.implicit), "-tlsc", "-a", "PLAIN", "-au", smtpUser, "-ap", smtpPass, "--pipeline"}},
		{"client certificate", true, []string{"-p", smtpPort(h.implicit), "-tlsc", "--tls-cert", h.clientCert, "--tls-key", h.clientKey}},
		{"wrong password", false, []string{"-p", smtpPort(h.plain), "-tls", "-a", "PLAIN", "-au", smtpUser, "-ap", "x"}},
		{"no login", false, []string{"-p", smtpPort(h.plain), "-tls"}},
		{"no TLS", false, []string{"-p", smtpPort(h.plain), "-a", "PLAIN", "-au", smtpUser, "-ap", smtpPass}},
		{"backbone", true, []string{"-p", smtpPort(h.mx), "-tls", "-f", "a@clinic.example", "-t", smtpUser}},
		{"backbone without TLS", false, []string{"-p", smtpPort(h.mx), "-f", "a@clinic.example", "-t", smtpUser}},
		{"backbone relay", false, []string{"-p", smtpPort(h.mx), "-tls", "-f", "a@clinic.example", "-t", "x@far.example"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"-s", "127.0.0.1", "--timeout", "20", "-f", smtpUser, "-t", "x@clinic.example"}, c.args...)
			out, err := exec.Command(swaks, args...).CombinedOutput()
			if (err == nil) != c.ok {
				t.Fatalf("swaks: %v, want success %v\n%s", err, c.ok, out)
			}
			if c.ok {
				h.next(t)
			}
		})
	}
}

// TestSMTP_postfix relays through a Postfix of its own to our backbone, and
// from our relay to it, both ways over verified or enforced TLS.
func TestSMTP_postfix(t *testing.T) {
	swaks := need.Tool(t, "swaks")
	h := startSMTP(t, "127.0.0.1:0")
	pfx, mail := startPostfix(t, h)

	out, err := exec.Command(swaks, "-s", "127.0.0.1", "-p", smtpPort(pfx), "--timeout", "20", "-f", "a@clinic.example", "-t", smtpUser, "--body", "from postfix").CombinedOutput()
	if err != nil {
		t.Fatalf("swaks to Postfix: %v\n%s", err, out)
	}
	got := h.next(t)
	if !got.env.TLS || got.env.From.AddrSpec() != "a@clinic.example" || !strings.Contains(got.raw, "from postfix\r\n") || !strings.Contains(got.raw, "with ESMTPS") {
		t.Errorf("Postfix relayed %+v with %q", got.env, got.raw)
	}

	r, err := relay.New(relay.Config{Hostname: "mx.hospital.example", Resolver: smtpNames{}, Roots: h.ca.Pool(),
		Peer: func(hisp.Domain) relay.Peer { return relay.Peer{Host: "localhost:" + smtpPort(pfx)} }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	env := hisp.Envelope{From: hisp.Address{Local: "dr", Domain: "hospital.example"},
		To: []hisp.Address{{Local: "x", Domain: "clinic.example"}, {Local: "nobody", Domain: "clinic.example"}}}
	res := r.Send(t.Context(), env, hisp.NewMessage([]byte(smtpMail)))
	if res[0].Err != nil || res[0].Enhanced != "2.0.0" {
		t.Fatalf("result = %+v, want 2.0.0", res[0])
	}
	if hisp.KindOf(res[1].Err) != hisp.UnknownRecipient {
		t.Errorf("result = %+v, want unknown recipient", res[1])
	}
	stored := awaitFile(t, filepath.Join(mail, "x", "new"))
	if want := strings.ReplaceAll(smtpMail, "\r\n", "\n"); !strings.HasSuffix(stored, want) {
		t.Errorf("Postfix stored %q, want it to end in %q", stored, want)
	}
}

// smtpNames resolves every host to loopback.
type smtpNames struct{}

func (smtpNames) LookupMX(_ context.Context, d hisp.Domain) ([]hisp.MX, error) {
	return []hisp.MX{{Host: string(d)}}, nil
}
func (smtpNames) LookupAddrs(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// startPostfix runs a Postfix that takes mail for clinic.example and relays
// hospital.example to our backbone. mail is the folder of its mailboxes.
func startPostfix(t *testing.T, h *smtpHouse) (addr, mail string) {
	t.Helper()
	files, err := h.ca.Issue(testca.Spec{DNS: []string{"localhost"}}).WriteFiles(t.TempDir(), "postfix")
	if err != nil {
		t.Fatal(err)
	}
	pfx := postfix.Start(t, files, fmt.Sprintf(`smtp_tls_security_level = encrypt
relay_domains = hospital.example
transport_maps = inline:{hospital.example=smtp:[127.0.0.1]:%s}
virtual_mailbox_domains = clinic.example
virtual_mailbox_maps = inline:{x@clinic.example=x/}
`, smtpPort(h.mx)))
	return pfx.Addr, pfx.Mail
}

// awaitFile returns the content of the first file to appear in dir.
func awaitFile(t *testing.T, dir string) string {
	t.Helper()
	var text []byte
	await(t, "a stored message", func() bool {
		list, err := os.ReadDir(dir)
		if err != nil || len(list) == 0 {
			return false
		}
		text, err = os.ReadFile(filepath.Join(dir, list[0].Name()))
		return err == nil
	})
	return string(text)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("no %s in time", what)
		}
	}
}

// BenchmarkSMTP_accept measures the session layer: submission over TLS with a
// node that keeps nothing, 20 KB messages.
func BenchmarkSMTP_accept(b *testing.B) {
	h := startSMTP(b, "127.0.0.1:0")
	h.keep = false
	for _, conns := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			l := load.Load{Addr: h.mx, TLS: &tls.Config{RootCAs: h.ca.Pool(), ServerName: "localhost"},
				From: "a@clinic.example", To: smtpUser, Conns: conns, Messages: b.N, Octets: 20000}
			b.ResetTimer()
			res, err := l.Run(b.Context())
			if err != nil || res.Accepted != b.N {
				b.Fatalf("%v: %v", res, err)
			}
			b.ReportMetric(res.PerSec, "msg/s")
			b.ReportMetric(float64(res.P99.Microseconds())/1000, "p99-ms")
		})
	}
}
