package keystore

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/test/testca"
)

// memory is a store.Keys in memory.
type memory struct {
	mu   sync.Mutex
	keys map[string]store.Key
}

func (m *memory) PutKey(_ context.Context, k store.Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[k.ID] = k
	return nil
}

func (m *memory) ListKeys(_ context.Context, owner hisp.Address) ([]store.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Key
	for _, k := range m.keys {
		ofDomain := k.Owner.Domain == owner.Domain && k.Owner.Local == ""
		if owner == (hisp.Address{}) || ofDomain || owner.Local != "" && k.Owner.Equal(owner) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b store.Key) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

func (m *memory) RemoveKey(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.keys[id]; !ok {
		return hisp.NotFound
	}
	delete(m.keys, id)
	return nil
}

// fixture is a key store for hospital.example and clinic.example with a clock
// that each import moves on by a minute.
type fixture struct {
	*Keys
	mem *memory
	now time.Time
}

func newFixture() *fixture {
	f := &fixture{mem: &memory{keys: map[string]store.Key{}}, now: time.Now().UTC()}
	f.Keys = New(Config{
		Store: f.mem,
		Hosted: func(_ context.Context, d hisp.Domain) (bool, error) {
			return d == "hospital.example" || d == "clinic.example", nil
		},
		Clock: func() time.Time { return f.now },
	})
	return f
}

var (
	alice    = hisp.Address{Local: "alice", Domain: "hospital.example"}
	hospital = hisp.Address{Domain: "hospital.example"}
	clinic   = hisp.Address{Domain: "clinic.example"}
)

// mustImport imports what root issues for s and returns the certificate.
func (f *fixture) mustImport(t testing.TB, owner hisp.Address, s testca.Spec) (*x509.Certificate, store.Key) {
	t.Helper()
	issued := testca.NewRoot("Root").Issue(s)
	key, err := f.Import(t.Context(), owner, append(issued.KeyPEM(), testca.PEM(issued.Chain...)...), "")
	if err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(time.Minute)
	return issued.Cert, key
}

func forAlice(change func(*testca.Spec)) testca.Spec {
	s := testca.Spec{Email: []string{alice.AddrSpec()}}
	change(&s)
	return s
}

func keep(*testca.Spec) {}

func signers(t *testing.T, f *fixture, addr hisp.Address) []*x509.Certificate {
	t.Helper()
	keys, err := f.SigningKeys(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	var out []*x509.Certificate
	for _, k := range keys {
		if !matches(k.Signer, k.Chain[0]) {
			t.Error("signer and certificate do not belong together")
		}
		out = append(out, k.Chain[0])
	}
	return out
}

func decrypters(t *testing.T, f *fixture, addr hisp.Address) []*x509.Certificate {
	t.Helper()
	keys, err := f.DecryptionKeys(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	var out []*x509.Certificate
	for _, k := range keys {
		out = append(out, k.Cert)
	}
	return out
}

func checkCerts(t *testing.T, got []*x509.Certificate, want ...*x509.Certificate) {
	t.Helper()
	if !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
		t.Errorf("%d certificates, want %d others or in another order", len(got), len(want))
	}
}

func TestSigningKeys_addressBoundFirstThenNewest(t *testing.T) {
	f := newFixture()
	ofAlice, _ := f.mustImport(t, alice, forAlice(keep))
	old, _ := f.mustImport(t, hospital, testca.Spec{DNS: []string{"hospital.example"}})
	young, _ := f.mustImport(t, hospital, testca.Spec{DNS: []string{"hospital.example"}})
	f.mustImport(t, clinic, testca.Spec{DNS: []string{"clinic.example"}})
	checkCerts(t, signers(t, f, alice), ofAlice, young, old)
	checkCerts(t, signers(t, f, hisp.Address{Local: "ALICE", Domain: "hospital.example"}), ofAlice, young, old)
	checkCerts(t, signers(t, f, hisp.Address{Local: "bob", Domain: "hospital.example"}), young, old)
	checkCerts(t, signers(t, f, hisp.Address{Local: "alice", Domain: "sub.hospital.example"}))
	checkCerts(t, signers(t, f, hisp.Address{}))
}

func TestSigningKeys_onlyUsable(t *testing.T) {
	for name, c := range map[string]struct {
		spec   testca.Spec
		signs  bool
		opens  bool
		change func(*testing.T, *fixture, store.Key)
	}{
		"dual use":               {forAlice(keep), true, true, nil},
		"CRT-07: signature only": {forAlice(func(s *testca.Spec) { s.Usage = x509.KeyUsageDigitalSignature }), true, false, nil},
		"CRT-07: encipherment":   {forAlice(func(s *testca.Spec) { s.Usage = x509.KeyUsageKeyEncipherment }), false, true, nil},
		"P-256":                  {forAlice(func(s *testca.Spec) { s.KeyKind = testca.P256 }), true, false, nil},
		"not yet valid":          {forAlice(func(s *testca.Spec) { s.NotBefore = time.Now().Add(time.Hour) }), false, true, nil},
		"CRT-06: expired at import": {forAlice(func(s *testca.Spec) {
			s.NotBefore, s.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), false, true, nil},
		"CRT-06: expired since": {forAlice(keep), false, true, func(_ *testing.T, f *fixture, _ store.Key) { f.now = f.now.AddDate(2, 0, 0) }},
		"retired": {forAlice(keep), false, true, func(t *testing.T, f *fixture, k store.Key) {
			if _, err := f.Retire(t.Context(), k.ID); err != nil {
				t.Error(err)
			}
		}},
		"removed": {forAlice(keep), false, false, func(t *testing.T, f *fixture, k store.Key) {
			if err := f.mem.RemoveKey(t.Context(), k.ID); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			_, key := f.mustImport(t, alice, c.spec)
			signers(t, f, alice) // fills the cache
			decrypters(t, f, alice)
			if c.change != nil {
				c.change(t, f, key)
			}
			if got := len(signers(t, f, alice)) == 1; got != c.signs {
				t.Errorf("signs: %v, want %v", got, c.signs)
			}
			if got := len(decrypters(t, f, alice)) == 1; got != c.opens {
				t.Errorf("decrypts: %v, want %v", got, c.opens)
			}
		})
	}
}

func TestSigningKeys_certificateBoundToAnother(t *testing.T) {
	f := newFixture()
	_, key := f.mustImport(t, hospital, testca.Spec{DNS: []string{"hospital.example"}})
	stored := f.mem.keys[key.ID]
	stored.Owner = clinic // a store that mixes tenants up, row CRT-14
	f.mem.keys[key.ID] = stored
	checkCerts(t, signers(t, f, hisp.Address{Local: "bob", Domain: "clinic.example"}))
}

// TestSigningKeys_storeListsAnothersKey is row CRT-14 against a store that
// answers too much.
func TestSigningKeys_storeListsAnothersKey(t *testing.T) {
	f := newFixture()
	f.mustImport(t, alice, forAlice(keep))
	f.cfg.Store = everything{f.mem}
	bob := hisp.Address{Local: "bob", Domain: "hospital.example"}
	checkCerts(t, signers(t, f, bob))
	checkCerts(t, decrypters(t, f, bob))
}

type everything struct{ *memory }

func (e everything) ListKeys(ctx context.Context, _ hisp.Address) ([]store.Key, error) {
	return e.memory.ListKeys(ctx, hisp.Address{})
}

func TestSigningKeys_sendsIntermediatesWithoutRoot(t *testing.T) {
	f := newFixture()
	issued := testca.NewRoot("Root").Intermediate(testca.Spec{Name: "One"}).Intermediate(testca.Spec{Name: "Two"}).Issue(forAlice(keep))
	shuffled := []*x509.Certificate{issued.Root, issued.Chain[2], testca.NewRoot("Unrelated").Cert, issued.Chain[1], issued.Cert}
	if _, err := f.Import(t.Context(), alice, append(testca.PEM(shuffled...), issued.KeyPEM()...), ""); err != nil {
		t.Fatal(err)
	}
	keys, err := f.SigningKeys(t.Context(), alice)
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	checkCerts(t, keys[0].Chain, issued.Chain...)
}

func TestDecryptionKeys_newestFirstWithTagAndDomain(t *testing.T) {
	f := newFixture()
	domain, _ := f.mustImport(t, hospital, testca.Spec{DNS: []string{"hospital.example"}})
	old, key := f.mustImport(t, alice, forAlice(keep))
	young, _ := f.mustImport(t, alice, forAlice(keep))
	if _, err := f.Retire(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	checkCerts(t, decrypters(t, f, alice), young, old, domain)
	checkCerts(t, decrypters(t, f, hisp.Address{Local: "alice+lab", Domain: "hospital.example"}), young, old, domain)
}

// TestDecryptionKeys_renewedWithSameKey: a peer may still encrypt to the old
// certificate, and names it in the message.
func TestDecryptionKeys_renewedWithSameKey(t *testing.T) {
	f := newFixture()
	private := testca.NewKey(testca.RSA2048)
	first, _ := f.mustImport(t, alice, forAlice(func(s *testca.Spec) { s.Key, s.NotBefore = private, time.Now().Add(-2*time.Hour) }))
	checkCerts(t, signers(t, f, alice), first)
	second, _ := f.mustImport(t, alice, forAlice(func(s *testca.Spec) { s.Key = private }))
	checkCerts(t, signers(t, f, alice), second)
	checkCerts(t, decrypters(t, f, alice), second, first)
	keys, err := f.SigningKeys(t.Context(), alice)
	if err != nil || len(keys[0].Chain) != 1 {
		t.Errorf("the earlier certificate is sent along: %d certificates, %v", len(keys[0].Chain), err)
	}
	if list, err := f.List(t.Context(), alice); err != nil || len(list) != 1 {
		t.Errorf("%d records of one key, %v", len(list), err)
	}
}

func TestDecryptionKeys_decrypts(t *testing.T) {
	f := newFixture()
	cert, _ := f.mustImport(t, alice, forAlice(keep))
	keys, err := f.DecryptionKeys(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	secret := encryptTo(t, cert, []byte("secret"))
	plain, err := keys[0].Decrypt(rand.Reader, secret, &rsa.OAEPOptions{Hash: crypto.SHA256})
	if err != nil || string(plain) != "secret" {
		t.Errorf("Decrypt: %v", err)
	}
}

func TestKeys_unreadableKeyIsNotPassedOver(t *testing.T) {
	f := newFixture()
	_, key := f.mustImport(t, alice, forAlice(keep))
	stored := f.mem.keys[key.ID]
	stored.PKCS8 = testca.NewRoot("Root").PKCS8() // of another key
	f.mem.keys[key.ID] = stored
	if _, err := f.SigningKeys(t.Context(), alice); hisp.KindOf(err) != hisp.Internal {
		t.Errorf("SigningKeys: %v, want Internal", err)
	}
	if _, err := f.DecryptionKeys(t.Context(), alice); hisp.KindOf(err) != hisp.Internal {
		t.Errorf("DecryptionKeys: %v, want Internal", err)
	}
}

func TestKeys_storeErrorKeepsItsKind(t *testing.T) {
	f := newFixture()
	f.cfg.Store = broken{}
	if _, err := f.SigningKeys(t.Context(), alice); !errors.Is(err, hisp.Temporary) || hisp.KindOf(err) != hisp.Temporary {
		t.Errorf("SigningKeys: %v, want Temporary", err)
	}
}

type broken struct{ store.Keys }

func (broken) ListKeys(context.Context, hisp.Address) ([]store.Key, error) {
	return nil, hisp.Temporary
}

func TestKeys_parsedOnce(t *testing.T) {
	f := newFixture()
	f.mustImport(t, alice, forAlice(keep))
	handle := func() crypto.Signer {
		keys, err := f.SigningKeys(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		return keys[0].Signer
	}
	first := handle()
	if handle() != first {
		t.Error("the key was parsed again")
	}
	f.forget()
	if handle() == first {
		t.Error("the key was not forgotten")
	}
}

// forget drops the parsed keys, as more than maxCached of them do.
func (k *Keys) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.cache)
}

func TestKeys_concurrent(t *testing.T) {
	f := newFixture()
	f.mustImport(t, alice, forAlice(keep))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if keys, err := f.SigningKeys(t.Context(), alice); err != nil || len(keys) != 1 {
					t.Errorf("%d keys, %v", len(keys), err)
				}
				f.forget()
				if keys, err := f.DecryptionKeys(t.Context(), alice); err != nil || len(keys) != 1 {
					t.Errorf("%d keys, %v", len(keys), err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkSigningKeys(b *testing.B) {
	f := newFixture()
	f.mustImport(b, alice, forAlice(keep))
	digest := sha256.Sum256([]byte("x"))
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if keys, err := f.SigningKeys(b.Context(), alice); err != nil || len(keys) != 1 {
				b.Fatal(err)
			}
		}
	})
	b.Run("list without cache", func(b *testing.B) {
		for b.Loop() {
			f.forget()
			if keys, err := f.SigningKeys(b.Context(), alice); err != nil || len(keys) != 1 {
				b.Fatal(err)
			}
		}
	})
	b.Run("sign for comparison", func(b *testing.B) {
		keys, _ := f.SigningKeys(b.Context(), alice)
		for b.Loop() {
			if _, err := keys[0].Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
	})
}
