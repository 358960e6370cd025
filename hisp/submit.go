package hisp

import (
	"bytes"
	"context"
	"fmt"
	"net/mail"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp/mimetree"
	"github.com/hispnode/hisp/mdn"
)

var _ Submitter = (*Node)(nil)

// Submit takes a message from one of our own. It checks what the sender can
// still mend, because a refusal now is better than a notice later; what needs
// the network (certificates of the recipients) is found out afterwards and
// answered per recipient by a failure notice (row DN-08).
func (n *Node) Submit(ctx context.Context, env Envelope, msg Message) error {
	msg, err := n.admit(ctx, &env, msg)
	if err != nil {
		n.refuse(ctx, AuditAccept, env, err)
		return err
	}
	if err := n.accept(ctx, env, msg); err != nil {
		n.refuse(ctx, AuditAccept, env, err)
		return err
	}
	n.Log.Info("accepted", "id", env.ID, "domain", env.From.Domain, "recipients", len(env.To), "octets", msg.Size())
	return nil
}

// accept makes a submission durable. From now on the node answers for it: the
// wait for notices begins here, so that a message that cannot even be sealed
// has its failure notice in time (row DN-09).
func (n *Node) accept(ctx context.Context, env Envelope, msg Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := n.now()
	item := Item{ID: NewID(now), Work: WorkSeal, Envelope: env, Message: msg, Created: now, Due: now}
	rec := n.auditRecord(AuditAccept, env, OutcomeOK)
	rec.Private.MessageID = messageID(msg)
	return n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s := Step{Queue: []Item{item}, Audit: []AuditRecord{rec}}
		if mdn.IsReport(msg.Bytes()) {
			return s, nil
		}
		var err error
		s.Track, err = n.startTracks(ctx, item)
		return s, err
	})
}

// refuse audits a refusal at the door. The refusal stands even if it cannot be
// recorded: nothing was taken.
func (n *Node) refuse(ctx context.Context, event AuditEvent, env Envelope, cause error) {
	kind := KindOf(cause)
	if kind == Internal || kind == Temporary || kind == Full {
		return // not the peer's act; reported by whoever failed
	}
	rec := n.auditRecord(AuditReject, env, OutcomeRefused)
	rec.Kind, rec.Detail = kind.Error(), string(event)
	if err := n.Auditor.Record(ctx, rec); err != nil {
		n.Log.Error("refusal not audited", "id", env.ID, "err", err)
	}
	n.Log.Info("refused", "id", env.ID, "op", string(event), "kind", kind.Error(), "err", cause)
}

// admit checks a submission and returns it with the fields it must have. It
// completes env.
func (n *Node) admit(ctx context.Context, env *Envelope, msg Message) (Message, error) {
	if env.ID == "" {
		env.ID = NewID(n.now())
	}
	if err := n.checkSize(*env, msg, n.MaxMessage); err != nil {
		return msg, err
	}
	if err := checkOctets(msg.Bytes()); err != nil {
		return msg, err
	}
	h, err := parseHeader(msg.Bytes())
	if err != nil {
		return msg, err
	}
	if err := checkStructure(msg.Bytes()); err != nil {
		return msg, err
	}
	if err := n.checkSubmission(ctx, *env, h); err != nil {
		return msg, err
	}
	// The signer is the From address even when MAIL FROM is null, as it is
	// for a displayed MDN of the user's mail client (RFC 8098 §2.1).
	if env.From, err = h.single(fieldFrom); err != nil {
		return msg, err
	}
	if err := n.checkLocalRecipients(ctx, env.To); err != nil {
		return msg, err
	}
	if isEnveloped(msg.Bytes()) {
		err = checkLines(msg.Bytes())
	} else {
		err = n.checkSigningKey(ctx, env.From)
	}
	if err != nil {
		return msg, err
	}
	return n.complete(msg, h)
}

// maxLine is the longest line without its CRLF that may be sent, in octets
// (RFC 5321 §4.5.3.1.6).
const maxLine = 998

// checkLines refuses a ready-made S/MIME message that could not be relayed byte
// for byte (row BB-04). What the node seals itself always has short lines.
func checkLines(msg []byte) error {
	for at := 0; at < len(msg); {
		end := bytes.IndexByte(msg[at:], '\n')
		if end < 0 {
			end = len(msg) - at
		}
		if end > maxLine+1 {
			return &Error{Op: "hisp.Submit", Kind: Malformed, Hint: "the S/MIME message has a line of more than 998 octets and cannot be relayed as it is; break its base64 into lines of 76 characters"}
		}
		at += end + 1
	}
	return nil
}

func (n *Node) checkSize(env Envelope, msg Message, limit int64) error {
	const op = "hisp.Submit"
	switch {
	case msg.Size() > limit:
		return &Error{Op: op, Kind: TooLarge, Hint: fmt.Sprintf("the message has %d octets, the limit is %d", msg.Size(), limit)}
	case len(env.To) == 0:
		return &Error{Op: op, Kind: Malformed, Hint: "the message has no recipient"}
	case len(env.To) > n.MaxRecipients:
		return &Error{Op: op, Kind: TooLarge, Hint: fmt.Sprintf("the message has %d recipients, the limit is %d", len(env.To), n.MaxRecipients)}
	}
	return nil
}

// checkOctets refuses what cannot travel or would be read differently further
// on: NUL and bare CR or LF (RFC 5321 §2.3.8; security rows T1, T2).
func checkOctets(msg []byte) error {
	bad := func(what string, at int) error {
		line := 1 + bytes.Count(msg[:at], []byte{'\n'})
		return &Error{Op: "hisp.Submit", Kind: Malformed, Hint: fmt.Sprintf("%s in line %d; lines must end with CR LF", what, line)}
	}
	if i := bytes.IndexByte(msg, 0); i >= 0 {
		return bad("NUL octet", i)
	}
	lf, cr := bytes.Count(msg, []byte{'\n'}), bytes.Count(msg, []byte{'\r'})
	pairs := bytes.Count(msg, []byte("\r\n"))
	if lf == pairs && cr == pairs {
		return nil
	}
	for i, c := range msg {
		if c == '\n' && (i == 0 || msg[i-1] != '\r') {
			return bad("bare LF", i)
		}
		if c == '\r' && (i+1 == len(msg) || msg[i+1] != '\n') {
			return bad("bare CR", i)
		}
	}
	return nil
}

// checkStructure refuses a message that two readers could take apart in two
// ways (security row M3). What is attached as message/rfc822 is the sender's
// evidence and may be broken.
func checkStructure(msg []byte) error {
	malformed := func(hint string) error {
		return &Error{Op: "hisp.Submit", Kind: Malformed, Hint: hint}
	}
	root, err := mimetree.Parse(msg)
	if err != nil {
		return malformed("the message has more parts or header fields than allowed")
	}
	switch d := root.Defects; {
	case d&mimetree.DuplicateField != 0:
		return malformed("a header field that may occur once occurs twice (RFC 5322 §3.6)")
	case d&mimetree.BadField != 0:
		return malformed("a header line is not a field (RFC 5322 §2.2)")
	case d&mimetree.BadType != 0:
		return malformed("the Content-Type of the message cannot be read (RFC 2045 §5.1)")
	}
	if !wellFormed(root) {
		return malformed("a multipart has no boundary, or its closing boundary is missing (RFC 2046 §5.1)")
	}
	return nil
}

func wellFormed(p *mimetree.Part) bool {
	if p.Defects&(mimetree.NoBoundary|mimetree.Unclosed|mimetree.BadEncoding) != 0 {
		return false
	}
	if !strings.HasPrefix(p.MediaType, typeMultipart) {
		return true
	}
	for _, part := range p.Parts {
		if !wellFormed(part) {
			return false
		}
	}
	return true
}

// checkSubmission holds the sender to their own name (row ED-08, security row
// T8) and the recipients to the header (row BB-12).
func (n *Node) checkSubmission(ctx context.Context, env Envelope, h header) error {
	const op = "hisp.Submit"
	denied := func(hint string) error { return &Error{Op: op, Kind: Denied, Hint: hint} }
	from, err := h.single(fieldFrom)
	if err != nil {
		return err
	}
	own := func(a Address) bool { return n.owns(ctx, env.Account, a) }
	if !own(from) {
		return denied("the From address is not that of the account; send with your own address")
	}
	if len(h.all(fieldSender)) > 0 {
		if sender, err := h.single(fieldSender); err != nil || !own(sender) {
			return denied("the Sender address is not that of the account; send with your own address")
		}
	}
	if env.From.IsZero() && !mdn.IsReport(h.raw) {
		return denied("MAIL FROM:<> is for notices only; send with your own address")
	}
	if !env.From.IsZero() && !own(env.From) {
		return denied("the MAIL FROM address is not that of the account; send with your own address")
	}
	if err := n.checkNotifyTo(ctx, env, h); err != nil {
		return err
	}
	if len(h.all(fieldBcc)) > 0 {
		return denied("Direct knows no Bcc: send a message of its own to each hidden recipient")
	}
	if len(h.all(fieldMessageID)) > 1 || len(h.all(fieldContentType)) > 1 {
		return &Error{Op: op, Kind: Malformed, Hint: "Message-ID and Content-Type may occur once"}
	}
	return checkVisible(env.To, h)
}

// checkNotifyTo refuses to have notices sent where this node would never see
// them: the sender would hear that a message failed which arrived.
func (n *Node) checkNotifyTo(ctx context.Context, env Envelope, h header) error {
	denied := func(hint string) error { return &Error{Op: "hisp.Submit", Kind: Denied, Hint: hint} }
	for _, spec := range mdn.Requested(h.raw).To {
		to, err := ParseAddress(spec)
		if err != nil || to.Domain != env.Account.Domain {
			return denied("Disposition-Notification-To must be an address of your own domain, or the notices never come back here")
		}
		_, err = n.Directory.Account(ctx, to)
		if err != nil && KindOf(err) == UnknownRecipient {
			return denied("the address in Disposition-Notification-To does not exist; notices sent there would be lost")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// owns tells whether an account may write as a: its own address, with a +tag
// too unless that is an account of its own.
func (n *Node) owns(ctx context.Context, account, a Address) bool {
	if account.Equal(a) {
		return true
	}
	if !account.Equal(a.Base()) {
		return false
	}
	acct, err := n.Directory.Account(ctx, a)
	return err == nil && account.Equal(acct.Address)
}

// checkVisible demands every envelope recipient in To or Cc.
func checkVisible(rcpts []Address, h header) error {
	visible, err := h.addresses(fieldTo)
	if err != nil {
		return err
	}
	cc, err := h.addresses(fieldCc)
	if err != nil {
		return err
	}
	visible = append(visible, cc...)
	for i, rcpt := range rcpts {
		if !contains(visible, rcpt) {
			return &Error{Op: "hisp.Submit", Kind: Denied, Hint: fmt.Sprintf("recipient %d of the envelope is neither in To nor in Cc; Direct knows no Bcc: send it a message of its own", i+1)}
		}
	}
	return nil
}

func (n *Node) checkLocalRecipients(ctx context.Context, rcpts []Address) error {
	for _, rcpt := range rcpts {
		hosted, err := n.Directory.Hosted(ctx, rcpt.Domain)
		if err != nil {
			return err
		}
		if !hosted {
			continue
		}
		if _, err := n.Directory.Account(ctx, rcpt); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) checkSigningKey(ctx context.Context, from Address) error {
	keys, err := n.Keys.SigningKeys(ctx, from)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return &Error{Op: "hisp.Submit", Kind: NoKey, Hint: "no valid signing key for your address or the domain " + string(from.Domain) + ": the operator must add one or renew the expired one (hisp key list)"}
	}
	return nil
}

// complete adds a Message-ID (row DN-18) and a Date where the client left them
// out (RFC 6409 §8.1, §8.2). The body stays as it is.
func (n *Node) complete(msg Message, h header) (Message, error) {
	var add strings.Builder
	if h.first(fieldMessageID) == "" {
		fmt.Fprintf(&add, "%s: <%s@%s>\r\n", fieldMessageID, NewID(n.now()), n.Hostname)
	}
	if date := h.first(fieldDate); date == "" {
		fmt.Fprintf(&add, "%s: %s\r\n", fieldDate, n.now().Format(time.RFC1123Z))
	} else if _, err := mail.ParseDate(date); err != nil {
		return msg, &Error{Op: "hisp.Submit", Kind: Malformed, Hint: "the Date field is not a date of RFC 5322 §3.3"}
	}
	if add.Len() == 0 {
		return msg, nil
	}
	raw := make([]byte, 0, add.Len()+len(msg.Bytes()))
	raw = append(append(raw, add.String()...), msg.Bytes()...)
	return NewMessage(raw), nil
}

// messageID returns the Message-ID of msg with its angle brackets, or "".
func messageID(msg Message) string {
	h, err := parseHeader(msg.Bytes())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(h.first(fieldMessageID))
}
