package trust

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/testca"
)

type certs = []*x509.Certificate

// now is the time of all path tests: validity is relative to it.
var now = time.Now().UTC().Truncate(time.Second)

// given is what Path is asked.
type given struct {
	leaf          *x509.Certificate
	pool, anchors certs
}

// pathCase is one question with its answer. TestPath asks Path,
// TestPath_opensslAgrees asks openssl verify.
type pathCase struct {
	name    string
	given   func() given
	want    Reason // "" is a path
	openssl string // why openssl decides otherwise, "" if it must agree
}

var alice = testca.Spec{Email: []string{"alice@hospital.example"}, KeyKind: testca.P256}

func aliceWith(change func(*testca.Spec)) testca.Spec {
	s := alice
	change(&s)
	return s
}

// issuedBy makes alice's certificate under one intermediate made from s.
func issuedBy(s testca.Spec) func() given {
	return under(s, alice)
}

// under makes a leaf under one intermediate.
func under(intermediate, leaf testca.Spec) func() given {
	return func() given {
		if intermediate.Name == "" {
			intermediate.Name = "Intermediate"
		}
		root := testca.NewRoot("Root")
		return whole(root.Intermediate(intermediate).Issue(leaf))
	}
}

// below makes a leaf directly under a root made from s.
func below(root, leaf testca.Spec) func() given {
	return func() given {
		root.Name = "Root"
		return whole(testca.NewRootFrom(root).Issue(leaf))
	}
}

func whole(leaf *testca.Issued) given {
	return given{leaf: leaf.Cert, pool: leaf.Chain, anchors: certs{leaf.Root}}
}

func validity(from, to time.Duration) testca.Spec {
	return testca.Spec{NotBefore: now.Add(from), NotAfter: now.Add(to)}
}

func aliceValid(from, to time.Duration) testca.Spec {
	return aliceWith(func(s *testca.Spec) { s.NotBefore, s.NotAfter = now.Add(from), now.Add(to) })
}

func modified(f func(*x509.Certificate)) testca.Spec { return testca.Spec{Modify: f} }

func pathLen(n int) testca.Spec {
	return modified(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 })
}

func mustDER(v any) []byte {
	der, err := asn1.Marshal(v)
	if err != nil {
		panic(err)
	}
	return der
}

// constrained makes a nameConstraints extension with one subtree.
func constrained(excluded bool, base asn1.RawValue) testca.Spec {
	subtree := mustDER([]asn1.RawValue{base})
	direction := 0
	if excluded {
		direction = 1
	}
	value := mustDER([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: direction, IsCompound: true, Bytes: subtree}})
	return testca.Spec{Extra: []pkix.Extension{{Id: oidNameConstraints, Critical: true, Value: value}}}
}

func directoryName(n pkix.Name) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagDirectoryName, IsCompound: true, Bytes: mustDER(n.ToRDNSequence())}
}

func formName(tag int, value string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value)}
}

var validityCases = []pathCase{
	{name: "CRT-06: leaf expired a second ago", given: issuedLeaf(aliceValid(-time.Hour, -time.Second)), want: Expired},
	{name: "CRT-06: leaf expires in a second", given: issuedLeaf(aliceValid(-time.Hour, time.Second))},
	{name: "CRT-06: leaf valid in a second", given: issuedLeaf(aliceValid(time.Second, time.Hour)), want: NotYetValid},
	{name: "CRT-06: leaf valid since a second", given: issuedLeaf(aliceValid(-time.Second, time.Hour))},
	{name: "CRT-06: leaf valid in 400 days", given: issuedLeaf(aliceValid(400*24*time.Hour, 500*24*time.Hour)), want: NotYetValid},
	{name: "CRT-06: intermediate expired", given: issuedBy(validity(-time.Hour, -time.Second)), want: Expired},
	{name: "CRT-06: intermediate not yet valid", given: issuedBy(validity(5*time.Minute, time.Hour)), want: NotYetValid},
	{name: "CRT-06: anchor expired", given: below(validity(-time.Hour, -time.Second), alice), want: AnchorExpired},
	{name: "CRT-06: anchor not yet valid", given: below(validity(time.Second, time.Hour), alice), want: NotYetValid},
}

func issuedLeaf(leaf testca.Spec) func() given { return under(testca.Spec{}, leaf) }

var anchorCases = []pathCase{
	{name: "CRT-08: anchor is the root", given: issuedBy(testca.Spec{})},
	{name: "CRT-08: anchor is the intermediate", given: func() given {
		g := issuedBy(testca.Spec{})()
		g.anchors = certs{g.pool[1]}
		return g
	}},
	{name: "CRT-08: anchor is the leaf", given: func() given {
		g := issuedBy(testca.Spec{})()
		return given{leaf: g.leaf, anchors: certs{g.leaf}}
	}},
	{name: "CRT-08: anchor is a self-signed leaf", given: func() given {
		self := testca.SelfSigned(alice)
		return given{leaf: self.Cert, anchors: certs{self.Cert}}
	}},
	{name: "TR-01: no anchor", given: func() given {
		g := issuedBy(testca.Spec{})()
		g.anchors = nil
		return g
	}, want: NoPath},
	{name: "CRT-08: intermediate missing", given: func() given {
		g := issuedBy(testca.Spec{})()
		g.pool = nil
		return g
	}, want: NoPath},
	{name: "S15: root of another's own in the message", given: func() given {
		g := issuedBy(testca.Spec{})()
		g.pool = append(g.pool, g.anchors[0])
		g.anchors = certs{testca.NewRoot("Other").Cert}
		return g
	}, want: NoPath},
	{name: "S15: root with the anchor's subject and key identifier", given: func() given {
		anchor := testca.NewRoot("Root").Cert
		own := testca.NewRootFrom(testca.Spec{Name: "Root", SubjectKeyID: anchor.SubjectKeyId})
		g := whole(own.Issue(alice))
		g.pool, g.anchors = append(g.pool, own.Cert), certs{anchor}
		return g
	}, want: BadSignature},
	{name: "RI: self-signed leaf with the anchor's key identifier", given: func() given {
		anchor := testca.NewRoot("Root").Cert
		self := testca.SelfSigned(testca.Spec{DNS: []string{"hospital.example"}, SubjectKeyID: anchor.SubjectKeyId})
		return given{leaf: self.Cert, pool: self.Chain, anchors: certs{anchor}}
	}, want: NoPath},
	{name: "RI: self-signed leaf with the anchor's subject and key identifier", given: func() given {
		anchor := testca.NewRoot("Root").Cert
		self := testca.SelfSigned(testca.Spec{Name: "Root", DNS: []string{"hospital.example"}, SubjectKeyID: anchor.SubjectKeyId})
		return given{leaf: self.Cert, pool: self.Chain, anchors: certs{anchor}}
	}, want: BadSignature},
	{name: "S15: anchor re-issued with its name and key is not the anchor", given: func() given {
		old := testca.NewRootFrom(testca.Spec{Name: "Root", NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)})
		again := testca.NewRootFrom(testca.Spec{Name: "Root", Key: old.Key})
		g := whole(again.Issue(alice))
		g.pool, g.anchors = append(g.pool, again.Cert), certs{old.Cert}
		return g
	}, want: AnchorExpired},
	{name: "cross certificate leads to the anchor", given: func() given {
		own, bridge := testca.NewRoot("Own"), testca.NewRoot("Bridge")
		cross := bridge.Intermediate(testca.Spec{Name: "Own", Key: own.Key})
		g := whole(own.Issue(alice))
		g.pool, g.anchors = append(g.pool, own.Cert, cross.Cert), certs{bridge.Cert}
		return g
	}, openssl: "openssl prefers the self-signed certificate of the same CA and does not go back"},
	{name: "expired cross certificate beside a good one", given: func() given {
		own, bridge := testca.NewRoot("Own"), testca.NewRoot("Bridge")
		bad := bridge.Intermediate(testca.Spec{Name: "Own", Key: own.Key, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)})
		good := bridge.Intermediate(testca.Spec{Name: "Own", Key: own.Key, NotAfter: now.Add(time.Hour)})
		g := whole(own.Issue(alice))
		g.pool, g.anchors = append(g.pool, bad.Cert, good.Cert), certs{bridge.Cert}
		return g
	}},
}

var issuerCases = []pathCase{
	{name: "CRT-09: leaf signs leaf", given: func() given {
		bob := testca.NewRoot("Root").Intermediate(testca.Spec{Name: "Intermediate"}).Issue(testca.Spec{Email: []string{"bob@hospital.example"}, KeyKind: testca.P256})
		fake := testca.CA{Issued: *bob}
		return whole(fake.Issue(alice))
	}, want: NotCA},
	{name: "CRT-09: issuer with keyCertSign and CA=false", given: issuedBy(modified(func(c *x509.Certificate) { c.IsCA = false })), want: NotCA},
	{name: "CRT-09: issuer without basicConstraints", given: issuedBy(modified(func(c *x509.Certificate) { c.BasicConstraintsValid = false })), want: NotCA},
	{name: "CRT-09: issuer without keyCertSign", given: issuedBy(testca.Spec{Usage: x509.KeyUsageDigitalSignature}), want: KeyUsage},
	{name: "CRT-09: intermediate without keyUsage", given: issuedBy(testca.Spec{Usage: testca.NoUsage}), want: KeyUsage,
		openssl: "openssl takes an absent keyUsage for every use unless strict; RFC 5280 §4.2.1.3 demands it of a CA"},
	{name: "anchor without keyUsage", given: below(testca.Spec{Usage: testca.NoUsage}, alice)},
	{name: "anchor without keyCertSign", given: below(testca.Spec{Usage: x509.KeyUsageDigitalSignature}, alice), want: KeyUsage},
	{name: "S12: CA as end entity", given: func() given {
		ca := testca.NewRoot("Root").Intermediate(aliceWith(func(s *testca.Spec) { s.Usage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature }))
		return whole(&ca.Issued)
	}, want: CAAsLeaf, openssl: "openssl accepts a CA certificate as S/MIME signer"},
	{name: "S12: end entity with keyCertSign", given: issuedLeaf(aliceWith(func(s *testca.Spec) { s.Usage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature })), want: CAAsLeaf,
		openssl: "openssl does not look at keyCertSign of an end entity unless strict"},
	{name: "CRT-12: path length 0, no intermediate below", given: issuedBy(pathLen(0))},
	{name: "CRT-12: path length 0, one intermediate below", given: below2(pathLen(0), testca.Spec{}), want: PathLength},
	{name: "CRT-12: path length 0, one self-issued intermediate below", given: func() given {
		root := testca.NewRootFrom(testca.Spec{Name: "Root", Modify: pathLen(0).Modify})
		return whole(root.Intermediate(testca.Spec{Name: "Root"}).Issue(alice))
	}},
	{name: "CRT-12: path length 1, two intermediates below", given: func() given {
		root := testca.NewRootFrom(testca.Spec{Name: "Root", Modify: pathLen(1).Modify})
		return whole(root.Intermediate(testca.Spec{Name: "One"}).Intermediate(testca.Spec{Name: "Two"}).Issue(alice))
	}, want: PathLength},
	{name: "CRT-12: unknown critical extension in the leaf", given: issuedLeaf(aliceWith(func(s *testca.Spec) { s.Extra = []pkix.Extension{testca.CriticalUnknown()} })), want: CriticalExtension},
	{name: "CRT-12: unknown critical extension in the intermediate", given: issuedBy(testca.Spec{Extra: []pkix.Extension{testca.CriticalUnknown()}}), want: CriticalExtension},
	{name: "CRT-12: unknown critical extension in the anchor", given: below(testca.Spec{Extra: []pkix.Extension{testca.CriticalUnknown()}}, alice), want: CriticalExtension},
	{name: "unknown extension that is not critical", given: issuedLeaf(aliceWith(func(s *testca.Spec) {
		e := testca.CriticalUnknown()
		e.Critical = false
		s.Extra = []pkix.Extension{e}
	}))},
	{name: "explicit policy demanded", given: issuedBy(testca.Spec{Extra: []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}}}), want: CriticalExtension,
		openssl: "openssl passes over policy constraints unless asked for a policy check"},
	{name: "policy mapping inhibited, nothing demanded", given: issuedBy(testca.Spec{Extra: []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x81, 1, 0}}}})},
	{name: "S12: leaf for e-mail protection", given: issuedLeaf(aliceWith(func(s *testca.Spec) { s.ExtUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }))},
	{name: "S12: leaf for any use", given: issuedLeaf(aliceWith(func(s *testca.Spec) { s.ExtUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })),
		openssl: "openssl wants emailProtection beside anyExtendedKeyUsage; RFC 8550 §4.4.4 does not"},
	{name: "S12: leaf for TLS servers only", given: issuedLeaf(aliceWith(func(s *testca.Spec) { s.ExtUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), want: ExtKeyUsage},
	{name: "S12: leaf with an unknown extended use only", given: issuedLeaf(aliceWith(func(s *testca.Spec) {
		s.Modify = func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }
	})), want: ExtKeyUsage},
	{name: "S12: intermediate for TLS servers only", given: issuedBy(testca.Spec{ExtUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), want: ExtKeyUsage},
	{name: "S12: intermediate for e-mail protection", given: issuedBy(testca.Spec{ExtUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}})},
}

// below2 makes alice's certificate under an intermediate under a root.
func below2(root, intermediate testca.Spec) func() given {
	return func() given {
		root.Name, intermediate.Name = "Root", "Intermediate"
		return whole(testca.NewRootFrom(root).Intermediate(intermediate).Issue(alice))
	}
}

func rsaCA(s testca.Spec) testca.Spec {
	s.KeyKind = testca.RSA2048
	return s
}

var algorithmCases = []pathCase{
	{name: "RSA with SHA-256", given: below(rsaCA(testca.Spec{}), alice)},
	{name: "RSA with SHA-384", given: below(rsaCA(testca.Spec{}), signedWith(x509.SHA384WithRSA))},
	{name: "RSA with SHA-512", given: below(rsaCA(testca.Spec{}), signedWith(x509.SHA512WithRSA))},
	{name: "RSA-PSS with SHA-256", given: below(rsaCA(testca.Spec{}), signedWith(x509.SHA256WithRSAPSS))},
	{name: "RSA-PSS with SHA-512", given: below(rsaCA(testca.Spec{}), signedWith(x509.SHA512WithRSAPSS))},
	{name: "ECDSA P-384 with SHA-384", given: below(testca.Spec{KeyKind: testca.P384}, signedWith(x509.ECDSAWithSHA384))},
	{name: "ECDSA P-521 with SHA-512", given: below(testca.Spec{KeyKind: testca.P521}, signedWith(x509.ECDSAWithSHA512))},
	{name: "S9: leaf signed with SHA-1 and RSA", given: below(rsaCA(testca.Spec{}), signedWith(x509.SHA1WithRSA)), want: WeakSignature},
	{name: "S9: leaf signed with SHA-1 and ECDSA", given: below(testca.Spec{}, signedWith(x509.ECDSAWithSHA1)), want: WeakSignature},
	{name: "S9: leaf signed with MD5", given: func() given {
		root := testca.NewRootFrom(testca.Spec{Name: "Root", KeyKind: testca.RSA2048})
		return given{leaf: signMD5(root.Issue(alice).Cert, root.Key), anchors: certs{root.Cert}}
	}, want: WeakSignature},
	{name: "S9: intermediate signed with SHA-1", given: issuedBy(testca.Spec{Algorithm: x509.ECDSAWithSHA1}), want: WeakSignature},
	{name: "S9: anchor signed with SHA-1, which proves nothing", given: below(testca.Spec{KeyKind: testca.RSA2048, Algorithm: x509.SHA1WithRSA}, alice)},
	{name: "SM-15: leaf with RSA 1024", given: issuedLeaf(keyed(testca.RSA1024)), want: WeakKey},
	{name: "SM-15: intermediate with RSA 1024", given: issuedBy(testca.Spec{KeyKind: testca.RSA1024}), want: WeakKey},
	{name: "SM-15: anchor with RSA 1024", given: below(testca.Spec{KeyKind: testca.RSA1024}, alice), want: WeakKey},
	{name: "SM-15: leaf with RSA 2048", given: issuedLeaf(keyed(testca.RSA2048))},
	{name: "S9: leaf with P-224", given: issuedLeaf(keyed(testca.P224)), want: WeakKey,
		openssl: "P-224 has the 112 bits of security level 2; Direct peers are promised P-256 and P-384 only"},
	{name: "S9: leaf with Ed25519", given: issuedLeaf(keyed(testca.Ed25519)), want: WeakKey,
		openssl: "strong enough, but CMS peers in Direct cannot verify it and it is not on our list"},
	{name: "S12: serial number zero", given: issuedLeaf(aliceWith(func(s *testca.Spec) { s.Serial = big.NewInt(0) })), want: BadSerial,
		openssl: "openssl does not look at serial numbers; RFC 5280 §4.1.2.2 demands a positive one"},
	{name: "signature altered", given: func() given {
		g := below(testca.Spec{}, alice)()
		raw := bytes.Clone(g.leaf.Raw)
		raw[len(raw)-1] ^= 1
		leaf, err := x509.ParseCertificate(raw)
		if err != nil {
			panic(err)
		}
		g.leaf = leaf
		return g
	}, want: BadSignature},
}

func signedWith(a x509.SignatureAlgorithm) testca.Spec {
	return aliceWith(func(s *testca.Spec) { s.Algorithm = a })
}

func keyed(k testca.KeyKind) testca.Spec {
	return aliceWith(func(s *testca.Spec) { s.KeyKind = k })
}

// signMD5 turns a certificate signed with SHA-256 and RSA into one signed with
// MD5, which crypto/x509 does not make.
func signMD5(cert *x509.Certificate, key crypto.Signer) *x509.Certificate {
	sha256OID := mustDER(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11})
	md5OID := mustDER(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4})
	raw := bytes.ReplaceAll(cert.Raw, sha256OID, md5OID)
	digest := md5.Sum(bytes.ReplaceAll(cert.RawTBSCertificate, sha256OID, md5OID))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key.(*rsa.PrivateKey), crypto.MD5, digest[:])
	if err != nil {
		panic(err)
	}
	copy(raw[len(raw)-len(sig):], sig)
	out, err := x509.ParseCertificate(raw)
	if err != nil {
		panic(err)
	}
	return out
}

func mailPermitted(subtree string) testca.Spec {
	return modified(func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{subtree} })
}

func mailExcluded(subtree string) testca.Spec {
	return modified(func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{subtree} })
}

func mail(address string) testca.Spec {
	return testca.Spec{Name: "A", Email: []string{address}, KeyKind: testca.P256}
}

func dns(name string) testca.Spec {
	return testca.Spec{Name: "A", DNS: []string{name}, KeyKind: testca.P256}
}

var example = pkix.Name{Country: []string{"US"}, Organization: []string{"Hospital"}}

var constraintCases = []pathCase{
	{name: "CRT-12: mailbox on the permitted host", given: under(mailPermitted("example.com"), mail("a@example.com"))},
	{name: "CVE-2026-78664: mailbox below the permitted host", given: under(mailPermitted("example.com"), mail("a@sub.example.com")), want: NameConstraint},
	{name: "mailbox below the permitted domain", given: under(mailPermitted(".example.com"), mail("a@sub.example.com"))},
	{name: "mailbox at the permitted domain of subdomains", given: under(mailPermitted(".example.com"), mail("a@example.com")), want: NameConstraint},
	{name: "mailbox on a host that ends alike", given: under(mailPermitted("example.com"), mail("a@badexample.com")), want: NameConstraint},
	{name: "mailbox permitted", given: under(mailPermitted("a@example.com"), mail("a@example.com"))},
	{name: "other mailbox permitted", given: under(mailPermitted("b@example.com"), mail("a@example.com")), want: NameConstraint},
	{name: "mailbox on the excluded host", given: under(mailExcluded("example.com"), mail("a@EXAMPLE.com")), want: NameConstraint},
	{name: "mailbox below the excluded host", given: under(mailExcluded("example.com"), mail("a@sub.example.com"))},
	{name: "mailbox below the excluded domain", given: under(mailExcluded(".example.com"), mail("a@sub.example.com")), want: NameConstraint},
	{name: "only the last of two mailboxes is outside", given: under(mailPermitted("example.com"),
		testca.Spec{Name: "A", KeyKind: testca.P256, Email: []string{"a@example.com", "a@evil.example"}}), want: NameConstraint},
	{name: "CVE-2026-27137: first of two excluded hosts", given: under(modified(func(c *x509.Certificate) {
		c.ExcludedEmailAddresses = []string{"example.com", "example.net"}
	}), mail("a@example.com")), want: NameConstraint},
	{name: "permitted mailboxes do not bound DNS names", given: under(mailPermitted("example.com"), dns("evil.example"))},
	{name: "DN emailAddress outside the permitted host", given: under(mailPermitted("example.com"),
		testca.Spec{Name: "A", KeyKind: testca.P256, DNEmail: "a@evil.example"}), want: NameConstraint},
	{name: "DNS name at the permitted name", given: under(dnsPermitted("example.com"), dns("example.com"))},
	{name: "DNS name below the permitted name", given: under(dnsPermitted("example.com"), dns("direct.example.com"))},
	{name: "DNS name beside the permitted name", given: under(dnsPermitted("example.com"), dns("badexample.com")), want: NameConstraint},
	{name: "DNS name below the excluded name", given: under(modified(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"example.com"} }), dns("direct.example.com")), want: NameConstraint},
	{name: "directory name permitted", given: under(constrained(false, directoryName(example)),
		testca.Spec{Subject: &pkix.Name{Country: []string{"US"}, Organization: []string{"HOSPITAL"}, CommonName: "A"}, KeyKind: testca.P256})},
	{name: "directory name outside", given: under(constrained(false, directoryName(example)),
		testca.Spec{Subject: &pkix.Name{Country: []string{"US"}, Organization: []string{"Clinic"}, CommonName: "A"}, KeyKind: testca.P256}), want: NameConstraint},
	{name: "directory name excluded", given: under(constrained(true, directoryName(example)),
		testca.Spec{Subject: &pkix.Name{Country: []string{"us"}, Organization: []string{"hospital"}, CommonName: "A"}, KeyKind: testca.P256}), want: NameConstraint},
	{name: "self-issued intermediate is exempt", given: func() given {
		one := testca.NewRoot("Root").Intermediate(testca.Spec{Name: "One", Extra: constrained(false, directoryName(example)).Extra})
		return whole(one.Intermediate(testca.Spec{Name: "One"}).Issue(testca.Spec{Subject: &example, KeyKind: testca.P256}))
	}},
	{name: "form not compared, no such name", given: under(constrained(false, formName(6, "example.com")), alice)},
	{name: "form not compared, such a name", given: under(constrained(false, formName(6, "example.com")), aliceWith(func(s *testca.Spec) {
		s.Modify = func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "example.com"}} }
	})), want: NameConstraint, openssl: "openssl compares URI names; a Direct certificate has no use for them"},
	{name: "IP constraint, no IP name", given: under(modified(func(c *x509.Certificate) {
		c.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}
	}), alice)},
	{name: "constraint of a CA further up", given: func() given {
		root := testca.NewRootFrom(testca.Spec{Name: "Root", Modify: mailPermitted("example.com").Modify})
		return whole(root.Intermediate(testca.Spec{Name: "One"}).Intermediate(testca.Spec{Name: "Two"}).Issue(mail("a@sub.example.com")))
	}, want: NameConstraint},
	{name: "constraint of an intermediate further up", given: func() given {
		one := testca.NewRoot("Root").Intermediate(testca.Spec{Name: "One", Modify: mailPermitted("example.com").Modify})
		return whole(one.Intermediate(testca.Spec{Name: "Two"}).Issue(mail("a@sub.example.com")))
	}, want: NameConstraint},
}

func dnsPermitted(name string) testca.Spec {
	return modified(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{name} })
}

func allCases() []pathCase {
	var all []pathCase
	for _, list := range [][]pathCase{validityCases, anchorCases, issuerCases, algorithmCases, constraintCases} {
		all = append(all, list...)
	}
	return all
}

func TestPath(t *testing.T) {
	v := New(Config{})
	for _, c := range allCases() {
		t.Run(c.name, func(t *testing.T) {
			g := c.given()
			chain, err := v.Path(g.leaf, g.pool, g.anchors, now)
			checkPath(t, g, chain, err, c.want)
		})
	}
}
