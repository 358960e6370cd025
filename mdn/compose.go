package mdn

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime/quotedprintable"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Media types and report types of notices (RFC 8098 §3, RFC 3464 §2, RFC 6522
// §3 and §4, RFC 6533 §4 to §6 for addresses beyond ASCII).
const (
	typeReport        = "multipart/report"
	typeNotice        = "message/disposition-notification"
	typeNoticeGlobal  = "message/global-disposition-notification"
	typeStatus        = "message/delivery-status"
	typeStatusGlobal  = "message/global-delivery-status"
	typeHeaders       = "text/rfc822-headers"
	typeText          = "text/plain"
	reportDisposition = "disposition-notification"
	reportStatus      = "delivery-status"
)

// Field names. X-DIRECT-FINAL-DESTINATION-DELIVERY is a field of the notice and
// a parameter of Disposition-Notification-Options (row DN-03).
const (
	fieldReportingUA       = "Reporting-UA"
	fieldGateway           = "MDN-Gateway"
	fieldOriginalRecipient = "Original-Recipient"
	fieldFinalRecipient    = "Final-Recipient"
	fieldOriginalMessageID = "Original-Message-ID"
	fieldDisposition       = "Disposition"
	fieldError             = "Error"
	fieldFailure           = "Failure"
	fieldWarning           = "Warning"
	fieldFinalDestination  = "X-DIRECT-FINAL-DESTINATION-DELIVERY"
	fieldReportingMTA      = "Reporting-MTA"
	fieldXOriginalID       = "X-Original-Message-ID"
	fieldAction            = "Action"
	fieldStatus            = "Status"
	fieldDiagnostic        = "Diagnostic-Code"
	fieldMessageID         = "Message-ID"
	fieldInReplyTo         = "In-Reply-To"
	fieldContentType       = "Content-Type"
	fieldTransferEncoding  = "Content-Transfer-Encoding"
	fieldNotifyTo          = "Disposition-Notification-To"
	fieldNotifyOptions     = "Disposition-Notification-Options"
	fieldDate              = "Date"
	fieldFrom              = "From"
	fieldTo                = "To"
	fieldSubject           = "Subject"
	fieldAutoSubmitted     = "Auto-Submitted" // RFC 3834 §5
	fieldMIMEVersion       = "MIME-Version"
)

// Values and parameters that are always the same: RFC 3834 §5.1, RFC 2045 §4 and
// §6, RFC 6522 §3, and the types of RFC 3464 §2.1.2 and §2.3.6.
const (
	autoReplied     = "auto-replied"
	mimeVersion     = "1.0"
	paramReportType = "report-type"
	charsetASCII    = "us-ascii"
	charsetUTF8     = "utf-8"
	encodingSeven   = "7bit"
	encodingEight   = "8bit"
	encodingQuoted  = "quoted-printable"
	nameTypeDNS     = "dns"
	diagnosticSMTP  = "smtp"
	diagnosticOwn   = "x-hisp"
)

// dispositionMode is the only mode of a node, written as receivers compare it
// (RFC 8098 §3.2.6.1; row MDN-04).
const dispositionMode = "automatic-action/MDN-sent-automatically"

// Modifiers that mean failure; error needs an Error field (row MDN-07).
const (
	modifierError   = "error"
	modifierFailure = "failure"
)

// Sizes of what is written, in octets.
const (
	maxLine     = 998      // without CRLF, RFC 5322 §2.1.1
	foldAt      = 76       // RFC 5322 §2.1.1 asks for 78
	maxText     = 64 << 10 // of the human text
	maxOriginal = 64 << 10 // of the original's header
	maxValue    = 4 << 10  // of one free-text field
)

// statusUnspecified stands for a missing or odd status (RFC 3463 §3.1; what the
// reference implementation sends).
const statusUnspecified = "5.0.0"

// Compose writes a complete disposition notification with CRLF line ends: a
// multipart/report with text and the fields of n. The subject is the outcome
// and the original's subject, as "Processed: Referral". It carries
// Auto-Submitted: auto-replied (RFC 3834 §3.1.7) and asks for no notice itself
// (RFC 8098 §2.1). Control characters in what a stranger wrote (subject,
// Message-ID of the original, texts) become spaces, so that no message can
// prevent its own notice; in an address, the notice's own Message-ID or a
// disposition they are ErrUnsafe. Without text it has a sentence of its own. The
// result depends on the arguments only.
func Compose(h Header, n Notice, text string) ([]byte, error) {
	if err := checkNotice(h, n); err != nil {
		return nil, err
	}
	kind := string(n.Disposition)
	subject := joinSubject(strings.ToUpper(kind[:1])+kind[1:], h.Subject)
	global := !isASCII(n.OriginalRecipient + n.FinalRecipient)
	report := part{mediaType: typeNotice, body: noticeFields(n, global)}
	if global {
		report.mediaType = typeNoticeGlobal
	}
	if text == "" {
		text = noticeText(n.Disposition)
	}
	return compose(h, subject, reportDisposition, []part{textPart(text), report}), nil
}

// ComposeStatus writes a complete delivery status notification with CRLF line
// ends: text, to which the recipients are added, the fields of s, and the header
// of the original as text/rfc822-headers unless original is empty (a body behind
// it is left out). Status.OriginalMessageID goes into X-Original-Message-ID, where
// other HISPs look for it (row DN-04). No Action means failed and a missing or odd
// Status 5.0.0. Values are guarded as in Compose.
func ComposeStatus(h Header, s Status, text string, original []byte) ([]byte, error) {
	if err := checkStatus(h, s); err != nil {
		return nil, err
	}
	subject := "Undeliverable"
	global := false
	for _, r := range s.Recipients {
		if actionOf(r) != ActionFailed {
			subject = "Delivery status"
		}
		global = global || !isASCII(r.OriginalRecipient+r.FinalRecipient)
	}
	report := part{mediaType: typeStatus, body: statusFields(s, global)}
	if global {
		report.mediaType = typeStatusGlobal
	}
	parts := []part{textPart(withRecipients(text, s.Recipients)), report}
	if header := headerOf(original); len(header) > 0 {
		parts = append(parts, encodePart(typeHeaders, header))
	}
	return compose(h, joinSubject(subject, h.Subject), reportStatus, parts), nil
}

// noticeText is the human text of a notice that brings none.
func noticeText(d Disposition) string {
	switch d {
	case Processed, Dispatched:
		return "Your message was successfully " + string(d) + "."
	case Failed:
		return "Your message could not be delivered."
	}
	return "Your message was " + string(d) + "."
}

func checkNotice(h Header, n Notice) error {
	switch n.Disposition {
	case Processed, Dispatched, Displayed, Failed, Denied, Deleted:
	default:
		return fmt.Errorf("%w: disposition", ErrUnsafe)
	}
	for _, m := range n.Modifiers {
		if !isToken(m) {
			return fmt.Errorf("%w: modifier", ErrUnsafe)
		}
	}
	if !isAddrSpec(n.FinalRecipient) || (n.OriginalRecipient != "" && !isAddrSpec(n.OriginalRecipient)) {
		return fmt.Errorf("%w: recipient", ErrUnsafe)
	}
	return checkHeader(h)
}

func checkStatus(h Header, s Status) error {
	if len(s.Recipients) == 0 {
		return fmt.Errorf("%w: no recipient", ErrUnsafe)
	}
	for _, r := range s.Recipients {
		if !isAddrSpec(r.FinalRecipient) || (r.OriginalRecipient != "" && !isAddrSpec(r.OriginalRecipient)) {
			return fmt.Errorf("%w: recipient", ErrUnsafe)
		}
		if !isToken(string(actionOf(r))) {
			return fmt.Errorf("%w: action", ErrUnsafe)
		}
	}
	return checkHeader(h)
}

func checkHeader(h Header) error {
	switch {
	case !isAddrSpec(h.From) || !isAddrSpec(h.To):
		return fmt.Errorf("%w: From or To", ErrUnsafe)
	case !isMessageID(h.MessageID):
		return fmt.Errorf("%w: Message-ID", ErrUnsafe)
	case h.Date.IsZero():
		return fmt.Errorf("%w: no date", ErrUnsafe)
	}
	return nil
}

// noticeFields writes the fields in the order of the reference implementation,
// Disposition last.
func noticeFields(n Notice, global bool) []byte {
	var w fieldWriter
	w.optional(fieldReportingUA, clean(n.ReportingUA))
	if n.Gateway != "" {
		w.field(fieldGateway, nameTypeDNS+"; "+clean(n.Gateway))
	}
	if n.OriginalRecipient != "" {
		w.field(fieldOriginalRecipient, typedAddress(n.OriginalRecipient, global))
	}
	w.field(fieldFinalRecipient, typedAddress(n.FinalRecipient, global))
	w.optional(fieldOriginalMessageID, clean(n.OriginalMessageID))
	errs := n.Error
	if len(errs) == 0 && slices.Contains(n.Modifiers, modifierError) {
		errs = []string{"not specified"} // NHIN Direct proposal, MDN: the modifier needs the field
	}
	w.list(fieldError, errs)
	w.list(fieldFailure, n.Failure)
	w.list(fieldWarning, n.Warning)
	if n.FinalDestination {
		w.field(fieldFinalDestination, "")
	}
	disposition := dispositionMode + ";" + string(n.Disposition)
	if len(n.Modifiers) > 0 {
		disposition += "/" + strings.Join(n.Modifiers, ",")
	}
	w.field(fieldDisposition, disposition)
	return w.Bytes()
}

func statusFields(s Status, global bool) []byte {
	var w fieldWriter
	w.field(fieldReportingMTA, nameTypeDNS+"; "+clean(s.ReportingMTA))
	w.optional(fieldXOriginalID, clean(s.OriginalMessageID))
	for _, r := range s.Recipients {
		w.WriteString("\r\n")
		if r.OriginalRecipient != "" {
			w.field(fieldOriginalRecipient, typedAddress(r.OriginalRecipient, global))
		}
		w.field(fieldFinalRecipient, typedAddress(r.FinalRecipient, global))
		w.field(fieldAction, string(actionOf(r)))
		w.field(fieldStatus, statusOf(r))
		if d := asciiOnly(clean(r.Diagnostic)); d != "" {
			w.field(fieldDiagnostic, diagnosticType(d)+"; "+d)
		}
	}
	return w.Bytes()
}

// Address types of Original-Recipient and Final-Recipient (RFC 3798 §5.4,
// RFC 6533 §3).
const (
	addressTypeRFC822 = "rfc822"
	addressTypeUTF8   = "utf-8" // not the charset
)

// typedAddress is "rfc822; a@b": one space, as the reference implementation
// writes and ETT rule 460 reads.
func typedAddress(addr string, global bool) string {
	if global && !isASCII(addr) {
		return addressTypeUTF8 + "; " + addr
	}
	return addressTypeRFC822 + "; " + addr
}

func actionOf(r RecipientStatus) Action {
	if r.Action == "" {
		return ActionFailed
	}
	return r.Action
}

// statusOf returns the status if it is one (RFC 3463 §2).
func statusOf(r RecipientStatus) string {
	class, rest, _ := strings.Cut(r.Status, ".")
	subject, detail, _ := strings.Cut(rest, ".")
	if (class == "2" || class == "4" || class == "5") && isNumber(subject) && isNumber(detail) {
		return r.Status
	}
	return statusUnspecified
}

func isNumber(s string) bool {
	return len(s) >= 1 && len(s) <= 3 && strings.Trim(s, "0123456789") == ""
}

// diagnosticType is smtp for the reply of an SMTP server and a private type for
// a reason of the agent (RFC 3464 §2.3.6).
func diagnosticType(d string) string {
	if len(d) >= 3 && isNumber(d[:3]) {
		return diagnosticSMTP
	}
	return diagnosticOwn
}

// withRecipients names every recipient in the human text (row DN-19).
func withRecipients(text string, recipients []RecipientStatus) string {
	var b strings.Builder
	b.WriteString(strings.TrimRight(text, "\r\n"))
	if b.Len() > 0 {
		b.WriteString("\n\n")
	}
	for _, r := range recipients {
		fmt.Fprintf(&b, "  %s: %s (%s)", r.FinalRecipient, actionOf(r), statusOf(r))
		if d := clean(r.Diagnostic); d != "" {
			b.WriteString("\n    " + d)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// headerOf cuts the header from an original, without NUL, with CRLF, bounded at
// a whole line.
func headerOf(original []byte) []byte {
	var out []byte
	for line := range bytes.Lines(original) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 || len(out)+len(line) > maxOriginal {
			break
		}
		for _, c := range line {
			if c == 0 || c == '\r' {
				c = ' '
			}
			out = append(out, c)
		}
		out = append(out, '\r', '\n')
	}
	return out
}

// part is one body part with its encoded body.
type part struct {
	mediaType string
	charset   string
	encoding  string // "" is 7bit, or 8bit when the body is not ASCII
	body      []byte
}

func textPart(text string) part {
	if len(text) > maxText {
		text = text[:maxText]
	}
	var b bytes.Buffer
	for line := range strings.Lines(strings.ToValidUTF8(text, "?")) {
		b.WriteString(cleanLine(strings.TrimRight(line, "\r\n")))
		b.WriteString("\r\n")
	}
	p := encodePart(typeText, b.Bytes())
	p.charset = charsetASCII
	if p.encoding != "" {
		p.charset = charsetUTF8
	}
	return p
}

// encodePart makes a part quoted-printable when it is not plain 7-bit lines.
func encodePart(mediaType string, body []byte) part {
	p := part{mediaType: mediaType, body: body}
	plain := isASCII(string(body))
	for line := range bytes.Lines(body) {
		plain = plain && len(line) <= maxLine
	}
	if plain {
		return p
	}
	var b bytes.Buffer
	qp := quotedprintable.NewWriter(&b)
	_, _ = qp.Write(body) // a bytes.Buffer does not fail
	_ = qp.Close()
	p.body, p.encoding = b.Bytes(), encodingQuoted
	return p
}

func compose(h Header, subject, reportType string, parts []part) []byte {
	boundary := makeBoundary(h, parts)
	var w fieldWriter
	w.field(fieldDate, h.Date.UTC().Format(time.RFC1123Z))
	w.field(fieldFrom, h.From)
	w.field(fieldTo, h.To)
	w.field(fieldSubject, subject)
	w.field(fieldMessageID, h.MessageID)
	w.optional(fieldInReplyTo, clean(h.InReplyTo))
	w.field(fieldAutoSubmitted, autoReplied)
	w.field(fieldMIMEVersion, mimeVersion)
	w.field(fieldContentType, typeReport+"; "+paramReportType+"="+reportType+`; boundary="`+boundary+`"`)
	w.WriteString("\r\n")
	for _, p := range parts {
		w.WriteString("--" + boundary + "\r\n")
		contentType := p.mediaType
		if p.charset != "" {
			contentType += "; charset=" + p.charset
		}
		w.field(fieldContentType, contentType)
		switch {
		case p.encoding != "":
			w.field(fieldTransferEncoding, p.encoding)
		case isASCII(string(p.body)):
			w.field(fieldTransferEncoding, encodingSeven)
		default:
			w.field(fieldTransferEncoding, encodingEight) // RFC 6533 §4: global reports are UTF-8
		}
		w.WriteString("\r\n")
		w.Write(p.body)
		w.WriteString("\r\n")
	}
	w.WriteString("--" + boundary + "--\r\n")
	return w.Bytes()
}

// makeBoundary hashes all that is enclosed: nobody can put a text's own hash
// into it, and composing twice gives the same bytes.
func makeBoundary(h Header, parts []part) string {
	sum := sha256.New()
	sum.Write([]byte(h.MessageID))
	for _, p := range parts {
		sum.Write([]byte{0})
		sum.Write(p.body)
	}
	return "hisp" + hex.EncodeToString(sum.Sum(nil)[:16])
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
