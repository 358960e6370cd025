package smtpd

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/hispnode/hisp/hisp"
)

// row is how a Kind is said in SMTP.
type row struct {
	code     int
	enhanced smtp.EnhancedCode
	text     string // what the peer reads before the Hint
	login    string // "code enhanced" when the kind ends an AUTH, "" as above
	quiet    bool   // the backbone learns no Hint: it would be an oracle (threat S3)
}

// codes is the one table from kinds to SMTP codes (RFC 5321 §4.2, RFC 3463,
// RFC 4954 §6).
func codes(k hisp.Kind) row {
	switch k {
	case hisp.Malformed:
		return row{554, smtp.EnhancedCode{5, 6, 0}, "the message is not well formed", "501 5.5.2", false}
	case hisp.TooLarge:
		return row{552, smtp.EnhancedCode{5, 3, 4}, "the message is too large", "", false}
	case hisp.UnknownRecipient:
		return row{550, smtp.EnhancedCode{5, 1, 1}, "no such recipient: check the address", "", false}
	case hisp.NoCertificate:
		return row{550, smtp.EnhancedCode{5, 7, 5}, "no certificate of a recipient can be used", "", false}
	case hisp.Untrusted, hisp.CannotDecrypt, hisp.BadSignature, hisp.Tampered:
		return row{554, smtp.EnhancedCode{5, 7, 1}, "the message is not acceptable", "", true}
	case hisp.Unprotected:
		return row{554, smtp.EnhancedCode{5, 7, 4}, "only encrypted and signed S/MIME messages are taken here", "", false}
	case hisp.NoKey:
		return row{554, smtp.EnhancedCode{5, 7, 5}, "there is no key to sign with", "", false}
	case hisp.Denied:
		return row{550, smtp.EnhancedCode{5, 7, 1}, "not allowed", "535 5.7.8", false}
	case hisp.Throttled:
		return row{451, smtp.EnhancedCode{4, 7, 0}, "too many tries, wait before the next", "454 4.7.0", false}
	case hisp.Full:
		return row{452, smtp.EnhancedCode{4, 3, 1}, "no room now, try again later", "454 4.7.0", false}
	case hisp.Refused:
		return row{554, smtp.EnhancedCode{5, 0, 0}, "refused", "", false}
	case hisp.Temporary, hisp.Conflict:
		return row{451, smtp.EnhancedCode{4, 3, 0}, "not now, try again later", "454 4.7.0", false}
	}
	return row{451, smtp.EnhancedCode{4, 3, 0}, textInternal, "454 4.7.0", true}
}

// error is the reply with a hint, if there is one.
func (r row) error(hint string) error {
	return &smtp.SMTPError{Code: r.code, EnhancedCode: r.enhanced, Message: withHint(r.text, hint)}
}

// line is the row as a reply of the gate, with a text of its own.
func (r row) line(text string) string {
	return fmt.Sprintf("%d %d.%d.%d %s", r.code, r.enhanced[0], r.enhanced[1], r.enhanced[2], text)
}

// render says err of Submit or Receive to the peer.
func (s *session) render(err error) error {
	r := codes(hisp.KindOf(err))
	hint := hisp.HintOf(err)
	if r.quiet && s.srv.back != nil {
		hint = ""
	}
	return r.error(hint)
}

// renderLogin says why a login failed.
func renderLogin(err error) error {
	r := codes(hisp.KindOf(err))
	if r.login == "" {
		r = codes(hisp.Temporary)
	}
	text := "not possible now, try again later"
	switch hisp.KindOf(err) {
	case hisp.Denied:
		text = "the credentials do not fit: check the user name and the password"
	case hisp.Malformed, hisp.Throttled:
		text = r.text
	}
	return parseReply(r.login + " " + text)
}

const maxHint = 300 // octets; a reply line has 512, RFC 5321 §4.5.3.1.5

func withHint(text, hint string) string {
	hint = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, hint)
	if hint == "" {
		return text
	}
	return text + ": " + hint[:min(len(hint), maxHint)]
}

// status is a reply that is no Kind of the node's.
func status(code, class, subject, detail int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{class, subject, detail}, Message: text}
}

func needTLS() error { return parseReply(replyNeedTLS) }

// parseReply makes go-smtp's form of "code x.y.z text", which must be well
// formed: it is ours.
func parseReply(line string) error {
	code, rest, _ := strings.Cut(line, " ")
	enhanced, text, _ := strings.Cut(rest, " ")
	e := &smtp.SMTPError{Message: text}
	e.Code, _ = strconv.Atoi(code)
	for i, part := range strings.SplitN(enhanced, ".", 3) {
		e.EnhancedCode[i], _ = strconv.Atoi(part)
	}
	return e
}
