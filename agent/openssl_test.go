package agent

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

// openssl runs the tool in a folder with the keys of a world.
type openssl struct {
	t   *testing.T
	bin string
	dir string
}

func newOpenssl(t *testing.T) openssl {
	return openssl{t: t, bin: need.Tool(t, "openssl"), dir: t.TempDir()}
}

func (o openssl) issued(name string, i *testca.Issued) testca.Files {
	o.t.Helper()
	f, err := i.WriteFiles(o.dir, name)
	if err != nil {
		o.t.Fatal(err)
	}
	return f
}

func (o openssl) file(name string, data []byte) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}

// run returns what openssl writes to its standard output.
func (o openssl) run(args ...string) []byte {
	o.t.Helper()
	cmd := exec.Command(o.bin, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// network makes line ends those of the network.
func network(b []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// cmsCase is one message made by openssl: the arguments beyond the usual ones
// for signing and for encrypting.
type cmsCase struct {
	name   string
	sign   string
	seal   string
	tool   string      // "cms" or "smime"
	signer testca.Spec // alice
	rsa    []string    // -keyopt for the recipient
	inner  string      // the entity, wrapped letter
	two    bool        // a second signer
	resign string      // arguments for a second signer added afterwards
	second testca.Spec
	want   hisp.Kind
}

func (c cmsCase) run(t *testing.T) {
	o := newOpenssl(t)
	w := newWorld()
	signer := w.alice
	if c.signer.KeyKind != "" {
		c.signer.Email = []string{alice}
		signer = w.ca.Issue(c.signer)
	}
	if c.tool == "" {
		c.tool = "cms"
	}
	if !strings.Contains(c.seal, "aes") && c.want != hisp.CannotDecrypt {
		c.seal += " -aes128" // openssl's own default is Triple-DES
	}
	if c.inner == "" {
		c.inner = "Content-Type: message/rfc822\r\n\r\n" + letter()
	}
	s, r := o.issued("signer", signer), o.issued("clinic", w.clinic)
	signed := filepath.Join(o.dir, "signed.eml")
	args := []string{c.tool, "-sign", "-in", o.file("entity", []byte(c.inner)), "-signer", s.Cert, "-inkey", s.Key, "-out", signed}
	if c.two {
		second := o.issued("second", w.ca.Issue(testca.Spec{Email: []string{"x@other.example"}, KeyKind: testca.P256}))
		args = append(args, "-signer", second.Cert, "-inkey", second.Key)
	}
	o.run(append(args, strings.Fields(c.sign)...)...)
	if c.resign != "" {
		second := o.issued("second", w.ca.Issue(c.second))
		out := filepath.Join(o.dir, "resigned.eml")
		args := []string{c.tool, "-resign", "-in", signed, "-signer", second.Cert, "-inkey", second.Key, "-out", out}
		o.run(append(args, strings.Fields(c.resign)...)...)
		signed = out
	}
	args = append([]string{c.tool, "-encrypt", "-in", signed, "-from", alice, "-to", bob, "-subject", "outer"}, strings.Fields(c.seal)...)
	if len(c.rsa) > 0 {
		args = append(args, "-recip", r.Cert)
		for _, opt := range c.rsa {
			args = append(args, "-keyopt", opt)
		}
	} else {
		args = append(args, o.issued("other", w.alice).Cert, r.Cert)
	}
	msg := hisp.NewMessage(network(o.run(args...)))

	opened, err := w.agent(t).Open(context.Background(), aliceToBob(), msg)
	if c.want != accepted {
		wantKind(t, err, c.want)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(c.inner, "Content-Type: message/rfc822") && !bytes.HasPrefix(opened.Message.Bytes(), []byte(letter())) {
		t.Errorf("message = %q", opened.Message.Bytes())
	}
	if !bytes.Contains(opened.Message.Bytes(), []byte("canary-body")) || !opened.Signer.Equal(signer.Cert) {
		t.Error("another message or signer")
	}
}

// What openssl makes we open, or refuse for the right reason: rows SM-03,
// SM-09..SM-15, SM-24, security S9, the list of the reference implementation.
func TestOpen_fromOpenssl(t *testing.T) {
	large := "Content-Type: message/rfc822\r\n\r\n" + letter() + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 3000)
	ec := func(k testca.KeyKind) testca.Spec { return testca.Spec{KeyKind: k} }
	for _, c := range []cmsCase{
		{name: "cms, defaults"},
		{name: "smime, defaults, AES-256", tool: "smime", seal: "-aes256"},
		{name: "SHA-384", sign: "-md sha384"},
		{name: "SHA-512", sign: "-md sha512"},
		{name: "PSS", sign: "-keyopt rsa_padding_mode:pss"},
		{name: "PSS SHA-512, other salt", sign: "-md sha512 -keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:20"},
		{name: "signer by key identifier", sign: "-keyid"},
		{name: "P-256", signer: ec(testca.P256)},
		{name: "P-384", signer: ec(testca.P384), sign: "-md sha384"},
		{name: "opaque", sign: "-nodetach"},
		{name: "opaque, large, streamed", sign: "-nodetach -stream", seal: "-stream", inner: large},
		{name: "opaque, large, definite", sign: "-nodetach -noindef", seal: "-noindef", inner: large},
		{name: "large, streamed", sign: "-stream", seal: "-stream -aes128", inner: large},
		{name: "large, definite", sign: "-noindef", seal: "-noindef -aes256", inner: large},
		{name: "two signers", two: true},
		{name: "a second signer added later", sign: "-nodetach", resign: "-nodetach"},
		{name: "SM-21 a second signer with RSA 1024", sign: "-nodetach", resign: "-nodetach", second: testca.Spec{KeyKind: testca.RSA1024}},
		{name: "S5 a second signer without attributes", sign: "-nodetach", resign: "-nodetach -noattr", want: hisp.BadSignature},
		{name: "no smimeCapabilities", sign: "-nosmimecap"},
		{name: "CAdES", sign: "-cades"},
		{name: "unwrapped", inner: "Content-Type: text/plain\r\n\r\ncanary-body\r\n"},
		{name: "unwrapped, added by -text", sign: "-text", inner: "canary-body\n"},
		{name: "AES-128", seal: "-aes128"},
		{name: "AES-192", seal: "-aes192"},
		{name: "AES-128-GCM", seal: "-aes-128-gcm"},
		{name: "AES-256-GCM, streamed", seal: "-aes-256-gcm -stream"},
		{name: "recipient by key identifier", seal: "-keyid"},
		{name: "OAEP", rsa: []string{"rsa_padding_mode:oaep"}},
		{name: "OAEP SHA-256", rsa: []string{"rsa_padding_mode:oaep", "rsa_oaep_md:sha256"}},
		{name: "OAEP SHA-384", rsa: []string{"rsa_padding_mode:oaep", "rsa_oaep_md:sha384"}},
		{name: "OAEP SHA-512", rsa: []string{"rsa_padding_mode:oaep", "rsa_oaep_md:sha512"}},
		{name: "OAEP SHA-256, MGF SHA-1", rsa: []string{"rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha1"}},
		{name: "OAEP SHA-1, MGF SHA-512", rsa: []string{"rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha512"}},

		{name: "S9 SHA-1", sign: "-md sha1", want: hisp.BadSignature},
		{name: "S9 MD5", sign: "-md md5", want: hisp.BadSignature},
		{name: "S9 RSA 1024", signer: ec(testca.RSA1024), want: hisp.BadSignature},
		{name: "RI: no signed attributes", sign: "-noattr", want: hisp.BadSignature},
		{name: "SM-19 no certificate", sign: "-nocerts", want: hisp.BadSignature},
		{name: "SM-12 Triple-DES, the default of openssl", want: hisp.CannotDecrypt},
		{name: "RI: Camellia", seal: "-camellia128", want: hisp.CannotDecrypt},
	} {
		t.Run(c.name, c.run)
	}
}

// What we seal openssl decrypts and verifies, to the octet.
func TestSeal_forOpenssl(t *testing.T) {
	w := newWorld()
	ec := w.ca.Issue(testca.Spec{Email: []string{alice}, KeyKind: testca.P256})
	tests := []struct {
		name, tool string
		signers    []*testca.Issued
		peer       PeerOptions
	}{
		{"cms", "cms", []*testca.Issued{w.alice}, PeerOptions{}},
		{"smime", "smime", []*testca.Issued{w.alice}, PeerOptions{Cipher: "aes-128-cbc"}},
		{"two signers, OAEP", "cms", []*testca.Issued{w.alice, ec}, PeerOptions{KeyTransport: "rsa-oaep-sha256"}},
		{"OAEP SHA-1", "cms", []*testca.Issued{ec}, PeerOptions{KeyTransport: "rsa-oaep-sha1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOpenssl(t)
			w.signing[addr(alice)] = tt.signers
			a := w.agent(t, func(c *Config) { c.Peer = func(hisp.Domain) PeerOptions { return tt.peer } })
			sealed := seal(t, a, aliceToBob(), letter()).Copies[0].Message
			r := o.issued("clinic", w.clinic)
			plain := o.run(tt.tool, "-decrypt", "-in", o.file("sealed.eml", sealed.Bytes()), "-recip", r.Cert, "-inkey", r.Key)
			got := o.run(tt.tool, "-verify", "-in", o.file("signed.eml", plain), "-CAfile", r.Root)
			if want := "Content-Type: message/rfc822\r\n\r\n" + letter(); string(got) != want {
				t.Errorf("openssl reads %q, want %q", got, want)
			}
		})
	}
}
