package imapd

import (
	"strconv"
	"strings"
)

// smallerFix rewrites SMALLER n in SEARCH to NOT LARGER n-1, which means the
// same (RFC 9051 §6.4.4): go-imap v2.0.0-beta.8 forgets SMALLER when a date or
// LARGER follows, and takes SMALLER 0 for no key. It holds the state of one
// command, whose lines may be parted by literals.
type smallerFix struct{ args int }

const keySmaller = "SMALLER"

// searchArgs tells how many arguments that are no keys follow a key.
func searchArgs(key string) int {
	switch strings.ToUpper(key) {
	case "HEADER":
		return 2
	case "BCC", "CC", "FROM", "SUBJECT", "TO", "BODY", "TEXT", "KEYWORD", "UNKEYWORD", "LARGER", "UID", "CHARSET",
		"BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE":
		return 1
	}
	return 0
}

// line rewrites one line of the command; first tells that tag and name are
// in it.
func (f *smallerFix) line(s string, first bool) string {
	var out strings.Builder
	if first {
		f.args = 2
		if _, verb, _ := splitCommand([]byte(s)); isUIDCommand(verb) {
			f.args = 3
		}
	}
	smaller := false // the last key was SMALLER, its number is next
	for i := 0; i < len(s); {
		n := tokenLen(s[i:])
		token := s[i : i+n]
		i += n
		switch {
		case strings.ContainsAny(token[:1], " ()\r\n"):
			if smaller && token == " " {
				continue // goes with the number
			}
			if smaller {
				smaller = false
				out.WriteString(keySmaller) // without a number: the parser will say so
			}
		case smaller:
			smaller = false
			out.WriteString(notLarger(token))
			continue
		case f.args > 0:
			f.args--
		case strings.EqualFold(token, keySmaller):
			smaller = true
			continue
		default:
			f.args = searchArgs(token)
		}
		out.WriteString(token)
	}
	if smaller {
		out.WriteString(keySmaller)
	}
	return out.String()
}

// notLarger writes the key for a number; what is none is left to the parser.
func notLarger(number string) string {
	n, err := strconv.ParseUint(number, 10, 63)
	switch {
	case err != nil:
		return keySmaller + " " + number
	case n == 0:
		return "NOT ALL"
	}
	return "NOT LARGER " + strconv.FormatUint(n-1, 10)
}

// tokenLen is the length of the token at the start of s: a quoted string, one
// separator, or what stands before the next one.
func tokenLen(s string) int {
	switch s[0] {
	case ' ', '(', ')', '\r', '\n':
		return 1
	case '"':
		for i := 1; i < len(s); i++ {
			if s[i] == '\\' {
				i++
			} else if s[i] == '"' {
				return i + 1
			}
		}
		return len(s)
	}
	if i := strings.IndexAny(s, " ()\r\n"); i > 0 {
		return i
	}
	return len(s)
}
