package cms

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"testing"

	"go.mozilla.org/pkcs7"
)

// The library is the oracle where it can read or write what we do.
func TestLibrary_agrees(t *testing.T) {
	content := text(1000)
	for _, p := range []pair{rsaPair(), p256Pair(), p384Pair()} {
		p7, err := pkcs7.Parse(must(Sign(content, []Signer{p.signer()}, SignOptions{Time: testTime})))
		if err != nil {
			t.Fatal(err)
		}
		p7.Content = content
		if err := p7.Verify(); err != nil {
			t.Errorf("%s: library refuses ours: %v", p.name, err)
		}
		for _, embedded := range []string{"embedded", "detached"} {
			s := must(pkcs7.NewSignedData(content))
			s.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
			if err := s.AddSigner(p.cert, p.key, pkcs7.SignerInfoConfig{}); err != nil {
				t.Fatal(err)
			}
			if embedded == "detached" {
				s.Detach()
			}
			if got := verifyAll(t, must(s.Finish()), content); got[0].Digest != crypto.SHA256 {
				t.Errorf("%s: %+v", p.name, got)
			}
		}
	}
	p7, err := pkcs7.Parse(must(Encrypt(content, []Recipient{rsaPair().recipient("")}, "")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := p7.Decrypt(rsaPair().cert, rsaPair().key.(*rsa.PrivateKey))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("library cannot decrypt ours: %v", err)
	}
}
