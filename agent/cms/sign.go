package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"

	"go.mozilla.org/pkcs7"
)

// Sign returns a detached SignedData (RFC 5652 §5) over content in DER, with
// one SignerInfo per signer that names its certificate by issuer and serial
// number. The signed attributes are contentType id-data, messageDigest,
// signingTime and CMSAlgorithmProtection (RFC 6211). RSA keys sign with PKCS
// #1 v1.5 as rsaEncryption, the form every peer reads.
//
// No signer is ErrNoSigner, a key that is weak, of another type or not that
// of the leaf is ErrWeakKey, a digest outside SHA-2 is ErrDigest, a key that
// fails to sign is ErrSign, more than 16 signers or 64 certificates are
// ErrTooComplex.
func Sign(content []byte, signers []Signer, opts SignOptions) ([]byte, error) {
	if len(signers) == 0 {
		return nil, ErrNoSigner
	}
	if len(signers) > maxSigners {
		return nil, ErrTooComplex
	}
	if opts.Digest == 0 {
		opts.Digest = crypto.SHA256
	}
	if digestOID(opts.Digest) == "" {
		return nil, ErrDigest
	}
	if opts.Time.IsZero() {
		return nil, ErrSign
	}
	hashed := sum(opts.Digest, content)
	for _, s := range signers {
		if err := s.check(); err != nil {
			return nil, err
		}
	}
	return assemble(hashed, signers, opts)
}

// check reports whether the signer can make a signature we would accept.
func (s Signer) check() error {
	if len(s.Chain) == 0 || s.Key == nil || slices.Contains(s.Chain, nil) {
		return ErrNoSigner
	}
	switch key := s.Key.Public().(type) {
	case *rsa.PublicKey:
		if !strongRSA(key) || !key.Equal(s.Chain[0].PublicKey) {
			return ErrWeakKey
		}
		return nil
	case *ecdsa.PublicKey:
		if key.Params().BitSize < 256 || !key.Equal(s.Chain[0].PublicKey) {
			return ErrWeakKey
		}
		return nil
	}
	return ErrWeakKey
}

// assemble lets the library make the signatures and the SignedData. A panic
// in it is our failure to sign, not the end of the node.
func assemble(hashed []byte, signers []Signer, opts SignOptions) (der []byte, err error) {
	defer func() {
		if recover() != nil {
			der, err = nil, ErrSign
		}
	}()
	out, err := pkcs7.NewSignedData(nil)
	if err != nil {
		return nil, ErrSign
	}
	out.Detach()
	all := out.GetSignedData()
	all.DigestAlgorithmIdentifiers = []pkix.AlgorithmIdentifier{{Algorithm: digestName(opts.Digest)}}
	for _, s := range signers {
		one, err := signOne(hashed, s, opts)
		if err != nil {
			return nil, err
		}
		all.SignerInfos = append(all.SignerInfos, one.GetSignedData().SignerInfos...)
	}
	certs := certificateSet(signers)
	if len(certs) > maxCertificates {
		return nil, ErrTooComplex
	}
	for _, cert := range certs {
		out.AddCertificate(cert)
	}
	if der, err = out.Finish(); err != nil {
		return nil, ErrSign
	}
	return der, nil
}

// signOne makes one SignerInfo. The library can sign a content without
// attributes with any crypto.Signer; given our attributes as that content it
// signs exactly what RFC 5652 §5.4 asks for, and they are put in afterwards.
// Its own attributes would carry its own clock.
func signOne(hashed []byte, s Signer, opts SignOptions) (*pkcs7.SignedData, error) {
	scheme := signatureName(s.Key.Public(), opts.Digest)
	signature, err := asn1.Marshal(scheme)
	if err != nil {
		return nil, ErrSign
	}
	attrs := attributesDER(hashed, algorithmDER(digestOID(opts.Digest), nil), signature, opts.Time)
	one, err := pkcs7.NewSignedData(attrs)
	if err != nil {
		return nil, ErrSign
	}
	one.SetDigestAlgorithm(digestName(opts.Digest))
	one.SetEncryptionAlgorithm(scheme.Algorithm)
	if err := one.SignWithoutAttr(s.Chain[0], s.Key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, ErrSign
	}
	info := &one.GetSignedData().SignerInfos[0]
	info.DigestEncryptionAlgorithm = scheme
	if _, err := asn1.UnmarshalWithParams(attrs, &info.AuthenticatedAttributes, "set"); err != nil {
		return nil, ErrSign
	}
	return one, nil
}

// certificateSet returns every certificate once, in DER order.
func certificateSet(signers []Signer) []*x509.Certificate {
	var set []*x509.Certificate
	for _, s := range signers {
		set = append(set, s.Chain...)
	}
	slices.SortFunc(set, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return slices.CompactFunc(set, func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) })
}

func digestName(h crypto.Hash) asn1.ObjectIdentifier {
	switch h {
	case crypto.SHA384:
		return pkcs7.OIDDigestAlgorithmSHA384
	case crypto.SHA512:
		return pkcs7.OIDDigestAlgorithmSHA512
	}
	return pkcs7.OIDDigestAlgorithmSHA256
}

// signatureName is rsaEncryption with NULL (RFC 3370 §3.2) or ECDSA with the
// digest and no parameters (RFC 5754 §3.3).
func signatureName(key crypto.PublicKey, h crypto.Hash) pkix.AlgorithmIdentifier {
	if _, ok := key.(*rsa.PublicKey); ok {
		return pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDEncryptionAlgorithmRSA, Parameters: asn1.NullRawValue}
	}
	switch h {
	case crypto.SHA384:
		return pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDDigestAlgorithmECDSASHA384}
	case crypto.SHA512:
		return pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDDigestAlgorithmECDSASHA512}
	}
	return pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDDigestAlgorithmECDSASHA256}
}
