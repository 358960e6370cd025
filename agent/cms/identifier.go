package cms

import (
	"bytes"
	"crypto/x509"
)

// identifier names a certificate: by issuer and serial number, or by
// subjectKeyIdentifier (RFC 5652 §5.3 and §6.2.1).
type identifier struct {
	issuer []byte // raw Name; nil when keyID is used
	serial []byte // INTEGER content
	keyID  []byte
}

// tagKeyID is the tag of the subjectKeyIdentifier choice.
const tagKeyID = tagContext

// issuerAndSerial reads the content of an IssuerAndSerialNumber.
func issuerAndSerial(r reader) (identifier, bool) {
	if r.peek() != tagSequence {
		return identifier{}, false
	}
	name, ok := r.next()
	if !ok {
		return identifier{}, false
	}
	serial, ok := r.only(tagInteger)
	return identifier{issuer: name.raw, serial: serial}, ok
}

// identifier takes a SignerIdentifier or RecipientIdentifier.
func (r *reader) identifier() (identifier, bool) {
	switch r.peek() {
	case tagSequence:
		c, ok := r.take(tagSequence)
		if !ok {
			return identifier{}, false
		}
		return issuerAndSerial(c)
	case tagKeyID:
		c, ok := r.take(tagKeyID)
		return identifier{keyID: c}, ok && len(c) > 0
	}
	return identifier{}, false
}

// names reports whether the identifier is that of cert.
func (i identifier) names(cert *x509.Certificate) bool {
	if i.keyID != nil {
		return bytes.Equal(i.keyID, cert.SubjectKeyId)
	}
	return cert.SerialNumber != nil && bytes.Equal(i.issuer, cert.RawIssuer) &&
		bytes.Equal(i.serial, serialDER(cert))
}

// serialDER is the INTEGER content of a serial number. Serial numbers that
// are negative on the wire cannot come here: crypto/x509 refuses them.
func serialDER(cert *x509.Certificate) []byte {
	b := cert.SerialNumber.Bytes()
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	return b
}

// issuerAndSerialDER is the identifier we emit for cert.
func issuerAndSerialDER(cert *x509.Certificate) []byte {
	return element(tagSequence, cert.RawIssuer, element(tagInteger, serialDER(cert)))
}
