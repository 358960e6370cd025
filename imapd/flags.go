package imapd

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// Limits of flags.
const (
	maxFlags   = 100 // of one command, and told by SELECT
	maxKeyword = 64  // octets
)

// flagRecent is obsolete and cannot be set (RFC 3501 §2.3.2).
const flagRecent imap.Flag = `\Recent`

func systemFlags() []imap.Flag {
	return []imap.Flag{imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagSeen, imap.FlagDraft}
}

func hasFlag(l []imap.Flag, f imap.Flag) bool {
	return slices.ContainsFunc(l, func(g imap.Flag) bool { return strings.EqualFold(string(f), string(g)) })
}

// checkFlags brings flags from a client to the form of the store. Keywords
// keep the spelling that the folder already has, as they are compared without
// case.
func checkFlags(flags []imap.Flag, known []imap.Flag) ([]string, error) {
	if len(flags) > maxFlags {
		return nil, no(imap.ResponseCodeLimit, "too many flags at once")
	}
	out := make([]string, 0, len(flags))
	for _, f := range flags {
		if strings.EqualFold(string(f), string(flagRecent)) {
			continue
		}
		if strings.HasPrefix(string(f), `\`) && !hasFlag(systemFlags(), f) {
			return nil, bad("this system flag does not exist") // RFC 9051 §2.3.2
		}
		if len(f) > maxKeyword {
			return nil, no(imap.ResponseCodeLimit, "a keyword is longer than 64 octets")
		}
		for _, c := range string(f) {
			if c <= ' ' || c > '~' {
				return nil, bad("a keyword is ASCII") // RFC 9051 §9: flag-keyword is an atom
			}
		}
		for _, g := range known {
			if strings.EqualFold(string(f), string(g)) {
				f = g
				break
			}
		}
		if !slices.Contains(out, string(f)) {
			out = append(out, string(f))
		}
	}
	slices.Sort(out)
	return out, nil
}
