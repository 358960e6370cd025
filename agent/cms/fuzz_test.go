package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"testing"
)

// Seeds are kept small: the fuzzer minimises each finding octet by octet, and
// with whole messages of 2 KB it does nothing else in the time it has.

// FuzzNormalise: what comes out is DER, stays as it is, is never much larger
// than what went in and holds the same primitives.
func FuzzNormalise(f *testing.F) {
	abc := element(tagOctetString, []byte("abc"))
	eci := element(0x30, oidData.der(), algorithmDER(oidAES128CBC, abc), indefinite(0xa0, abc, indefinite(0x24, abc)))
	for _, s := range [][]byte{
		element(0x30, abc, abc),
		indefinite(0x30, indefinite(0x24, abc, element(0x24, abc))),
		indefinite(0x30, element(0xa0, indefinite(0x30, eci))),
		{0x30, 0x84, 0, 0, 0, 2, 5, 0},
		bytes.Repeat([]byte{0x30, 0x80}, 70),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		out, owned, err := normalise(in)
		if !bytes.Equal(in, before) {
			t.Fatal("input changed")
		}
		if err != nil {
			if out != nil || err != ErrMalformed && err != ErrTooComplex {
				t.Fatalf("%v", err)
			}
			return
		}
		if owned == bytes.Equal(in, out) {
			t.Fatalf("owned = %v, %x -> %x", owned, in, out)
		}
		again, owned, err := normalise(out)
		if err != nil || owned || !bytes.Equal(again, out) {
			t.Fatalf("second pass: %v, %x -> %x", err, out, again)
		}
		if len(out) > len(in)+len(in)/2 {
			t.Fatalf("%d octets became %d", len(in), len(out))
		}
		strict(t, reader(out))
	})
}

// strict walks DER on its own: definite minimal lengths, no constructed string.
func strict(t *testing.T, r reader) {
	for len(r) > 0 {
		p, ok := r.next()
		if !ok || p.tag == 0 || p.tag == tagOctetString|constructed {
			t.Fatalf("not DER: %x", p.raw)
		}
		if p.tag&constructed != 0 {
			strict(t, p.content)
		}
	}
}

// FuzzParseSignedData keeps a certificate and varies the rest.
func FuzzParseSignedData(f *testing.F) {
	p := p256Pair()
	content := text(20)
	attrs := append(attr(oidContentType, oidData.der()),
		attr(oidMessageDigest, element(tagOctetString, sum(crypto.SHA256, content)))...)
	value := must(p.key.Sign(nil, sum(crypto.SHA256, element(tagSet, attrs)), crypto.SHA256))
	algs := append(algorithmDER(oidSHA256, nil), algorithmDER(oidECDSASHA256, nil)...)
	keyID := element(tagKeyID, p.cert.SubjectKeyId)
	f.Add(keyID, algs[:13], attrs, algs[13:], value, oidData.der(), []byte{})
	f.Add(issuerAndSerialDER(p.cert), algs[:13], attrs, algs[13:], value, append(oidData.der(),
		element(tagContext|constructed, element(tagOctetString, content))...), []byte{0xa1, 0})
	f.Add(keyID, algs[:13], []byte{}, algs[13:], value, []byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, sid, digest, attrs, signature, value, eci, noise []byte) {
		info := element(tagSequence, element(tagInteger, []byte{1}), sid, digest,
			element(tagContext|constructed, attrs), signature, element(tagOctetString, value))
		m := message(oidSignedData, element(tagInteger, []byte{1}), element(tagSet), element(tagSequence, eci),
			element(tagContext|constructed, p.cert.Raw, noise), element(tagSet, info))
		checkParsed(t, m, attrs, content)
		checkParsed(t, noise, nil, content)
	})
}

// checkParsed fails when something but the seed's attributes verifies.
func checkParsed(t *testing.T, m, attrs, content []byte) {
	s, err := ParseSignedData(m)
	if err != nil {
		return
	}
	if s.Content != nil {
		content = nil
	}
	got, err := s.Verify(content)
	if (err == nil) != (len(s.Signers) > 0) || len(got) != len(s.Signers) && err == nil {
		t.Fatalf("%d signers, %d results, %v", len(s.Signers), len(got), err)
	}
	for _, v := range got {
		var e Error
		if v.Err != nil && !errors.As(v.Err, &e) || v.Err == nil && (v.Cert == nil || len(attrs) == 0) {
			t.Fatalf("%+v", v)
		}
	}
}

// FuzzDecrypt keeps a good key wrap and lets everything else vary: library
// code panics here at once.
func FuzzDecrypt(f *testing.F) {
	key := bytes.Repeat([]byte{7}, 32)
	wrap := wrapFor(rsaPair(), key)
	f.Add([]byte(oidAES256CBC), make([]byte, 16), make([]byte, 32), []byte{}, []byte{})
	f.Add([]byte(oidAES128CBC), make([]byte, 16), make([]byte, 33), []byte{1}, []byte{})
	f.Add([]byte(oidAES256GCM), make([]byte, 12), make([]byte, 5), []byte{}, make([]byte, 16))
	f.Fuzz(func(t *testing.T, alg, iv, ciphertext, noise, mac []byte) {
		content := element(tagContext, ciphertext)
		if len(noise) > 0 {
			content = element(tagContext|constructed, element(tagOctetString, ciphertext), noise)
		}
		params := element(tagOctetString, iv)
		id, tail := oidEnvelopedData, []byte(nil)
		if len(mac) > 0 {
			id, tail = oidAuthEnvelopedData, element(tagOctetString, mac)
			params = element(tagSequence, params, element(tagInteger, []byte{byte(len(mac) & 0x7f)}))
		}
		m := message(id, element(tagInteger, []byte{0}), element(tagSet, ktri(rsaPair(), wrap)),
			element(tagSequence, oidData.der(), algorithmDER(oid(alg), params), content), tail)
		for _, in := range [][]byte{m, noise} {
			got, err := Decrypt(in, []Key{rsaPair().decryption()})
			var e Error
			if err != nil && (got != nil || !errors.As(err, &e)) {
				t.Fatalf("%d octets, %v", len(got), err)
			}
			if len(got) > len(in) {
				t.Fatalf("%d octets from %d", len(got), len(in))
			}
		}
	})
}

// FuzzDecryptMessage varies the recipients and the outline.
func FuzzDecryptMessage(f *testing.F) {
	content := element(0x30, oidData.der(), algorithmDER(oidAES256CBC, element(4, make([]byte, 16))),
		element(0x80, make([]byte, 16)))
	p := p256Pair()
	point := must(p.key.(*ecdsa.PrivateKey).ECDH()).PublicKey().Bytes()
	agree := element(tagKeyAgree, element(tagInteger, []byte{3}),
		element(0xa0, element(0xa1, algorithmDER("", nil), element(tagBitString, []byte{0}, point))),
		element(0xa1, element(4, []byte("ukm"))),
		algorithmDER(oidDHStdSHA256, algorithmDER(oidAES256Wrap, nil)),
		element(0x30, element(0x30, element(0xa0, element(4, p.cert.SubjectKeyId)), element(4, make([]byte, 40)))))
	transport := element(0x30, element(tagInteger, []byte{2}), element(tagKeyID, rsaPair().cert.SubjectKeyId),
		algorithmDER(oidOAEP, oaepParams(crypto.SHA256)), element(4, []byte("too short")))
	f.Add([]byte(oidEnvelopedData), agree, content, []byte{})
	f.Add([]byte(oidEnvelopedData), transport, content, []byte{0xa1, 0})
	f.Add([]byte(oidAuthEnvelopedData), transport, content, element(4, make([]byte, 16)))
	keys := []Key{p.decryption(), rsaPair().decryption()}
	f.Fuzz(func(t *testing.T, id, infos, eci, tail []byte) {
		m := message(oid(id), element(tagInteger, []byte{0}), element(tagSet, infos), eci, tail)
		for _, in := range [][]byte{m, tail} {
			if got, err := Decrypt(in, keys); err != nil && got != nil {
				t.Fatalf("%d octets and %v", len(got), err)
			}
		}
	})
}
