package trust

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/testca"
)

func TestPath_throughIntermediates(t *testing.T) {
	root := testca.NewRoot("Root")
	leaf := root.Intermediate(testca.Spec{Name: "One"}).Intermediate(testca.Spec{Name: "Two"}).Issue(testca.Spec{Email: []string{"alice@hospital.example"}})
	chain, err := New(Config{}).Path(leaf.Cert, leaf.Chain, []*x509.Certificate{root.Cert}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 4 || chain[0] != leaf.Cert || chain[3] != root.Cert {
		t.Errorf("chain of %d certificates, want leaf, two intermediates, root", len(chain))
	}
}
