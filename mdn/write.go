package mdn

import (
	"bytes"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"
)

// fieldWriter writes header fields. Every value comes from clean or has passed
// isAddrSpec, isMessageID or isToken: the only CR and LF are those of folding.
type fieldWriter struct{ bytes.Buffer }

// field writes one field, folded at white space when it is long. A value without
// white space stays on one line up to the limit of RFC 5322 §2.1.1.
func (w *fieldWriter) field(name, value string) {
	w.WriteString(name + ":")
	column := len(name) + 1
	first := true
	for value != "" {
		word, rest, more := strings.Cut(value, " ")
		if !first && column+1+len(word) > foldAt || column+1+len(word) > maxLine {
			w.WriteString("\r\n")
			column = 0
		}
		if len(word) > maxLine-1 {
			word = word[:maxLine-1]
		}
		w.WriteString(" " + word)
		column += 1 + len(word)
		first = false
		if !more {
			break
		}
		value = rest
	}
	if first {
		w.WriteByte(' ') // an empty value keeps the space that parsers expect
	}
	w.WriteString("\r\n")
}

func (w *fieldWriter) optional(name, value string) {
	if value != "" {
		w.field(name, value)
	}
}

func (w *fieldWriter) list(name string, values []string) {
	for _, v := range values {
		w.optional(name, asciiOnly(clean(v)))
	}
}

// clean makes one line of a stranger's value: control characters and runs of
// white space become one space. This is what makes header injection impossible
// (threat T9).
func clean(s string) string {
	if len(s) > maxValue {
		s = s[:maxValue]
	}
	return strings.Join(strings.Fields(cleanLine(strings.ToValidUTF8(s, "?"))), " ")
}

// cleanLine replaces control characters, among them those by which some readers
// end a line (U+0085, U+2028, U+2029).
func cleanLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}

// asciiOnly encodes text beyond ASCII as RFC 2047 words.
func asciiOnly(s string) string {
	if isASCII(s) {
		return s
	}
	return mime.BEncoding.Encode(charsetUTF8, s)
}

// joinSubject puts the outcome before the subject of the original, which may
// hold encoded words already.
func joinSubject(outcome, subject string) string {
	if subject = asciiOnly(clean(subject)); subject == "" {
		return outcome
	}
	return outcome + ": " + subject
}

// isAddrSpec is a check for the wire: one addr-spec that no reader can take for
// two addresses, for more than an address, or for the end of the field.
func isAddrSpec(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at <= 0 || len(s) > maxAddress || !utf8.ValidString(s) {
		return false
	}
	local, domain := s[:at], s[at+1:]
	if !isPlain(local) && !isQuoted(local) {
		return false
	}
	literal, opened := strings.CutPrefix(domain, "[")
	literal, closed := strings.CutSuffix(literal, "]")
	return isPlain(domain) || opened && closed && isPlain(strings.ReplaceAll(literal, ":", "."))
}

// isPlain tells whether s has no special of RFC 5322 §3.2.3, space or control.
func isPlain(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`()<>[]:;@\,"`, r)
	})
}

// isQuoted tells whether s is one quoted-string of RFC 5321 §4.1.2.
func isQuoted(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	inner := s[1 : len(s)-1]
	for i := 0; i < len(inner); i++ {
		if inner[i] == '\\' {
			i++
		} else if inner[i] == '"' {
			return false
		}
		if i == len(inner) {
			return false // the last quote is escaped
		}
	}
	return !strings.ContainsFunc(inner, func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
	})
}

// maxAddress bounds an addr-spec: RFC 5321 §4.5.3.1 plus quoting.
const maxAddress = 64*2 + 2 + 1 + 255

// isMessageID wants "<something>" in printable ASCII or UTF-8 without white space.
func isMessageID(s string) bool {
	if len(s) < 3 || len(s) > maxLine-2 || s[0] != '<' || s[len(s)-1] != '>' || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s[1:len(s)-1], func(r rune) bool {
		return r == '<' || r == '>' || unicode.IsSpace(r) || unicode.IsControl(r)
	})
}

// isToken follows RFC 2045 §5.1.
func isToken(s string) bool {
	if s == "" || !isASCII(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?=`, r)
	})
}
