package keystore

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/test/testca"
)

func encryptTo(t *testing.T, cert *x509.Certificate, plain []byte) []byte {
	t.Helper()
	out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, cert.PublicKey.(*rsa.PublicKey), plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func pemOf(i *testca.Issued) []byte { return append(i.KeyPEM(), testca.PEM(i.Chain...)...) }

// wantRefusal checks the kind and that the hint says the wanted words.
func wantRefusal(t *testing.T, err error, kind hisp.Kind, words string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %v", kind)
	}
	if hisp.KindOf(err) != kind || !strings.Contains(hisp.HintOf(err), words) {
		t.Errorf("refused with %v, want %v and a hint with %q", err, kind, words)
	}
	if strings.Contains(err.Error(), "alice") {
		t.Errorf("the text names a person: %v", err)
	}
}

func TestImport_pkcs12(t *testing.T) {
	issued := testca.NewRoot("Root").Intermediate(testca.Spec{Name: "CA"}).Issue(forAlice(keep))
	for name, file := range map[string][]byte{"modern": issued.PKCS12("pw"), "legacy": issued.PKCS12Legacy("pw")} {
		f := newFixture()
		key, err := f.Import(t.Context(), hisp.Address{}, file, "pw")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if key.Owner != alice || key.Role != store.RoleDual || len(key.Chain) != 2 || key.PKCS8 != nil {
			t.Errorf("%s: role %s, %d certificates, owner of %s", name, key.Role, len(key.Chain), key.Owner.Domain)
		}
		checkCerts(t, signers(t, f, alice), issued.Cert)
		_, err = newFixture().Import(t.Context(), alice, file, "wrong")
		wantRefusal(t, err, hisp.Denied, "password is wrong")
		_, err = newFixture().Import(t.Context(), alice, file, "")
		wantRefusal(t, err, hisp.Denied, "give its password")
	}
}

func TestImport_refused(t *testing.T) {
	root := testca.NewRoot("Root")
	issue := func(change func(*testca.Spec)) []byte { return pemOf(root.Issue(forAlice(change))) }
	good := root.Issue(forAlice(keep))
	for name, c := range map[string]struct {
		owner hisp.Address
		data  []byte
		kind  hisp.Kind
		words string
	}{
		"empty":                 {alice, nil, hisp.Malformed, "neither PEM nor PKCS#12"},
		"garbage":               {alice, []byte("garbage"), hisp.Malformed, "neither PEM nor PKCS#12"},
		"cut off PKCS#12":       {alice, good.PKCS12("")[:900], hisp.Malformed, "damaged"},
		"too large":             {alice, make([]byte, maxFile+1), hisp.TooLarge, "1 MiB"},
		"too many certificates": {alice, []byte(strings.Repeat(string(testca.PEM(root.Cert)), 33)), hisp.TooLarge, "32"},
		"certificate alone":     {alice, testca.PEM(good.Cert), hisp.Malformed, "no private key"},
		"key alone":             {alice, good.KeyPEM(), hisp.Malformed, "put both into one file"},
		"key of another":        {alice, append(root.Issue(forAlice(keep)).KeyPEM(), testca.PEM(good.Cert)...), hisp.Malformed, "belongs"},
		"two keys":              {alice, append(pemOf(good), good.KeyPEM()...), hisp.Malformed, "one by one"},
		"request in the file":   {alice, encodePEM(pemRequest, []byte{1}), hisp.Malformed, "neither a certificate nor a private key"},
		"damaged key":           {alice, encodePEM(pemPKCS8, []byte{1}), hisp.Malformed, "not well formed"},
		"old openssl encryption": {alice, pem.EncodeToMemory(&pem.Block{Type: pemPKCS1, Bytes: []byte{1},
			Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", headerEncrypted: "AES-128-CBC,00"}}), hisp.Malformed, "openssl pkcs8 -topk8"},
		"SM-15: RSA 1024":             {alice, issue(func(s *testca.Spec) { s.KeyKind = testca.RSA1024 }), hisp.Malformed, "2048"},
		"Ed25519":                     {alice, issue(func(s *testca.Spec) { s.KeyKind = testca.Ed25519 }), hisp.Malformed, "RSA or ECDSA"},
		"S12: CA certificate":         {alice, issue(func(s *testca.Spec) { s.Modify = func(c *x509.Certificate) { c.IsCA = true } }), hisp.Malformed, "CA certificate"},
		"TLS server certificate":      {alice, issue(func(s *testca.Spec) { s.ExtUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), hisp.Malformed, "emailProtection"},
		"SHA-1":                       {alice, issue(func(s *testca.Spec) { s.Algorithm = x509.ECDSAWithSHA1 }), hisp.Malformed, "SHA-256"},
		"CRT-07: no use":              {alice, issue(func(s *testca.Spec) { s.Usage = x509.KeyUsageDataEncipherment }), hisp.Malformed, "keyUsage"},
		"CRT-02: no subjectAltName":   {alice, issue(func(s *testca.Spec) { s.Name, s.Email = "A", nil }), hisp.Malformed, "subjectAltName"},
		"CRT-03: contradicting DN":    {alice, issue(func(s *testca.Spec) { s.DNEmail = "bob@hospital.example" }), hisp.Malformed, "emailAddress"},
		"CRT-02: other address":       {hisp.Address{Local: "bob", Domain: "hospital.example"}, pemOf(good), hisp.Malformed, "rfc822Name"},
		"address for a domain":        {hospital, pemOf(good), hisp.Malformed, "dNSName"},
		"domain for an address":       {alice, issue(func(s *testca.Spec) { s.Email, s.DNS = nil, []string{"hospital.example"} }), hisp.Malformed, "for its domain"},
		"CRT-05: parent domain":       {hospital, issue(func(s *testca.Spec) { s.Email, s.DNS = nil, []string{"example"} }), hisp.Malformed, "dNSName"},
		"owner not clear":             {hisp.Address{}, issue(func(s *testca.Spec) { s.DNS = []string{"hospital.example"} }), hisp.Malformed, "for which address or domain"},
		"CRT-14: domain not ours":     {hisp.Address{}, issue(func(s *testca.Spec) { s.Email = []string{"x@elsewhere.example"} }), hisp.NotFound, "hisp domain add"},
		"CRT-05: wildcard for domain": {hospital, issue(func(s *testca.Spec) { s.Email, s.DNS = nil, []string{"*.example"} }), hisp.Malformed, "dNSName"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			_, err := f.Import(t.Context(), c.owner, c.data, "")
			wantRefusal(t, err, c.kind, c.words)
			if len(f.mem.keys) != 0 {
				t.Error("something was stored")
			}
		})
	}
}

func TestImport_sameKeyForAnotherOwner(t *testing.T) {
	f := newFixture()
	private := testca.NewKey(testca.RSA2048)
	f.mustImport(t, hospital, testca.Spec{DNS: []string{"hospital.example"}, Key: private})
	issued := testca.NewRoot("Root").Issue(testca.Spec{DNS: []string{"clinic.example"}, Key: private})
	_, err := f.Import(t.Context(), clinic, pemOf(issued), "")
	wantRefusal(t, err, hisp.Conflict, "key of its own") // row CRT-14
}

func TestImport_retiredKeyDoesNotComeBack(t *testing.T) {
	f := newFixture()
	issued := testca.NewRoot("Root").Issue(forAlice(keep))
	key, err := f.Import(t.Context(), alice, pemOf(issued), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Retire(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	_, err = f.Import(t.Context(), alice, pemOf(issued), "")
	wantRefusal(t, err, hisp.Conflict, "retired")
	checkCerts(t, signers(t, f, alice))
}

func TestGenerate_requestThenInstall(t *testing.T) {
	for _, c := range []struct {
		owner hisp.Address
		role  store.KeyRole
		alg   Algorithm
	}{
		{alice, store.RoleDual, ""},
		{hospital, store.RoleEncrypt, RSA2048},
		{hospital, store.RoleSign, P256},
	} {
		f := newFixture()
		key, csr, err := f.Generate(t.Context(), c.owner, c.role, c.alg)
		if err != nil {
			t.Fatal(err)
		}
		if key.PKCS8 != nil {
			t.Error("the private key comes out")
		}
		checkState(t, f, StatePending)
		checkCerts(t, signers(t, f, alice))
		again, err := f.Request(t.Context(), key.ID)
		if err != nil || parseRequest(t, again).Subject.CommonName != parseRequest(t, csr).Subject.CommonName {
			t.Errorf("Request: %v", err)
		}
		cert, ca := certify(t, parseRequest(t, csr), c.role)
		installed, err := f.Install(t.Context(), testca.PEM(ca, cert))
		if err != nil {
			t.Fatal(err)
		}
		if installed.ID != key.ID || installed.Role != c.role || installed.PKCS8 != nil {
			t.Errorf("installed as %s", installed.Role)
		}
		checkState(t, f, StateActive)
		if c.role != store.RoleEncrypt {
			checkCerts(t, signers(t, f, alice), cert)
		}
		if c.role != store.RoleSign {
			checkCerts(t, decrypters(t, f, alice), cert)
		}
	}
}

func checkState(t *testing.T, f *fixture, want State) {
	t.Helper()
	list, err := f.List(t.Context(), hisp.Address{})
	if err != nil || len(list) != 1 || list[0].State != want || list[0].PKCS8 != nil {
		t.Errorf("List: %d keys, %v, want one that is %s", len(list), err, want)
	}
}

func parseRequest(t *testing.T, data []byte) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemRequest {
		t.Fatal("not a PEM request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("request: %v", err)
	}
	return csr
}

// certify does what a CA does with a request.
func certify(t *testing.T, csr *x509.CertificateRequest, role store.KeyRole) (cert, ca *x509.Certificate) {
	t.Helper()
	issuer, err := NewTrialCA("CA", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var owner hisp.Address
	if len(csr.EmailAddresses) == 1 {
		owner, err = hisp.ParseAddress(csr.EmailAddresses[0])
	} else {
		owner.Domain, err = hisp.ParseDomain(csr.DNSNames[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = issuer.Issue(owner, role, csr.PublicKey, time.Now()); err != nil {
		t.Fatal(err)
	}
	return cert, issuer.Cert
}

func TestGenerate_refused(t *testing.T) {
	f := newFixture()
	for name, c := range map[string]struct {
		owner hisp.Address
		role  store.KeyRole
		alg   Algorithm
		kind  hisp.Kind
		words string
	}{
		"P-256 to encrypt":    {hospital, store.RoleDual, P256, hisp.Malformed, "role sign"},
		"unknown algorithm":   {hospital, store.RoleDual, "rsa-1024", hisp.Malformed, "rsa-2048"},
		"unknown role":        {hospital, "both", "", hisp.Malformed, "sign, encrypt or dual"},
		"domain not ours":     {hisp.Address{Domain: "elsewhere.example"}, store.RoleSign, P256, hisp.NotFound, "hisp domain add"},
		"beyond ASCII":        {hisp.Address{Local: "ålice", Domain: "hospital.example"}, store.RoleSign, P256, hisp.Malformed, "for its domain"},
		"no owner whatsoever": {hisp.Address{}, store.RoleSign, P256, hisp.NotFound, "hisp domain add"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := f.Generate(t.Context(), c.owner, c.role, c.alg)
			wantRefusal(t, err, c.kind, c.words)
			if len(f.mem.keys) != 0 {
				t.Error("something was stored")
			}
		})
	}
}

func TestInstall_refused(t *testing.T) {
	f := newFixture()
	issued := testca.NewRoot("Root").Issue(forAlice(keep))
	_, err := f.Install(t.Context(), testca.PEM(issued.Cert))
	wantRefusal(t, err, hisp.NotFound, "another request")
	_, err = f.Install(t.Context(), pemOf(issued))
	wantRefusal(t, err, hisp.Malformed, "hisp key import")

	_, csr, err := f.Generate(t.Context(), hospital, store.RoleDual, "")
	if err != nil {
		t.Fatal(err)
	}
	request := parseRequest(t, csr)
	request.DNSNames = []string{"clinic.example"}
	cert, _ := certify(t, request, store.RoleDual)
	_, err = f.Install(t.Context(), testca.PEM(cert))
	wantRefusal(t, err, hisp.Malformed, "exactly this domain")
	checkState(t, f, StatePending)
}

func TestImport_twoCertificatesOfTheKey(t *testing.T) {
	root, private := testca.NewRoot("Root"), testca.NewKey(testca.RSA2048)
	old := root.Issue(forAlice(func(s *testca.Spec) { s.Key, s.NotAfter = private, time.Now().Add(time.Hour) }))
	young := root.Issue(forAlice(func(s *testca.Spec) { s.Key = private }))
	f := newFixture()
	if _, err := f.Import(t.Context(), alice, append(pemOf(old), testca.PEM(young.Cert)...), ""); err != nil {
		t.Fatal(err)
	}
	checkCerts(t, signers(t, f, alice), young.Cert)
	if got := len(decrypters(t, f, alice)); got != 2 {
		t.Errorf("%d certificates to decrypt for, want 2", got)
	}
}

func TestImport_lockedKeyAsksForPassword(t *testing.T) {
	_, err := newFixture().Import(t.Context(), alice, lockedSample(t), "")
	wantRefusal(t, err, hisp.Denied, "give its password")
}

func TestRetire_unknown(t *testing.T) {
	_, err := newFixture().Retire(t.Context(), "none")
	wantRefusal(t, err, hisp.NotFound, "hisp key list")
}

func TestList_states(t *testing.T) {
	f := newFixture()
	cert, key := f.mustImport(t, alice, forAlice(keep))
	for _, c := range []struct {
		at   time.Time
		want State
	}{
		{cert.NotBefore.Add(-time.Second), StateNotYetValid},
		{cert.NotBefore, StateActive},
		{cert.NotAfter.AddDate(0, 0, -31), StateActive},
		{cert.NotAfter.AddDate(0, 0, -30), StateExpiring},
		{cert.NotAfter, StateExpiring},
		{cert.NotAfter.Add(time.Second), StateExpired},
	} {
		f.now = c.at
		checkState(t, f, c.want)
	}
	if _, err := f.Retire(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	checkState(t, f, StateRetired)
}

func TestTrialCA_trustedWithItsAnchorOnly(t *testing.T) {
	now := time.Now()
	made, err := NewTrialCA("Trial CA", now)
	if err != nil {
		t.Fatal(err)
	}
	data, err := made.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ParseTrialCA(data)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture()
	f.now = now
	for owner, want := range map[hisp.Address]trust.Binding{alice: trust.AddressBound, hospital: trust.DomainBound} {
		key, err := f.NewTrial(t.Context(), ca, owner, store.RoleDual, "")
		if err != nil {
			t.Fatal(err)
		}
		cert := key.Chain[0]
		if _, err := trust.New(trust.Config{}).Path(cert, nil, []*x509.Certificate{made.Cert}, now); err != nil {
			t.Error(err)
		}
		if _, err := trust.New(trust.Config{}).Path(cert, nil, nil, now); !errors.Is(err, hisp.Untrusted) {
			t.Errorf("without anchor: %v", err)
		}
		if got := trust.Bound(cert, alice); got != want {
			t.Errorf("Bound = %v, want %v", got, want)
		}
		if err := errors.Join(trust.CheckUsage(cert, trust.Sign), trust.CheckUsage(cert, trust.Encrypt)); err != nil {
			t.Error(err)
		}
	}
	if got := len(signers(t, f, alice)); got != 2 {
		t.Errorf("%d signing keys, want 2", got)
	}
	if _, err := ParseTrialCA(pemOf(testca.NewRoot("Root").Issue(forAlice(keep)))); hisp.KindOf(err) != hisp.Malformed {
		t.Errorf("an end entity as CA: %v", err)
	}
}

func TestTrialCA_tls(t *testing.T) {
	ca, err := NewTrialCA("Trial CA", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueTLS(time.Now(), "mx.hospital.example", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	for _, name := range []string{"mx.hospital.example", "127.0.0.1"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	if _, err := ca.IssueTLS(time.Now()); hisp.KindOf(err) != hisp.Malformed {
		t.Errorf("no name: %v", err)
	}
}

// lockedSample is the frame of an encrypted private key.
func lockedSample(t testing.TB) []byte {
	t.Helper()
	marshal := func(v any) asn1.RawValue {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: der}
	}
	kdf := pbkdf2Params{Salt: make([]byte, 8), Iterations: 2048, PRF: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}}}
	params := pbes2Params{
		Derivation: pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: marshal(kdf)},
		Scheme:     pkix.AlgorithmIdentifier{Algorithm: blockSchemes()[2].id, Parameters: marshal(make([]byte, 16))},
	}
	info := encryptedPrivateKeyInfo{Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: marshal(params)}, Data: make([]byte, 64)}
	return encodePEM(pemPKCS8Locked, marshal(info).FullBytes)
}

// FuzzRead reads key files. Without a password nothing is derived, so the
// work is that of the parsers.
func FuzzRead(f *testing.F) {
	issued := testca.NewRoot("Root").Issue(testca.Spec{Email: []string{"a@hospital.example"}, KeyKind: testca.P256})
	f.Add(pemOf(issued))
	f.Add(encodePEM(pemPKCS8Locked, []byte("0\x00")))
	f.Add(lockedSample(f))
	f.Add(issued.Cert.Raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 0 && data[0] == 0x30 {
			if _, err := x509.ParseCertificate(data); err != nil {
				return // PKCS#12 is its library's and may derive for long
			}
		}
		m, err := read("fuzz", data, "")
		if err == nil && m.key != nil {
			chainFor(m.key.Public(), m.certs)
		}
	})
}
