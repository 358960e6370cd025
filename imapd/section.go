package imapd

import (
	"bytes"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// Media types that the section grammar treats apart (RFC 9051 §6.4.5.1).
const (
	typeMultipart = "multipart/"
	typeMessage   = "message/rfc822"
	typeGlobal    = "message/global" // RFC 6532 §3.7
)

// section cuts BODY[…] out of the message: always the octets as they were
// stored. A part that does not exist is empty.
func (m *content) section(item *imap.FetchItemBodySection) ([]byte, error) {
	p, err := m.parsed()
	if err != nil {
		return nil, err
	}
	if len(item.Part) == 0 && item.Specifier == imap.PartSpecifierHeader && p.header != nil {
		return cut(filterHeader(p.header, fieldsOf(p.tree), item), item.Partial), nil
	}
	raw, err := m.bytes()
	if err != nil {
		return nil, err
	}
	return cut(sectionOf(raw, p.tree, item), item.Partial), nil
}

func fieldsOf(p *mimetree.Part) []mimetree.Field {
	if p == nil {
		return nil
	}
	return p.Fields
}

func sectionOf(raw []byte, tree *mimetree.Part, item *imap.FetchItemBodySection) []byte {
	if len(item.Part) == 0 {
		switch item.Specifier {
		case imap.PartSpecifierHeader:
			return filterHeader(raw[:headerEnd(raw, tree)], fieldsOf(tree), item)
		case imap.PartSpecifierText:
			return raw[headerEnd(raw, tree):]
		}
		return raw
	}
	p := findPart(tree, item.Part)
	if p == nil {
		return nil
	}
	switch item.Specifier {
	case imap.PartSpecifierMIME:
		return p.Header.Of(raw)
	case imap.PartSpecifierNone:
		return p.Body.Of(raw)
	}
	inner := messageIn(p)
	if inner == nil {
		return nil // HEADER and TEXT of a part are those of a message in it
	}
	if item.Specifier == imap.PartSpecifierText {
		return inner.Body.Of(raw)
	}
	return filterHeader(inner.Header.Of(raw), shift(inner.Fields, -inner.Header.Start), item)
}

// shift moves fields whose octets are cut out of the message.
func shift(fields []mimetree.Field, by int) []mimetree.Field {
	fields = slices.Clone(fields)
	for i := range fields {
		fields[i].Raw.Start += by
		fields[i].Raw.End += by
	}
	return fields
}

// filterHeader applies HEADER.FIELDS and HEADER.FIELDS.NOT. The empty line
// that ends a header always ends the result (RFC 9051 §6.4.5.1).
func filterHeader(header []byte, fields []mimetree.Field, item *imap.FetchItemBodySection) []byte {
	names, keep := item.HeaderFields, true
	if len(names) == 0 {
		names, keep = item.HeaderFieldsNot, false
	}
	if len(names) == 0 {
		return header
	}
	var b bytes.Buffer
	for _, f := range fields {
		if slices.ContainsFunc(names, f.Is) == keep && f.Raw.End <= len(header) {
			b.Write(f.Raw.Of(header))
		}
	}
	b.WriteString(crlf)
	return b.Bytes()
}

// findPart follows a part number; nil if there is no such part. The parts of a
// message inside a part are counted as that part's own; a message that is no
// multipart has one part, 1, which is its body.
func findPart(p *mimetree.Part, path []int) *mimetree.Part {
	message := true // p stands for a message, not for a part of one
	for _, n := range path {
		if p == nil || n < 1 {
			return nil
		}
		if !message {
			if inner := messageIn(p); inner != nil {
				p, message = inner, true
			}
		}
		switch {
		case strings.HasPrefix(p.MediaType, typeMultipart):
			if n > len(p.Parts) {
				return nil
			}
			p = p.Parts[n-1]
		case n != 1 || !message:
			return nil
		}
		message = false
	}
	return p
}

// messageIn returns the message in a message/rfc822 part, or nil.
func messageIn(p *mimetree.Part) *mimetree.Part {
	if (p.MediaType == typeMessage || p.MediaType == typeGlobal) && len(p.Parts) == 1 {
		return p.Parts[0]
	}
	return nil
}

// cut applies <offset.size>.
func cut(b []byte, partial *imap.SectionPartial) []byte {
	if partial == nil {
		return b
	}
	if partial.Offset >= int64(len(b)) {
		return nil
	}
	b = b[partial.Offset:]
	return b[:min(int64(len(b)), partial.Size)]
}

// binary returns a part without its content-transfer-encoding (RFC 9051
// §6.4.5, BINARY). An encoding that cannot be undone is UNKNOWN-CTE.
func (m *content) binary(path []int) ([]byte, error) {
	p, err := m.parsed()
	if err != nil {
		return nil, err
	}
	raw, err := m.bytes()
	if err != nil || len(path) == 0 {
		return raw, err
	}
	part := findPart(p.tree, path)
	if part == nil {
		return nil, nil
	}
	data, err := part.Decode(raw)
	if err != nil {
		return nil, no(imap.ResponseCodeUnknownCTE, "the encoding of this part cannot be undone, fetch BODY instead")
	}
	return data, nil
}
