package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// auditRow is an entry for people and programs. Entry is its canonical form, from
// which alone the export can be verified; the private part in it is sealed.
type auditRow struct {
	Seq     uint64        `json:"seq"`
	Time    time.Time     `json:"time"`
	Event   string        `json:"event"`
	Outcome string        `json:"outcome"`
	Message hisp.ID       `json:"message,omitempty"`
	Domain  hisp.Domain   `json:"domain,omitempty"`
	Kind    string        `json:"kind,omitempty"`
	Detail  string        `json:"detail,omitempty"`
	Private *auditPrivate `json:"private,omitempty"`
	Hash    string        `json:"hash"`
	Entry   string        `json:"entry,omitempty"`
}

// auditPrivate names people: shown to the operator who asks, never exported.
type auditPrivate struct {
	From      string   `json:"from,omitempty"`
	To        []string `json:"to,omitempty"`
	Account   string   `json:"account,omitempty"`
	MessageID string   `json:"message_id,omitempty"`
	Auth      string   `json:"auth,omitempty"`
	Peer      string   `json:"peer,omitempty"`
}

func auditRowOf(e store.AuditEntry) auditRow {
	r := e.Record
	return auditRow{
		Seq: e.Seq, Time: r.Time, Event: string(r.Event), Outcome: string(r.Outcome), Message: r.Message,
		Domain: r.Domain, Kind: r.Kind, Detail: r.Detail, Hash: hex.EncodeToString(e.Hash[:]),
	}
}

func privateOf(p hisp.AuditPrivate) *auditPrivate {
	row := auditPrivate{From: p.From.AddrSpec(), Account: p.Account.AddrSpec(), MessageID: p.MessageID, Auth: string(p.Auth)}
	for _, rcpt := range p.To {
		row.To = append(row.To, rcpt.AddrSpec())
	}
	if p.Peer.IsValid() {
		row.Peer = p.Peer.String()
	}
	return &row
}

// text names what of p is there.
func (p *auditPrivate) text() string {
	if p == nil {
		return ""
	}
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	add("account", p.Account)
	from := p.From
	if from == "" && len(p.To) > 0 {
		from = "<>"
	}
	add("from", from)
	add("to", strings.Join(p.To, " "))
	add("message-id", p.MessageID)
	add("peer", p.Peer)
	return strings.Join(parts, ", ")
}

func auditList(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	last := f.Uint64("last", 50, "`how many` of the newest entries that match; 0 means all")
	from := f.Uint64("from", 0, "all from this sequence `number` on, whatever -last says")
	event := f.String("event", "", "only this `event`: accept, seal, send, receive, open, reject, deliver, notify, login, admin, expire")
	domain := f.String("domain", "", "only this other `domain`")
	private := f.Bool("private", false, "show names of people and Message-IDs too; that is audited")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		head, err := c.store.AuditHead(c.ctx)
		if err != nil {
			return err
		}
		if *private {
			if err := c.disclosing("audit list -private"); err != nil {
				return err
			}
		}
		q := auditQuery{first: max(*from, 1), end: head.Seq, block: auditBlock, match: func(r hisp.AuditRecord) bool {
			return (*event == "" || *event == string(r.Event)) && (*domain == "" || *domain == string(r.Domain))
		}}
		if *from == 0 {
			q.last = *last
		}
		entries, err := q.read(c)
		if err != nil {
			return err
		}
		rows := make([]auditRow, 0, len(entries))
		for _, e := range entries {
			row := auditRowOf(e)
			if *private {
				row.Private = privateOf(e.Record.Private)
			}
			rows = append(rows, row)
		}
		if *asJSON {
			return c.json(rows)
		}
		return c.auditTable(rows)
	}
}

// auditQuery is what of the trail is asked for.
type auditQuery struct {
	first, end uint64 // sequence numbers
	last       uint64 // how many of the newest that match, 0 is all
	block      uint64 // how many are read at a time
	match      func(hisp.AuditRecord) bool
}

// auditBlock is how many entries are read at a time, from the end backwards: the
// newest of a long trail are found without reading all of it.
const auditBlock = 4096

func (q auditQuery) read(c *call) ([]store.AuditEntry, error) {
	var found []store.AuditEntry
	for end := q.end; end >= q.first; {
		begin := q.first
		if q.last > 0 && end-q.first >= q.block {
			begin = end - q.block + 1
		}
		var block []store.AuditEntry
		err := c.store.ReadAudit(c.ctx, begin, func(e store.AuditEntry) bool {
			if e.Seq <= end && q.match(e.Record) {
				block = append(block, e)
			}
			return e.Seq < end
		})
		if err != nil {
			return nil, err
		}
		found = append(block, found...)
		if q.last > 0 && uint64(len(found)) >= q.last {
			return found[uint64(len(found))-q.last:], nil
		}
		end = begin - 1
	}
	return found, nil
}

func (c *call) auditTable(rows []auditRow) error {
	heading := []string{"seq", "time", "event", "outcome", "message", "domain", "what"}
	var lines [][]string
	for _, r := range rows {
		what := strings.TrimSuffix(strings.TrimPrefix(r.Kind+", "+r.Detail, ", "), ", ")
		if who := r.Private.text(); who != "" {
			what += " [" + who + "]"
		}
		lines = append(lines, []string{strconv.FormatUint(r.Seq, 10), moment(r.Time), r.Event, r.Outcome, string(r.Message), string(r.Domain), what})
	}
	return c.table(heading, lines)
}

func auditExport(f *flag.FlagSet) func(c *call) error {
	from := f.Uint64("from", 1, "begin with this sequence `number`; an export that is to be verified begins with 1")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		out := bufio.NewWriter(c.stdout)
		lines := json.NewEncoder(out)
		var failed error
		err := c.store.ReadAudit(c.ctx, max(*from, 1), func(e store.AuditEntry) bool {
			row := auditRowOf(e)
			row.Entry = base64.StdEncoding.EncodeToString(e.Canonical())
			failed = lines.Encode(row)
			return failed == nil
		})
		return errors.Join(err, failed, out.Flush())
	}
}

// maxExportLine bounds one line of an export that is read back.
const maxExportLine = 1 << 20

func auditVerify(f *flag.FlagSet) func(c *call) error {
	noted := f.String("head", "", "`SEQ:HASH` noted elsewhere, such as in the log: the trail must reach it")
	file := f.String("file", "", "verify this export instead of the store; - is standard input")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		want, err := parseHead(*noted)
		if err != nil {
			return err
		}
		v := chainVerifier{want: want}
		if *file == "" {
			err = v.readStore(c)
		} else {
			err = c.verifyExport(&v, *file)
			if want.Seq == 0 {
				c.notef("hisp: note: only -head SEQ:HASH, noted elsewhere, shows that the export goes on to the end\n")
			}
		}
		if err != nil {
			return err
		}
		if want.Seq > 0 {
			v.end(want)
		}
		return v.report(c)
	}
}

// chainVerifier collects what is wrong with a trail.
type chainVerifier struct {
	chain    store.Chain
	want     store.AuditHead
	findings []string
}

// readStore reads the trail up to its end or beyond. The end is asked for first:
// a running node adds entries meanwhile, and a later end would look like a cut.
func (v *chainVerifier) readStore(c *call) error {
	end, err := c.store.AuditHead(c.ctx)
	if err != nil {
		return err
	}
	err = c.store.ReadAudit(c.ctx, 1, func(e store.AuditEntry) bool {
		v.next(e)
		return true
	})
	v.end(end)
	return err
}

func (v *chainVerifier) note(err error) {
	if err == nil {
		return
	}
	text := hisp.HintOf(err)
	if text == "" {
		text = errorText(err)
	}
	v.findings = append(v.findings, text)
}

func (v *chainVerifier) next(e store.AuditEntry) {
	v.note(v.chain.Next(e))
	if e.Seq == v.want.Seq && e.Hash != v.want.Hash {
		v.findings = append(v.findings, fmt.Sprintf("audit entry %d is not the one that was noted", e.Seq))
	}
}

func (v *chainVerifier) end(noted store.AuditHead) { v.note(v.chain.End(noted)) }

func (v *chainVerifier) report(c *call) error {
	head := v.chain.Head()
	c.printf("%d entries, head %d:%x\n", head.Seq, head.Seq, head.Hash)
	for _, text := range v.findings {
		c.printf("%s\n", text)
	}
	if len(v.findings) > 0 {
		return hint(fmt.Errorf("the audit trail is not whole: %d findings", len(v.findings)), "keep the data folder as it is and look who had access; a backup shows what was there before")
	}
	return nil
}

// verifyExport reads the lines of an export and compares their plain fields
// with the canonical form, which is what the hashes cover.
func (c *call) verifyExport(v *chainVerifier, name string) error {
	var in io.Reader = c.front
	if name != "-" {
		data, err := c.front.ReadFile(name)
		if err != nil {
			return err
		}
		in = bytes.NewReader(data)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxExportLine)
	for n := 1; lines.Scan(); n++ {
		var row auditRow
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return fmt.Errorf("%s:%d: not a line of an export", name, n)
		}
		raw, err := base64.StdEncoding.DecodeString(row.Entry)
		if err != nil {
			return fmt.Errorf("%s:%d: not a line of an export", name, n)
		}
		e, err := store.ParseCanonical(raw)
		if err != nil {
			v.note(fmt.Errorf("line %d: the entry was changed", n))
			continue
		}
		plain := auditRowOf(e)
		plain.Entry = row.Entry
		if plain != row {
			v.findings = append(v.findings, fmt.Sprintf("line %d: the fields or the hash differ from the entry", n))
		}
		v.next(e)
	}
	if err := lines.Err(); err != nil || v.chain.Head().Seq > 0 || len(v.findings) > 0 {
		return err
	}
	return hint(fmt.Errorf("%s: no entries in it", name), "hisp audit export makes one; if it was one, it is cut off")
}

// parseHead reads "SEQ:HASH"; "" is no head.
func parseHead(text string) (store.AuditHead, error) {
	var head store.AuditHead
	if text == "" {
		return head, nil
	}
	seq, hash, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	raw, hexErr := hex.DecodeString(hash)
	if err != nil || hexErr != nil || len(raw) != len(head.Hash) {
		return head, usagef("-head is SEQ:HASH as the log and hisp audit verify print it")
	}
	head.Seq = n
	copy(head.Hash[:], raw)
	return head, nil
}
