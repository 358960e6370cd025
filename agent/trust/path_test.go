package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

// checkPath compares the result of Path with what is wanted.
func checkPath(t *testing.T, g given, chain certs, err error, want Reason) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Fatalf("Path: %v, want a chain", err)
		}
		if chain[0] != g.leaf || !containsCert(g.anchors, chain[len(chain)-1]) {
			t.Errorf("chain of %d certificates does not lead from leaf to anchor", len(chain))
		}
		return
	}
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatalf("Path: %v, want %q", err, want)
	}
	if !slices.ContainsFunc(refused.Refusals, func(r Refusal) bool { return r.Reason == want }) {
		t.Errorf("refused with %v, want %q", refused, want)
	}
	if !errors.Is(err, hisp.Untrusted) || hisp.HintOf(err) == "" {
		t.Errorf("error %v is not Untrusted with a hint", err)
	}
	if chain != nil {
		t.Error("a chain beside the error")
	}
}

func TestPath_throughIntermediates(t *testing.T) {
	root := testca.NewRoot("Root")
	leaf := root.Intermediate(testca.Spec{Name: "One"}).Intermediate(testca.Spec{Name: "Two"}).Issue(alice)
	chain, err := New(Config{}).Path(leaf.Cert, leaf.Chain, certs{root.Cert}, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 4 || chain[0] != leaf.Cert || chain[3] != root.Cert {
		t.Errorf("chain of %d certificates, want leaf, two intermediates, root", len(chain))
	}
}

func TestPath_stopsAtNearestAnchor(t *testing.T) {
	g := issuedBy(testca.Spec{})()
	copied, err := x509.ParseCertificate(g.pool[1].Raw) // the same bytes, not the same value
	if err != nil {
		t.Fatal(err)
	}
	chain, err := New(Config{}).Path(g.leaf, g.pool, certs{g.anchors[0], copied}, now)
	if err != nil || len(chain) != 2 {
		t.Errorf("chain of %d certificates, %v; want leaf and intermediate anchor", len(chain), err)
	}
}

func TestPath_negativeSerial(t *testing.T) {
	g := issuedBy(testca.Spec{})()
	leaf := *g.leaf // crypto/x509 does not parse one; another parser may
	leaf.SerialNumber = big.NewInt(-1)
	g.leaf = &leaf
	chain, err := New(Config{}).Path(&leaf, g.pool, g.anchors, now)
	checkPath(t, g, chain, err, BadSerial)
}

func TestPath_nilCertificates(t *testing.T) {
	v := New(Config{})
	if _, err := v.Path(nil, nil, nil, now); !errors.Is(err, hisp.Malformed) {
		t.Errorf("nil leaf: %v, want Malformed", err)
	}
	g := issuedBy(testca.Spec{})()
	chain, err := v.Path(g.leaf, append(g.pool, nil), append(g.anchors, nil), now)
	checkPath(t, g, chain, err, "")
}

func TestPath_depth(t *testing.T) {
	for length, want := range map[int]Reason{8: "", 9: TooComplex} {
		ca := testca.NewRoot("Root")
		for i := range length - 2 {
			ca = ca.Intermediate(testca.Spec{Name: fmt.Sprint("CA ", i)})
		}
		g := whole(ca.Issue(alice))
		chain, err := New(Config{}).Path(g.leaf, g.pool, g.anchors, now)
		checkPath(t, g, chain, err, want)
	}
}

func TestPath_poolTooLarge(t *testing.T) {
	g := issuedBy(testca.Spec{})()
	for len(g.pool) <= 256 {
		g.pool = append(g.pool, g.pool[1])
	}
	chain, err := New(Config{}).Path(g.leaf, g.pool, g.anchors, now)
	checkPath(t, g, chain, err, TooComplex)
}

// TestPath_boundedWork is security row S11: less than a second of CPU for
// whatever is in the message.
func TestPath_boundedWork(t *testing.T) {
	for name, g := range map[string]given{
		"200 intermediates with the same subject":          sameSubject(200),
		"mesh with more cross certificates than checks":    mesh(12),
		"mesh with more paths than steps":                  mesh(9),
		"10000 names against 2000 name constraints":        manyNames(10_000, 2000),
		"900 names against 900 name constraints, too many": manyNames(900, 900),
	} {
		t.Run(name, func(t *testing.T) {
			var chain []*x509.Certificate
			var err error
			need.CPU(t, time.Second, func() { chain, err = New(Config{}).Path(g.leaf, g.pool, g.anchors, now) })
			checkPath(t, g, chain, err, TooComplex)
			var refused *Error
			if errors.As(err, &refused) && refused.Refusals[0] != (Refusal{Cert: g.leaf, Reason: TooComplex}) {
				t.Errorf("first refusal %v, want the search given up", refused.Refusals[0])
			}
		})
	}
}

// sameSubject makes n intermediates with the subject and key identifier of
// the leaf's issuer, none of which signed it.
func sameSubject(n int) given {
	root := testca.NewRoot("Root")
	g := whole(root.Intermediate(testca.Spec{Name: "Same"}).Issue(alice))
	g.pool = nil
	for range n {
		g.pool = append(g.pool, root.Intermediate(testca.Spec{Name: "Same", SubjectKeyID: g.leaf.AuthorityKeyId}).Cert)
	}
	return g
}

// mesh makes n CAs each of which certified each other.
func mesh(n int) given {
	cas := make([]*testca.CA, n)
	for i := range cas {
		cas[i] = testca.NewRoot(fmt.Sprint("CA ", i))
	}
	g := given{leaf: cas[0].Issue(alice).Cert, anchors: certs{testca.NewRoot("Elsewhere").Cert}}
	for _, issuer := range cas {
		for _, subject := range cas {
			if issuer != subject {
				g.pool = append(g.pool, issuer.Intermediate(testca.Spec{Name: subject.Cert.Subject.CommonName, Key: subject.Key}).Cert)
			}
		}
	}
	return g
}

func manyNames(names, constraints int) given {
	list := func(n int, format string) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprintf(format, i)
		}
		return out
	}
	return under(modified(func(c *x509.Certificate) { c.ExcludedEmailAddresses = list(constraints, "x%d.example") }),
		testca.Spec{Name: "A", KeyKind: testca.P256, Email: list(names, "a@h%d.example")})()
}

func TestPath_orderDoesNotMatter(t *testing.T) {
	own, bridge, other := testca.NewRoot("Own"), testca.NewRoot("Bridge"), testca.NewRoot("Other")
	g := whole(own.Issue(alice))
	g.anchors = certs{bridge.Cert, other.Cert}
	for range 4 {
		g.pool = append(g.pool, bridge.Intermediate(testca.Spec{Name: "Own", Key: own.Key}).Cert,
			other.Intermediate(testca.Spec{Name: "Own", Key: own.Key}).Cert)
	}
	refused := given{leaf: g.leaf, pool: g.pool, anchors: certs{own.Intermediate(testca.Spec{Name: "Nobody"}).Cert}}
	var want, wantErr string
	for range 50 {
		for _, list := range []certs{g.pool, g.anchors} {
			rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		}
		chain, err := New(Config{}).Path(g.leaf, g.pool, g.anchors, now)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%x", fingerprint(chain[1]))
		_, err = New(Config{}).Path(refused.leaf, g.pool, refused.anchors, now)
		if want == "" {
			want, wantErr = got, err.Error()
		}
		if got != want || err.Error() != wantErr {
			t.Fatal("another order of the same certificates gave another result")
		}
	}
}

// TestPath_cacheRemembersNoTime asks the same chain at a good and a bad time.
func TestPath_cacheRemembersNoTime(t *testing.T) {
	g, v := issuedBy(testca.Spec{})(), New(Config{})
	for range 2 {
		chain, err := v.Path(g.leaf, g.pool, g.anchors, now)
		checkPath(t, g, chain, err, "")
		chain, err = v.Path(g.leaf, g.pool, g.anchors, now.AddDate(2, 0, 0))
		checkPath(t, g, chain, err, Expired)
		chain, err = v.Path(g.leaf, g.pool, nil, now)
		checkPath(t, given{leaf: g.leaf}, chain, err, NoPath)
	}
}

func TestPath_cacheIsBounded(t *testing.T) {
	c := newSignatureCache(10)
	for i := range 1000 {
		c.add(signatureKey{key: [32]byte{byte(i), byte(i >> 8)}})
		if n := len(c.young) + len(c.old); n > 10 {
			t.Fatalf("%d entries, want at most 10", n)
		}
	}
	if !c.has(signatureKey{key: [32]byte{byte(999 & 0xff), byte(999 >> 8)}}) {
		t.Error("the newest entry is gone")
	}
	if c.has(signatureKey{key: [32]byte{0}}) {
		t.Error("the oldest entry is still there")
	}
}

// TestError_namesNobody: subjects of persons are PHI and stay out of texts.
func TestError_namesNobody(t *testing.T) {
	leaf := testca.NewRoot("Root Canary").Issue(testca.Spec{Name: "Canary Person", Email: []string{"canary@canary.example"}, KeyKind: testca.P256})
	_, err := New(Config{}).Path(leaf.Cert, nil, nil, now)
	if err == nil || strings.Contains(strings.ToLower(err.Error()), "canary") {
		t.Errorf("error text %v", err)
	}
}

func TestPath_concurrent(t *testing.T) {
	v := New(Config{Cache: 2})
	good, bad := issuedBy(testca.Spec{})(), mesh(4)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				chain, err := v.Path(good.leaf, good.pool, good.anchors, now)
				checkPath(t, good, chain, err, "")
				chain, err = v.Path(bad.leaf, bad.pool, bad.anchors, now)
				checkPath(t, bad, chain, err, NoPath)
			}
		})
	}
	wg.Wait()
}

// TestError_hintNamesTheCause: the hint is that of the refusal that says most.
func TestError_hintNamesTheCause(t *testing.T) {
	for _, c := range allCases() {
		if c.want != "" && hints[c.want] == "" {
			t.Errorf("%q has no hint", c.want)
		}
	}
	for want, refusals := range map[Reason][]Refusal{
		Expired:      {{Reason: NoPath}, {Reason: BadSignature}, {Reason: Expired}, {Reason: NoPath}},
		BadSignature: {{Reason: BadSignature}, {Reason: NoPath}},
		NoPath:       {{Reason: NoPath}},
	} {
		if got := hint(refusals); got != hints[want] {
			t.Errorf("hint %q, want that of %q", got, want)
		}
	}
}

func BenchmarkPath(b *testing.B) {
	root := testca.NewRootFrom(testca.Spec{Name: "Root", KeyKind: testca.RSA2048})
	leaf := root.Intermediate(testca.Spec{Name: "CA", KeyKind: testca.RSA2048}).Issue(testca.Spec{Email: alice.Email})
	run := func(b *testing.B, v *Verifier) {
		for b.Loop() {
			if _, err := v.Path(leaf.Cert, leaf.Chain, certs{root.Cert}, now); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("cached", func(b *testing.B) { run(b, New(Config{})) })
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if _, err := New(Config{}).Path(leaf.Cert, leaf.Chain, certs{root.Cert}, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	worst := sameSubject(200)
	b.Run("worst", func(b *testing.B) {
		for b.Loop() {
			New(Config{}).Path(worst.leaf, worst.pool, worst.anchors, now)
		}
	})
}
