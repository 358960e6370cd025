package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the digests of RFC 5754
	_ "crypto/sha512"
	"crypto/x509"
	"slices"
)

// RSA key sizes in bits: below is refused (row SM-15), above costs too much.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// Verify judges each SignerInfo on its own and returns one result per
// SignerInfo, in order. content is what a detached signature covers; it must
// be nil when the message carries the content, and not nil when it does not
// (ErrContent, row S4). A message without signers is ErrNoSigner. Err is nil
// in a result only if the signature value, the digest of the content and the
// signed attributes are good; whether Cert is trusted is the caller's matter.
func (s *SignedData) Verify(content []byte) ([]Verified, error) {
	if (content == nil) == (s.Content == nil) {
		return nil, ErrContent
	}
	if len(s.Signers) == 0 {
		return nil, ErrNoSigner
	}
	if content == nil {
		content = s.Content
	}
	v := verifier{message: s, content: content, digests: make(map[crypto.Hash][]byte, 1)}
	out := make([]Verified, len(s.Signers))
	for i := range s.Signers {
		out[i] = v.judge(&s.Signers[i])
	}
	return out, nil
}

// verifier hashes the content once per digest algorithm, not per signer.
type verifier struct {
	message *SignedData
	content []byte
	digests map[crypto.Hash][]byte
}

func (v *verifier) digest(h crypto.Hash) []byte {
	if d, ok := v.digests[h]; ok {
		return d
	}
	w := h.New()
	w.Write(v.content)
	d := w.Sum(nil)
	v.digests[h] = d
	return d
}

func (v *verifier) judge(s *SignerInfo) (out Verified) {
	out.Digest = signatureDigest(s.digest.id)
	if out.Digest == 0 || !s.digest.noParams() {
		out.Err = ErrDigest
		return out
	}
	certs := v.candidates(s)
	if len(certs) == 0 {
		out.Err = ErrCertificate
		return out
	}
	out.Cert = certs[0]
	attrs, ok := signedAttributes(s.signed)
	if !ok || !v.message.dataType || !attrs.fits(s) {
		out.Err = ErrAttributes
		return out
	}
	out.SigningTime = attrs.signingTime
	// The cheap check first keeps an altered 25 MB message from costing more
	// than its hash; neither is secret.
	if !bytes.Equal(attrs.digest, v.digest(out.Digest)) {
		out.Err = ErrAltered
		return out
	}
	for i, cert := range certs {
		err := s.check(cert, out.Digest)
		if i == 0 || err == nil {
			out.Cert, out.Err = cert, err
		}
		if err == nil {
			break
		}
	}
	return out
}

// candidates returns the certificates the signer identifier names. More than
// one is odd but possible: a wrong twin must not hide the right one.
func (v *verifier) candidates(s *SignerInfo) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, c := range v.message.Certificates {
		if c != nil && s.sid.names(c) {
			certs = append(certs, c)
		}
	}
	return certs
}

// check verifies the signature value over the signed attributes. They are
// signed in DER as a SET OF (RFC 5652 §5.4). Signers exist that sign what
// they send and others that sort only what they sign, so both are tried.
func (s *SignerInfo) check(cert *x509.Certificate, digest crypto.Hash) error {
	received := bytes.Clone(s.signed.raw)
	received[0] = tagSet
	err := s.checkOctets(cert, digest, received)
	if err != ErrSignature {
		return err
	}
	sorted, changed := sortedSet(s.signed.content)
	if !changed {
		return err
	}
	return s.checkOctets(cert, digest, sorted)
}

// sortedSet is the DER form of a SET OF, X.690 §11.6.
func sortedSet(r reader) (der []byte, changed bool) {
	var items [][]byte
	for len(r) > 0 {
		p, ok := r.next()
		if !ok {
			return nil, false
		}
		items = append(items, p.raw)
	}
	if slices.IsSortedFunc(items, bytes.Compare) {
		return nil, false
	}
	slices.SortFunc(items, bytes.Compare)
	return element(tagSet, items...), true
}

func (s *SignerInfo) checkOctets(cert *x509.Certificate, digest crypto.Hash, octets []byte) error {
	if cert.PublicKey == nil && s.signature.id != oidRSAPSS {
		return ErrAlgorithm // a key for PSS only, or one we cannot read
	}
	switch key := publicKey(cert).(type) {
	case *rsa.PublicKey:
		return s.checkRSA(key, digest, sum(digest, octets))
	case *ecdsa.PublicKey:
		return s.checkECDSA(key, digest, sum(digest, octets))
	case ed25519.PublicKey:
		// RFC 8419 §3: SHA-512 for the content, none for the signature.
		if s.signature.id != oidEd25519 || s.signature.params.tag != 0 || digest != crypto.SHA512 {
			return ErrAlgorithm
		}
		if !ed25519.Verify(key, octets, s.value) {
			return ErrSignature
		}
		return nil
	}
	return ErrWeakKey
}

func sum(h crypto.Hash, octets []byte) []byte {
	w := h.New()
	w.Write(octets)
	return w.Sum(nil)
}

// strongRSA holds for signing, verifying and encrypting alike (rows SM-15, S9).
func strongRSA(key *rsa.PublicKey) bool {
	bits := key.N.BitLen()
	return bits >= minRSABits && bits <= maxRSABits && key.E >= 3
}

func (s *SignerInfo) checkRSA(key *rsa.PublicKey, digest crypto.Hash, hashed []byte) error {
	if !strongRSA(key) {
		return ErrWeakKey
	}
	var err error
	switch s.signature.id {
	case oidRSA, rsaWith(digest):
		if !s.signature.noParams() {
			return ErrAlgorithm
		}
		err = rsa.VerifyPKCS1v15(key, digest, hashed, s.value)
	case oidRSAPSS:
		opts, ok := pssOptions(s.signature, digest)
		if !ok {
			return ErrAlgorithm
		}
		err = rsa.VerifyPSS(key, digest, hashed, s.value, opts)
	default:
		return ErrAlgorithm
	}
	if err != nil {
		return ErrSignature
	}
	return nil
}

func (s *SignerInfo) checkECDSA(key *ecdsa.PublicKey, digest crypto.Hash, hashed []byte) error {
	switch key.Curve {
	case elliptic.P256(), elliptic.P384(), elliptic.P521():
	default:
		return ErrWeakKey
	}
	if s.signature.id != ecdsaWith(digest) || !s.signature.noParams() {
		return ErrAlgorithm
	}
	if !ecdsa.VerifyASN1(key, hashed, s.value) {
		return ErrSignature
	}
	return nil
}

// publicKey returns the key of cert. crypto/x509 leaves an RSA key marked for
// PSS only (RFC 4055 §3.1) unread.
func publicKey(cert *x509.Certificate) crypto.PublicKey {
	if cert.PublicKey != nil {
		return cert.PublicKey
	}
	info, ok := reader(cert.RawSubjectPublicKeyInfo).only(tagSequence)
	if !ok {
		return nil
	}
	a, ok := info.algorithm(tagSequence)
	if !ok || a.id != oidRSAPSS {
		return nil
	}
	bits, ok := info.only(tagBitString)
	if !ok || len(bits) == 0 || bits[0] != 0 {
		return nil
	}
	key, err := x509.ParsePKCS1PublicKey(bits[1:])
	if err != nil {
		return nil
	}
	return key
}

// rsaWith names RSA PKCS #1 v1.5 with the digest (RFC 5754 §3.2).
func rsaWith(digest crypto.Hash) oid {
	switch digest {
	case crypto.SHA256:
		return oidRSASHA256
	case crypto.SHA384:
		return oidRSASHA384
	}
	return oidRSASHA512
}

// ecdsaWith names ECDSA with the digest (RFC 5754 §3.3).
func ecdsaWith(digest crypto.Hash) oid {
	switch digest {
	case crypto.SHA256:
		return oidECDSASHA256
	case crypto.SHA384:
		return oidECDSASHA384
	}
	return oidECDSASHA512
}

// pssOptions reads RSASSA-PSS-params (RFC 4055 §3.1). The hash must be the
// digest of the SignerInfo and also that of MGF1; the defaults are SHA-1 and
// so refused.
func pssOptions(a algorithm, digest crypto.Hash) (*rsa.PSSOptions, bool) {
	if a.params.tag != tagSequence {
		return nil, false
	}
	r := a.params.content
	hash, mgf, ok := hashAndMask(&r)
	if !ok || hash != digest || mgf != digest {
		return nil, false
	}
	salt := 20
	if c, present, ok := r.option(tagContext | constructed | 2); !ok {
		return nil, false
	} else if present {
		if salt, ok = c.small(); !ok || len(c) > 0 || salt > maxRSABits/8 {
			return nil, false
		}
	}
	if c, present, ok := r.option(tagContext | constructed | 3); !ok {
		return nil, false
	} else if present {
		if trailer, ok := c.small(); !ok || len(c) > 0 || trailer != 1 {
			return nil, false
		}
	}
	return &rsa.PSSOptions{SaltLength: salt, Hash: digest}, len(r) == 0
}

// hashAndMask takes hashAlgorithm [0] and maskGenAlgorithm [1], which begin
// the parameters of both PSS and OAEP; the default of both is SHA-1.
func hashAndMask(r *reader) (hash, mgf crypto.Hash, ok bool) {
	hash, mgf = crypto.SHA1, crypto.SHA1
	if c, present, ok := r.option(tagContext | constructed); !ok {
		return 0, 0, false
	} else if present {
		a, ok := c.algorithm(tagSequence)
		if hash = transportDigest(a.id); !ok || len(c) > 0 || hash == 0 || !a.noParams() {
			return 0, 0, false
		}
	}
	if c, present, ok := r.option(tagContext | constructed | 1); !ok {
		return 0, 0, false
	} else if present {
		a, ok := c.algorithm(tagSequence)
		if !ok || len(c) > 0 || a.id != oidMGF1 || a.params.tag != tagSequence {
			return 0, 0, false
		}
		inner := reader(a.params.raw)
		b, ok := inner.algorithm(tagSequence)
		if mgf = transportDigest(b.id); !ok || mgf == 0 || !b.noParams() {
			return 0, 0, false
		}
	}
	return hash, mgf, true
}
