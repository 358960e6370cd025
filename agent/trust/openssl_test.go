package trust

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

// TestPath_opensslAgrees asks openssl verify the questions of TestPath. Where
// a case gives no reason for a difference, there must be none.
func TestPath_opensslAgrees(t *testing.T) {
	tool := need.Tool(t, "openssl")
	differences := 0
	for _, c := range allCases() {
		t.Run(c.name, func(t *testing.T) {
			g := c.given()
			chain, err := New(Config{}).Path(g.leaf, g.pool, g.anchors, now)
			checkPath(t, g, chain, err, c.want)
			ok, out := opensslVerify(t, tool, g)
			agrees := ok == (err == nil)
			switch {
			case !agrees && c.openssl == "":
				t.Errorf("openssl accepts: %v, we: %v\n%s", ok, err == nil, out)
			case agrees && c.openssl != "":
				t.Errorf("openssl agrees, but the case says: %s", c.openssl)
			case !agrees:
				differences++
				t.Logf("difference wanted: %s", c.openssl)
			}
		})
	}
	t.Logf("%d wanted differences", differences)
}

// opensslVerify tells whether openssl finds a path for an S/MIME signer.
func opensslVerify(t *testing.T, tool string, g given) (bool, string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, list ...*x509.Certificate) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, testca.PEM(list...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"verify", "-partial_chain", "-auth_level", "2", "-purpose", "smimesign",
		"-attime", strconv.FormatInt(now.Unix(), 10), "-no-CApath", "-no-CAstore"}
	if len(g.anchors) == 0 {
		args = append(args, "-no-CAfile")
	} else {
		args = append(args, "-trusted", file("anchors.pem", g.anchors...))
	}
	if len(g.pool) > 0 {
		args = append(args, "-untrusted", file("pool.pem", g.pool...))
	}
	out, err := exec.Command(tool, append(args, file("leaf.pem", g.leaf))...).CombinedOutput()
	return err == nil, string(out)
}

// TestPath_keyForPSSOnly: crypto/x509 does not read a key that its certificate
// marks for PSS only (RFC 4055 §1.2, row SM-14); openssl makes them.
func TestPath_keyForPSSOnly(t *testing.T) {
	tool, dir := need.Tool(t, "openssl"), t.TempDir()
	run := func(args ...string) {
		cmd := exec.Command(tool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	load := func(name string) *x509.Certificate {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for bits, want := range map[string]Reason{"2048": "", "1024": WeakKey} {
		run("req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:"+bits, "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
			"-subj", "/CN=CA", "-addext", "keyUsage=critical,keyCertSign")
		run("req", "-new", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-keyout", "leaf.key", "-out", "leaf.csr",
			"-subj", "/CN=A", "-addext", "subjectAltName=email:alice@hospital.example", "-addext", "keyUsage=digitalSignature,keyEncipherment")
		run("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-copy_extensions", "copyall", "-days", "3", "-set_serial", "7", "-out", "leaf.pem",
			"-sha256", "-sigopt", "rsa_pss_saltlen:-1") // crypto/x509 reads salts as long as the digest only
		leaf, ca := load("leaf.pem"), load("ca.pem")
		chain, err := New(Config{}).Path(leaf, nil, certs{ca}, time.Now())
		checkPath(t, given{leaf: leaf, anchors: certs{ca}}, chain, err, want)
		if err := CheckUsage(leaf, Sign); err != nil {
			t.Error(err)
		}
		if err := CheckUsage(leaf, Encrypt); err == nil {
			t.Error("a key for PSS only is taken for encryption")
		}
	}
}
