package mimetree

import (
	"bytes"
	"strings"
)

// Field is one header field. A line that is no field has Name "".
type Field struct {
	Name  string // as written, without the blanks before the colon
	Raw   Span   // the whole field with its folded lines and line end
	Value Span   // behind the colon, without the last line end
}

func (f *Field) shift(n int) {
	f.Raw.Start, f.Raw.End = f.Raw.Start+n, f.Raw.End+n
	f.Value.Start, f.Value.End = f.Value.Start+n, f.Value.End+n
}

// Text returns the value unfolded (RFC 5322 §2.2.3) and trimmed. It may hold
// any octet but LF and a CR before it; encoded words are not decoded.
func (f Field) Text(msg []byte) string {
	v := f.Value.Of(msg)
	if bytes.IndexByte(v, '\n') < 0 {
		return string(bytes.Trim(v, " \t"))
	}
	var b strings.Builder
	b.Grow(len(v))
	for len(v) > 0 {
		line, rest, _ := bytes.Cut(v, []byte{'\n'})
		b.Write(bytes.TrimSuffix(line, []byte{'\r'}))
		v = rest
	}
	return strings.Trim(b.String(), " \t")
}

// Is tells whether the field is called name; case does not matter.
func (f Field) Is(name string) bool { return strings.EqualFold(f.Name, name) }

// Get returns the text of the first of fields called name and how many there
// are.
func Get(msg []byte, fields []Field, name string) (text string, count int) {
	for _, f := range fields {
		if f.Is(name) {
			if count == 0 {
				text = f.Text(msg)
			}
			count++
		}
	}
	return text, count
}

// ParseHeader reads the header at the start of msg and returns its fields and
// the offset of the body, which is len(msg) if no empty line ends the header.
// Lines end in CRLF or LF. A line that is neither field nor continuation
// becomes a Field without Name. The only error is ErrLimit.
func ParseHeader(msg []byte) (fields []Field, body int, err error) {
	for at := 0; at < len(msg); {
		end, next := lineEnd(msg, at)
		if end == at {
			return fields, next, nil
		}
		if next > maxHeader {
			return nil, 0, ErrLimit
		}
		if (msg[at] == ' ' || msg[at] == '\t') && len(fields) > 0 {
			f := &fields[len(fields)-1]
			f.Raw.End, f.Value.End = next, end
		} else {
			if len(fields) == maxFields {
				return nil, 0, ErrLimit
			}
			fields = append(fields, readField(msg, at, end, next))
		}
		at = next
	}
	return fields, len(msg), nil
}

// lineEnd returns the end of the line at offset at without and with its CRLF
// or LF.
func lineEnd(msg []byte, at int) (end, next int) {
	limit := min(len(msg), at+maxHeader+1)
	i := bytes.IndexByte(msg[at:limit], '\n')
	if i < 0 {
		return limit, limit
	}
	end = at + i
	if i > 0 && msg[end-1] == '\r' {
		return end - 1, end + 1
	}
	return end, end + 1
}

func readField(msg []byte, at, end, next int) Field {
	f := Field{Raw: Span{at, next}, Value: Span{at, end}}
	colon := bytes.IndexByte(msg[at:end], ':')
	if colon <= 0 {
		return f
	}
	name := bytes.TrimRight(msg[at:at+colon], " \t") // RFC 5322 §4.5: blanks before the colon
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return f
		}
	}
	if len(name) > 0 {
		f.Name = string(name)
		f.Value.Start = at + colon + 1
	}
	return f
}

// Fields that say how a part is read, RFC 2045 §5 and §6.
const (
	fieldType     = "content-type"
	fieldEncoding = "content-transfer-encoding"
)

// once lists the fields that may stand once in a header: RFC 5322 §3.6 and
// RFC 2045 §3.
var once = [...]string{
	fieldType, fieldEncoding, "content-disposition", "content-id", "mime-version",
	"from", "sender", "reply-to", "to", "cc", "bcc", "date", "subject", "message-id", "in-reply-to", "references",
}

// readHeader fills the part from its fields.
func (p *Part) readHeader(msg []byte, defaultType string) {
	p.MediaType, p.Encoding = defaultType, encodingSevenBit
	p.Defects |= headerDefects(msg, p.Header, p.Fields)
	if text, n := p.Get(msg, fieldType); n > 0 {
		var bad Defects
		p.MediaType, p.Params, bad = parseType(text)
		p.Defects |= bad
	}
	if text, n := p.Get(msg, fieldEncoding); n > 0 {
		text = stripComments(text)
		if text != "" {
			p.Encoding = strings.ToLower(text)
		}
	}
}

func headerDefects(msg []byte, header Span, fields []Field) (d Defects) {
	var seen [len(once)]bool
	for _, f := range fields {
		if f.Name == "" {
			d |= BadField
			continue
		}
		for i, name := range once {
			if f.Is(name) {
				if seen[i] {
					d |= DuplicateField
				}
				seen[i] = true
				break
			}
		}
	}
	raw := header.Of(msg)
	crlf := bytes.Count(raw, []byte("\r\n"))
	if bytes.Count(raw, []byte{'\n'}) != crlf {
		d |= BareLF
	}
	if bytes.Count(raw, []byte{'\r'}) != crlf || bytes.IndexByte(raw, 0) >= 0 {
		d |= BadField
	}
	if len(raw) > 0 && !bytes.HasSuffix(raw, []byte("\n\n")) && !bytes.HasSuffix(raw, []byte("\n\r\n")) &&
		len(bytes.TrimLeft(raw, "\r\n")) > 0 {
		d |= NoBody
	}
	return d
}
