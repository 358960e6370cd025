package imapd

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/hispnode/hisp/hisp"
)

// Rules for folder names (RFC 9051 §5.1; security row M5).
const (
	delimiter      = '/'
	delim          = "/"
	inbox          = "INBOX"
	maxFolderName  = 500 // octets
	maxFolderDepth = 16
	maxPattern     = 1000 // octets of a LIST pattern
)

// lookupName brings the name of a folder that should exist to the form the
// store has: INBOX in upper case, NFC.
func lookupName(name string) string {
	name = norm.NFC.String(strings.TrimSuffix(name, delim))
	if head, rest, found := strings.Cut(name, delim); strings.EqualFold(head, inbox) {
		if !found {
			return inbox
		}
		return inbox + delim + rest
	}
	return name
}

// newName checks the name of a folder to be made. Names never become file
// names, but nothing that could be mistaken for a path is let in.
func newName(name string) (string, error) {
	refuse := func(hint string) (string, error) {
		return "", &hisp.Error{Op: "imapd.newName", Kind: hisp.Malformed, Hint: hint}
	}
	if !utf8.ValidString(name) {
		return refuse("a folder name is UTF-8")
	}
	name = lookupName(name)
	if name == "" || len(name) > maxFolderName {
		return refuse("a folder name has 1 to 500 octets")
	}
	if strings.ContainsFunc(name, unsafeRune) {
		return refuse("a folder name has no control characters, wildcards or backslash")
	}
	if name[0] == '#' {
		return refuse("a folder name does not start with #") // RFC 9051 §5.1.2.1
	}
	levels := strings.Split(name, delim)
	if len(levels) > maxFolderDepth {
		return refuse("folders are nested at most 16 deep")
	}
	for _, l := range levels {
		if l == "" || l == "." || l == ".." || strings.TrimSpace(l) != l {
			return refuse("no level of a folder name is empty, a dot, two dots or starts or ends with a space")
		}
	}
	return name, nil
}

func unsafeRune(r rune) bool {
	return r == '%' || r == '*' || r == '\\' || r == utf8.RuneError || // wildcards: RFC 9051 §5.1
		unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
}

// parents returns the names above name, outermost first.
func parents(name string) []string {
	var l []string
	for i := range len(name) {
		if name[i] == delimiter {
			l = append(l, name[:i])
		}
	}
	return l
}

// matches tells whether a folder fits a LIST pattern: "*" is anything, "%"
// anything without the delimiter (RFC 9051 §6.3.9). The time is the product of
// the lengths; go-imap's own matcher takes exponential time.
func matches(name, pattern string) bool {
	if len(pattern) > maxPattern {
		return false
	}
	if name == inbox && strings.EqualFold(pattern, inbox) {
		return true
	}
	// reach[i]: the pattern so far matches name[:i].
	reach := make([]bool, len(name)+1)
	reach[0] = true
	for p := range len(pattern) {
		switch c := pattern[p]; c {
		case '*', '%':
			for i := 1; i <= len(name); i++ {
				reach[i] = reach[i] || (reach[i-1] && (c == '*' || name[i-1] != delimiter))
			}
		default:
			for i := len(name); i > 0; i-- {
				reach[i] = reach[i-1] && name[i-1] == c
			}
			reach[0] = false
		}
	}
	return reach[len(name)]
}
