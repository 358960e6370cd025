package hisp

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hispnode/hisp/mdn"
)

// failure is one recipient a message did not reach.
type failure struct {
	rcpt   Address
	err    error
	status string // enhanced status code; "" takes the one for the kind of err
	code   int    // SMTP reply code of the peer, 0 if none
	say    string // what the notice says; "" takes the text for the kind of err
}

// Enhanced status codes of RFC 3463 for what the node finds out itself.
const (
	statusUnknown     = "5.1.1" // bad destination mailbox address
	statusNoCert      = "5.7.5" // cryptographic failure: no usable certificate
	statusUntrusted   = "5.7.1" // delivery not authorised: no trust
	statusTooLarge    = "5.3.4"
	statusExpired     = "5.4.7" // delivery time expired
	statusFull        = "5.2.2"
	statusSecurity    = "5.7.0"
	statusBadContent  = "5.6.0"
	statusUndelivered = "5.5.0" // local delivery failed; as the reference implementation says it
	statusOther       = "5.0.0"
)

// statusTexts is the one table from kinds to what a failure notice says.
var statusTexts = map[Kind]struct{ code, text string }{
	UnknownRecipient: {statusUnknown, "The address or its domain does not exist. Check the address."},
	NoCertificate:    {statusNoCert, "No valid certificate is published for this address, so the message cannot be encrypted. Check the address; if it is right, ask the recipient's HISP whether it is a Direct address."},
	Untrusted:        {statusUntrusted, "The recipient's certificate does not lead to a trust anchor of your organisation. Ask your HISP operator to add the recipient's HISP or its trust bundle."},
	TooLarge:         {statusTooLarge, "The message is larger than the recipient's HISP accepts. Send it in smaller parts."},
	Temporary:        {statusExpired, "The message could not be handed to the recipient's HISP in time. Try again later, or ask your HISP operator."},
	Full:             {statusFull, "The recipient's mailbox has no room. Try again later."},
	NoKey:            {statusSecurity, "Your organisation has no valid signing key for your address. Ask your HISP operator."},
	Malformed:        {statusBadContent, "The message is not well formed and cannot be signed. Send it anew from another program."},
	Refused:          {statusOther, "The recipient's HISP refused the message. Ask the recipient or your HISP operator for the reason."},
	Denied:           {statusOther, "The operator of your HISP ended the delivery. Ask the operator."},
}

func (f failure) statusCode() string {
	if f.status != "" && strings.HasPrefix(f.status, "5") {
		return f.status
	}
	if t, ok := statusTexts[KindOf(f.err)]; ok {
		return t.code
	}
	return statusOther
}

func (f failure) text() string {
	if f.say != "" {
		return f.say
	}
	if t, ok := statusTexts[KindOf(f.err)]; ok {
		return t.text
	}
	return "The message could not be delivered. Ask your HISP operator."
}

func allFailed(rcpts []Address, err error) []failure {
	failed := make([]failure, len(rcpts))
	for i, rcpt := range rcpts {
		failed[i] = failure{rcpt: rcpt, err: err}
	}
	return failed
}

// finishFailed ends an item that failed for the given recipients.
func (n *Node) finishFailed(ctx context.Context, item Item, failed []failure) error {
	err := n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s := Step{Finish: item.ID}
		return s, n.addFailures(ctx, &s, item, failed)
	})
	if err == nil {
		n.Log.Info("failed", "id", item.Envelope.ID, "op", item.Work.String(), "recipients", len(failed), "kind", KindOf(failed[0].err).Error())
	}
	return err
}

// addFailures ends the tracks of the failed recipients and puts one failure
// notice into the sender's mailbox (rows DN-04, DN-08). Recipients whose track
// has ended already are left out: the sender hears about each exactly once
// (row DN-10). A notice that fails is only audited (row BB-16).
func (n *Node) addFailures(ctx context.Context, s *Step, item Item, failed []failure) error {
	if len(failed) == 0 {
		return nil
	}
	event := retryEvent(item.Work)
	for _, f := range failed {
		rec := n.auditRecord(event, item.Envelope, OutcomeRefused)
		rec.Kind, rec.Domain, rec.Detail, rec.Private.To = KindOf(f.err).Error(), f.rcpt.Domain, f.statusCode(), []Address{f.rcpt}
		s.Audit = append(s.Audit, rec)
	}
	if mdn.IsReport(item.Message.Bytes()) || item.Envelope.Origin == Self {
		return nil
	}
	tell, err := n.failTracks(ctx, s, item, failed)
	if err != nil || len(tell) == 0 {
		return err
	}
	return n.addFailureNotice(ctx, s, tell[0].Sender, tell, failed)
}

// failTracks ends the tracks of failed and returns those whose sender has not
// heard yet.
func (n *Node) failTracks(ctx context.Context, s *Step, item Item, failed []failure) ([]Track, error) {
	var tell []Track
	for _, f := range failed {
		t, err := n.newTrack(item, f.rcpt)
		if err != nil {
			return nil, err
		}
		before, err := n.Tracker.Track(ctx, t.MessageID, f.rcpt)
		switch {
		case err != nil && KindOf(err) != NotFound:
			return nil, err
		case err == nil && before.Final == Waiting:
			t = before
		case err == nil && before.Message == item.Envelope.ID:
			continue
		case err == nil: // of the same message handed in before
			t.Version = before.Version
		}
		t.Final, t.Ended, t.Reason = Failed, n.now(), f.statusCode()
		s.Track = append(s.Track, t)
		tell = append(tell, t)
	}
	return tell, nil
}

// addFailureNotice puts one DSN about tracks into the mailbox of their sender.
// failed gives the texts, in any order; a track without one timed out. The
// notice is plain, because the edge is ours (row DN-20). A sender whose account
// is gone, or a notice that cannot be written, must not hold up the step: then
// only the record remains.
func (n *Node) addFailureNotice(ctx context.Context, s *Step, sender Address, tracks []Track, failed []failure) error {
	now := n.now()
	rec := AuditRecord{Time: now, Event: AuditNotify, Message: tracks[0].Message, Domain: tracks[0].Recipient.Domain, Outcome: OutcomeOK,
		Kind: string(mdn.Failed), Detail: "failure notice to the sender", Private: AuditPrivate{To: []Address{sender}, MessageID: tracks[0].MessageID}}
	_, err := n.Directory.Account(ctx, sender)
	if err != nil && KindOf(err) != UnknownRecipient {
		return err
	}
	if err == nil {
		var raw []byte
		if raw, err = n.composeFailure(sender, tracks, failed, now); err == nil {
			s.Deliver = append(s.Deliver, Delivery{ID: NewID(now), Recipient: sender, Message: withReturnPath(Address{}, NewMessage(raw)), Received: now})
		}
	}
	if err != nil {
		rec.Outcome, rec.Detail = OutcomeFailed, "no failure notice: the sender has no account, or it cannot be written"
		n.Log.Error("failure notice not delivered", "id", tracks[0].Message, "err", err)
	}
	s.Audit = append(s.Audit, rec)
	return nil
}

// composeFailure writes the DSN.
func (n *Node) composeFailure(sender Address, tracks []Track, failed []failure, now time.Time) ([]byte, error) {
	status := mdn.Status{ReportingMTA: n.Hostname, OriginalMessageID: tracks[0].MessageID}
	var text strings.Builder
	text.WriteString("Your message was not delivered to:\r\n")
	for _, t := range tracks {
		f := n.failureOf(t, failed)
		status.Recipients = append(status.Recipients, mdn.RecipientStatus{
			FinalRecipient: t.Recipient.AddrSpec(), Action: mdn.ActionFailed, Status: f.statusCode(), Diagnostic: diagnostic(f),
		})
		fmt.Fprintf(&text, "\r\n%s\r\n  %s (%s)\r\n", t.Recipient.AddrSpec(), f.text(), f.statusCode())
	}
	return mdn.ComposeStatus(mdn.Header{
		From: postmaster(sender.Domain).AddrSpec(), To: sender.AddrSpec(), Subject: subjectOf(tracks[0].Header),
		MessageID: n.newMessageID(now), InReplyTo: tracks[0].MessageID, Date: now,
	}, status, text.String(), tracks[0].Header)
}

func (n *Node) failureOf(t Track, failed []failure) failure {
	for _, f := range failed {
		if f.rcpt.Equal(t.Recipient) {
			return f
		}
	}
	return failure{rcpt: t.Recipient, status: t.Reason, err: Temporary}
}

// diagnostic is the peer's reply without its text, which may hold anything.
func diagnostic(f failure) string {
	if f.code == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", f.code, f.statusCode())
}

func subjectOf(raw []byte) string {
	h, err := parseHeader(raw)
	if err != nil {
		return ""
	}
	return h.first(fieldSubject)
}

func postmaster(d Domain) Address { return Address{Local: "postmaster", Domain: d} }

func (n *Node) newMessageID(now time.Time) string {
	return "<" + string(NewID(now)) + "@" + n.Hostname + ">"
}

// notice asks for one MDN about a message we opened.
type notice struct {
	rcpt        Address // for whom the message was
	from        Address // who answers
	disposition mdn.Disposition
	text        string
}

// Texts of the first part of our MDNs.
const (
	textProcessed  = "Your message was received, decrypted and verified for the recipient below, and is on its way to the mailbox.\r\n"
	textDispatched = "Your message was delivered to the recipient's mailbox.\r\n"
	textFailed     = "Your message was received but could not be delivered to the recipient's mailbox.\r\n"
)

// noticeItems makes the MDNs as items to seal like any message (row MDN-09).
// They go to Disposition-Notification-To, else to From (row MDN-11). One that
// cannot be written must not hold up the delivery: then only the record says
// so.
func (n *Node) noticeItems(item Item, opened Opened, h header, notices []notice) ([]Item, []AuditRecord) {
	var items []Item
	var records []AuditRecord
	for _, to := range n.notifyAddresses(h, opened.From) {
		for _, notice := range notices {
			rec := n.auditRecord(AuditNotify, item.Envelope, OutcomeOK)
			rec.Domain, rec.Kind, rec.Detail = to.Domain, string(notice.disposition), "composed"
			rec.Private = AuditPrivate{From: notice.rcpt, To: []Address{to}, MessageID: h.first(fieldMessageID)}
			next, err := n.noticeItem(h, to, notice)
			if err == nil {
				items = append(items, next)
			} else {
				rec.Outcome, rec.Detail = OutcomeFailed, "cannot be written"
				n.Log.Error("notice not sent", "id", item.Envelope.ID, "err", err)
			}
			records = append(records, rec)
		}
	}
	return items, records
}

// maxNotifyTo bounds the addresses one message can have us write to.
const maxNotifyTo = 5

func (n *Node) notifyAddresses(h header, from Address) []Address {
	var list []Address
	for _, spec := range mdn.Requested(h.raw).To {
		a, err := ParseAddress(spec)
		if err == nil && !contains(list, a) && len(list) < maxNotifyTo {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return []Address{from}
	}
	return list
}

func (n *Node) noticeItem(h header, to Address, notice notice) (Item, error) {
	now := n.now()
	content := mdn.Notice{
		ReportingUA: n.Hostname + "; hisp", FinalRecipient: notice.rcpt.AddrSpec(),
		OriginalMessageID: strings.TrimSpace(h.first(fieldMessageID)), Disposition: notice.disposition,
		FinalDestination: notice.disposition == mdn.Dispatched,
	}
	if notice.disposition == mdn.Failed {
		content.Failure = []string{"local delivery failed"}
	}
	raw, err := mdn.Compose(mdn.Header{
		From: notice.from.AddrSpec(), To: to.AddrSpec(), Subject: h.first(fieldSubject),
		MessageID: n.newMessageID(now), InReplyTo: strings.TrimSpace(h.first(fieldMessageID)), Date: now,
	}, content, notice.text)
	if err != nil {
		return Item{}, &Error{Op: "hisp.noticeItem", Kind: Malformed, Err: err}
	}
	env := Envelope{ID: NewID(now), Origin: Self, From: notice.from, To: []Address{to}, Received: now}
	return Item{ID: NewID(now), Work: WorkSeal, Envelope: env, Message: NewMessage(raw), Created: now, Due: now}, nil
}
