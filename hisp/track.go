package hisp

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hispnode/hisp/mdn"
)

const (
	overdueInterval = 5 * time.Second
	overdueBatch    = 200 // tracks per transaction
	forgetInterval  = time.Hour
)

// verdict is what one notice says about one recipient.
type verdict struct {
	rcpt        Address
	disposition mdn.Disposition
	final       bool   // carries the X-DIRECT field (row DN-03)
	status      string // enhanced status code of a failure, "" if none
}

// takeNotice lets a notice from another HISP (or from this node) change the
// tracks it speaks about. What is a success for the sender is delivered as it
// came, a failure becomes our own notice, the rest stays here.
func (n *Node) takeNotice(ctx context.Context, item Item, sealed []Address, opened Opened, report mdn.Report) error {
	id, verdicts := readReport(report)
	var outcome string
	err := n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s, err := n.openedStep(ctx, item, sealed, opened)
		if err != nil {
			return s, err
		}
		outcome, err = n.applyVerdicts(ctx, &s, item, opened, id, verdicts)
		return s, err
	})
	if err != nil {
		return err
	}
	n.Log.Info("notice", "id", item.Envelope.ID, "domain", opened.From.Domain, "op", outcome)
	return nil
}

// readReport reads what a report says about each recipient. Delivered, relayed
// and delayed in a DSN decide nothing (RFC 3464 §2.3.3).
func readReport(report mdn.Report) (messageID string, verdicts []verdict) {
	if notice := report.Notice; notice != nil {
		rcpt, err := ParseAddress(notice.FinalRecipient)
		if err != nil {
			return "", nil
		}
		v := verdict{rcpt: rcpt, disposition: notice.Disposition, final: notice.FinalDestination}
		if (notice.IsFailure() || len(notice.Error) > 0) && !v.disposition.IsFailure() {
			// processed/error, processed/failure and their like say that
			// something went wrong (row MDN-07).
			v.disposition = mdn.Failed
		}
		return notice.OriginalMessageID, []verdict{v}
	}
	for _, r := range report.Status.Recipients {
		rcpt, err := ParseAddress(r.FinalRecipient)
		if err == nil && r.Action == mdn.ActionFailed {
			verdicts = append(verdicts, verdict{rcpt: rcpt, disposition: mdn.Failed, status: r.Status})
		}
	}
	return report.Status.OriginalMessageID, verdicts
}

// Outcomes of a notice, for log and audit.
const (
	noticeApplied  = "applied"
	noticeLate     = "late"      // the sender has the final word already (row DN-10)
	noticeForged   = "forged"    // not from the recipient it speaks about (row MDN-15)
	noticeUnknown  = "unknown"   // about no message of ours
	noticeReceipt  = "receipt"   // displayed: the user's business (row MDN-13)
	noticeNoEffect = "no effect" // says nothing that counts
)

// applyVerdicts adds to s what the verdicts change and who gets the notice
// itself. It returns the outcome of the last verdict.
func (n *Node) applyVerdicts(ctx context.Context, s *Step, item Item, opened Opened, id string, verdicts []verdict) (string, error) {
	outcome := noticeNoEffect
	// A notice that decides nothing, such as a DSN of a delay, is for people.
	forward := len(verdicts) == 0
	applied := false
	var failed []Track
	for _, v := range verdicts {
		t, err := n.Tracker.Track(ctx, id, v.rcpt)
		if err != nil && KindOf(err) != NotFound {
			return "", err
		}
		known := err == nil
		outcome = judge(t, known, v, opened)
		switch outcome {
		case noticeApplied:
			before := t.Final
			n.advance(&t, v)
			s.Track = append(s.Track, t)
			if t.Final == Failed {
				failed = append(failed, t)
			} else if before == Waiting && (t.Requested && t.Final == Succeeded || n.ForwardProcessed) {
				applied = true
			}
		case noticeUnknown, noticeReceipt:
			forward = true
		}
		s.Audit = append(s.Audit, n.noticeRecord(item, opened, v, t, outcome))
	}
	if len(verdicts) == 0 {
		s.Audit = append(s.Audit, n.noticeRecord(item, opened, verdict{}, Track{}, outcome))
	}
	if len(failed) > 0 {
		if err := n.addFailureNotice(ctx, s, failed[0].Sender, failed, nil); err != nil {
			return "", err
		}
	}
	var to []Address
	if forward || applied {
		to = append(to, opened.Trusted...)
	}
	if applied {
		to = append(to, opened.NoticeOnly...)
	}
	return outcome, n.forwardNotice(ctx, s, item, opened, to)
}

// forwardNotice delivers a notice to people as it came, once.
func (n *Node) forwardNotice(ctx context.Context, s *Step, item Item, opened Opened, to []Address) error {
	mail := withReturnPath(item.Envelope.From, opened.Message)
	for _, rcpt := range to {
		fresh, err := n.remember(ctx, s, opened.Message, opened.From, rcpt)
		if err != nil {
			return err
		}
		if !fresh {
			s.Audit = append(s.Audit, n.deliverRecord(item, opened, rcpt, OutcomeRefused, detailDuplicate))
			continue
		}
		if _, err := n.deliverTo(ctx, s, item, opened, mail, rcpt, false); err != nil {
			return err
		}
	}
	return nil
}

// judge decides whether a notice counts. Only the recipient it speaks about may
// say that a message arrived; a failure may also come from the postmaster of
// the recipient's domain (rows MDN-15, security E2). The agent has bound the
// signer to From already.
func judge(t Track, known bool, v verdict, opened Opened) string {
	if v.disposition == mdn.Displayed && (!known || speaksFor(opened.From, t.Recipient)) {
		return noticeReceipt
	}
	if !known {
		return noticeUnknown
	}
	ofDomain := v.disposition.IsFailure() && opened.From.Domain == t.Recipient.Domain
	if !speaksFor(opened.From, t.Recipient) && !ofDomain || !cameHome(t, opened) {
		return noticeForged
	}
	// Processed completes a message without request, but it is not yet the
	// final destination: a failure after it is still told (row DN-06).
	afterProcessed := t.Final == Succeeded && t.Reason == string(mdn.Processed) && v.disposition.IsFailure()
	if t.Final != Waiting && !afterProcessed {
		return noticeLate
	}
	switch v.disposition {
	case mdn.Processed, mdn.Dispatched, mdn.Failed, mdn.Denied, mdn.Error:
		return noticeApplied
	}
	return noticeNoEffect // no disposition, or deleted (row MDN-06)
}

// cameHome tells whether a notice came to the sender's domain. The sender may
// have had it sent to another address there (Disposition-Notification-To).
func cameHome(t Track, opened Opened) bool {
	ours := func(a Address) bool { return a.Domain == t.Sender.Domain }
	return slices.ContainsFunc(opened.Trusted, ours) || slices.ContainsFunc(opened.NoticeOnly, ours)
}

// speaksFor tells whether a notice From from is about rcpt, +tag or not.
func speaksFor(from, rcpt Address) bool {
	return from.Equal(rcpt) || from.Equal(rcpt.Base()) || from.Base().Equal(rcpt)
}

// advance moves a waiting track on. Without request any one notice completes it
// (row DN-13); with request dispatched must come and carry the X-DIRECT field
// (rows DN-03, DN-12).
func (n *Node) advance(t *Track, v verdict) {
	now := n.now()
	if t.Processed.IsZero() && !v.disposition.IsFailure() {
		t.Processed = now
	}
	switch {
	case v.disposition.IsFailure():
		t.Final, t.Reason = Failed, v.status
		if t.Reason == "" {
			t.Reason = statusUndelivered
		}
	case !t.Requested, v.disposition == mdn.Dispatched && v.final:
		t.Final, t.Reason = Succeeded, string(v.disposition)
	}
	if t.Final != Waiting {
		t.Ended = now
	}
}

func (n *Node) noticeRecord(item Item, opened Opened, v verdict, t Track, outcome string) AuditRecord {
	rec := n.auditRecord(AuditNotify, item.Envelope, OutcomeOK)
	if t.Message != "" {
		rec.Message = t.Message // joins the timeline of the message it is about
	}
	if outcome == noticeForged {
		rec.Outcome = OutcomeRefused
	}
	rec.Domain, rec.Kind, rec.Detail = opened.From.Domain, string(v.disposition), "received: "+outcome
	rec.Private.From, rec.Private.MessageID = opened.From, t.MessageID
	return rec
}

// expireTracks turns silence into failure: one notice per message to its
// sender, never before the deadline (rows DN-09, DN-11).
func (n *Node) expireTracks(ctx context.Context) error {
	for {
		overdue, err := n.Tracker.Overdue(ctx, n.now(), overdueBatch)
		if err != nil || len(overdue) == 0 {
			return err
		}
		for _, group := range byMessage(overdue) {
			// One that cannot be ended must not keep the others waiting; the
			// next turn tries it again.
			if e := n.expire(ctx, group); e != nil && KindOf(e) != Conflict {
				err = e
			}
		}
		if err != nil || len(overdue) < overdueBatch {
			return err
		}
	}
}

// byMessage groups tracks of the same message in the order they came.
func byMessage(tracks []Track) [][]Track {
	index := map[ID]int{}
	var groups [][]Track
	for _, t := range tracks {
		i, ok := index[t.Message]
		if !ok {
			i = len(groups)
			index[t.Message] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], t)
	}
	return groups
}

// expire ends the tracks of one message. A Conflict means that a notice came
// in at the last moment; the next turn looks again.
func (n *Node) expire(ctx context.Context, tracks []Track) error {
	var s Step
	now := n.now()
	for i := range tracks {
		t := &tracks[i]
		t.Final, t.Ended, t.Reason = TimedOut, now, statusExpired
		s.Track = append(s.Track, *t)
		s.Audit = append(s.Audit, AuditRecord{
			Time: now, Event: AuditExpire, Message: t.Message, Domain: t.Recipient.Domain, Outcome: OutcomeFailed,
			Detail:  "no notice within " + n.TrackTimeout.String(),
			Private: AuditPrivate{From: t.Sender, To: []Address{t.Recipient}, MessageID: t.MessageID},
		})
	}
	failed := make([]failure, len(tracks))
	for i, t := range tracks {
		failed[i] = failure{rcpt: t.Recipient, err: Temporary, status: statusExpired, say: textNoNotice}
	}
	if err := n.addFailureNotice(ctx, &s, tracks[0].Sender, tracks, failed); err != nil {
		return err
	}
	if err := n.commit(ctx, s); err != nil {
		return err
	}
	n.Log.Warn("no notice in time", "id", tracks[0].Message, "domain", tracks[0].Recipient.Domain, "recipients", len(tracks))
	return nil
}

// textNoNotice is all there is to say: silence is also how a HISP treats
// senders it does not trust (row MDN-03).
const textNoNotice = "No confirmation came from the recipient's HISP in time. The message may have arrived or not: ask the recipient. If it happens again, ask your HISP operator whether the recipient's HISP trusts yours."

// forget drops what need not be remembered any longer.
func (n *Node) forget(ctx context.Context) error {
	return n.Tracker.Forget(ctx, n.now().Add(-n.KeepTracks))
}

// Outcome is the state of one recipient as "hisp message track" shows it.
func (t Track) Outcome() string {
	state := t.Final.String()
	if t.Final == Waiting && !t.Processed.IsZero() {
		state = "processed"
	}
	return strings.TrimSpace(state + " " + t.Reason)
}
