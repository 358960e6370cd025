package smime

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// maxLine is RFC 5322 §2.1.1 without CRLF, in octets.
const maxLine = 998

// sevenBit tells whether b has neither NUL nor an octet above 127.
func sevenBit(b []byte) bool {
	return ascii(b) && bytes.IndexByte(b, 0) < 0
}

func ascii(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		if (binary.LittleEndian.Uint64(b)|binary.LittleEndian.Uint64(b[8:])|
			binary.LittleEndian.Uint64(b[16:])|binary.LittleEndian.Uint64(b[24:]))&high != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// linesFit tells whether every line ends in CRLF, the last one excepted, is no
// longer than 998 octets and has no CR or LF inside.
func linesFit(b []byte) bool {
	for len(b) > 0 {
		lf := bytes.IndexByte(b, '\n')
		if lf < 0 {
			return len(b) <= maxLine && bytes.IndexByte(b, '\r') < 0
		}
		if lf == 0 || lf > maxLine+1 || bytes.IndexByte(b[:lf], '\r') != lf-1 {
			return false
		}
		b = b[lf+1:]
	}
	return true
}

// crlfOnly tells whether CR and LF stand in b only as CRLF.
func crlfOnly(b []byte) bool {
	for {
		i := bytes.IndexByte(b, '\r')
		if i < 0 {
			return bytes.IndexByte(b, '\n') < 0
		}
		if bytes.IndexByte(b[:i], '\n') >= 0 || i+1 == len(b) || b[i+1] != '\n' {
			return false
		}
		b = b[i+2:]
	}
}

// edit replaces a range of octets.
type edit struct {
	at   mimetree.Span
	with []byte
}

// Encodings for bodies that are not 7-bit, RFC 2045 §6.
const (
	encodingField = "Content-Transfer-Encoding"
	sevenBitName  = "7bit"
	quotedName    = "quoted-printable"
	base64Name    = "base64"
)

// SevenBit returns msg with each leaf part that cannot be signed as it is
// (canonical) in quoted-printable, if it is text, or base64 (conformance row
// SM-08; RFC 8551 §3.1.3). Only the body and the Content-Transfer-Encoding of
// such leaves change, and that field of the multiparts above them; the decoded
// content is the same octet for octet. What is inside a multipart/signed stays,
// because its signature would break. Without such leaves the result is msg
// itself. ErrStructure: msg is beyond the limits of mimetree.
func SevenBit(msg []byte) ([]byte, error) {
	if canonical(msg) {
		return msg, nil
	}
	top, err := mimetree.Parse(msg)
	if err != nil {
		return nil, ErrStructure
	}
	edits := sevenBitEdits(msg, top, rootPart, nil)
	if len(edits) == 0 {
		return msg, nil
	}
	return apply(msg, edits), nil
}

// place tells a message from a part of a multipart: only a message needs
// MIME-Version (RFC 2045 §4).
type place uint8

const (
	rootPart place = iota
	bodyPart
)

// sevenBitEdits appends the edits for p and the parts below it in the order of
// their position.
func sevenBitEdits(msg []byte, p *mimetree.Part, where place, edits []edit) []edit {
	const unsafe = mimetree.DuplicateField | mimetree.BadField | mimetree.NoBody // CTE or header end unclear
	body := p.Body.Of(msg)
	if p.MediaType == typeSigned || p.Defects&unsafe != 0 || sevenBit(body) && linesFit(body) {
		return edits
	}
	if p.Encoded() {
		return edits // already, or in a way unknown
	}
	if len(p.Parts) > 0 {
		if p.Encoding != sevenBitName {
			edits = append(edits, setEncoding(msg, p, where, sevenBitName))
		}
		below := bodyPart
		if strings.HasPrefix(p.MediaType, prefixMessage) {
			below = rootPart
		}
		for _, child := range p.Parts {
			edits = sevenBitEdits(msg, child, below, edits)
		}
		return edits
	}
	if strings.HasPrefix(p.MediaType, prefixMultipart) || strings.HasPrefix(p.MediaType, prefixMessage) {
		return edits // RFC 2045 §6.4: these must not be encoded
	}
	if strings.HasPrefix(p.MediaType, prefixText) {
		return append(edits, setEncoding(msg, p, where, quotedName), edit{p.Body, appendQuoted(nil, body)})
	}
	encoded := AppendBase64(make([]byte, 0, base64Len(len(body))), body)
	return append(edits, setEncoding(msg, p, where, base64Name), edit{p.Body, encoded})
}

// setEncoding replaces the Content-Transfer-Encoding of p or adds one as its
// last field, with MIME-Version if a message lacks it.
func setEncoding(msg []byte, p *mimetree.Part, where place, name string) edit {
	field := encodingField + ": " + name + crlf
	at := mimetree.Span{Start: p.Header.Start, End: p.Header.Start}
	found := false
	for _, f := range p.Fields {
		if f.Is(encodingField) {
			at, found = f.Raw, true
		} else if !found {
			at = mimetree.Span{Start: f.Raw.End, End: f.Raw.End}
		}
	}
	if _, n := p.Get(msg, "MIME-Version"); n == 0 && where == rootPart {
		field = mimeVersion + field
	}
	return edit{at, []byte(field)}
}

func apply(msg []byte, edits []edit) []byte {
	size := len(msg)
	for _, e := range edits {
		size += len(e.with) - e.at.Len()
	}
	out := make([]byte, 0, size)
	at := 0
	for _, e := range edits {
		out = append(out, msg[at:e.at.Start]...)
		out = append(out, e.with...)
		at = e.at.End
	}
	return append(out, msg[at:]...)
}

// appendQuoted appends text in quoted-printable (RFC 2045 §6.7). CRLF stays a
// line break; a CR or LF alone is encoded, so that decoding gives text again.
func appendQuoted(dst, text []byte) []byte {
	const hexDigits = "0123456789ABCDEF"
	column := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			dst = append(dst, crlf...)
			i++
			column = 0
			continue
		}
		plain := c > ' ' && c < 0x7f && c != '=' || (c == ' ' || c == '\t') && i+1 < len(text) && text[i+1] != '\r' && text[i+1] != '\n'
		if column+quotedWidth(plain) > columns-1 { // the "=" of a soft line break needs the last column
			dst = append(dst, "="+crlf...)
			column = 0
			plain = plain && c != '-' // a new line must not begin like a delimiter
		}
		if plain {
			dst = append(dst, c)
		} else {
			dst = append(dst, '=', hexDigits[c>>4], hexDigits[c&15])
		}
		column += quotedWidth(plain)
	}
	return dst
}

func quotedWidth(plain bool) int {
	if plain {
		return len("x")
	}
	return len("=XX")
}
