package cms

import (
	"bytes"
	"crypto/x509"
)

// Limits on what a SignedData may carry (row S11). A certs-only message is
// how trust bundles travel, so it may hold more.
const (
	maxSigners       = 16
	maxCertificates  = 64
	maxBundle        = 4096
	maxCertificate   = 64 << 10 // octets of one certificate
	maxAttributes    = 64       // signed attributes of one SignerInfo
	maxAttributeSize = 64 << 10 // octets of the signed attributes of one SignerInfo
)

// SignerInfo is one signature of a SignedData (RFC 5652 §5.3), not yet judged.
type SignerInfo struct {
	sid       identifier
	digest    algorithm
	signature algorithm
	value     []byte
	signed    piece // signedAttrs as received, tag 0 when absent
}

// ParseSignedData reads a ContentInfo with SignedData, BER or DER. It judges
// form only: ErrMalformed, or ErrTooComplex above 16 signers, 64 certificates
// (4,096 when there is no signer) or a limit of the encoding. The result may
// share memory with ber.
func ParseSignedData(ber []byte) (*SignedData, error) {
	id, r, _, err := contentInfo(ber)
	if err != nil {
		return nil, err
	}
	if id != oidSignedData {
		return nil, ErrMalformed
	}
	s := &SignedData{}
	if _, ok := r.small(); !ok {
		return nil, ErrMalformed
	}
	if _, ok := r.take(tagSet); !ok { // digestAlgorithms: each SignerInfo names its own
		return nil, ErrMalformed
	}
	if !s.encapsulated(&r) {
		return nil, ErrMalformed
	}
	certs, _, ok := r.option(tagContext | constructed)
	if !ok {
		return nil, ErrMalformed
	}
	if _, _, ok := r.option(tagContext | constructed | 1); !ok { // crls: revocation is not our matter
		return nil, ErrMalformed
	}
	infos, ok := r.only(tagSet)
	if !ok {
		return nil, ErrMalformed
	}
	if err := s.signerInfos(infos); err != nil {
		return nil, err
	}
	if err := s.certificates(certs); err != nil {
		return nil, err
	}
	return s, nil
}

// encapsulated reads the EncapsulatedContentInfo (RFC 5652 §5.2). Content
// that is not an OCTET STRING, as PKCS #7 1.5 allowed, is refused.
func (s *SignedData) encapsulated(r *reader) bool {
	info, ok := r.take(tagSequence)
	if !ok {
		return false
	}
	id, ok := info.take(tagOID)
	if !ok {
		return false
	}
	s.dataType = oid(id) == oidData
	explicit, present, ok := info.option(tagContext | constructed)
	if !ok || len(info) > 0 {
		return false
	}
	if !present {
		return true
	}
	content, ok := explicit.only(tagOctetString)
	if !ok {
		return false
	}
	s.Content = content
	if s.Content == nil {
		s.Content = []byte{}
	}
	return true
}

func (s *SignedData) signerInfos(r reader) error {
	for len(r) > 0 {
		if len(s.Signers) == maxSigners {
			return ErrTooComplex
		}
		body, ok := r.take(tagSequence)
		if !ok {
			return ErrMalformed
		}
		info, ok := signerInfo(body)
		if !ok {
			return ErrMalformed
		}
		s.Signers = append(s.Signers, info)
	}
	return nil
}

func signerInfo(r reader) (s SignerInfo, ok bool) {
	if _, ok = r.small(); !ok {
		return s, false
	}
	if s.sid, ok = r.identifier(); !ok {
		return s, false
	}
	if s.digest, ok = r.algorithm(tagSequence); !ok {
		return s, false
	}
	if r.peek() == tagContext|constructed {
		if s.signed, ok = r.next(); !ok {
			return s, false
		}
	}
	if s.signature, ok = r.algorithm(tagSequence); !ok {
		return s, false
	}
	if s.value, ok = r.take(tagOctetString); !ok {
		return s, false
	}
	_, _, ok = r.option(tagContext | constructed | 1) // unsignedAttrs prove nothing
	return s, ok && len(r) == 0
}

// certificates reads a CertificateSet (RFC 5652 §10.2.3). Other choices than
// Certificate, repeated certificates and those crypto/x509 cannot read are
// left out: an odd companion must not spoil a good signature.
func (s *SignedData) certificates(r reader) error {
	limit := maxCertificates
	if len(s.Signers) == 0 {
		limit = maxBundle
	}
	for n := 0; len(r) > 0; n++ {
		p, ok := r.next()
		switch {
		case !ok:
			return ErrMalformed
		case n == limit:
			return ErrTooComplex
		case p.tag != tagSequence:
			continue
		case len(p.raw) > maxCertificate:
			return ErrTooComplex
		}
		cert, err := x509.ParseCertificate(bytes.Clone(p.raw))
		if err == nil {
			s.Certificates = append(s.Certificates, cert)
		}
	}
	return nil
}
