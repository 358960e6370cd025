//lint:file-ignore SA1019 a DSA key is here to be refused (row S9)

package cms

import (
	"bytes"
	"crypto"
	"crypto/dsa"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

// verifyAll parses and verifies; every signer must be good.
func verifyAll(t *testing.T, ber, content []byte) []Verified {
	t.Helper()
	s, err := ParseSignedData(ber)
	if err != nil {
		t.Fatalf("ParseSignedData = %v", err)
	}
	if s.Content != nil {
		if !bytes.Equal(s.Content, content) {
			t.Fatalf("Content has %d octets that differ, want %d", len(s.Content), len(content))
		}
		content = nil
	}
	got, err := s.Verify(content)
	if err != nil {
		t.Fatalf("Verify = %v", err)
	}
	for i, v := range got {
		if v.Err != nil {
			t.Errorf("signer %d: %v", i, v.Err)
		}
	}
	return got
}

func TestSign_roundTrip(t *testing.T) {
	content := text(5000)
	for _, p := range []pair{rsaPair(), bigPair(), p256Pair(), p384Pair(), p521Pair()} {
		for _, digest := range []crypto.Hash{0, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			der, err := Sign(content, []Signer{p.signer()}, SignOptions{Digest: digest, Time: testTime})
			if err != nil {
				t.Fatalf("%s %v: Sign = %v", p.name, digest, err)
			}
			got := verifyAll(t, der, content)
			if len(got) != 1 || !got[0].Cert.Equal(p.cert) || !got[0].SigningTime.Equal(testTime) {
				t.Errorf("%s %v: Verify = %+v", p.name, digest, got)
			}
			if want := digest; want != 0 && got[0].Digest != want || want == 0 && got[0].Digest != crypto.SHA256 {
				t.Errorf("%s: Digest = %v, want %v", p.name, got[0].Digest, want)
			}
			if _, owned, _ := normalise(der); owned {
				t.Errorf("%s: output of Sign is not DER", p.name)
			}
		}
	}
}

func TestSign_severalSignersIncludeEachCertificateOnce(t *testing.T) {
	content := text(100)
	signers := []Signer{rsaPair().signer(), p256Pair().signer(), rsaPair().signer()}
	der, err := Sign(content, signers, SignOptions{Time: testTime})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(verifyAll(t, der, content)); got != 3 {
		t.Errorf("signers = %d, want 3", got)
	}
	s, _ := ParseSignedData(der)
	if len(s.Certificates) != 3 { // two leaves and the CA
		t.Errorf("certificates = %d, want 3", len(s.Certificates))
	}
}

// remote hides the key type as a hardware module would.
type remote struct{ crypto.Signer }

func TestSign_keyInHardware(t *testing.T) {
	for _, p := range []pair{rsaPair(), p256Pair()} {
		s := p.signer()
		s.Key = remote{s.Key}
		der, err := Sign(text(10), []Signer{s}, SignOptions{Time: testTime})
		if err != nil {
			t.Fatal(err)
		}
		verifyAll(t, der, text(10))
	}
}

func TestSign_refuses(t *testing.T) {
	good := SignOptions{Time: testTime}
	mismatched := rsaPair().signer()
	mismatched.Key = otherPair().key
	tests := []struct {
		name    string
		signers []Signer
		opts    SignOptions
		want    error
	}{
		{"nobody", nil, good, ErrNoSigner},
		{"no certificate", []Signer{{Key: rsaPair().key}}, good, ErrNoSigner},
		{"nil certificate", []Signer{{Key: rsaPair().key, Chain: []*x509.Certificate{nil}}}, good, ErrNoSigner},
		{"no key", []Signer{{Chain: rsaPair().signer().Chain}}, good, ErrNoSigner},
		{"RSA 1024", []Signer{weakPair().signer()}, good, ErrWeakKey},
		{"one of two is weak", []Signer{rsaPair().signer(), weakPair().signer()}, good, ErrWeakKey},
		{"key of another certificate", []Signer{mismatched}, good, ErrWeakKey},
		{"SHA-1", []Signer{rsaPair().signer()}, SignOptions{Digest: crypto.SHA1, Time: testTime}, ErrDigest},
		{"MD5", []Signer{rsaPair().signer()}, SignOptions{Digest: crypto.MD5, Time: testTime}, ErrDigest},
		{"no time", []Signer{rsaPair().signer()}, SignOptions{}, ErrSign},
		{"17 signers", make([]Signer, 17), good, ErrTooComplex},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if der, err := Sign(text(10), tt.signers, tt.opts); err != tt.want || der != nil {
				t.Errorf("Sign = %d octets, %v; want %v", len(der), err, tt.want)
			}
		})
	}
}

func TestSign_timeAfter2049(t *testing.T) {
	at := time.Date(2051, 1, 2, 3, 4, 5, 0, time.UTC)
	der := must(Sign(text(10), []Signer{p256Pair().signer()}, SignOptions{Time: at}))
	if got := verifyAll(t, der, text(10))[0].SigningTime; !got.Equal(at) {
		t.Errorf("SigningTime = %v, want %v", got, at)
	}
}

func TestVerify_contentOnce(t *testing.T) {
	detached := must(Sign(text(10), []Signer{p256Pair().signer()}, SignOptions{Time: testTime}))
	s := must(ParseSignedData(detached))
	if _, err := s.Verify(nil); err != ErrContent {
		t.Errorf("detached without content: %v, want ErrContent", err)
	}
	s.Content = text(10)
	if _, err := s.Verify(text(10)); err != ErrContent {
		t.Errorf("detached and embedded: %v, want ErrContent (row S4)", err)
	}
	if got, err := s.Verify(nil); err != nil || got[0].Err != nil {
		t.Errorf("embedded: %v, %v", got, err)
	}
	s.Signers = nil
	if _, err := s.Verify(nil); err != ErrNoSigner {
		t.Errorf("no signer: %v, want ErrNoSigner (row S5)", err)
	}
}

func TestVerify_alteredContent(t *testing.T) {
	der := must(Sign(text(100), []Signer{p256Pair().signer()}, SignOptions{Time: testTime}))
	s := must(ParseSignedData(der))
	altered := text(100)
	altered[50] ^= 1
	got, err := s.Verify(altered)
	if err != nil || got[0].Err != ErrAltered {
		t.Errorf("Verify = %v, %v; want ErrAltered", got, err)
	}
}

func TestVerify_certificateSuppliedByCaller(t *testing.T) {
	der := must(Sign(text(100), []Signer{p256Pair().signer()}, SignOptions{Time: testTime}))
	s := must(ParseSignedData(der))
	s.Certificates = nil
	if got, _ := s.Verify(text(100)); got[0].Err != ErrCertificate || got[0].Cert != nil {
		t.Errorf("without certificates: %+v, want ErrCertificate", got[0])
	}
	// A wrong twin with the same name and serial must not hide the right one.
	twin := *p256Pair().cert
	twin.PublicKey = p384Pair().cert.PublicKey
	s.Certificates = []*x509.Certificate{&twin, p256Pair().cert}
	if got, _ := s.Verify(text(100)); got[0].Err != nil || got[0].Cert != p256Pair().cert {
		t.Errorf("supplied: %+v", got[0])
	}
}

// signedWith builds a SignedData by hand so that a test can break one rule.
type signedWith struct {
	digest    oid
	signature []byte   // AlgorithmIdentifier
	attrs     [][]byte // nil for no signed attributes
	unsorted  bool     // sign attrs in the given order
	value     []byte   // nil to sign
	sid       []byte   // nil for issuer and serial
	p         pair
	dataType  oid
	content   []byte // embedded if not nil
}

func (s signedWith) build() []byte {
	if s.dataType == "" {
		s.dataType = oidData
	}
	if s.sid == nil {
		s.sid = issuerAndSerialDER(s.p.cert)
	}
	if s.digest == "" {
		s.digest = oidSHA256
	}
	if s.signature == nil {
		s.signature = algorithmDER(oidECDSASHA256, nil)
	}
	set := element(tagSet, s.attrs...)
	if sorted, changed := sortedSet(must2(reader(set).only(tagSet))); changed && !s.unsorted {
		set = sorted
	}
	if s.value == nil {
		s.value = must(s.p.key.Sign(nil, sum(crypto.SHA256, set), crypto.SHA256))
	}
	var implicit []byte
	if s.attrs != nil {
		implicit = element(tagContext|constructed, s.attrs...)
	}
	info := element(tagSequence, element(tagInteger, []byte{1}), s.sid, algorithmDER(s.digest, nil),
		implicit, s.signature, element(tagOctetString, s.value))
	var content []byte
	if s.content != nil {
		content = element(tagContext|constructed, element(tagOctetString, s.content))
	}
	return message(oidSignedData, element(tagInteger, []byte{1}), element(tagSet, algorithmDER(s.digest, nil)),
		element(tagSequence, s.dataType.der(), content),
		element(tagContext|constructed, s.p.cert.Raw), element(tagSet, info))
}

func must2[T any](v T, ok bool) T {
	if !ok {
		panic("not ok")
	}
	return v
}

func message(id oid, fields ...[]byte) []byte {
	return element(tagSequence, id.der(), element(tagContext|constructed, element(tagSequence, fields...)))
}

func attr(id oid, values ...[]byte) []byte {
	return element(tagSequence, id.der(), element(tagSet, values...))
}

func TestVerify_rules(t *testing.T) {
	p := p256Pair()
	content := text(100)
	kind := attr(oidContentType, oidData.der())
	digest := attr(oidMessageDigest, element(tagOctetString, sum(crypto.SHA256, content)))
	other := attr(oidMessageDigest, element(tagOctetString, sum(crypto.SHA256, nil)))
	protection := func(d, s []byte) []byte {
		s = bytes.Clone(s)
		s[0] = tagContext | constructed | 1
		return attr(oidAlgorithmProtection, element(tagSequence, d, s))
	}
	sha256alg, ecdsa256 := algorithmDER(oidSHA256, nil), algorithmDER(oidECDSASHA256, nil)
	tests := []struct {
		name string
		s    signedWith
		want error
	}{
		{"good", signedWith{attrs: [][]byte{kind, digest}}, nil},
		{"signed as sent, not sorted", signedWith{attrs: [][]byte{digest, kind}, unsorted: true}, nil},
		{"sent unsorted, signed sorted", signedWith{attrs: [][]byte{digest, kind}}, nil},
		{"subject key identifier", signedWith{attrs: [][]byte{kind, digest},
			sid: element(tagKeyID, p.cert.SubjectKeyId)}, nil},
		{"unknown key identifier", signedWith{attrs: [][]byte{kind, digest},
			sid: element(tagKeyID, []byte("someone else"))}, ErrCertificate},
		{"no signed attributes", signedWith{}, ErrAttributes},
		{"no content type", signedWith{attrs: [][]byte{digest}}, ErrAttributes},
		{"no digest", signedWith{attrs: [][]byte{kind}}, ErrAttributes},
		{"two digests", signedWith{attrs: [][]byte{kind, digest, other}}, ErrAttributes},
		{"two equal digests", signedWith{attrs: [][]byte{kind, digest, digest}}, ErrAttributes},
		{"digest with two values", signedWith{attrs: [][]byte{kind, attr(oidMessageDigest,
			element(tagOctetString, sum(crypto.SHA256, content)), element(tagOctetString, nil))}}, ErrAttributes},
		{"digest without value", signedWith{attrs: [][]byte{kind, attr(oidMessageDigest)}}, ErrAttributes},
		{"two content types", signedWith{attrs: [][]byte{kind, kind, digest}}, ErrAttributes},
		{"content type is signed-data", signedWith{attrs: [][]byte{attr(oidContentType, oidSignedData.der()),
			digest}}, ErrAttributes},
		{"encapsulated type is not data", signedWith{attrs: [][]byte{kind, digest}, dataType: oidSignedData}, ErrAttributes},
		{"other digest", signedWith{attrs: [][]byte{kind, other}}, ErrAltered},
		{"other signature", signedWith{attrs: [][]byte{kind, digest}, value: []byte{0x30, 0}}, ErrSignature},
		{"algorithms protected", signedWith{attrs: [][]byte{kind, digest, protection(sha256alg, ecdsa256)}}, nil},
		{"protected digest with NULL", signedWith{attrs: [][]byte{kind, digest,
			protection(algorithmDER(oidSHA256, element(tagNull)), ecdsa256)}}, nil},
		{"protected other digest", signedWith{attrs: [][]byte{kind, digest,
			protection(algorithmDER(oidSHA512, nil), ecdsa256)}}, ErrAttributes},
		{"protected other signature", signedWith{attrs: [][]byte{kind, digest,
			protection(sha256alg, algorithmDER(oidRSA, nil))}}, ErrAttributes},
		{"SHA-1", signedWith{attrs: [][]byte{kind, digest}, digest: oidSHA1}, ErrDigest},
		{"MD5", signedWith{attrs: [][]byte{kind, digest}, digest: "\x2a\x86\x48\x86\xf7\x0d\x02\x05"}, ErrDigest},
		{"SHA-224", signedWith{attrs: [][]byte{kind, digest}, digest: oidSHA224}, ErrDigest},
		{"signature over another hash", signedWith{attrs: [][]byte{kind, digest},
			signature: algorithmDER(oidECDSASHA512, nil)}, ErrAlgorithm},
		{"RSA signature for an EC key", signedWith{attrs: [][]byte{kind, digest},
			signature: algorithmDER(oidRSA, nil)}, ErrAlgorithm},
		{"ECDSA with SHA-1", signedWith{attrs: [][]byte{kind, digest},
			signature: algorithmDER("\x2a\x86\x48\xce\x3d\x04\x01", nil)}, ErrAlgorithm},
		{"unreadable signing time", signedWith{attrs: [][]byte{kind, digest,
			attr(oidSigningTime, element(tagUTCTime, []byte("yesterday")))}}, nil},
		{"two signing times", signedWith{attrs: [][]byte{kind, digest, attr(oidSigningTime,
			timeDER(testTime), timeDER(testTime.Add(1)))}}, ErrAttributes},
		{"signing time is a number", signedWith{attrs: [][]byte{kind, digest,
			attr(oidSigningTime, element(tagInteger, []byte{1}))}}, ErrAttributes},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.p = p
			s, err := ParseSignedData(tt.s.build())
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Verify(content)
			if err != nil || got[0].Err != tt.want {
				t.Errorf("Verify = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// The octets of a message's signed attributes are not content that its
// signature is good for (eprint 2023/1801).
func TestVerify_signedAttributeConfusion(t *testing.T) {
	p := rsaPair()
	der := must(Sign(text(100), []Signer{p.signer()}, SignOptions{Time: testTime}))
	s := must(ParseSignedData(der))
	forged := bytes.Clone(s.Signers[0].signed.raw)
	forged[0] = tagSet
	attack := signedWith{p: p, value: s.Signers[0].value, signature: s.Signers[0].signature.raw}
	for name, m := range map[string][]byte{
		"detached": attack.build(),
		"embedded": func() []byte { attack.content = forged; return attack.build() }(),
	} {
		parsed := must(ParseSignedData(m))
		content := forged
		if parsed.Content != nil {
			content = nil
		}
		got, err := parsed.Verify(content)
		if err != nil || got[0].Err != ErrAttributes {
			t.Errorf("%s: Verify = %v, %v; want ErrAttributes", name, got, err)
		}
	}
}

func TestVerify_weakRSA(t *testing.T) {
	p := weakPair()
	s := signedWith{p: p, signature: algorithmDER(oidRSA, element(tagNull)), attrs: [][]byte{
		attr(oidContentType, oidData.der()),
		attr(oidMessageDigest, element(tagOctetString, sum(crypto.SHA256, text(10))))}}
	got, err := must(ParseSignedData(s.build())).Verify(text(10))
	if err != nil || got[0].Err != ErrWeakKey {
		t.Errorf("Verify = %v, %v; want ErrWeakKey (row SM-15)", got, err)
	}
}

// Keys of other kinds, and one so small that anybody signs with it.
func TestVerify_refusedKeys(t *testing.T) {
	s := must(ParseSignedData(must(Sign(text(10), []Signer{rsaPair().signer()}, SignOptions{Time: testTime}))))
	for name, key := range map[string]crypto.PublicKey{
		"DSA":         &dsa.PublicKey{},
		"P-224":       ecKey(elliptic.P224()).Public(),
		"X25519":      must(ecdh.X25519().GenerateKey(nil)).PublicKey(),
		"exponent 1":  &rsa.PublicKey{N: rsaPair().cert.PublicKey.(*rsa.PublicKey).N, E: 1},
		"RSA 16384":   &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16383), E: 65537},
		"no key read": nil,
	} {
		twin := *rsaPair().cert
		twin.PublicKey = key
		if key == nil {
			twin.RawSubjectPublicKeyInfo = []byte{0x30, 0}
		}
		s.Certificates = []*x509.Certificate{&twin}
		got, err := s.Verify(text(10))
		if err != nil || got[0].Err != ErrWeakKey && (key != nil || got[0].Err != ErrAlgorithm) {
			t.Errorf("%s: %v, %v; want ErrWeakKey (row S9)", name, got, err)
		}
	}
}

// A key its certificate marks for PSS only makes no PKCS #1 v1.5 signature we
// accept (RFC 4055 §1.2).
func TestVerify_pssOnlyKey(t *testing.T) {
	s := must(ParseSignedData(must(Sign(text(10), []Signer{rsaPair().signer()}, SignOptions{Time: testTime}))))
	twin := *rsaPair().cert
	twin.PublicKey = nil
	twin.RawSubjectPublicKeyInfo = element(tagSequence, algorithmDER(oidRSAPSS, nil),
		element(tagBitString, []byte{0}, x509.MarshalPKCS1PublicKey(rsaPair().cert.PublicKey.(*rsa.PublicKey))))
	s.Certificates = []*x509.Certificate{&twin}
	if got := must(s.Verify(text(10))); got[0].Err != ErrAlgorithm {
		t.Errorf("Verify = %v, want ErrAlgorithm", got[0].Err)
	}
}

func TestVerify_ed25519(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	content := text(10)
	attrs := [][]byte{attr(oidContentType, oidData.der()),
		attr(oidMessageDigest, element(tagOctetString, sum(crypto.SHA512, content)))}
	value := must(key.Sign(nil, element(tagSet, attrs...), crypto.Hash(0)))
	s := signedWith{p: issue("ed", key), digest: oidSHA512, signature: algorithmDER(oidEd25519, nil), attrs: attrs, value: value}
	got := must(must(ParseSignedData(s.build())).Verify(content))
	if got[0].Err != nil {
		t.Errorf("Ed25519: %v", got[0].Err)
	}
	s.value = append([]byte{1}, value[1:]...)
	if got := must(must(ParseSignedData(s.build())).Verify(content)); got[0].Err != ErrSignature {
		t.Errorf("altered Ed25519: %v, want ErrSignature", got[0].Err)
	}
}

// One bad signer must not spoil the verdict on the others (row SM-21).
func TestVerify_eachSignerOnItsOwn(t *testing.T) {
	content := text(100)
	der := must(Sign(content, []Signer{rsaPair().signer(), p256Pair().signer(), p384Pair().signer()},
		SignOptions{Time: testTime}))
	s := must(ParseSignedData(der))
	s.Signers[1].value = bytes.Clone(s.Signers[1].value)
	s.Signers[1].value[10] ^= 1
	got, err := s.Verify(content)
	if err != nil || len(got) != 3 {
		t.Fatalf("Verify = %v, %v", got, err)
	}
	for i, v := range got {
		if (v.Err != nil) != (i == 1) {
			t.Errorf("signer %d: %v", i, v.Err)
		}
	}
}

func TestParseSignedData_limits(t *testing.T) {
	raw := must(Sign(text(10), []Signer{p256Pair().signer()}, SignOptions{Time: testTime}))
	s := must(ParseSignedData(raw))
	_ = s
	cert := p256Pair().cert.Raw
	info := element(tagSequence, element(tagInteger, []byte{1}), issuerAndSerialDER(p256Pair().cert),
		algorithmDER(oidSHA256, nil), algorithmDER(oidECDSASHA256, nil), element(tagOctetString))
	build := func(certs, infos int, cert []byte) []byte {
		return message(oidSignedData, element(tagInteger, []byte{1}), element(tagSet),
			element(tagSequence, oidData.der()),
			element(tagContext|constructed, bytes.Repeat(cert, certs)),
			element(tagSet, bytes.Repeat(info, infos)))
	}
	huge := element(tagSequence, element(tagOctetString, make([]byte, maxCertificate)))
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"64 certificates", build(64, 1, cert), nil},
		{"65 certificates", build(65, 1, cert), ErrTooComplex},
		{"1000 certificates without signer", build(1000, 0, cert), nil},
		{"4097 certificates without signer", build(4097, 0, cert), ErrTooComplex},
		{"16 signers", build(1, 16, cert), nil},
		{"17 signers", build(1, 17, cert), ErrTooComplex},
		{"certificate of 64 KB", build(1, 1, huge), ErrTooComplex},
		{"unreadable certificate is left out", build(1, 1, element(tagSequence)), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseSignedData(tt.in); err != tt.want {
				t.Errorf("ParseSignedData = %v, want %v", err, tt.want)
			}
		})
	}
}
