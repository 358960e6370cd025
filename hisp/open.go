package hisp

import (
	"context"
	"crypto/sha256"
	"strings"

	"github.com/hispnode/hisp/mdn"
)

// open has the agent open one received message and delivers it. Whatever is
// not decrypted, verified and trusted ends here in silence: an answer would
// tell an attacker something (rows MDN-03, security S3, E3).
func (n *Node) open(ctx context.Context, item Item) error {
	sealed, rest, err := n.splitPassThrough(ctx, item.Envelope.To)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return n.commitAnew(ctx, func(ctx context.Context) (Step, error) { return n.passThroughStep(ctx, item, sealed) })
	}
	env := item.Envelope
	env.To = rest
	opened, err := n.Agent.Open(ctx, env, item.Message)
	if err != nil && retryable(err) {
		return err
	}
	if err != nil {
		return n.rejectOpen(ctx, item, err)
	}
	if later := temporary(opened.Rejected); later != nil {
		return later
	}
	report, reportErr := mdn.Parse(opened.Message.Bytes())
	if reportErr == nil {
		return n.takeNotice(ctx, item, sealed, opened, report)
	}
	// Trust for notices is not trust for messages (rows TR-02, TR-05).
	for _, rcpt := range opened.NoticeOnly {
		opened.Rejected = append(opened.Rejected, Rejection{Recipient: rcpt, Err: Untrusted})
	}
	if len(opened.Trusted) == 0 {
		return n.rejectOpen(ctx, item, Untrusted)
	}
	return n.deliver(ctx, item, sealed, opened)
}

// temporary returns the first rejection that a later try may turn: then the
// whole item waits, so that a message is not delivered twice to the others.
func temporary(rejected []Rejection) error {
	for _, r := range rejected {
		if KindOf(r.Err) == Temporary {
			return r.Err
		}
	}
	return nil
}

// splitPassThrough parts the recipients who decrypt for themselves (row BB-06).
// A recipient whose account is gone stays with the rest: delivery will fail
// and say so.
func (n *Node) splitPassThrough(ctx context.Context, rcpts []Address) (sealed, rest []Address, err error) {
	for _, rcpt := range rcpts {
		acct, err := n.Directory.Account(ctx, rcpt)
		switch {
		case err == nil && acct.PassThrough:
			sealed = append(sealed, rcpt)
		case err == nil || KindOf(err) == UnknownRecipient:
			rest = append(rest, rcpt)
		default:
			return nil, nil, err
		}
	}
	return sealed, rest, nil
}

// passThroughStep delivers the sealed message as it came.
func (n *Node) passThroughStep(ctx context.Context, item Item, sealed []Address) (Step, error) {
	s := Step{Finish: item.ID}
	for _, rcpt := range sealed {
		rec := n.auditRecord(AuditDeliver, item.Envelope, OutcomeOK)
		rec.Domain, rec.Detail, rec.Private.To = item.Envelope.From.Domain, "sealed, to a recipient with own keys", []Address{rcpt}
		fresh, err := n.remember(ctx, &s, item.Message, item.Envelope.From, rcpt)
		if err != nil {
			return s, err
		}
		if fresh {
			s.Deliver = append(s.Deliver, Delivery{ID: item.Envelope.ID, Recipient: rcpt, Message: item.Message, Received: item.Envelope.Received})
		} else {
			rec.Outcome, rec.Detail = OutcomeRefused, detailDuplicate
		}
		s.Audit = append(s.Audit, rec)
	}
	return s, nil
}

// detailDuplicate marks a message the recipient has already.
const detailDuplicate = "duplicate"

// rejectOpen ends a message that nobody here may read. Pass-through recipients
// of the same message still get it.
func (n *Node) rejectOpen(ctx context.Context, item Item, cause error) error {
	sealed, _, err := n.splitPassThrough(ctx, item.Envelope.To)
	if err != nil {
		return err
	}
	rec := n.auditRecord(AuditReject, item.Envelope, OutcomeRefused)
	rec.Domain, rec.Kind = item.Envelope.From.Domain, KindOf(cause).Error()
	n.Log.Warn("rejected", "id", item.Envelope.ID, "domain", item.Envelope.From.Domain, "kind", rec.Kind, "err", cause)
	return n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s, err := n.passThroughStep(ctx, item, sealed)
		s.Audit = append(s.Audit, rec)
		return s, err
	})
}

// deliver puts an opened message into the mailboxes of those who trust its
// signer and queues their notices in the same step: no notice exists without
// the delivery, no delivery without its notices.
func (n *Node) deliver(ctx context.Context, item Item, sealed []Address, opened Opened) error {
	h, err := parseHeader(opened.Message.Bytes())
	if err != nil {
		return n.rejectOpen(ctx, item, err)
	}
	delivered := 0
	err = n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s, err := n.deliverStep(ctx, item, sealed, opened, h)
		delivered = len(s.Deliver)
		return s, err
	})
	if err != nil {
		return err
	}
	n.Log.Info("delivered", "id", item.Envelope.ID, "domain", opened.From.Domain, "recipients", delivered, "refused", len(opened.Rejected))
	return nil
}

func (n *Node) deliverStep(ctx context.Context, item Item, sealed []Address, opened Opened, h header) (Step, error) {
	s, err := n.openedStep(ctx, item, sealed, opened)
	if err != nil {
		return s, err
	}
	var notices []notice
	requested := mdn.Requested(h.raw).FinalDestination
	mail := withReturnPath(item.Envelope.From, opened.Message) // one for all, so that it is stored once
	for _, rcpt := range opened.Trusted {
		fresh, err := n.remember(ctx, &s, opened.Message, opened.From, rcpt)
		if err != nil {
			return s, err
		}
		if !fresh {
			s.Audit = append(s.Audit, n.deliverRecord(item, opened, rcpt, OutcomeRefused, detailDuplicate))
			continue
		}
		more, err := n.deliverTo(ctx, &s, item, opened, mail, rcpt, requested)
		if err != nil {
			return s, err
		}
		notices = append(notices, more...)
	}
	// A message that looks like a notice but is none is delivered and never
	// answered (row MDN-10).
	if !mdn.IsReport(h.raw) {
		items, records := n.noticeItems(item, opened, h, notices)
		s.Queue, s.Audit = append(s.Queue, items...), append(s.Audit, records...)
	}
	return s, nil
}

// openedStep starts the step for a message that was opened.
func (n *Node) openedStep(ctx context.Context, item Item, sealed []Address, opened Opened) (Step, error) {
	s, err := n.passThroughStep(ctx, item, sealed)
	if err != nil {
		return s, err
	}
	rec := n.auditRecord(AuditOpen, item.Envelope, OutcomeOK)
	rec.Domain, rec.Private.From, rec.Private.MessageID = opened.From.Domain, opened.From, messageID(opened.Message)
	s.Audit = append(s.Audit, rec)
	for _, r := range opened.Rejected {
		rec := n.auditRecord(AuditReject, item.Envelope, OutcomeRefused)
		rec.Domain, rec.Kind, rec.Private.To = opened.From.Domain, KindOf(r.Err).Error(), []Address{r.Recipient}
		s.Audit = append(s.Audit, rec)
	}
	return s, nil
}

func (n *Node) deliverRecord(item Item, opened Opened, rcpt Address, outcome AuditOutcome, detail string) AuditRecord {
	rec := n.auditRecord(AuditDeliver, item.Envelope, outcome)
	rec.Domain, rec.Detail, rec.Private.From, rec.Private.To = opened.From.Domain, detail, opened.From, []Address{rcpt}
	return rec
}

// remember notes that rcpt got this message; fresh is false if it had it
// before: a replay, or a peer that missed our answer (row SC-07).
func (n *Node) remember(ctx context.Context, s *Step, msg Message, from, rcpt Address) (fresh bool, err error) {
	sum := sha256.New()
	inner := sha256.Sum256(msg.Bytes())
	sum.Write(inner[:])
	sum.Write([]byte(strings.ToLower(from.AddrSpec()) + "\x00" + strings.ToLower(rcpt.AddrSpec())))
	digest := [32]byte(sum.Sum(nil))
	seen, err := n.Queue.Seen(ctx, digest)
	if err != nil || seen {
		return false, err
	}
	s.Seen = append(s.Seen, Seen{Digest: digest, Expires: n.now().Add(n.KeepTracks)})
	return true, nil
}

// deliverTo adds one mailbox copy and says which notices it is worth. A
// message that was accepted but cannot be delivered is answered processed and
// then failed, asked or not (rows DN-05, DN-06).
func (n *Node) deliverTo(ctx context.Context, s *Step, item Item, opened Opened, mail Message, rcpt Address, requested bool) ([]notice, error) {
	from := rcpt
	acct, err := n.Directory.Account(ctx, rcpt)
	if err == nil {
		// Without +tag: an address-bound certificate signs for the account's
		// own address only.
		from = acct.Address
		err = n.Directory.Room(ctx, acct.Address, mail.Size())
	}
	notices := []notice{{rcpt, from, mdn.Processed, textProcessed}}
	switch {
	case err == nil:
	case KindOf(err) == Full || KindOf(err) == UnknownRecipient:
		rec := n.deliverRecord(item, opened, rcpt, OutcomeFailed, "")
		rec.Kind = KindOf(err).Error()
		s.Audit = append(s.Audit, rec)
		return append(notices, notice{rcpt, from, mdn.Failed, textFailed}), nil
	default:
		return nil, err
	}
	s.Deliver = append(s.Deliver, Delivery{ID: item.Envelope.ID, Recipient: rcpt, Message: mail, Received: item.Envelope.Received})
	s.Audit = append(s.Audit, n.deliverRecord(item, opened, rcpt, OutcomeOK, ""))
	if requested {
		notices = append(notices, notice{rcpt, from, mdn.Dispatched, textDispatched})
	}
	return notices, nil
}
