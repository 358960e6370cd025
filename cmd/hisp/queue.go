package main

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// itemRow is a queued item for people and programs.
type itemRow struct {
	ID       hisp.ID     `json:"id"`
	Message  hisp.ID     `json:"message"`
	Work     string      `json:"work"`
	Domain   hisp.Domain `json:"domain,omitempty"`
	From     string      `json:"from"`
	To       []string    `json:"to"`
	Attempts int         `json:"attempts"`
	Created  time.Time   `json:"created"`
	Due      time.Time   `json:"due"`
	Last     string      `json:"last_error,omitempty"`
}

func rowOf(it hisp.Item) itemRow {
	r := itemRow{
		ID: it.ID, Message: it.Envelope.ID, Work: it.Work.String(), Domain: it.Domain, From: it.Envelope.From.AddrSpec(),
		To: []string{}, Attempts: it.Attempt, Created: it.Created, Due: it.Due, Last: it.LastErr,
	}
	for _, rcpt := range it.Envelope.To {
		r.To = append(r.To, rcpt.AddrSpec())
	}
	return r
}

func queueList(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		items, err := c.store.ListItems(c.ctx)
		if err != nil {
			return err
		}
		rows := make([]itemRow, 0, len(items))
		var lines [][]string
		for _, it := range items {
			r := rowOf(it)
			rows = append(rows, r)
			where := string(r.Domain)
			if where == "" && len(it.Envelope.To) > 0 {
				where = string(it.Envelope.To[0].Domain)
			}
			lines = append(lines, []string{string(r.ID), string(r.Message), r.Work, where, strconv.Itoa(len(r.To)), strconv.Itoa(r.Attempts), c.inTime(r.Due), r.Last})
		}
		if *asJSON { // the table names nobody
			if err := c.disclosing("queue list -json"); err != nil {
				return err
			}
			return c.json(rows)
		}
		return c.table([]string{"id", "message", "work", "domain", "recipients", "attempts", "due", "last error"}, lines)
	}
}

// inTime writes a moment as seen from now.
func (c *call) inTime(t time.Time) string {
	if left := t.Sub(c.clock()).Round(time.Second); left > 0 {
		return "in " + left.String()
	}
	return "now"
}

// named returns the items that the only argument means: one by its own ID, or
// all of a message by the ID that the log and hisp send tell.
func (c *call) named() ([]hisp.Item, error) {
	if err := c.argN("ID"); err != nil {
		return nil, err
	}
	items, err := c.store.ListItems(c.ctx)
	if err != nil {
		return nil, err
	}
	id := hisp.ID(strings.ToUpper(c.args[0]))
	items = slices.DeleteFunc(items, func(it hisp.Item) bool { return it.ID != id && it.Envelope.ID != id })
	if len(items) == 0 {
		return nil, noItem(c.args[0])
	}
	return items, nil
}

func noItem(id string) error {
	return hint(fmt.Errorf("nothing waits under %s", id), "hisp queue list shows what waits; what is done is told by hisp message track")
}

func queueShow(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print a JSON list")
	return func(c *call) error {
		items, err := c.named()
		if err != nil {
			return err
		}
		rows := make([]itemRow, 0, len(items))
		for _, it := range items {
			rows = append(rows, rowOf(it))
		}
		if err := c.disclosing("queue show " + string(rows[0].Message)); err != nil {
			return err
		}
		if *asJSON {
			return c.json(rows)
		}
		for i, r := range rows {
			if i > 0 {
				c.printf("\n")
			}
			c.printItem(r)
		}
		return nil
	}
}

func (c *call) printItem(r itemRow) {
	c.printf("item      %s\nmessage   %s\nwork      %s\nfrom      %s\n", r.ID, r.Message, r.Work, r.From)
	for _, rcpt := range r.To {
		c.printf("to        %s\n", rcpt)
	}
	c.printf("created   %s\ndue       %s (%s)\nattempts  %d\n", moment(r.Created), moment(r.Due), c.inTime(r.Due), r.Attempts)
	if r.Last != "" {
		c.printf("last      %s\n", r.Last)
	}
}

func queueRetry(f *flag.FlagSet) func(c *call) error {
	all := f.Bool("all", false, "all items")
	return func(c *call) error {
		items, err := c.items(*all)
		if err != nil {
			return err
		}
		count := 0
		err = c.admin("queue retry", "", hisp.Address{}, func() error {
			for _, it := range items {
				err := c.store.Reschedule(c.ctx, it.ID, c.clock().UTC())
				switch kind := hisp.KindOf(err); {
				case err == nil:
					count++
				case kind == hisp.NotFound || kind == hisp.Conflict:
					if !*all {
						return itemError(string(it.ID), err)
					}
				default:
					return err
				}
			}
			return nil
		})
		if err == nil && *all {
			c.printf("%d\n", count)
		}
		return err
	}
}

// items returns all items, or those that the only argument means.
func (c *call) items(all bool) ([]hisp.Item, error) {
	if !all {
		return c.named()
	}
	if err := c.argN(); err != nil {
		return nil, err
	}
	return c.store.ListItems(c.ctx)
}

// itemError says why an item could not be changed.
func itemError(id string, err error) error {
	switch hisp.KindOf(err) {
	case hisp.NotFound:
		return noItem(id)
	case hisp.Conflict:
		return hint(fmt.Errorf("item %s is being worked on", id), "wait until this attempt has ended")
	}
	return err
}

func queueDrop(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		items, err := c.named()
		if err != nil {
			return err
		}
		if c.node == nil {
			return hint(errNoNode, "start it with hisp serve: the sender is told, and only a node does that")
		}
		for _, it := range items {
			if err := c.admin("queue drop", it.Domain, hisp.Address{}, func() error { return c.drop(it) }); err != nil {
				return err
			}
		}
		return nil
	}
}

// drop gives one item up.
func (c *call) drop(it hisp.Item) error {
	taken, err := c.store.Take(c.ctx, it.ID)
	if err != nil {
		return itemError(string(it.ID), err)
	}
	if err := c.node.Drop(c.ctx, taken); err != nil {
		c.store.Release(taken.ID)
		return err
	}
	return nil
}
