package hisp

import (
	"context"
	"strings"
	"time"

	"github.com/hispnode/hisp/mdn"
)

// seal has the agent seal one item and queues a copy per destination domain.
// Recipients the agent refused are answered at once (row DN-08); those it
// could not find out about stay for a later try, the others are still served
// (row BB-13).
func (n *Node) seal(ctx context.Context, item Item) error {
	if !mdn.IsReport(item.Message.Bytes()) {
		waiting := n.stillWaiting(ctx, messageID(item.Message), item.Envelope.To)
		if len(waiting) == 0 {
			return n.finishTold(ctx, item)
		}
		item.Envelope.To = waiting
	}
	started := n.now()
	sealed, err := n.Agent.Seal(ctx, item.Envelope, item.Message)
	switch {
	case err != nil && retryable(err):
		return err
	case err != nil:
		return n.finishFailed(ctx, item, allFailed(item.Envelope.To, err))
	}
	later, failed := splitRejected(sealed.Rejected)
	if len(later) > 0 && len(sealed.Copies) == 0 && len(failed) == 0 {
		return later[0].err
	}
	if len(later) > 0 && n.Retry.expired(item.Created, n.now()) {
		failed, later = append(failed, later...), nil
	}
	err = n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s, err := n.sealedStep(ctx, item, sealed.Copies, later)
		if err != nil {
			return s, err
		}
		return s, n.addFailures(ctx, &s, item, failed)
	})
	if err != nil {
		return err
	}
	n.Log.Info("sealed", "id", item.Envelope.ID, "copies", len(sealed.Copies), "refused", len(failed),
		"later", len(later), "dur", n.now().Sub(started))
	return nil
}

// retryable tells whether trying again can help.
func retryable(err error) bool {
	switch KindOf(err) {
	case Temporary, Full, Conflict, Internal:
		return true
	}
	return false
}

func splitRejected(rejected []Rejection) (later, failed []failure) {
	for _, r := range rejected {
		f := failure{rcpt: r.Recipient, err: r.Err}
		if retryable(r.Err) {
			later = append(later, f)
		} else {
			failed = append(failed, f)
		}
	}
	return later, failed
}

// sealedStep queues the copies, starts tracking their recipients and keeps
// those for later as an item of their own.
func (n *Node) sealedStep(ctx context.Context, item Item, copies []Copy, later []failure) (Step, error) {
	s := Step{Finish: item.ID}
	report := mdn.IsReport(item.Message.Bytes())
	for _, c := range copies {
		next, err := n.copyItem(ctx, item, c, report)
		if err != nil {
			return s, err
		}
		s.Queue = append(s.Queue, next)
		rec := n.auditRecord(AuditSeal, item.Envelope, OutcomeOK)
		rec.Domain, rec.Private.To = c.Domain, c.To
		s.Audit = append(s.Audit, rec)
	}
	n.addLater(&s, n.laterItem(item, later))
	return s, nil
}

// addLater queues what is left to try again, if anything is.
func (n *Node) addLater(s *Step, next Item) {
	if len(next.Envelope.To) == 0 {
		return
	}
	s.Queue = append(s.Queue, next)
	rec := n.auditRecord(retryEvent(next.Work), next.Envelope, OutcomeRetry)
	rec.Detail, rec.Domain = next.LastErr, next.Domain
	s.Audit = append(s.Audit, rec)
}

// copyItem is what happens next to a sealed copy: a copy for one of our own
// domains is opened here (row DN-16), any other is relayed. Notices travel
// with the null sender (RFC 8098 §2.1, RFC 3464 §2), so that nothing answers
// them.
func (n *Node) copyItem(ctx context.Context, item Item, c Copy, report bool) (Item, error) {
	hosted, err := n.Directory.Hosted(ctx, c.Domain)
	if err != nil {
		return Item{}, err
	}
	now := n.now()
	next := Item{
		ID: NewID(now), Work: WorkRelay, Envelope: item.Envelope, Message: c.Message,
		Domain: c.Domain, Created: item.Created, Due: now,
	}
	next.Envelope.To = c.To
	if report {
		next.Envelope.From = Address{}
	}
	if hosted {
		next.Work, next.Domain = WorkOpen, ""
	}
	return next, nil
}

// startTracks begins the wait for notices about each recipient. A message that
// a client hands in again has the same Message-ID: what still waits or has
// arrived is left as it is, what failed starts anew. The Message-ID is what
// notices are told apart by, so another sender cannot use it meanwhile.
func (n *Node) startTracks(ctx context.Context, item Item) ([]Track, error) {
	var tracks []Track
	for _, rcpt := range item.Envelope.To {
		t, err := n.newTrack(item, rcpt)
		if err != nil {
			return nil, err
		}
		before, err := n.Tracker.Track(ctx, t.MessageID, rcpt)
		switch {
		case err != nil && KindOf(err) != NotFound:
			return nil, err
		case err == nil && !before.Sender.Equal(t.Sender):
			return nil, &Error{Op: "hisp.Submit", Kind: Denied, Hint: "this Message-ID belongs to another sender's message; send yours as a new message"}
		case err == nil && (before.Final == Waiting || before.Final == Succeeded):
			continue
		case err == nil:
			t.Version = before.Version
		}
		tracks = append(tracks, t)
	}
	return tracks, nil
}

// newTrack is the wait for notices about one recipient. The clock runs from
// when the message was accepted and is not reset by anything that happens
// (row DN-15).
func (n *Node) newTrack(item Item, rcpt Address) (Track, error) {
	h, err := parseHeader(item.Message.Bytes())
	if err != nil {
		return Track{}, err
	}
	return Track{
		Message: item.Envelope.ID, MessageID: strings.TrimSpace(h.first(fieldMessageID)),
		Sender: item.Envelope.From, Recipient: rcpt, Requested: mdn.Requested(h.raw).FinalDestination,
		Sent: n.now(), Deadline: item.Created.Add(n.TrackTimeout), Header: h.kept(),
	}, nil
}

// relay sends one sealed copy to its domain. A message whose sender was told
// meanwhile that it failed is not sent any more: it would arrive after the
// sender has made other arrangements.
func (n *Node) relay(ctx context.Context, item Item) error {
	env := item.Envelope
	id := messageID(item.Message)
	env.To = n.stillWaiting(ctx, id, env.To)
	if len(env.To) == 0 {
		return n.finishTold(ctx, item)
	}
	started := n.now()
	sent, later, failed := splitResults(env.To, n.Transport.Send(ctx, env, item.Message))
	if len(later) > 0 && n.Retry.expired(item.Created, n.now()) {
		failed, later = append(failed, later...), nil
	}
	n.logRelay(item, started, sent, later, failed)
	if len(sent) == 0 && len(failed) == 0 {
		return later[0].err
	}
	return n.finishRelay(ctx, item, sent, later, failed)
}

// finishTold ends an item whose sender has a failure notice for every
// recipient already.
func (n *Node) finishTold(ctx context.Context, item Item) error {
	rec := n.auditRecord(retryEvent(item.Work), item.Envelope, OutcomeRefused)
	rec.Domain, rec.Detail = item.Domain, "sender already has a failure notice"
	return n.commit(ctx, Step{Finish: item.ID, Audit: []AuditRecord{rec}})
}

// stillWaiting drops the recipients whose track has ended. Notices have no
// tracks and always go.
func (n *Node) stillWaiting(ctx context.Context, id string, rcpts []Address) []Address {
	waiting := make([]Address, 0, len(rcpts))
	for _, rcpt := range rcpts {
		t, err := n.Tracker.Track(ctx, id, rcpt)
		if err == nil && (t.Final == Failed || t.Final == TimedOut) {
			continue
		}
		waiting = append(waiting, rcpt)
	}
	return waiting
}

// splitResults sorts what became of each recipient. One the transport says
// nothing about was not sent to.
func splitResults(rcpts []Address, results []Result) (sent []Result, later, failed []failure) {
	for i, rcpt := range rcpts {
		r := Result{Recipient: rcpt, Err: Temporary}
		if i < len(results) {
			r = results[i]
		}
		f := failure{rcpt: rcpt, err: r.Err, status: r.Enhanced, code: r.Code}
		switch {
		case r.Err == nil:
			sent = append(sent, r)
		case retryable(r.Err):
			later = append(later, f)
		default:
			failed = append(failed, f)
		}
	}
	return sent, later, failed
}

func (n *Node) logRelay(item Item, started time.Time, sent []Result, later, failed []failure) {
	kind := ""
	if len(later) > 0 {
		kind = KindOf(later[0].err).Error()
	}
	if len(failed) > 0 {
		kind = KindOf(failed[0].err).Error()
	}
	n.Log.Info("relayed", "id", item.Envelope.ID, "domain", item.Domain, "attempt", item.Attempt+1,
		"sent", len(sent), "later", len(later), "refused", len(failed), "kind", kind, "dur", n.now().Sub(started))
}

// finishRelay writes the outcome down. The peer has answered already, so a
// step that conflicts with a notice that came in meanwhile is made anew; the
// message is not sent again.
func (n *Node) finishRelay(ctx context.Context, item Item, sent []Result, later, failed []failure) error {
	return n.commitAnew(ctx, func(ctx context.Context) (Step, error) {
		s := Step{Finish: item.ID}
		for _, r := range sent {
			rec := n.auditRecord(AuditSend, item.Envelope, OutcomeOK)
			rec.Domain, rec.Detail, rec.Private.To = item.Domain, r.Host, []Address{r.Recipient}
			s.Audit = append(s.Audit, rec)
		}
		next := n.laterItem(item, later)
		if len(sent)+len(failed) > 0 {
			// The peer answered for some and then no more, as it may after many
			// unknown recipients: the others need not wait for the schedule.
			next.Due, next.Attempt = n.now(), item.Attempt
		}
		n.addLater(&s, next)
		return s, n.addFailures(ctx, &s, item, failed)
	})
}

// laterItem is what is left of item for the recipients to try again.
func (n *Node) laterItem(item Item, later []failure) Item {
	next := item
	next.ID, next.Attempt = NewID(n.now()), item.Attempt+1
	next.Due = n.now().Add(n.Retry.delay(item.Attempt))
	next.Envelope.To = nil
	for _, f := range later {
		next.Envelope.To, next.LastErr = append(next.Envelope.To, f.rcpt), reasonOf(f.err)
	}
	return next
}

// maxConflicts bounds how often a step is made anew. Each conflict means that
// another step about the same message went through.
const maxConflicts = 20

// commitAnew makes and commits a step until no other step changed the tracks,
// the digests or the accounts between reading and writing them.
func (n *Node) commitAnew(ctx context.Context, step func(context.Context) (Step, error)) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	for range maxConflicts {
		var s Step
		if s, err = step(ctx); err != nil {
			return err
		}
		err = n.Queue.Commit(ctx, s)
		if err == nil || KindOf(err) != Conflict && KindOf(err) != UnknownRecipient {
			return err
		}
	}
	return err
}
