package smtpd

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// trace makes the Received field of the session's message (RFC 5321 §4.4, with
// the protocol names of RFC 3848 and RFC 6531 §4.3). It names no person: "for"
// is left out, and for a submission so are the client's name and address, which
// would travel to the recipient.
func (s *session) trace() []byte {
	g := s.gate
	var b strings.Builder
	b.WriteString("Received: from ")
	if s.srv.sub != nil {
		b.WriteString("submission.invalid") // RFC 2606 §2: no name is given
	} else {
		b.WriteString(traceName(g.helo, g.peer))
	}
	b.WriteString("\r\n\tby " + s.srv.cfg.Hostname + " with " + s.protocol())
	if g.tls != nil {
		b.WriteString("\r\n\t(" + strings.ReplaceAll(tls.VersionName(g.tls.Version), " ", "") +
			" " + tls.CipherSuiteName(g.tls.CipherSuite) + ")")
	}
	b.WriteString("\r\n\tid " + string(s.env.ID) + ";\r\n\t" + s.env.Received.UTC().Format(time.RFC1123Z) + "\r\n")
	return []byte(b.String())
}

func (s *session) protocol() string {
	p := "SMTP"
	if s.utf8 {
		p = "UTF8SMTP"
	} else if s.gate.extended || s.gate.tls != nil {
		p = "ESMTP"
	}
	if s.gate.tls != nil {
		p += "S"
	}
	if !s.acct.Address.IsZero() {
		p += "A"
	}
	return p
}

// traceName is the EHLO name if it is a name or an address literal, with the
// address the peer really has.
func traceName(helo string, peer netip.Addr) string {
	name := "unknown.invalid"
	if d, err := hisp.ParseDomain(helo); err == nil {
		name = string(d)
	}
	if !peer.IsValid() {
		return name
	}
	literal := peer.String()
	if peer.Is6() {
		literal = "IPv6:" + literal
	}
	return name + " ([" + literal + "])"
}
