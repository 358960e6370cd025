package keystore

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

// bench is a folder in which openssl works.
type bench struct {
	t    *testing.T
	tool string
	dir  string
}

func newBench(t *testing.T) bench {
	return bench{t: t, tool: need.Tool(t, "openssl"), dir: t.TempDir()}
}

func (b bench) run(args ...string) string {
	b.t.Helper()
	cmd := exec.Command(b.tool, args...)
	cmd.Dir = b.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (b bench) read(name string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

func (b bench) write(name string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// TestImport_fromOpenssl imports what openssl wrote: key and certificate made
// by openssl, in every container.
func TestImport_fromOpenssl(t *testing.T) {
	b := newBench(t)
	b.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "30",
		"-subj", "/CN=Alice", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=email:alice@hospital.example",
		"-addext", "keyUsage=critical,digitalSignature,keyEncipherment")
	b.run("pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:pw", "-out", "modern.p12")
	b.run("pkcs12", "-export", "-legacy", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:pw", "-out", "legacy.p12", "-name", "friendly")
	b.run("pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:", "-out", "empty.p12")
	b.run("rsa", "-in", "key.pem", "-traditional", "-out", "pkcs1.pem")
	b.run("rsa", "-in", "key.pem", "-traditional", "-aes128", "-passout", "pass:pw", "-out", "old.pem")
	b.run("pkcs8", "-topk8", "-in", "key.pem", "-passout", "pass:pw", "-out", "aes256.pem")
	b.run("pkcs8", "-topk8", "-in", "key.pem", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512", "-passout", "pass:pw", "-out", "aes128.pem")
	b.run("pkcs8", "-topk8", "-in", "key.pem", "-v2", "des3", "-v2prf", "hmacWithSHA1", "-passout", "pass:pw", "-out", "des3.pem")
	b.run("pkcs8", "-topk8", "-in", "key.pem", "-scrypt", "-passout", "pass:pw", "-out", "scrypt.pem")
	b.run("pkcs8", "-topk8", "-in", "key.pem", "-v1", "PBE-SHA1-3DES", "-passout", "pass:pw", "-out", "pbes1.pem")
	for _, c := range []struct {
		file, password, hint string
		kind                 hisp.Kind
	}{
		{file: "modern.p12", password: "pw"},
		{file: "legacy.p12", password: "pw"},
		{file: "empty.p12"},
		{file: "key.pem"},
		{file: "pkcs1.pem"},
		{file: "aes256.pem", password: "pw"},
		{file: "aes128.pem", password: "pw"},
		{file: "des3.pem", password: "pw"},
		{file: "aes256.pem", password: "no", kind: hisp.Denied, hint: "wrong"},
		{file: "aes256.pem", kind: hisp.Denied, hint: "give its password"},
		{file: "modern.p12", password: "no", kind: hisp.Denied, hint: "wrong"},
		{file: "old.pem", password: "pw", kind: hisp.Malformed, hint: "openssl pkcs8 -topk8"},
		{file: "scrypt.pem", password: "pw", kind: hisp.Malformed, hint: "openssl pkcs8 -topk8"},
		{file: "pbes1.pem", password: "pw", kind: hisp.Malformed, hint: "openssl pkcs8 -topk8"},
	} {
		t.Run(c.file+" "+c.password, func(t *testing.T) {
			data := b.read(c.file)
			if strings.HasSuffix(c.file, ".pem") {
				data = append(data, b.read("cert.pem")...)
			}
			f := newFixture()
			key, err := f.Import(t.Context(), hisp.Address{}, data, c.password)
			if c.hint != "" {
				wantRefusal(t, err, c.kind, c.hint)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if key.Owner != alice || key.Role != store.RoleDual || len(signers(t, f, alice)) != 1 {
				t.Errorf("imported with role %s for %v", key.Role, key.Owner)
			}
		})
	}
}

func TestImport_ecFromOpenssl(t *testing.T) {
	b := newBench(t)
	b.run("ecparam", "-genkey", "-name", "prime256v1", "-out", "key.pem") // EC PARAMETERS and SEC 1
	b.run("req", "-x509", "-new", "-key", "key.pem", "-out", "cert.pem", "-days", "30", "-subj", "/CN=H",
		"-addext", "basicConstraints=CA:FALSE", "-addext", "subjectAltName=DNS:hospital.example", "-addext", "keyUsage=digitalSignature")
	f := newFixture()
	key, err := f.Import(t.Context(), hospital, append(b.read("key.pem"), b.read("cert.pem")...), "")
	if err != nil || key.Role != store.RoleSign {
		t.Errorf("role %s, %v", key.Role, err)
	}
}

// TestImport_opensslDefaultIsRefused: "openssl req -x509" makes a CA
// certificate unless told otherwise, which peers refuse as end entity.
func TestImport_opensslDefaultIsRefused(t *testing.T) {
	b := newBench(t)
	b.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "30",
		"-subj", "/CN=Alice", "-addext", "subjectAltName=email:alice@hospital.example")
	_, err := newFixture().Import(t.Context(), alice, append(b.read("key.pem"), b.read("cert.pem")...), "")
	wantRefusal(t, err, hisp.Malformed, "CA=FALSE")
}

// TestRequest_certifiedByOpenssl walks the whole way with a CA that is openssl.
func TestRequest_certifiedByOpenssl(t *testing.T) {
	b := newBench(t)
	b.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=CA")
	for _, c := range []struct {
		owner hisp.Address
		role  store.KeyRole
		alg   Algorithm
		san   string
		usage string
	}{
		{alice, store.RoleDual, RSA2048, "email:alice@hospital.example", "Digital Signature, Key Encipherment"},
		{hospital, store.RoleEncrypt, RSA3072, "DNS:hospital.example", "Key Encipherment"},
		{hospital, store.RoleSign, P256, "DNS:hospital.example", "Digital Signature"},
	} {
		f := newFixture()
		_, csr, err := f.Generate(t.Context(), c.owner, c.role, c.alg)
		if err != nil {
			t.Fatal(err)
		}
		b.write("r.csr", csr)
		text := b.run("req", "-in", "r.csr", "-noout", "-verify", "-text")
		for _, want := range []string{"verify OK", c.san, c.usage, "E-mail Protection"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: openssl does not see %q in\n%s", c.role, want, text)
			}
		}
		b.run("x509", "-req", "-in", "r.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-copy_extensions", "copyall", "-out", "cert.pem", "-set_serial", "7")
		key, err := f.Install(t.Context(), b.read("cert.pem"))
		if err != nil || key.Role != c.role {
			t.Errorf("%s: installed as %s, %v", c.role, key.Role, err)
		}
	}
}

func TestTrialCA_readByOpenssl(t *testing.T) {
	b := newBench(t)
	ca, err := NewTrialCA("Trial CA", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.write("ca.pem", testca.PEM(ca.Cert))
	for _, owner := range []hisp.Address{alice, hospital} {
		key, err := newFixture().NewTrial(t.Context(), ca, owner, store.RoleDual, "")
		if err != nil {
			t.Fatal(err)
		}
		b.write("cert.pem", testca.PEM(key.Chain[0]))
		for _, purpose := range []string{"smimesign", "smimeencrypt"} {
			b.run("verify", "-x509_strict", "-auth_level", "2", "-purpose", purpose, "-CAfile", "ca.pem", "cert.pem")
		}
	}
}
