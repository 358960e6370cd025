package imapd

import (
	"bytes"
	"io"
	"mime"
	"net/mail"
	"strings"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/transform"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// Limits of what ENVELOPE and BODYSTRUCTURE tell; the message itself is
// always complete (security row M1).
const (
	maxEnvelopeField = 64 << 10 // octets of one field
	maxAddresses     = 1000     // of one field
	maxParam         = 2048     // octets of one parameter
)

// Field names.
const (
	fieldBcc         = "Bcc"
	fieldCc          = "Cc"
	fieldDate        = "Date"
	fieldDescription = "Content-Description"
	fieldDisposition = "Content-Disposition"
	fieldEncoding    = "Content-Transfer-Encoding"
	fieldFrom        = "From"
	fieldID          = "Content-ID"
	fieldInReplyTo   = "In-Reply-To"
	fieldLanguage    = "Content-Language"
	fieldLocation    = "Content-Location"
	fieldMessageID   = "Message-ID"
	fieldReplyTo     = "Reply-To"
	fieldSender      = "Sender"
	fieldSubject     = "Subject"
	fieldTo          = "To"
	fieldType        = "Content-Type"
)

// wordDecoder decodes encoded words (RFC 2047) of any charset we know.
func wordDecoder() *mime.WordDecoder {
	return &mime.WordDecoder{CharsetReader: charsetReader}
}

func charsetReader(charset string, in io.Reader) (io.Reader, error) {
	enc, err := htmlindex.Get(charset)
	if err != nil {
		return nil, err
	}
	return transform.NewReader(in, enc.NewDecoder()), nil
}

// decodeWords returns text with its encoded words decoded, or as it is, valid
// UTF-8 without control characters either way.
func decodeWords(text string) string {
	if decoded, err := wordDecoder().DecodeHeader(text); err == nil {
		text = decoded
	}
	return clean(text)
}

// clean makes text fit for a quoted string: go-imap writes octets as they are.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// envelopeOf makes the ENVELOPE of the message p (RFC 9051 §7.5.2).
func envelopeOf(raw []byte, p *mimetree.Part) *imap.Envelope {
	if p == nil {
		return &imap.Envelope{}
	}
	get := func(name string) string {
		text, _ := p.Get(raw, name)
		return text[:min(len(text), maxEnvelopeField)]
	}
	e := &imap.Envelope{
		Subject: decodeWords(get(fieldSubject)),
		From:    addresses(get(fieldFrom)),
		Sender:  addresses(get(fieldSender)),
		ReplyTo: addresses(get(fieldReplyTo)),
		To:      addresses(get(fieldTo)),
		Cc:      addresses(get(fieldCc)),
		Bcc:     addresses(get(fieldBcc)),
	}
	if date, err := mail.ParseDate(get(fieldDate)); err == nil {
		e.Date = date
	}
	if ids := messageIDs(get(fieldMessageID)); len(ids) > 0 {
		e.MessageID = ids[0]
	}
	e.InReplyTo = messageIDs(get(fieldInReplyTo))
	return e
}

// messageIDs returns what stands between angle brackets.
func messageIDs(text string) []string {
	var ids []string
	for len(ids) < maxAddresses {
		_, rest, ok := strings.Cut(text, "<")
		id, next, closed := strings.Cut(rest, ">")
		if !ok || !closed {
			break
		}
		ids = append(ids, clean(id))
		text = next
	}
	return ids
}

// addresses reads an address list for display: as the standard says, and if it
// does not follow it, as well as can be.
func addresses(text string) []imap.Address {
	if text == "" {
		return nil
	}
	parser := mail.AddressParser{WordDecoder: wordDecoder()}
	parsed, err := parser.ParseList(text)
	if err != nil {
		return looseAddresses(text)
	}
	var l []imap.Address
	for _, a := range parsed[:min(len(parsed), maxAddresses)] {
		l = append(l, address(a.Name, a.Address))
	}
	return l
}

func address(name, spec string) imap.Address {
	mailbox, host := spec, ""
	if at := strings.LastIndexByte(spec, '@'); at >= 0 {
		mailbox, host = spec[:at], spec[at+1:]
	}
	if host == "" {
		host = "." // RFC 9051 §7.5.2: NIL would mean a group
	}
	return imap.Address{Name: clean(name), Mailbox: clean(mailbox), Host: clean(host)}
}

// looseAddresses splits at commas outside quotes and takes what stands in
// angle brackets.
func looseAddresses(text string) []imap.Address {
	var l []imap.Address
	quoted, start := false, 0
	for i := 0; i <= len(text) && len(l) < maxAddresses; i++ {
		switch {
		case i < len(text) && text[i] == '"':
			quoted = !quoted
			continue
		case i < len(text) && (quoted || text[i] != ',' && text[i] != ';'):
			continue
		}
		item := strings.TrimSpace(text[start:i])
		start = i + 1
		if item == "" {
			continue
		}
		name, rest, ok := strings.Cut(item, "<")
		if !ok {
			l = append(l, address("", item))
			continue
		}
		spec, _, _ := strings.Cut(rest, ">")
		l = append(l, address(decodeWords(strings.Trim(strings.TrimSpace(name), `"`)), strings.TrimSpace(spec)))
	}
	return l
}

// structureOf makes the BODYSTRUCTURE of p; nil is a message beyond the limits
// of mimetree, which is one opaque part.
func structureOf(raw []byte, p *mimetree.Part) imap.BodyStructure {
	if p == nil {
		return opaque(len(raw) - headerEnd(raw, nil))
	}
	if strings.HasPrefix(p.MediaType, typeMultipart) {
		return multipartOf(raw, p)
	}
	kind, sub, _ := strings.Cut(p.MediaType, "/")
	inner := messageIn(p)
	if inner == nil && (p.MediaType == typeMessage || p.MediaType == typeGlobal) {
		kind, sub = "application", "octet-stream" // the grammar wants a structure that there is not
	}
	body := p.Body.Of(raw)
	contentType, _ := p.Get(raw, fieldType)
	disposition, language, location := extension(raw, p)
	s := &imap.BodyStructureSinglePart{
		Type: kind, Subtype: sub,
		Params:      params(contentType),
		ID:          clean(text(raw, p, fieldID)),
		Description: clean(text(raw, p, fieldDescription)),
		Encoding:    clean(p.Encoding),
		Size:        uint32(len(body)),
		Extended:    &imap.BodyStructureSinglePartExt{Disposition: disposition, Language: language, Location: location},
	}
	lines := int64(bytes.Count(body, []byte("\n")))
	switch {
	case inner != nil:
		s.MessageRFC822 = &imap.BodyStructureMessageRFC822{
			Envelope: envelopeOf(raw, inner), BodyStructure: structureOf(raw, inner), NumLines: lines,
		}
	case kind == "text":
		if contentType == "" {
			s.Params = map[string]string{"charset": "us-ascii"} // RFC 2045 §5.2
		}
		s.Text = &imap.BodyStructureText{NumLines: lines}
	}
	return s
}

func multipartOf(raw []byte, p *mimetree.Part) imap.BodyStructure {
	contentType, _ := p.Get(raw, fieldType)
	disposition, language, location := extension(raw, p)
	_, sub, _ := strings.Cut(p.MediaType, "/")
	s := &imap.BodyStructureMultiPart{
		Subtype: sub,
		Extended: &imap.BodyStructureMultiPartExt{
			Params: params(contentType), Disposition: disposition, Language: language, Location: location,
		},
	}
	for _, part := range p.Parts {
		s.Children = append(s.Children, structureOf(raw, part))
	}
	if len(s.Children) == 0 { // RFC 9051 §9: a multipart has one part or more
		s.Children = []imap.BodyStructure{&imap.BodyStructureSinglePart{
			Type: "text", Subtype: "plain", Params: map[string]string{"charset": "us-ascii"}, Encoding: "7bit",
			Text: &imap.BodyStructureText{}, Extended: &imap.BodyStructureSinglePartExt{},
		}}
	}
	return s
}

func opaque(size int) imap.BodyStructure {
	return &imap.BodyStructureSinglePart{
		Type: "application", Subtype: "octet-stream", Encoding: "8bit", Size: uint32(size),
		Extended: &imap.BodyStructureSinglePartExt{},
	}
}

func text(raw []byte, p *mimetree.Part, name string) string {
	t, _ := p.Get(raw, name)
	return t[:min(len(t), maxParam)]
}

// extension returns the fields that only BODYSTRUCTURE has.
func extension(raw []byte, p *mimetree.Part) (*imap.BodyStructureDisposition, []string, string) {
	var disposition *imap.BodyStructureDisposition
	if v := text(raw, p, fieldDisposition); v != "" {
		kind, _, _ := strings.Cut(v, ";")
		if kind = strings.ToLower(clean(strings.TrimSpace(kind))); kind != "" {
			disposition = &imap.BodyStructureDisposition{Value: kind, Params: params(v)}
		}
	}
	var language []string
	for _, l := range strings.Split(text(raw, p, fieldLanguage), ",") {
		if l = clean(strings.TrimSpace(l)); l != "" {
			language = append(language, l)
		}
	}
	return disposition, language, clean(text(raw, p, fieldLocation))
}

// params reads the parameters behind the first ";" as they are written: a
// client wants "filename*0*" undecoded (RFC 2231). What is no parameter is
// passed over.
func params(value string) map[string]string {
	_, rest, ok := strings.Cut(value, ";")
	if !ok {
		return nil
	}
	found := make(map[string]string)
	for rest != "" && len(found) < mimetree.MaxParams {
		var name, val string
		i := strings.IndexAny(rest, "=;")
		if i < 0 {
			break
		}
		name = strings.ToLower(clean(strings.TrimSpace(rest[:i])))
		sep := rest[i]
		rest = strings.TrimLeft(rest[i+1:], " \t")
		if sep == ';' {
			continue
		}
		if strings.HasPrefix(rest, `"`) {
			val, rest = unquote(rest[1:])
			_, rest, _ = strings.Cut(rest, ";")
		} else {
			val, rest, _ = strings.Cut(rest, ";")
			val = strings.TrimSpace(val)
		}
		if _, double := found[name]; name != "" && !double && len(val) <= maxParam {
			found[name] = clean(val)
		}
	}
	return found
}

// unquote reads up to the closing quote.
func unquote(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
