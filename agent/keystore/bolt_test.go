package keystore

import (
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
	"github.com/hispnode/hisp/test/testca"
)

// openBolt opens a store with hospital.example and a key store over it.
func openBolt(t testing.TB, dir string) (*bolt.Store, *Keys) {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Create: true, Dir: dir, MasterKey: store.MasterKey{1}})
	if err != nil {
		t.Fatal(err)
	}
	return s, New(Config{Store: s, Hosted: s.Hosted})
}

// TestKeys_surviveRestart keeps what the fakes promise with the real store:
// a renewed key and a retired one are there after a restart, in order.
func TestKeys_surviveRestart(t *testing.T) {
	dir := t.TempDir()
	s, keys := openBolt(t, dir)
	if err := s.AddDomain(t.Context(), store.Domain{Name: "hospital.example", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	root, private := testca.NewRoot("Root"), testca.NewKey(testca.RSA2048)
	retired := root.Issue(testca.Spec{DNS: []string{"hospital.example"}})
	first := root.Issue(forAlice(func(s *testca.Spec) { s.Key, s.NotBefore = private, time.Now().Add(-2*time.Hour) }))
	second := root.Issue(forAlice(func(s *testca.Spec) { s.Key = private }))
	for _, c := range []*testca.Issued{retired, first, second} {
		key, err := keys.Import(t.Context(), hisp.Address{}, c.PKCS12("pw"), "pw")
		if err != nil {
			t.Fatal(err)
		}
		if c == retired {
			if _, err := keys.Retire(t.Context(), key.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, keys = openBolt(t, dir)
	defer s.Close()
	f := &fixture{Keys: keys}
	checkCerts(t, signers(t, f, alice), second.Cert)
	checkCerts(t, decrypters(t, f, alice), second.Cert, first.Cert, retired.Cert)
}

func BenchmarkSigningKeys_bolt(b *testing.B) {
	s, keys := openBolt(b, b.TempDir())
	defer s.Close()
	if err := s.AddDomain(b.Context(), store.Domain{Name: "hospital.example"}); err != nil {
		b.Fatal(err)
	}
	issued := testca.NewRoot("Root").Issue(testca.Spec{DNS: []string{"hospital.example"}})
	if _, err := keys.Import(b.Context(), hospital, issued.PKCS12("pw"), "pw"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if list, err := keys.SigningKeys(b.Context(), alice); err != nil || len(list) != 1 {
			b.Fatal(err)
		}
	}
}
