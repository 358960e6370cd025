package agent

import (
	"slices"
	"strings"

	"github.com/hispnode/hisp/agent/smime"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
)

// Fields that say who a message is from and for, RFC 5322 §3.6.2 and §3.6.3.
const (
	fieldFrom   = "From"
	fieldSender = "Sender"
	fieldTo     = "To"
	fieldCc     = "Cc"
)

// What makes a message a notice, RFC 6522 §3, RFC 8098 §3 and RFC 3464 §2.
const (
	typeReport        = "multipart/report"
	paramReportType   = "report-type"
	reportDisposition = "disposition-notification"
	reportStatus      = "delivery-status"
)

// parties are the addresses in the header of one message.
type parties struct {
	from   hisp.Address
	sender hisp.Address // zero if there is no Sender
	to     []hisp.Address
	notice bool // an MDN or DSN
}

// partiesOf reads the header of a message that must be unambiguous: one From
// with one mailbox and no group, at most one Sender, well formed To and Cc
// (security rows S6, S8, M3). ok is false otherwise, with the hint.
func partiesOf(raw []byte) (p parties, hint string, ok bool) {
	top, err := smime.ParseMessage(raw)
	if err != nil {
		return p, "the message header is ambiguous or not well formed: fields twice, lines that are no fields, or line ends that are not CRLF", false
	}
	if p.from, ok = mailbox(raw, top.Fields, fieldFrom); !ok || p.from.IsZero() {
		return p, "From must be exactly one mailbox and no group", false
	}
	if p.sender, ok = mailbox(raw, top.Fields, fieldSender); !ok {
		return p, "Sender must be one mailbox", false
	}
	if p.to, ok = recipients(raw, top.Fields); !ok {
		return p, "To or Cc is not a well formed address list", false
	}
	p.notice = isNotice(top)
	return p, "", true
}

// isNotice tells a multipart/report of RFC 8098 or RFC 3464.
func isNotice(top *mimetree.Part) bool {
	if top.MediaType != typeReport {
		return false
	}
	kind := top.Params[paramReportType]
	return strings.EqualFold(kind, reportDisposition) || strings.EqualFold(kind, reportStatus)
}

// mailbox reads a field that may stand once and holds one mailbox. No field
// is the zero Address.
func mailbox(raw []byte, fields []mimetree.Field, name string) (hisp.Address, bool) {
	text, n := mimetree.Get(raw, fields, name)
	if n != 1 {
		return hisp.Address{}, n == 0
	}
	spec, err := mimetree.Mailbox(text)
	if err != nil {
		return hisp.Address{}, false
	}
	addr, err := hisp.ParseAddress(spec)
	return addr, err == nil
}

// recipients returns the addresses of To and Cc. Those that cannot be Direct
// addresses, such as domain literals, are left out.
func recipients(raw []byte, fields []mimetree.Field) (list []hisp.Address, ok bool) {
	for _, f := range fields {
		if !f.Is(fieldTo) && !f.Is(fieldCc) {
			continue
		}
		specs, err := mimetree.Addresses(f.Text(raw))
		if err != nil {
			return nil, false
		}
		for _, spec := range specs {
			if addr, err := hisp.ParseAddress(spec); err == nil {
				list = append(list, addr)
			}
		}
	}
	return list, true
}

// missing tells whether one of rcpts is not in list.
func missing(rcpts, list []hisp.Address) bool {
	return slices.ContainsFunc(rcpts, func(rcpt hisp.Address) bool {
		return !slices.ContainsFunc(list, rcpt.Equal)
	})
}

// unique returns rcpts without repetitions.
func unique(rcpts []hisp.Address) []hisp.Address {
	seen := make(map[hisp.Address]bool, len(rcpts))
	var out []hisp.Address
	for _, rcpt := range rcpts {
		if !seen[rcpt.Key()] {
			seen[rcpt.Key()] = true
			out = append(out, rcpt)
		}
	}
	return out
}
