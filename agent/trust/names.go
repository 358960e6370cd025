package trust

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
)

// General name tags, RFC 5280 §4.2.1.6.
const (
	tagOtherName     = 0
	tagRFC822        = 1
	tagDNS           = 2
	tagDirectoryName = 4
)

// names are the names of a certificate that binding and name constraints
// look at.
type names struct {
	mailboxes     []string // rfc822Name
	utf8Mailboxes []string // SmtpUTF8Mailbox
	dns           []string
	directories   []rdnSequence // directoryName
	otherForms    []int         // tags of names in any other form
	dnEmails      []string      // emailAddress in the subject DN
	subject       rdnSequence
}

var errNames = errors.New("trust: malformed name")

// namesOf reads the subject and the subjectAltName of cert.
func namesOf(cert *x509.Certificate) (*names, error) {
	n := &names{}
	for _, attr := range cert.Subject.Names {
		if attr.Type.Equal(oidEmailAddress) {
			s, _ := attr.Value.(string) // not a string: "", which contradicts every name
			n.dnEmails = append(n.dnEmails, s)
		}
	}
	if err := unmarshal(cert.RawSubject, &n.subject); err != nil {
		return nil, err
	}
	value := extension(cert, oidSubjectAltName)
	if value == nil {
		return n, nil
	}
	var general []asn1.RawValue
	if err := unmarshal(value, &general); err != nil {
		return nil, err
	}
	for _, g := range general {
		if err := n.add(g); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *names) add(g asn1.RawValue) error {
	if g.Class != asn1.ClassContextSpecific {
		return errNames
	}
	switch g.Tag {
	case tagRFC822:
		n.mailboxes = append(n.mailboxes, string(g.Bytes))
	case tagDNS:
		n.dns = append(n.dns, string(g.Bytes))
	case tagDirectoryName:
		var dn rdnSequence
		if err := unmarshal(g.Bytes, &dn); err != nil {
			return err
		}
		n.directories = append(n.directories, dn)
	case tagOtherName:
		return n.addOther(g)
	default:
		n.otherForms = append(n.otherForms, g.Tag)
	}
	return nil
}

// addOther reads OtherName ::= SEQUENCE { type-id, value [0] EXPLICIT ANY }.
func (n *names) addOther(g asn1.RawValue) error {
	var id asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(g.Bytes, &id)
	if err != nil {
		return errNames
	}
	if !id.Equal(oidSmtpUTF8Mailbox) {
		n.otherForms = append(n.otherForms, tagOtherName)
		return nil
	}
	var mailbox string
	if rest, err = asn1.UnmarshalWithParams(rest, &mailbox, "explicit,tag:0,utf8"); err != nil || len(rest) > 0 {
		return errNames
	}
	n.utf8Mailboxes = append(n.utf8Mailboxes, mailbox)
	return nil
}

func (n *names) count() int {
	return len(n.mailboxes) + len(n.utf8Mailboxes) + len(n.dns) + len(n.directories) + len(n.otherForms) + len(n.dnEmails) + 1
}

// rdnSequence is a distinguished name with its values undecoded. The SET in
// the element's name tells encoding/asn1 what it is.
type rdnSequence []attributeSET

type attributeSET []attribute

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// extension returns the value of an extension, nil if there is none.
func extension(cert *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

// unmarshal is asn1.Unmarshal without trailing bytes.
func unmarshal(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err != nil || len(rest) > 0 {
		return errNames
	}
	return nil
}
