// Package smime composes and reads S/MIME entities (RFC 8551) as Direct
// messages use them: multipart/signed with a detached signature, CMS in
// application/pkcs7-mime, and the message/rfc822 wrapping that protects the
// header (RFC 8551 §3.1; Direct AS §2).
//
// It moves octets only: what it hands out to be verified is a slice of what
// came in, and what it composes is written once. It knows neither keys nor
// CMS, decides no trust and repairs nothing that was signed.
package smime

import (
	"crypto/rand"
	"encoding/hex"
	"errors"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// Errors of this package.
var (
	ErrNotSigned = errors.New("smime: entity is not signed")
	ErrStructure = errors.New("smime: structure is ambiguous or broken")
)

// Media types, RFC 8551 §3.2 and §3.5.3, with the older names of RFC 2311.
const (
	typeSigned       = "multipart/signed"
	typeCMS          = "application/pkcs7-mime"
	typeOldCMS       = "application/x-pkcs7-mime"
	typeSignature    = "application/pkcs7-signature"
	typeOldSignature = "application/x-pkcs7-signature"
	typeMessage      = "message/rfc822"
	typeGlobal       = "message/global" // RFC 6532 §3.7

	prefixText      = "text/"
	prefixMultipart = "multipart/"
	prefixMessage   = "message/"
)

// What goes on the wire. The parameters are those the certification tool
// checks: quoted protocol, name and filename, micalg sha-256, base64.
const (
	crlf = "\r\n"

	mimeVersion = "MIME-Version: 1.0" + crlf

	wrapperHeader = "Content-Type: message/rfc822" + crlf + crlf

	signedHeader = `Content-Type: multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256;` + crlf +
		` boundary="` // and the boundary, and
	endBoundary = `"` + crlf + crlf

	signatureHeader = `Content-Type: application/pkcs7-signature; name="smime.p7s"` + crlf +
		`Content-Transfer-Encoding: base64` + crlf +
		`Content-Disposition: attachment; filename="smime.p7s"` + crlf + crlf

	envelopedHeader = `Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"` + crlf +
		`Content-Transfer-Encoding: base64` + crlf +
		`Content-Disposition: attachment; filename="smime.p7m"` + crlf + crlf
)

// outside are the fields that are copied to the outer header (conformance row
// SM-06). Subject is not among them.
var outside = [...]string{
	"From", "To", "Cc", "Orig-Date", "Date", "Message-ID", "In-Reply-To", "References",
}

// canonical tells whether msg can be signed as it is: every line ends in CRLF
// and nowhere else is CR or LF, no line is longer than 998 octets, and all
// octets are 7-bit and not NUL (RFC 8551 §3.1.1, §3.1.3).
func canonical(msg []byte) bool { return sevenBit(msg) && linesFit(msg) }

// Sign returns msg wrapped in message/rfc822 as a multipart/signed entity.
// sign gets the octets to be signed and returns the DER of a detached
// SignedData with SHA-256; its error is returned as it is.
func Sign(msg []byte, sign func(content []byte) ([]byte, error)) ([]byte, error) {
	const room = 16 << 10 // for headers, delimiters and the signature with some certificates
	boundary := newBoundary()
	out := make([]byte, 0, len(msg)+room)
	out = append(out, signedHeader+boundary+endBoundary+"--"+boundary+crlf...)
	start := len(out)
	out = append(out, wrapperHeader...)
	out = append(out, msg...)
	der, err := sign(out[start:len(out):len(out)])
	if err != nil {
		return nil, err
	}
	out = append(out, crlf+"--"+boundary+crlf+signatureHeader...)
	out = AppendBase64(out, der)
	return append(out, "--"+boundary+"--"+crlf...), nil
}

// Envelope returns the message that carries an EnvelopedData under header,
// which is what OuterHeader returned. encrypt appends the DER to the slice it
// gets and returns the longer one; size is the length of what it encrypts and
// recipients how many certificates it encrypts to. The DER is written to the
// end of the message's own memory and from there encoded to its place, so a
// message is in memory once.
func Envelope(header []byte, size, recipients int, encrypt func(dst []byte) ([]byte, error)) ([]byte, error) {
	const (
		fixed        = 1 << 10 // octets of EnvelopedData beside content and recipients
		perRecipient = 2 << 10 // RSA 8192, and a long issuer name
		slack        = 80      // encodeBase64
	)
	room := size + fixed + recipients*perRecipient
	start := len(header) + len(envelopedHeader)
	buf := make([]byte, start+base64Len(room)+slack)
	at := len(buf) - room
	out, err := encrypt(buf[:at])
	if err != nil {
		return nil, err
	}
	if len(out) > len(buf) { // more than there was room for: it is elsewhere now
		buf = make([]byte, start+base64Len(len(out)-at))
	}
	copy(buf, header)
	copy(buf[len(header):], envelopedHeader)
	return encodeBase64(buf, start, out[at:]), nil
}

// OuterHeader returns the fields of msg that may be seen on the way, octet for
// octet, and MIME-Version; no empty line.
func OuterHeader(msg []byte, fields []mimetree.Field) []byte {
	out := []byte(mimeVersion)
	for _, name := range outside {
		for _, f := range fields {
			if f.Is(name) {
				out = append(out, f.Name+":"...)
				out = append(out, f.Value.Of(msg)...)
				out = append(out, crlf...)
			}
		}
	}
	return out
}

// newBoundary makes a delimiter nobody can foresee, 42 characters of the 70
// of RFC 2046 §5.1.1. "=_" keeps it out of quoted-printable and base64.
func newBoundary() string {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails
	return "=_" + hex.EncodeToString(b[:])
}
