// Package test holds what is true of the whole tree: the layers, the stories,
// the interoperation and crash tests.
package test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hispnode/hisp/"

// ours is the policy: which packages of this module a package may import. It
// is a statement of design (docs/ARCHITECTURE.md §2); do not change a row to
// fix a build. A package without a row fails the test.
var ours = map[string][]string{
	// L0 formats: bytes in, values out, no I/O.
	"hisp/mimetree": {},
	"mdn":           {"hisp/mimetree"},
	"agent/cms":     {},
	"agent/smime":   {"hisp/mimetree"},
	// L1 core.
	"hisp": {"mdn", "hisp/mimetree"},
	// L2 contract.
	"store": {"hisp"},
	// L3 parts: never a sibling part.
	"agent/trust":    {"hisp"},
	"agent/keystore": {"hisp", "store"},
	"agent":          {"hisp", "hisp/mimetree", "agent/cms", "agent/smime", "agent/trust"},
	"dnscert":        {"hisp"},
	"smtpd":          {"hisp"},
	"smtpd/relay":    {"hisp"},
	"imapd":          {"hisp", "hisp/mimetree", "store"},
	"store/bolt":     {"hisp", "store"},
	// L4 wiring: everything.
	"cmd/hisp": {"*"},
	// Test support.
	"test":            {"*"},
	"test/need":       {},
	"test/testca":     {},
	"test/testdns":    {},
	"test/testnet":    {"*"},
	"test/interop":    {"*"},
	"test/crash":      {"*"},
	"test/bench":      {"*"},
	"test/load":       {},
	"test/postfix":    {"test/need", "test/testca", "test/testnet"},
	"store/storetest": {"hisp", "store"},
}

// theirs names the only packages that may import a third-party module
// directly; tests may import any.
var theirs = map[string][]string{
	"github.com/BurntSushi/toml":         {"cmd/hisp"},
	"github.com/emersion/go-imap/v2":     {"imapd", "cmd/hisp"}, // cmd/hisp: the demo's built-in client
	"github.com/emersion/go-message":     {"cmd/hisp"},          // the letters of send and the demo
	"github.com/emersion/go-sasl":        {"smtpd", "imapd", "cmd/hisp"},
	"github.com/emersion/go-smtp":        {"smtpd", "cmd/hisp"},
	"github.com/miekg/dns":               {"dnscert", "test/testdns"},
	"github.com/rogpeppe/go-internal":    {},
	"go.etcd.io/bbolt":                   {"store/bolt"},
	"go.mozilla.org/pkcs7":               {"agent/cms"},
	"golang.org/x/crypto":                {"store", "store/bolt", "agent/cms", "agent/keystore"},
	"golang.org/x/net":                   {"hisp"}, // idna
	"golang.org/x/sync":                  {"hisp", "smtpd/relay", "cmd/hisp"},
	"golang.org/x/sys":                   {"store/bolt", "cmd/hisp"},
	"golang.org/x/term":                  {"cmd/hisp"},
	"golang.org/x/text":                  {"imapd", "hisp/mimetree", "mdn"},
	"software.sslmate.com/src/go-pkcs12": {"agent/keystore"},
}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

func TestLayers(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := ours[name]
		if !known {
			t.Errorf("%s has no row in the layer table", name)
			continue
		}
		for _, imp := range p.Imports {
			switch {
			case strings.HasPrefix(imp, module):
				dep := strings.TrimPrefix(imp, module)
				if !slices.Contains(allowed, dep) && !slices.Contains(allowed, "*") {
					t.Errorf("%s imports %s, which its layer does not allow", name, dep)
				}
			case strings.Contains(strings.SplitN(imp, "/", 2)[0], "."):
				checkThirdParty(t, name, imp)
			}
		}
	}
}

func checkThirdParty(t *testing.T, name, imp string) {
	t.Helper()
	if strings.HasPrefix(name, "test") && name != "test/testdns" {
		return
	}
	for mod, users := range theirs {
		if imp == mod || strings.HasPrefix(imp, mod+"/") {
			if !slices.Contains(users, name) {
				t.Errorf("%s imports %s; only %v may", name, imp, users)
			}
			return
		}
	}
	t.Errorf("%s imports %s, a module without a row in the layer table", name, imp)
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []listedPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listedPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("go list output: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}
