// Package mimetree gives the MIME structure of a message as byte offsets. It
// never re-serialises: every answer is a span of the bytes that came in, so
// what was signed can be hashed and what was received can be stored unchanged.
//
// Standards: RFC 5322 §2.2 and §3.4 (fields, addresses), RFC 2045 and 2046
// (types, encodings, multipart, message/rfc822), RFC 2231 (parameters), RFC
// 6532 (UTF-8 in headers), RFC 8551 §3.2 (what an S/MIME type says).
//
// It reads what is found in the field: LF line ends, "name :" with blanks
// before the colon, "name:value" without one after it. What two readers could
// take in two ways is not repaired in silence; it is noted in Part.Defects.
// All work is linear in the input times a constant depth, and the number of
// parts, fields, parameters and addresses is bounded.
//
// It does not decode character sets, does not build messages and does not
// judge signatures.
package mimetree

import (
	"bytes"
	"errors"
	"strings"
)

// Limits of one message (security row M1). Beyond them Parse and ParseHeader
// return ErrLimit.
const (
	maxHeader = 256 << 10 // octets of one header
	maxFields = 1000      // fields of one header
	maxParts  = 1000      // parts of one message, all levels
	MaxDepth  = 32        // levels of multipart and message/rfc822
	MaxParams = 64        // parameters of one Content-Type

	maxAllFields = 10_000   // fields of one message, all headers
	maxAllHeader = 4 << 20  // octets of all headers of one message
	maxBoundary  = 200      // octets; RFC 2046 §5.1.1 says 70, the field has seen more
	maxTypeField = 16 << 10 // octets of one Content-Type value
)

// Content-transfer-encodings, RFC 2045 §6.
const (
	encodingSevenBit = "7bit"
	encodingEightBit = "8bit"
	encodingBinary   = "binary"
	encodingBase64   = "base64"
	encodingQuoted   = "quoted-printable"
)

// Media types that decide how a part is read: RFC 2046 §4.1.3, §4.5.1, §5.1 and
// §5.2.1, RFC 6532 §3.7.
const (
	typeText      = "text/plain"
	typeOctets    = "application/octet-stream"
	typeMultipart = "multipart/"
	typeDigest    = "multipart/digest"
	typeMessage   = "message/rfc822"
	typeGlobal    = "message/global"
)

// Errors of this package.
var (
	ErrLimit   = errors.New("mimetree: more parts, fields or octets of header than allowed")
	ErrAddress = errors.New("mimetree: not a well formed address list")
	ErrEncode  = errors.New("mimetree: body does not follow its content-transfer-encoding")
)

// Span is a range of octets of the message, Start included, End not.
type Span struct{ Start, End int }

// Of returns the octets of the span; msg must be the bytes given to Parse.
func (s Span) Of(msg []byte) []byte { return msg[s.Start:s.End:s.End] }

// Len is the number of octets.
func (s Span) Len() int { return s.End - s.Start }

// Defects notes what is ambiguous or broken in one part. A part that decides
// about security should have none.
type Defects uint16

// Defects of a part. The first field or parameter of several was taken.
const (
	DuplicateField Defects = 1 << iota // two of Content-Type, Content-Transfer-Encoding or another field allowed once (RFC 5322 §3.6)
	DuplicateParam                     // two parameters of one name
	BadType                            // Content-Type cannot be read; MediaType is application/octet-stream
	BadField                           // a header line is no field, or has NUL or a bare CR
	BareLF                             // a header line ends in LF alone
	NoBoundary                         // multipart without usable boundary or without any delimiter line
	Unclosed                           // multipart without closing delimiter
	BadEncoding                        // multipart or message/rfc822 in base64 or quoted-printable (RFC 2045 §6.4): not descended into
	NoBody                             // the header is not ended by an empty line
)

// Part is one entity: the message itself, a body part, or the message in a
// message/rfc822.
type Part struct {
	Span           // header and body
	Header    Span // fields and the empty line
	Body      Span // without the line end that belongs to the delimiter
	Fields    []Field
	MediaType string            // lower case; text/plain if there is no Content-Type
	Params    map[string]string // of Content-Type, names in lower case, RFC 2231 decoded; may be nil
	Encoding  string            // Content-Transfer-Encoding, lower case; "7bit" if there is none
	Parts     []*Part           // of a multipart, or the one message of message/rfc822
	Defects   Defects
}

// Get returns the text of the first field called name and how many there are.
func (p *Part) Get(msg []byte, name string) (text string, count int) {
	return Get(msg, p.Fields, name)
}

// Walk calls fn for p and everything below it in order of appearance until fn
// returns false.
func (p *Part) Walk(fn func(*Part) bool) bool {
	if !fn(p) {
		return false
	}
	for _, child := range p.Parts {
		if !child.Walk(fn) {
			return false
		}
	}
	return true
}

// parser counts against the limits of one message.
type parser struct {
	msg    []byte
	parts  int
	fields int
	header int
}

// Parse reads the structure of msg. The only error is ErrLimit; everything
// else that is wrong is in Defects.
func Parse(msg []byte) (*Part, error) {
	p := &parser{msg: msg}
	return p.part(Span{0, len(msg)}, 0, typeText)
}

func (p *parser) part(span Span, depth int, defaultType string) (*Part, error) {
	p.parts++
	if p.parts > maxParts || depth > MaxDepth {
		return nil, ErrLimit
	}
	fields, body, err := ParseHeader(span.Of(p.msg))
	if err != nil {
		return nil, err
	}
	p.fields += len(fields)
	p.header += body
	if p.fields > maxAllFields || p.header > maxAllHeader {
		return nil, ErrLimit
	}
	for i := range fields {
		fields[i].shift(span.Start)
	}
	part := &Part{
		Span:   span,
		Header: Span{span.Start, span.Start + body},
		Body:   Span{span.Start + body, span.End},
		Fields: fields,
	}
	part.readHeader(p.msg, defaultType)
	if err := p.children(part, depth); err != nil {
		return nil, err
	}
	return part, nil
}

// children descends into multipart and message/rfc822.
func (p *parser) children(part *Part, depth int) error {
	multi := strings.HasPrefix(part.MediaType, typeMultipart)
	if !multi && part.MediaType != typeMessage && part.MediaType != typeGlobal {
		return nil
	}
	if part.Encoded() {
		part.Defects |= BadEncoding
		return nil
	}
	if !multi {
		child, err := p.part(part.Body, depth+1, typeText)
		if err != nil {
			return err
		}
		part.Parts = []*Part{child}
		return nil
	}
	boundary := part.Params["boundary"]
	if boundary == "" || len(boundary) > maxBoundary || strings.ContainsAny(boundary, "\r\n\x00") {
		part.Defects |= NoBoundary
		return nil
	}
	spans, closed := p.split(part.Body, boundary)
	if len(spans) == 0 {
		part.Defects |= NoBoundary
	}
	if !closed {
		part.Defects |= Unclosed
	}
	defaultType := typeText
	if part.MediaType == typeDigest { // RFC 2046 §5.1.5
		defaultType = typeMessage
	}
	for _, span := range spans {
		child, err := p.part(span, depth+1, defaultType)
		if err != nil {
			return err
		}
		part.Parts = append(part.Parts, child)
	}
	return nil
}

// split finds the body parts of a multipart body (RFC 2046 §5.1.1). It stops
// early once there are more than maxParts: part reports that.
func (p *parser) split(body Span, boundary string) (spans []Span, closed bool) {
	msg := p.msg[:body.End]
	delim := []byte("--" + boundary)
	start := -1 // of the part that is open
	for at := nextDelimiter(msg, body.Start, body.Start, delim); at >= 0 && !closed; {
		end, closing := delimiterEnd(msg, at+len(delim))
		if end < 0 { // the line only begins like a delimiter
			at = nextDelimiter(msg, body.Start, at+len(delim), delim)
			continue
		}
		if start >= 0 {
			spans = append(spans, Span{start, max(start, beforeLineEnd(msg, body.Start, at))})
			if len(spans) > maxParts {
				return spans, false
			}
		}
		start, closed = end, closing
		at = nextDelimiter(msg, body.Start, end, delim)
	}
	if start >= 0 && !closed {
		spans = append(spans, Span{start, body.End})
	}
	return spans, closed
}

// nextDelimiter returns the offset of delim at the start of a line, not before
// from, or -1.
func nextDelimiter(msg []byte, first, from int, delim []byte) int {
	for from <= len(msg) {
		i := bytes.Index(msg[from:], delim)
		if i < 0 {
			return -1
		}
		at := from + i
		if at == first || msg[at-1] == '\n' {
			return at
		}
		line := bytes.IndexByte(msg[at:], '\n') // only a line's start can match: keeps long runs of "-" linear
		if line < 0 {
			return -1
		}
		from = at + line + 1
	}
	return -1
}

// delimiterEnd returns the offset behind the delimiter line whose boundary
// ends at i, or -1 if the line has anything but "--" and blanks behind it.
func delimiterEnd(msg []byte, i int) (end int, closing bool) {
	if bytes.HasPrefix(msg[i:], []byte("--")) {
		closing = true
		i += 2
	}
	for i < len(msg) && (msg[i] == ' ' || msg[i] == '\t') {
		i++
	}
	switch {
	case i == len(msg):
		return i, closing
	case msg[i] == '\n':
		return i + 1, closing
	case msg[i] == '\r' && i+1 < len(msg) && msg[i+1] == '\n':
		return i + 2, closing
	case msg[i] == '\r' && i+1 == len(msg):
		return i + 1, closing
	}
	return -1, false
}

// beforeLineEnd returns at without the CRLF or LF before it.
func beforeLineEnd(msg []byte, first, at int) int {
	if at > first && msg[at-1] == '\n' {
		at--
		if at > first && msg[at-1] == '\r' {
			at--
		}
	}
	return at
}
