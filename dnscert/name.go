package dnscert

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

const maxName = 255 // octets of a name on the wire, RFC 1035 §2.3.4

var errName = errors.New("not a name that DNS can hold")

// ownerName is the owner name of addr's certificates: local part and domain
// joined by a dot (row DISC-01), the domain alone for an empty local part. Dots
// of the local part separate labels, every other octet is itself (row
// DISC-17); case is folded, as DNS compares without it (RFC 4343). A local part
// with an empty label or one above 63 octets has no name.
func ownerName(addr hisp.Address) (string, error) {
	if addr.Domain == "" {
		return "", errName
	}
	if addr.Local == "" {
		return canonical(string(addr.Domain))
	}
	var b strings.Builder
	for _, label := range strings.Split(addr.Local, ".") {
		if label == "" {
			return "", errName
		}
		writeLabel(&b, label)
		b.WriteByte('.')
	}
	return canonical(b.String() + string(addr.Domain))
}

// writeLabel writes label in the presentation form of RFC 1035 §5.1.
func writeLabel(b *strings.Builder, label string) {
	for i := range len(label) {
		switch c := label[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(b, `\%03d`, c)
		}
	}
}

// canonical brings a presentation name to the one spelling that names read
// from the wire have, in lower case and with the trailing dot, so that equal
// names are equal strings.
func canonical(name string) (string, error) {
	var buf [maxName + 1]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), buf[:], 0, nil, false)
	if err != nil || n > maxName {
		return "", errName
	}
	wire, _, err := dns.UnpackDomainName(buf[:n], 0)
	if err != nil {
		return "", errName
	}
	return dns.CanonicalName(wire), nil
}

// mixCase sets the case of each letter of name from bits, one bit a letter:
// an answer must repeat the question so, which is hard to guess (0x20, threat
// D1). Escapes hold no letters and stay.
func mixCase(name string, bits []byte) string {
	out := []byte(name)
	for i, c := range out {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if letter && bits[i/8%len(bits)]>>(i%8)&1 == 1 {
			out[i] ^= 0x20
		}
	}
	return string(out)
}

// contactName is addr as the RNAME of a SOA: the local part is one label
// (RFC 1035 §8).
func contactName(addr hisp.Address) (string, error) {
	var b strings.Builder
	writeLabel(&b, addr.Local)
	return canonical(b.String() + "." + string(addr.Domain))
}
