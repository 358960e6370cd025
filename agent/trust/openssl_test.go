package trust

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

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
