package agent

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

// The ASN.1 of RFC 5652 §3 and §5.1, for making what cms.Sign does not make.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version      int
	Digests      asn1.RawValue
	Content      encapsulated
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Signers      asn1.RawValue
}

type encapsulated struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional,explicit,tag:0"`
}

var (
	oidData   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSigned = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

// embedContent puts content into a detached SignedData.
func embedContent(der, content []byte) ([]byte, error) {
	var info contentInfo
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, err
	}
	var data signedData
	if _, err := asn1.Unmarshal(info.Content.Bytes, &data); err != nil {
		return nil, err
	}
	octets, err := asn1.Marshal(content)
	if err != nil {
		return nil, err
	}
	data.Content.Content = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: octets}
	return info.with(data)
}

func (info contentInfo) with(data signedData) ([]byte, error) {
	inner, err := asn1.Marshal(data)
	if err != nil {
		return nil, err
	}
	info.Content = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}
	return asn1.Marshal(info)
}

// noSigners is a SignedData with a certificate and nobody's signature.
func noSigners(t testing.TB, cert *x509.Certificate) []byte {
	t.Helper()
	emptySet := asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, FullBytes: []byte{0x31, 0}}
	der, err := contentInfo{Type: oidSigned}.with(signedData{
		Version: 1, Digests: emptySet, Content: encapsulated{Type: oidData}, Signers: emptySet,
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: cert.Raw},
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
