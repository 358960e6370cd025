package mdn

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Limits of what is read from a stranger.
const (
	maxHeader     = 1 << 20   // octets of a header looked at
	maxReport     = 1 << 20   // octets of a report part
	maxFields     = 10_000    // fields of a header or report
	maxRecipients = 1_000     // recipients of one DSN; RFC 5321 §4.5.3.1.8 asks for 100
	maxNotifyTo   = 10        // addresses of Disposition-Notification-To, against amplification
	maxFieldSize  = 64 * 1024 // octets of one unfolded field; the rest is dropped
)

// field is one header field: its name in lower case, its value unfolded.
type field struct{ name, value string }

// fields are the fields of a header or of one group of a report, in order.
type fields []field

// all returns the values of the fields called name.
func (fs fields) all(name string) []string {
	var values []string
	for _, f := range fs {
		if strings.EqualFold(f.name, name) {
			values = append(values, f.value)
		}
	}
	return values
}

// first returns the value of the first field called name, "" if there is none.
func (fs fields) first(name string) string {
	for _, f := range fs {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

func (fs fields) has(name string) bool {
	for _, f := range fs {
		if strings.EqualFold(f.name, name) {
			return true
		}
	}
	return false
}

// readGroup reads fields up to an empty line and returns what follows it. It
// forgives what ETT and real senders do: white space before the colon, folding
// anywhere, bare LF, NUL, lines that are no field, as ETT's odd addresses send them.
func readGroup(b []byte) (fs fields, rest []byte) {
	for len(b) > 0 {
		line, after, _ := bytes.Cut(b, []byte{'\n'})
		b = after
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			return fs, b
		}
		text := strings.ToValidUTF8(string(bytes.ReplaceAll(line, []byte{0}, nil)), string(utf8.RuneError))
		if line[0] == ' ' || line[0] == '\t' {
			fs.fold(text)
			continue
		}
		name, value, found := strings.Cut(text, ":")
		if name = strings.TrimSpace(name); !found || !isToken(name) || len(fs) == maxFields {
			continue
		}
		fs = append(fs, field{name, strings.TrimSpace(value)})
	}
	return fs, nil
}

// fold adds a continuation line to the last field.
func (fs fields) fold(line string) {
	if len(fs) == 0 {
		return
	}
	f := &fs[len(fs)-1]
	if line = strings.TrimSpace(line); line != "" && len(f.value)+len(line) < maxFieldSize {
		f.value = strings.TrimSpace(f.value + " " + line)
	}
}

// readGroups reads the groups of fields of a delivery status (RFC 3464 §2.1);
// several empty lines between them are as one.
func readGroups(b []byte) []fields {
	var groups []fields
	for len(b) > 0 && len(groups) <= maxRecipients+1 {
		var fs fields
		if fs, b = readGroup(b); len(fs) > 0 {
			groups = append(groups, fs)
		}
	}
	return groups
}

// address reads the addr-spec from what senders put into a recipient field or
// an address header: "a@b", "<a@b>", "Name <a@b>", with an address type before
// a semicolon or without. The domain comes back in lower case; "" is no address.
func address(value string) string {
	kind := ""
	if before, after, found := strings.Cut(value, ";"); found && isToken(strings.TrimSpace(before)) {
		kind, value = strings.TrimSpace(before), after
	}
	value = strings.TrimSpace(stripComments(value))
	if open := strings.LastIndexByte(value, '<'); open >= 0 && !isAddrSpec(value) {
		inner, _, closed := strings.Cut(value[open+1:], ">")
		if !closed {
			return ""
		}
		value = strings.TrimSpace(inner)
	}
	if strings.EqualFold(kind, addressTypeUTF8) {
		value = decodeUnitext(value)
	}
	if !isAddrSpec(value) {
		return ""
	}
	at := strings.LastIndexByte(value, '@')
	return value[:at] + strings.ToLower(value[at:])
}

// decodeUnitext replaces \x{HEX} (RFC 6533 §3, utf-8-addr-xtext).
func decodeUnitext(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		digits, rest, closed := strings.Cut(after, "}")
		r, ok := hexRune(digits)
		if !closed || !ok {
			return ""
		}
		b.WriteRune(r)
		s = rest
	}
}

func hexRune(digits string) (rune, bool) {
	if len(digits) < 2 || len(digits) > 6 {
		return 0, false
	}
	var r rune
	for _, c := range digits {
		i := strings.IndexRune("0123456789ABCDEF", c)
		if i < 0 {
			i = strings.IndexRune("0123456789abcdef", c)
		}
		if i < 0 {
			return 0, false
		}
		r = r<<4 | rune(i)
	}
	return r, utf8.ValidRune(r)
}

// stripComments removes RFC 5322 §3.2.2 comments outside quoted strings.
func stripComments(s string) string {
	if !strings.Contains(s, "(") {
		return s
	}
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			if depth == 0 {
				b.WriteString(s[i : i+2])
			}
			i++
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			depth++
		case c == ')' && depth > 0:
			depth--
			continue
		}
		if depth == 0 {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// split cuts s at each sep that is not in quotes, angle brackets or a comment.
func split(s string, sep byte) []string {
	var items []string
	start, angle, comment, quoted := 0, false, 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"' && comment == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			comment++
		case c == ')' && comment > 0:
			comment--
		case comment > 0:
		case c == '<' || c == '>':
			angle = c == '<'
		case c == sep && !angle:
			items = append(items, s[start:i])
			start = i + 1
		}
	}
	return append(items, s[start:])
}

// messageID reads the first "<id>" of value, or a lone "id" without brackets.
func messageID(value string) string {
	if open := strings.IndexByte(value, '<'); open >= 0 {
		inner, _, _ := strings.Cut(value[open+1:], ">")
		value = inner
	}
	id := "<" + strings.Join(strings.Fields(value), "") + ">"
	if !isMessageID(id) {
		return ""
	}
	return id
}
