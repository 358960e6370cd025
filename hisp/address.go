package hisp

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// Limits of RFC 5321 §4.5.3.1, in octets.
const (
	maxLocalPart = 64
	maxDomain    = 255
)

// Domain is a DNS name in lower-case A-label form without a trailing dot.
type Domain string

// ParseDomain normalises s: lower case, IDNA A-labels, no trailing dot. The
// error is Malformed.
func ParseDomain(s string) (Domain, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxDomain {
		return "", &Error{Op: "hisp.ParseDomain", Kind: Malformed, Hint: "a domain has 1 to 255 octets"}
	}
	ascii, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", &Error{Op: "hisp.ParseDomain", Kind: Malformed, Hint: "not a valid domain name"}
	}
	return Domain(strings.ToLower(ascii)), nil
}

// Address is a Direct address. Local is kept as written; Domain is normal
// form. The zero Address is the null sender. In logs and with any fmt verb it
// shows its domain only; AddrSpec gives the whole.
type Address struct {
	Local  string
	Domain Domain
}

// ParseAddress reads an RFC 5321 mailbox, "local@domain", with an optional
// quoted local part and no display name or angle brackets. The error is
// Malformed and does not repeat its input.
func ParseAddress(s string) (Address, error) {
	malformed := func(hint string) (Address, error) {
		return Address{}, &Error{Op: "hisp.ParseAddress", Kind: Malformed, Hint: hint}
	}
	at := strings.LastIndexByte(s, '@')
	if at <= 0 {
		return malformed("an address is local@domain")
	}
	local := s[:at]
	if strings.HasPrefix(local, `"`) {
		unquoted, ok := unquoteLocal(local)
		if !ok {
			return malformed("the quoted local part is not well formed")
		}
		local = unquoted
	} else if !isDotAtom(local) {
		return malformed("the local part has a character that needs quoting")
	}
	if len(local) > maxLocalPart {
		return malformed("the local part has more than 64 octets")
	}
	d, err := ParseDomain(s[at+1:])
	if err != nil {
		return Address{}, err
	}
	return Address{Local: local, Domain: d}, nil
}

// IsZero tells whether a is the null sender.
func (a Address) IsZero() bool { return a.Local == "" && a.Domain == "" }

// AddrSpec returns the RFC 5322 addr-spec, local part quoted if it must be.
// It is PHI: for the wire and for storage, never for a log.
func (a Address) AddrSpec() string {
	if a.IsZero() {
		return ""
	}
	if isDotAtom(a.Local) {
		return a.Local + "@" + string(a.Domain)
	}
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	return `"` + r.Replace(a.Local) + `"@` + string(a.Domain)
}

// Equal compares the domain exactly and the local part without case
// (conformance row BB-19).
func (a Address) Equal(b Address) bool {
	return a.Domain == b.Domain && strings.EqualFold(a.Local, b.Local)
}

// Key is the form of a under which Equal addresses are one map key.
func (a Address) Key() Address {
	return Address{Local: strings.ToLower(a.Local), Domain: a.Domain}
}

// Base returns a without the +tag of its local part (conformance row BB-18).
func (a Address) Base() Address {
	if base, _, ok := strings.Cut(a.Local, "+"); ok && base != "" {
		return Address{Local: base, Domain: a.Domain}
	}
	return a
}

// String shows the domain only: local parts are PHI.
func (a Address) String() string {
	if a.IsZero() {
		return "<>"
	}
	return "…@" + string(a.Domain)
}

// Format makes every fmt verb print String.
func (a Address) Format(s fmt.State, _ rune) { fmt.Fprint(s, a.String()) }

// LogValue makes slog print String.
func (a Address) LogValue() slog.Value { return slog.StringValue(a.String()) }

// unquoteLocal reads a quoted-string of RFC 5321 §4.1.2 without CR, LF or NUL.
func unquoteLocal(s string) (string, bool) {
	if len(s) < 3 || s[len(s)-1] != '"' {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		c := s[i]
		if c == '"' {
			return "", false
		}
		if c == '\\' {
			i++
			if i == len(s)-1 {
				return "", false
			}
			c = s[i]
		}
		b.WriteByte(c)
	}
	return b.String(), !strings.ContainsFunc(b.String(), isUnwritable)
}

// isUnwritable tells what no local part may hold, quoted or not: controls,
// spaces beyond ASCII, and what is no UTF-8 (RFC 6531 §3.3, RFC 6532 §3.2).
// Such an address could not be written into a header or a notice.
func isUnwritable(r rune) bool {
	return unicode.IsControl(r) || r == unicode.ReplacementChar || r > unicode.MaxASCII && unicode.IsSpace(r)
}

// isDotAtom follows RFC 5322 §3.2.3 with the non-ASCII of RFC 6532 §3.2.
func isDotAtom(s string) bool {
	for _, atom := range strings.Split(s, ".") {
		if atom == "" {
			return false
		}
		for _, r := range atom {
			if r == ' ' || isUnwritable(r) || strings.ContainsRune(`()<>[]:;@\,"`, r) {
				return false
			}
		}
	}
	return true
}
