package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// timeline prints what the audit trails of several nodes say, as it happens.
type timeline struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

const timelinePoll = 20 * time.Millisecond

// follow prints the entries of one trail from sequence number next on, until
// ctx ends.
func (t *timeline) follow(ctx context.Context, who string, trail store.AuditTrail, next uint64) error {
	tick := time.NewTicker(timelinePoll)
	defer tick.Stop()
	for {
		err := trail.ReadAudit(ctx, next, func(e store.AuditEntry) bool {
			next = e.Seq + 1
			t.entry(who, e.Record)
			return true
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (t *timeline) entry(who string, r hisp.AuditRecord) {
	if text := inWords(r); text != "" {
		t.line(who, text)
	}
}

// line prints one line with the milliseconds since the start.
func (t *timeline) line(who, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "  %6d ms  %-11s %s\n", time.Since(t.start).Milliseconds(), who, text)
}

// inWords says in a person's words what an audit record is about; "" if the
// demo need not show it.
func inWords(r hisp.AuditRecord) string {
	if r.Outcome == hisp.OutcomeRefused || r.Outcome == hisp.OutcomeFailed {
		return fmt.Sprintf("REFUSED  %s: %s %s", r.Event, r.Kind, r.Detail)
	}
	if r.Outcome == hisp.OutcomeRetry {
		return fmt.Sprintf("later    %s: %s; will be tried again", r.Event, r.Kind)
	}
	switch r.Event {
	case hisp.AuditAccept:
		return "accept   submitted over TLS by a logged-in user, durable on disk"
	case hisp.AuditSeal:
		return "seal     certificate from DNS, trusted by our anchors; signed, encrypted"
	case hisp.AuditSend:
		return fmt.Sprintf("send     relayed to %s over verified TLS, which took it", r.Domain)
	case hisp.AuditReceive:
		return "receive  taken from the backbone, durable on disk"
	case hisp.AuditOpen:
		return "open     decrypted; signature good; signer is bound to From and trusted"
	case hisp.AuditDeliver:
		return "deliver  in the recipient's mailbox"
	case hisp.AuditNotify:
		detail, overtaken := strings.CutSuffix(r.Detail, ": late")
		if overtaken { // the notices are sent at the same time and take their own ways
			detail += ", after dispatched"
		}
		return fmt.Sprintf("notify   %s MDN %s", r.Kind, detail)
	}
	return ""
}
