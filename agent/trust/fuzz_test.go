package trust

import (
	"crypto/x509"
	"testing"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testca"
)

// FuzzPath puts a certificate from outside into every place it can have: the
// end entity, an intermediate, the anchor, and asks for its binding and use.
// No certificate that is not an anchor may become one.
func FuzzPath(f *testing.F) {
	for _, c := range allCases() {
		g := c.given()
		f.Add(g.leaf.Raw)
		if len(g.pool) > 1 {
			f.Add(g.pool[1].Raw)
		}
	}
	f.Add(testca.NewRoot("Root").Issue(utf8Mailbox("ålice@hospital.example")).Cert.Raw)
	base := issuedBy(constrained(false, directoryName(example)))()
	addr := hisp.Address{Local: "alice", Domain: "hospital.example"}
	v := New(Config{})
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		Bound(cert, addr)
		_ = CheckUsage(cert, Sign)
		_ = CheckUsage(cert, Encrypt)
		pool := append(certs{cert}, base.pool...)
		_, _ = v.Path(base.leaf, pool, certs{cert}, now)
		_, _ = v.Path(cert, pool, certs{cert}, now)
		if chain, err := v.Path(cert, pool, base.anchors, now); err == nil && !containsCert(base.anchors, chain[len(chain)-1]) {
			t.Error("the chain does not end with an anchor")
		}
	})
}
