package trust

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testca"
)

func address(t testing.TB, s string) hisp.Address {
	t.Helper()
	a, err := hisp.ParseAddress(s)
	if err != nil {
		t.Fatalf("test address: %v", err)
	}
	return a
}

func TestBound(t *testing.T) {
	root := testca.NewRoot("Root")
	const alice = "alice@hospital.example"
	for _, c := range []struct {
		name    string
		address string
		spec    testca.Spec
		want    Binding
	}{
		{"CRT-02: mailbox equals", alice, testca.Spec{Email: []string{alice}}, AddressBound},
		{"CRT-02: mailbox equals without case", "Alice@Hospital.example", testca.Spec{Email: []string{"aLICE@hOSPITAL.EXAMPLE"}}, AddressBound},
		{"CRT-02: other mailbox", alice, testca.Spec{Email: []string{"bob@hospital.example"}}, None},
		{"CRT-02: mailbox in another domain", alice, testca.Spec{Email: []string{"alice@clinic.example"}}, None},
		{"CRT-02: mailbox of the tagged address is not that of the base", "alice+x@hospital.example", testca.Spec{Email: []string{alice}}, None},
		{"CRT-02: second of two mailboxes", alice, testca.Spec{Email: []string{"bob@hospital.example", alice}}, AddressBound},
		{"CRT-02: mailbox with angle brackets", alice, testca.Spec{Email: []string{"<" + alice + ">"}}, None},
		{"CRT-02: mailbox with a display name", alice, testca.Spec{Email: []string{"A <" + alice + ">"}}, None},
		{"CRT-02: mailbox with NUL", alice, testca.Spec{Email: []string{alice + "\x00.evil.example"}}, None},
		{"CRT-02: mailbox with trailing dot", alice, testca.Spec{Email: []string{alice + "."}}, None},
		{"CRT-02: quoted local part", `"a b"@hospital.example`, testca.Spec{Email: []string{`"a b"@hospital.example`}}, AddressBound},
		{"CRT-02: domain equals", alice, testca.Spec{DNS: []string{"hospital.example"}}, DomainBound},
		{"CRT-02: domain equals without case", alice, testca.Spec{DNS: []string{"Hospital.EXAMPLE"}}, DomainBound},
		{"CRT-02: address before domain", alice, testca.Spec{DNS: []string{"hospital.example"}, Email: []string{alice}}, AddressBound},
		{"CRT-05: address in a subdomain", "alice@sub.hospital.example", testca.Spec{DNS: []string{"hospital.example"}}, None},
		{"CRT-05: certificate for a subdomain", alice, testca.Spec{DNS: []string{"sub.hospital.example"}}, None},
		{"CRT-05: wildcard", alice, testca.Spec{DNS: []string{"*.example"}}, None},
		{"CRT-05: wildcard taken literally", "alice@sub.hospital.example", testca.Spec{DNS: []string{"*.hospital.example"}}, None},
		{"CRT-05: trailing dot", alice, testca.Spec{DNS: []string{"hospital.example."}}, None},
		{"CRT-05: domain as mailbox", alice, testca.Spec{Email: []string{"hospital.example"}}, None},
		{"CRT-05: mailbox as domain", alice, testca.Spec{DNS: []string{alice}}, None},
		{"CRT-03: DN emailAddress alone", alice, testca.Spec{Name: "A", DNEmail: alice}, None},
		{"CRT-03: common name alone", alice, testca.Spec{Name: alice}, None},
		{"CRT-03: common name is the domain", alice, testca.Spec{Name: "hospital.example"}, None},
		{"CRT-03: DN emailAddress agrees with SAN", alice, testca.Spec{Email: []string{alice}, DNEmail: "Alice@hospital.example"}, AddressBound},
		{"CRT-03: DN emailAddress contradicts SAN", alice, testca.Spec{Email: []string{alice}, DNEmail: "bob@hospital.example"}, None},
		{"CRT-03: DN emailAddress is the domain", alice, testca.Spec{DNS: []string{"hospital.example"}, DNEmail: "hospital.example"}, DomainBound},
		{"CRT-03: DN emailAddress contradicts the domain", alice, testca.Spec{DNS: []string{"hospital.example"}, DNEmail: "alice@clinic.example"}, None},
		{"CRT-03: DN emailAddress beside the domain is not the SAN", alice, testca.Spec{DNS: []string{"hospital.example"}, DNEmail: alice}, None},
		{"RFC 8398: UTF-8 mailbox", "ålice@hospital.example", utf8Mailbox("ålice@hospital.example"), AddressBound},
		{"RFC 8398: UTF-8 mailbox, other domain", "ålice@clinic.example", utf8Mailbox("ålice@hospital.example"), None},
		{"RFC 8398: UTF-8 mailbox with U-label", "ålice@bücher.example", utf8Mailbox("ålice@bücher.example"), AddressBound},
		{"RFC 8398: ASCII mailbox in the UTF-8 form", alice, utf8Mailbox(alice), None},
		{"RFC 8398: A-label mailbox", "alice@bücher.example", testca.Spec{Email: []string{"alice@xn--bcher-kva.example"}}, AddressBound},
		{"Kelvin sign is not k", "\u212aim@hospital.example", testca.Spec{Email: []string{"kim@hospital.example"}}, None},
		{"no subjectAltName", alice, testca.Spec{Name: "A"}, None},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.KeyKind = testca.P256
			if got := Bound(root.Issue(c.spec).Cert, address(t, c.address)); got != c.want {
				t.Errorf("Bound = %v, want %v", got, c.want)
			}
		})
	}
	if got := Bound(root.Issue(testca.Spec{DNS: []string{""}, KeyKind: testca.P256}).Cert, hisp.Address{}); got != None {
		t.Errorf("null sender is %v", got)
	}
}

// utf8Mailbox makes a certificate with a SmtpUTF8Mailbox, RFC 8398 §3.
func utf8Mailbox(mailbox string) testca.Spec {
	value := mustDER(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(mailbox)})
	other := append(mustDER(oidSmtpUTF8Mailbox), mustDER(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: value})...)
	san := mustDER([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tagOtherName, IsCompound: true, Bytes: other}})
	return testca.Spec{Name: "A", Extra: []pkix.Extension{{Id: oidSubjectAltName, Value: san}}}
}

func TestPath_constraintOnUTF8Mailbox(t *testing.T) {
	leaf := utf8Mailbox("ålice@evil.example")
	leaf.KeyKind = testca.P256
	g := under(mailPermitted("example.com"), leaf)()
	chain, err := New(Config{}).Path(g.leaf, g.pool, g.anchors, now)
	checkPath(t, g, chain, err, NameConstraint)
}

func TestCheckUsage(t *testing.T) {
	const signing, encryption, agreement = x509.KeyUsageDigitalSignature, x509.KeyUsageKeyEncipherment, x509.KeyUsageKeyAgreement
	root := testca.NewRoot("Root")
	emptyUsage := pkix.Extension{Id: oidKeyUsage, Critical: true, Value: []byte{3, 2, 7, 0}}
	for _, c := range []struct {
		name          string
		spec          testca.Spec
		sign, encrypt Reason
	}{
		{"CRT-07: dual use", testca.Spec{}, "", ""},
		{"CRT-07: signature only", testca.Spec{Usage: signing}, "", KeyUsage},
		{"CRT-07: encryption only", testca.Spec{Usage: encryption}, KeyUsage, ""},
		{"CRT-07: no keyUsage extension", testca.Spec{Usage: testca.NoUsage}, "", ""},
		{"CRT-07: keyUsage without a bit", testca.Spec{Usage: testca.NoUsage, Extra: []pkix.Extension{emptyUsage}}, KeyUsage, KeyUsage},
		{"CRT-07: nonRepudiation only", testca.Spec{Usage: x509.KeyUsageContentCommitment}, KeyUsage, KeyUsage},
		{"CRT-07: dataEncipherment only", testca.Spec{Usage: x509.KeyUsageDataEncipherment}, KeyUsage, KeyUsage},
		{"P-256 signs and does not transport keys", testca.Spec{KeyKind: testca.P256, Usage: signing | encryption | agreement}, "", WeakKey},
		{"SM-15: RSA 1024", testca.Spec{KeyKind: testca.RSA1024}, WeakKey, WeakKey},
		{"S12: CA", testca.Spec{Modify: func(c *x509.Certificate) { c.IsCA = true }}, CAAsLeaf, CAAsLeaf},
		{"S12: keyCertSign", testca.Spec{Usage: signing | encryption | x509.KeyUsageCertSign}, CAAsLeaf, CAAsLeaf},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.Email = alice.Email
			cert := root.Issue(c.spec).Cert
			checkPath(t, given{leaf: cert, anchors: certs{cert}}, chainIf(cert, CheckUsage(cert, Sign)), CheckUsage(cert, Sign), c.sign)
			checkPath(t, given{leaf: cert, anchors: certs{cert}}, chainIf(cert, CheckUsage(cert, Encrypt)), CheckUsage(cert, Encrypt), c.encrypt)
			if CheckUsage(cert, 0) == nil {
				t.Error("no usage was allowed")
			}
		})
	}
}

func chainIf(cert *x509.Certificate, err error) certs {
	if err != nil {
		return nil
	}
	return certs{cert}
}

func TestCheckUsage_smallExponent(t *testing.T) {
	key := *testca.NewKey(testca.RSA2048).Public().(*rsa.PublicKey)
	for e, want := range map[int]Reason{1: WeakKey, 3: WeakKey, 65536: WeakKey, 65537: ""} {
		key.E = e
		if got := usageProblem(&x509.Certificate{PublicKey: &key}, Sign); got != want {
			t.Errorf("e = %d: %q, want %q", e, got, want)
		}
	}
}

func BenchmarkBound(b *testing.B) {
	cert, addr := testca.NewRoot("Root").Issue(alice).Cert, address(b, alice.Email[0])
	for b.Loop() {
		if Bound(cert, addr) != AddressBound {
			b.Fatal("not bound")
		}
	}
}
