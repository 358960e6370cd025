package main

import (
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// stepRow is one moment in the life of a message.
type stepRow struct {
	Time    time.Time   `json:"time"`
	Event   string      `json:"event"`
	Outcome string      `json:"outcome"`
	Kind    string      `json:"kind,omitempty"`
	Detail  string      `json:"detail,omitempty"`
	Domain  hisp.Domain `json:"domain,omitempty"`
	From    string      `json:"from,omitempty"`
	To      []string    `json:"to,omitempty"`
}

// trackRow is what became of one recipient.
type trackRow struct {
	Recipient string     `json:"recipient"`
	State     string     `json:"state"`
	Sent      time.Time  `json:"sent"`
	Processed *time.Time `json:"processed,omitempty"`
	Ended     *time.Time `json:"ended,omitempty"`
	Deadline  time.Time  `json:"deadline"`
	Reason    string     `json:"reason,omitempty"`
}

func messageTrack(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		if err := c.argN("ID"); err != nil {
			return err
		}
		id := hisp.ID(strings.ToUpper(c.args[0]))
		entries, err := c.store.MessageAudit(c.ctx, id)
		if err != nil {
			return err
		}
		tracks, err := c.store.Tracks(c.ctx, id)
		if err != nil {
			return err
		}
		if len(entries) == 0 && len(tracks) == 0 {
			return hint(fmt.Errorf("no message %s", id), "the id is the one in the log and in hisp audit list, not the Message-ID")
		}
		if err := c.disclosing("message track " + string(id)); err != nil {
			return err
		}
		steps, recipients := stepRows(entries), trackRows(tracks)
		if *asJSON {
			return c.json(map[string]any{"id": id, "timeline": steps, "recipients": recipients})
		}
		c.printTimeline(steps, recipients)
		return nil
	}
}

func stepRows(entries []store.AuditEntry) []stepRow {
	rows := make([]stepRow, 0, len(entries))
	for _, e := range entries {
		r := e.Record
		row := stepRow{Time: r.Time, Event: string(r.Event), Outcome: string(r.Outcome), Kind: r.Kind, Detail: r.Detail, Domain: r.Domain, From: r.Private.From.AddrSpec()}
		for _, rcpt := range r.Private.To {
			row.To = append(row.To, rcpt.AddrSpec())
		}
		rows = append(rows, row)
	}
	return rows
}

func trackRows(tracks []hisp.Track) []trackRow {
	rows := make([]trackRow, 0, len(tracks))
	for _, t := range tracks {
		row := trackRow{Recipient: t.Recipient.AddrSpec(), State: t.Final.String(), Sent: t.Sent, Deadline: t.Deadline, Reason: t.Reason}
		if !t.Processed.IsZero() {
			row.Processed = &t.Processed
		}
		if !t.Ended.IsZero() {
			row.Ended = &t.Ended
		}
		rows = append(rows, row)
	}
	return rows
}

func (c *call) printTimeline(steps []stepRow, recipients []trackRow) {
	for _, s := range steps {
		what := []string{s.Outcome}
		for _, part := range []string{s.Kind, s.Detail, string(s.Domain)} {
			if part != "" {
				what = append(what, part)
			}
		}
		c.printf("%s  %-8s %s\n", s.Time.UTC().Format("2006-01-02 15:04:05.000"), s.Event, strings.Join(what, ", "))
		if s.Event == string(hisp.AuditAccept) || s.Event == string(hisp.AuditReceive) {
			c.printf("%25s from %s to %s\n", "", s.From, strings.Join(s.To, ", "))
		}
	}
	for _, r := range recipients {
		switch {
		case r.Ended != nil && r.Reason != "":
			c.printf("%s: %s at %s, %s\n", r.Recipient, r.State, moment(*r.Ended), r.Reason)
		case r.Ended != nil:
			c.printf("%s: %s at %s\n", r.Recipient, r.State, moment(*r.Ended))
		case r.Processed != nil:
			c.printf("%s: processed at %s, waiting for delivery until %s\n", r.Recipient, moment(*r.Processed), moment(r.Deadline))
		default:
			c.printf("%s: waiting until %s\n", r.Recipient, moment(r.Deadline))
		}
	}
}
