package trust

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"unicode/utf16"
)

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30} // RFC 5280 §4.2.1.10

// constraints are the name constraints of a CA.
type constraints struct {
	permitted, excluded subtrees
}

// subtrees are the constraints of one direction by their form.
type subtrees struct {
	mailboxes   []string
	dns         []string
	directories []rdnSequence
	otherForms  []int // tags of forms that are not compared
}

// constraintsOf reads the name constraints of a CA, nil if there are none.
func constraintsOf(cert *x509.Certificate) (*constraints, error) {
	value := extension(cert, oidNameConstraints)
	if value == nil || !cert.IsCA {
		return nil, nil
	}
	var raw struct {
		Permitted []asn1.RawValue `asn1:"optional,tag:0"`
		Excluded  []asn1.RawValue `asn1:"optional,tag:1"`
	}
	if err := unmarshal(value, &raw); err != nil {
		return nil, err
	}
	c := &constraints{}
	if err := c.permitted.read(raw.Permitted); err != nil {
		return nil, err
	}
	if err := c.excluded.read(raw.Excluded); err != nil {
		return nil, err
	}
	return c, nil
}

func (t *subtrees) read(list []asn1.RawValue) error {
	for _, raw := range list {
		var base asn1.RawValue
		if raw.Tag != asn1.TagSequence || raw.Class != asn1.ClassUniversal {
			return errNames
		}
		if err := unmarshal(raw.Bytes, &base); err != nil { // minimum and maximum would be a rest
			return err
		}
		if base.Class != asn1.ClassContextSpecific {
			return errNames
		}
		switch base.Tag {
		case tagRFC822:
			t.mailboxes = append(t.mailboxes, string(base.Bytes))
		case tagDNS:
			t.dns = append(t.dns, string(base.Bytes))
		case tagDirectoryName:
			var dn rdnSequence
			if err := unmarshal(base.Bytes, &dn); err != nil {
				return err
			}
			t.directories = append(t.directories, dn)
		default:
			t.otherForms = append(t.otherForms, base.Tag)
		}
	}
	return nil
}

func (t *subtrees) count() int {
	return len(t.mailboxes) + len(t.dns) + len(t.directories) + len(t.otherForms)
}

// constraintProblem checks the names of the chain so far against the
// constraints of c. A self-issued intermediate is passed over (RFC 5280 §6.1.3
// (b), (c)).
func (s *search) constraintProblem(c *node) Reason {
	if c.constraints == nil {
		return ""
	}
	for i, n := range s.chain {
		if i > 0 && n.selfIssued {
			continue
		}
		s.comparisons += n.names.count() * (c.constraints.permitted.count() + c.constraints.excluded.count())
		if s.comparisons > maxComparisons {
			s.exhausted = true
			return TooComplex
		}
		if !c.constraints.allow(n.names) {
			return NameConstraint
		}
	}
	return ""
}

func (c *constraints) allow(n *names) bool {
	// RFC 5280 §4.2.1.10: a form that is not processed refuses the
	// certificates that have names of this form.
	for _, form := range n.otherForms {
		if slices.Contains(c.permitted.otherForms, form) || slices.Contains(c.excluded.otherForms, form) {
			return false
		}
	}
	mail := func(name string) bool {
		return allowed(name, c.permitted.mailboxes, c.excluded.mailboxes, mailboxWithin)
	}
	dns := func(name string) bool { return allowed(name, c.permitted.dns, c.excluded.dns, hostWithin) }
	dir := func(name rdnSequence) bool {
		return allowed(name, c.permitted.directories, c.excluded.directories, directoryWithin)
	}
	// An emailAddress in the DN counts like an rfc822Name.
	return all(n.mailboxes, mail) && all(n.utf8Mailboxes, mail) && all(n.dnEmails, mail) && all(n.dns, dns) &&
		all(n.directories, dir) && (len(n.subject) == 0 || dir(n.subject))
}

// allowed tells whether name is in no excluded subtree and, if there are
// permitted ones of this form, in one of those.
func allowed[T any](name T, permitted, excluded []T, within func(name, subtree T) bool) bool {
	in := func(subtree T) bool { return within(name, subtree) }
	if slices.ContainsFunc(excluded, in) {
		return false
	}
	return len(permitted) == 0 || slices.ContainsFunc(permitted, in)
}

func all[T any](list []T, f func(T) bool) bool {
	for _, x := range list {
		if !f(x) {
			return false
		}
	}
	return true
}

// mailboxWithin follows RFC 5280 §4.2.1.10: "user@host" is that mailbox, "host"
// all mailboxes on that host and not below it, ".domain" all mailboxes on hosts
// below the domain. An empty subtree is every mailbox. (crypto/x509 takes a
// host for its subdomains too, CVE-2026-78664.)
func mailboxWithin(name, subtree string) bool {
	if subtree == "" {
		return true
	}
	at := strings.LastIndexByte(name, '@')
	host := name[at+1:]
	switch {
	case strings.Contains(subtree, "@"):
		return strings.EqualFold(name, subtree)
	case subtree[0] == '.':
		return len(host) > len(subtree) && strings.EqualFold(host[len(host)-len(subtree):], subtree)
	}
	return strings.EqualFold(host, subtree)
}

// hostWithin follows RFC 5280 §4.2.1.10: a name is within "host" if it equals
// it or adds labels on the left. A subtree with a leading dot, which the RFC
// does not define, is taken for the names below only. Empty is every name.
func hostWithin(name, subtree string) bool {
	if subtree == "" {
		return true
	}
	if subtree[0] != '.' {
		if strings.EqualFold(name, subtree) {
			return true
		}
		subtree = "." + subtree
	}
	return len(name) > len(subtree) && strings.EqualFold(name[len(name)-len(subtree):], subtree)
}

// directoryWithin tells whether the first RDNs of name are those of subtree.
func directoryWithin(name, subtree rdnSequence) bool {
	if len(subtree) > len(name) {
		return false
	}
	for i := range subtree {
		if !sameRDN(name[i], subtree[i]) {
			return false
		}
	}
	return true
}

func sameRDN(a, b attributeSET) bool {
	if len(a) != len(b) {
		return false
	}
	return all(a, func(x attribute) bool {
		return slices.ContainsFunc(b, func(y attribute) bool { return x.Type.Equal(y.Type) && sameValue(x.Value, y.Value) })
	})
}

// sameValue compares strings of any type without case and surplus space
// (RFC 5280 §7.1), everything else by its bytes.
func sameValue(a, b asn1.RawValue) bool {
	x, xok := text(a)
	y, yok := text(b)
	if xok && yok {
		return strings.EqualFold(strings.Join(strings.Fields(x), " "), strings.Join(strings.Fields(y), " "))
	}
	return slices.Equal(a.FullBytes, b.FullBytes)
}

func text(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String:
		return string(v.Bytes), true
	case asn1.TagT61String: // taken for Latin-1, as everybody does
		runes := make([]rune, len(v.Bytes))
		for i, c := range v.Bytes {
			runes[i] = rune(c)
		}
		return string(runes), true
	case asn1.TagBMPString:
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
		}
		return string(utf16.Decode(units)), len(v.Bytes)%2 == 0
	}
	return "", false
}
