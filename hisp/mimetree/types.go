package mimetree

import (
	"net/url"
	"strconv"
	"strings"
)

// parseType reads a Content-Type value (RFC 2045 §5.1, RFC 2231 §3 and §4).
func parseType(text string) (mediaType string, params map[string]string, bad Defects) {
	if len(text) > maxTypeField {
		return typeOctets, nil, BadType
	}
	s := scanner{s: text}
	s.blank()
	main := s.token()
	s.blank()
	if !s.take('/') {
		return typeOctets, nil, BadType
	}
	s.blank()
	sub := s.token()
	if main == "" || sub == "" {
		return typeOctets, nil, BadType
	}
	raw, bad := s.params()
	params, more := joinParams(raw)
	return strings.ToLower(main + "/" + sub), params, bad | more
}

type param struct{ name, value string }

// params reads ";" name "=" value until the end. What follows a mistake is
// not read.
func (s *scanner) params() (list []param, bad Defects) {
	for {
		s.blank()
		if s.done() {
			return list, bad
		}
		if !s.take(';') {
			return list, bad | BadType
		}
		s.blank()
		if s.done() || s.s[s.i] == ';' { // a stray ";" is common
			continue
		}
		name := strings.ToLower(s.token())
		s.blank()
		if name == "" || !s.take('=') || len(list) == MaxParams {
			return list, bad | BadType
		}
		s.blank()
		value, ok := s.value()
		if !ok {
			return list, bad | BadType
		}
		list = append(list, param{name, value})
	}
}

// joinParams merges RFC 2231 continuations and decodes extended values.
func joinParams(list []param) (map[string]string, Defects) {
	if len(list) == 0 {
		return nil, 0
	}
	var bad Defects
	out := make(map[string]string, len(list))
	for _, p := range list {
		base, section, extended := cutSection(p.name)
		if extended {
			p.value = decodeExtended(p.value, section == 0)
		}
		old, exists := out[base]
		switch {
		case section > 0 && exists: // sections follow each other in practice
			out[base] = old + p.value
		case exists:
			bad |= DuplicateParam
		default:
			out[base] = p.value
		}
	}
	return out, bad
}

// cutSection splits "name*1*" into name, 1 and whether the value is extended.
func cutSection(name string) (base string, section int, extended bool) {
	name, extended = strings.CutSuffix(name, "*")
	if base, digits, ok := strings.Cut(name, "*"); ok {
		if n, err := strconv.Atoi(digits); err == nil && n >= 0 {
			return base, n, extended
		}
	}
	return name, 0, extended
}

// decodeExtended undoes charset'language'percent-encoding. The character set
// is not converted.
func decodeExtended(v string, first bool) string {
	if first {
		if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
			v = parts[2]
		}
	}
	if plain, err := url.PathUnescape(v); err == nil {
		return plain
	}
	return v
}

// scanner reads structured field values.
type scanner struct {
	s string
	i int
}

func (s *scanner) done() bool { return s.i >= len(s.s) }

func (s *scanner) take(c byte) bool {
	if s.done() || s.s[s.i] != c {
		return false
	}
	s.i++
	return true
}

// blank skips white space and comments (RFC 5322 §3.2.2) without recursion.
// It returns false at a comment that does not end.
func (s *scanner) blank() bool {
	depth := 0
	for ; s.i < len(s.s); s.i++ {
		switch c := s.s[s.i]; {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\':
			s.i++
		case depth > 0, c == ' ', c == '\t':
		default:
			return true
		}
	}
	s.i = min(s.i, len(s.s))
	return depth == 0
}

// token reads an RFC 2045 token, or "".
func (s *scanner) token() string {
	start := s.i
	for s.i < len(s.s) && isToken(s.s[s.i]) {
		s.i++
	}
	return s.s[start:s.i]
}

func isToken(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

// value reads a token or quoted string. The field also has unquoted values
// with "/", ":", "=" or "?" in them; these are taken up to blank or ";".
func (s *scanner) value() (string, bool) {
	if s.take('"') {
		return s.quoted()
	}
	start := s.i
	for s.i < len(s.s) && s.s[s.i] > ' ' && s.s[s.i] != ';' && s.s[s.i] != '"' && s.s[s.i] != '(' && s.s[s.i] != 0x7f {
		s.i++
	}
	return s.s[start:s.i], s.i > start
}

// quoted reads the rest of a quoted string and unescapes it.
func (s *scanner) quoted() (string, bool) {
	var b strings.Builder
	for s.i < len(s.s) {
		c := s.s[s.i]
		s.i++
		if c == '"' {
			return b.String(), true
		}
		if c == '\\' {
			if s.done() {
				break
			}
			c = s.s[s.i]
			s.i++
		}
		b.WriteByte(c)
	}
	return "", false
}

// stripComments returns text without comments and blanks around it.
func stripComments(text string) string {
	s := scanner{s: text}
	s.blank()
	start := s.i
	for s.i < len(s.s) && s.s[s.i] != '(' && s.s[s.i] != ' ' && s.s[s.i] != '\t' && s.s[s.i] != ';' {
		s.i++
	}
	return s.s[start:s.i]
}
