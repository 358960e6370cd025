package mimetree

import (
	"bytes"
	"strings"
)

// Protection says how an entity is packaged (RFC 8551 §3.2, §3.5).
type Protection uint8

// Protections.
const (
	Plain     Protection = iota // no S/MIME
	Signed                      // multipart/signed, or CMS SignedData
	Enveloped                   // CMS EnvelopedData or AuthEnvelopedData
	OtherCMS                    // CMS of another kind, or unreadable
)

// Types and parameters of S/MIME entities, RFC 8551 §3.2, §3.5.3 and §3.8.
const (
	typeSigned = "multipart/signed"
	typeCMS    = "application/pkcs7-mime"
	typeOldCMS = "application/x-pkcs7-mime"

	paramName      = "name"
	paramSMIMEType = "smime-type"
	nameSuffix     = ".p7m"

	smimeEnveloped     = "enveloped-data"
	smimeAuthEnveloped = "authenveloped-data" // RFC 8551 §3.2.2
	smimeSigned        = "signed-data"
)

// The content types of RFC 5652 and RFC 5083, DER contents octets.
var (
	oidSignedData    = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2}
	oidEnvelopedData = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 3}
	oidAuthEnveloped = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 23}
)

// Protection tells how p itself, not a part of it, is packaged. For
// application/pkcs7-mime (x-pkcs7-mime, and application/octet-stream named
// *.p7m, RFC 8551 §3.8) the CMS content type decides and only if it cannot be
// read the smime-type parameter. It looks at the first octets of the body.
func (p *Part) Protection(msg []byte) Protection {
	switch p.MediaType {
	case typeSigned:
		return Signed
	case typeCMS, typeOldCMS:
		if kind := p.sniff(msg); kind != OtherCMS {
			return kind
		}
		switch strings.ToLower(p.Params[paramSMIMEType]) {
		case smimeEnveloped, smimeAuthEnveloped:
			return Enveloped
		case smimeSigned:
			return Signed
		}
		return OtherCMS
	case typeOctets:
		if strings.HasSuffix(strings.ToLower(p.Params[paramName]), nameSuffix) {
			if kind := p.sniff(msg); kind != OtherCMS {
				return kind
			}
		}
	}
	return Plain
}

// sniff reads the contentType of the ContentInfo in the body.
func (p *Part) sniff(msg []byte) Protection {
	const enough = 512 // octets; the object identifier stands within the first 20 of the CMS
	head := *p
	head.Body.End = min(p.Body.End, p.Body.Start+enough)
	if p.Encoding == encodingBase64 { // whole groups of four only
		kept := make([]byte, 0, enough)
		for _, c := range head.Body.Of(msg) {
			if c > ' ' && c != '=' {
				kept = append(kept, c)
			}
		}
		msg = kept[:len(kept)&^3]
		head.Body = Span{0, len(msg)}
	}
	der, err := head.Decode(msg)
	if err != nil || len(der) < 2 || der[0] != 0x30 {
		return OtherCMS
	}
	i := 2
	if der[1]&0x80 != 0 {
		i += int(der[1] & 0x7f)
	}
	if i+2 > len(der) || der[i] != 0x06 || i+2+int(der[i+1]) > len(der) {
		return OtherCMS
	}
	switch oid := der[i+2 : i+2+int(der[i+1])]; {
	case bytes.Equal(oid, oidSignedData):
		return Signed
	case bytes.Equal(oid, oidEnvelopedData), bytes.Equal(oid, oidAuthEnveloped):
		return Enveloped
	}
	return OtherCMS
}
