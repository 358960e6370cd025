package mimetree

import (
	"strings"
	"unicode/utf8"
)

// Limits of one address list.
const (
	maxAddresses = 5000
	maxAddrSpec  = 512 // octets; RFC 5321 §4.5.3.1 allows 64 + 1 + 255, quoting can double the first
)

// Addresses returns the addr-specs of an address list (RFC 5322 §3.4, with
// the UTF-8 of RFC 6532): display names, comments, encoded words and group
// names are passed over, members of groups are listed. Quoted local parts stay
// quoted. It is strict: source routes, blanks inside an addr-spec, control
// characters and words that belong to no address are ErrAddress. An empty
// list is an empty slice and nil. Time is linear.
func Addresses(value string) ([]string, error) {
	list, _, err := addressList(value)
	return list, err
}

// Mailbox returns the addr-spec of a value that must hold exactly one mailbox
// and no group, such as a From or Sender that can be bound to a signer
// (security row S6).
func Mailbox(value string) (string, error) {
	list, groups, err := addressList(value)
	if err != nil || groups > 0 || len(list) != 1 {
		return "", ErrAddress
	}
	return list[0], nil
}

func addressList(value string) (list []string, groups int, err error) {
	s := scanner{s: value}
	inGroup := false
	for {
		addr, end, ok := s.address()
		if !ok || len(list) > maxAddresses {
			return nil, 0, ErrAddress
		}
		if addr != "" {
			list = append(list, addr)
		}
		switch end {
		case 0:
			if inGroup {
				return nil, 0, ErrAddress
			}
			return list, groups, nil
		case ':':
			if inGroup {
				return nil, 0, ErrAddress
			}
			inGroup = true
			groups++
		case ';':
			if !inGroup {
				return nil, 0, ErrAddress
			}
			inGroup = false
			// Only "," or the end may follow a group.
			if !s.blank() || !s.done() && s.s[s.i] != ',' {
				return nil, 0, ErrAddress
			}
			if s.done() {
				return list, groups, nil
			}
			s.i++
		}
	}
}

// word is one word of a phrase or a possible local part, as written.
type word struct {
	text   string
	quoted bool
}

// address reads up to and including the next "," ";" or ":" outside an
// address, or to the end (0). addr is "" for an empty list member and for the
// name of a group.
func (s *scanner) address() (addr string, end byte, ok bool) {
	var last word
	words := 0
	for {
		if !s.blank() {
			return "", 0, false
		}
		if s.done() {
			return addr, 0, words == 0
		}
		switch c := s.s[s.i]; c {
		case ',', ';':
			s.i++
			return addr, c, words == 0
		case ':':
			s.i++
			return "", c, words > 0 && addr == ""
		case '<':
			s.i++
			if addr != "" {
				return "", 0, false
			}
			if addr, ok = s.angle(); !ok {
				return "", 0, false
			}
			words = 0
			if end, ok = s.separator(); !ok {
				return "", 0, false
			}
			return addr, end, true
		case '@':
			s.i++
			if words != 1 {
				return "", 0, false
			}
			if addr, ok = s.domain(last); !ok {
				return "", 0, false
			}
			if end, ok = s.separator(); !ok {
				return "", 0, false
			}
			return addr, end, true
		default:
			if last, ok = s.word(); !ok {
				return "", 0, false
			}
			words++
		}
	}
}

// separator reads what ends an address: "," ";" or the end of the value (0).
func (s *scanner) separator() (byte, bool) {
	if !s.blank() {
		return 0, false
	}
	if s.done() {
		return 0, true
	}
	c := s.s[s.i]
	s.i++
	return c, c == ',' || c == ';'
}

// angle reads an addr-spec and ">".
func (s *scanner) angle() (string, bool) {
	if !s.blank() || s.done() {
		return "", false
	}
	local, ok := s.word()
	if !ok || !s.blank() || !s.take('@') {
		return "", false
	}
	addr, ok := s.domain(local)
	return addr, ok && s.blank() && s.take('>')
}

// domain reads the domain behind "@" and returns the whole addr-spec.
func (s *scanner) domain(local word) (string, bool) {
	if !s.blank() || s.done() {
		return "", false
	}
	start := s.i
	if s.s[s.i] == '[' {
		n := strings.IndexByte(s.s[s.i:], ']')
		if n < 0 || n > maxAddrSpec {
			return "", false
		}
		s.i += n + 1
		for _, c := range []byte(s.s[start+1 : s.i-1]) {
			if c <= ' ' || c >= 0x7f || c == '[' || c == '\\' {
				return "", false
			}
		}
	} else if w, ok := s.word(); !ok || w.quoted || !isDotAtom(w.text) {
		return "", false
	}
	if !local.quoted && !isDotAtom(local.text) {
		return "", false
	}
	addr := local.text + "@" + s.s[start:s.i]
	return addr, len(addr) <= maxAddrSpec && utf8.ValidString(addr)
}

// word reads an atom, dots included, or a quoted string as written.
func (s *scanner) word() (word, bool) {
	start := s.i
	if s.take('"') {
		for s.i < len(s.s) {
			c := s.s[s.i]
			s.i++
			if c == '"' {
				return word{s.s[start:s.i], true}, true
			}
			if c == '\\' && !s.done() {
				c = s.s[s.i]
				s.i++
			}
			if c < ' ' && c != '\t' || c == 0x7f {
				break
			}
		}
		return word{}, false
	}
	for s.i < len(s.s) && isAtext(s.s[s.i]) {
		s.i++
	}
	return word{s.s[start:s.i], false}, s.i > start
}

// isAtext includes the dot and every octet of UTF-8 sequences.
func isAtext(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>[]:;@\,"`, c) < 0
}

func isDotAtom(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}
