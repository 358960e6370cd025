package imapd

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"golang.org/x/text/encoding/htmlindex"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// Limits of one SEARCH.
const (
	maxCriteria      = 1000 // keys
	maxCriteriaDepth = 50   // levels of NOT, OR and parentheses
	day              = 24 * time.Hour
)

// Search implements SEARCH with the keys of RFC 9051 §6.4.4, ESEARCH and
// SEARCHRES. Text is compared without case after decoding of encoded words,
// transfer encodings and charsets.
func (s *session) Search(kind imapserver.NumKind, criteria *imap.SearchCriteria, options *imap.SearchOptions) (*imap.SearchData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sel, err := s.selected(false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.srv.limits.SearchTime)
	defer cancel()
	now, err := sel.view.now(ctx)
	if err != nil {
		return nil, s.refuse("imapd.Search", err)
	}
	q := &query{session: s, sel: sel, ctx: ctx}
	keys, err := q.compile(criteria, 0)
	if err != nil {
		return nil, err
	}
	var found []int
	for i := range sel.known.list {
		e := now.get(sel.known.list[i].uid)
		if e == nil {
			continue // removed by another session
		}
		if ctx.Err() != nil {
			return nil, no(imap.ResponseCodeLimit, "the search takes too long, narrow it down")
		}
		ok, err := q.matches(keys, i, e)
		if err != nil {
			return nil, s.refuse("imapd.Search", err)
		}
		if ok {
			found = append(found, i)
		}
	}
	if options.ReturnSave {
		sel.saved = savedOf(sel, found, options)
	}
	return searchData(sel, found, kind), nil
}

// searchData numbers the messages found.
func searchData(sel *selection, found []int, kind imapserver.NumKind) *imap.SearchData {
	data := &imap.SearchData{Count: uint32(len(found))}
	var seqs imap.SeqSet
	var uids imap.UIDSet
	for n, i := range found {
		num := uint32(i + 1)
		if kind == imapserver.NumKindUID {
			num = sel.known.list[i].uid
			uids.AddNum(imap.UID(num))
		} else {
			seqs.AddNum(num)
		}
		if n == 0 {
			data.Min = num
		}
		data.Max = num
	}
	if data.All = seqs; kind == imapserver.NumKindUID {
		data.All = uids
	}
	return data
}

// savedOf follows RFC 9051 §6.4.4.1: MIN and MAX alone save only themselves.
func savedOf(sel *selection, found []int, options *imap.SearchOptions) []uint32 {
	if (options.ReturnMin || options.ReturnMax) && !options.ReturnAll && !options.ReturnCount && len(found) > 0 {
		var few []int
		if options.ReturnMin {
			few = append(few, found[0])
		}
		if last := found[len(found)-1]; options.ReturnMax && (len(few) == 0 || last != few[0]) {
			few = append(few, last)
		}
		found = few
	}
	return sel.uids(found)
}

// keys are compiled criteria: sets resolved, text folded.
type keys struct {
	*imap.SearchCriteria
	in     [][]indexes // of the known snapshot, one set for each key
	header []headerKey
	body   []string
	text   []string
	not    []*keys
	or     [][2]*keys
}

type headerKey struct{ name, value string }

// query is one SEARCH.
type query struct {
	*session
	sel   *selection
	ctx   context.Context // of this command
	count int
}

func (q *query) compile(c *imap.SearchCriteria, depth int) (*keys, error) {
	k := &keys{SearchCriteria: c}
	q.count += 1 + len(c.SeqNum) + len(c.UID) + len(c.Flag) + len(c.NotFlag) + len(c.Header) + len(c.Body) + len(c.Text)
	if q.count > maxCriteria || depth > maxCriteriaDepth {
		return nil, no(imap.ResponseCodeLimit, "the search has too many keys")
	}
	for _, set := range c.SeqNum {
		if err := k.addSet(q.sel, set); err != nil {
			return nil, err
		}
	}
	for _, set := range c.UID {
		if err := k.addSet(q.sel, set); err != nil {
			return nil, err
		}
	}
	for _, h := range c.Header {
		k.header = append(k.header, headerKey{h.Key, fold(h.Value)})
	}
	for _, b := range c.Body {
		k.body = append(k.body, fold(b))
	}
	for _, t := range c.Text {
		k.text = append(k.text, fold(t))
	}
	for i := range c.Not {
		n, err := q.compile(&c.Not[i], depth+1)
		if err != nil {
			return nil, err
		}
		k.not = append(k.not, n)
	}
	for i := range c.Or {
		var pair [2]*keys
		for j := range pair {
			n, err := q.compile(&c.Or[i][j], depth+1)
			if err != nil {
				return nil, err
			}
			pair[j] = n
		}
		k.or = append(k.or, pair)
	}
	return k, nil
}

func (k *keys) addSet(sel *selection, set imap.NumSet) error {
	in, err := sel.ranges(set)
	k.in = append(k.in, in)
	return err
}

// matches tests one message, what costs nothing first.
func (q *query) matches(k *keys, i int, e *entry) (bool, error) {
	m := &searched{content: &content{
		ctx: q.ctx, srv: q.srv, key: q.cacheKey(e.uid), account: q.acct.Address, folder: q.sel.view.key.folder,
	}}
	return k.match(i, e, m)
}

func (k *keys) match(i int, e *entry, m *searched) (bool, error) {
	if !k.matchKnown(i, e) {
		return false, nil
	}
	for _, n := range k.not {
		if ok, err := n.match(i, e, m); err != nil || ok {
			return false, err
		}
	}
	for _, pair := range k.or {
		ok, err := pair[0].match(i, e, m)
		if err == nil && !ok {
			ok, err = pair[1].match(i, e, m)
		}
		if err != nil || !ok {
			return false, err
		}
	}
	return k.matchText(e, m)
}

// matchKnown tests what the snapshot knows.
func (k *keys) matchKnown(i int, e *entry) bool {
	for _, in := range k.in {
		if !slices.ContainsFunc(in, func(r indexes) bool { return r.low <= i && i < r.high }) {
			return false
		}
	}
	for _, f := range k.Flag {
		if !e.has(f) {
			return false
		}
	}
	for _, f := range k.NotFlag {
		if e.has(f) {
			return false
		}
	}
	if k.Larger != 0 && e.size <= k.Larger || k.Smaller != 0 && e.size >= k.Smaller {
		return false
	}
	return within(e.received, k.Since, k.Before)
}

// matchText tests what only the message itself tells.
func (k *keys) matchText(e *entry, m *searched) (bool, error) {
	if !k.SentSince.IsZero() || !k.SentBefore.IsZero() {
		sent, err := m.sent(e)
		if err != nil || !within(sent, k.SentSince, k.SentBefore) {
			return false, err
		}
	}
	for _, h := range k.header {
		if ok, err := m.hasHeader(h); err != nil || !ok {
			return false, err
		}
	}
	for _, b := range k.body {
		if ok, err := m.hasBody(b); err != nil || !ok {
			return false, err
		}
	}
	for _, t := range k.text {
		ok, err := m.hasBody(t)
		if err == nil && !ok {
			ok, err = m.hasHeader(headerKey{"", t})
		}
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// within compares dates without time and zone (RFC 9051 §6.4.4): since counts
// from its day on, before ends before its day.
func within(t, since, before time.Time) bool {
	date := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	return (since.IsZero() || !date.Before(since)) && (before.IsZero() || date.Before(before))
}

// fold makes text comparable without case.
func fold(s string) string { return strings.ToLower(strings.ToValidUTF8(s, "\uFFFD")) }

// searched is a message with the texts that were looked at.
type searched struct {
	*content
	bodies []string // folded
	loaded bool
}

// sent returns the Date of the message, or when it was received.
func (m *searched) sent(e *entry) (time.Time, error) {
	p, err := m.parsed()
	if err != nil {
		return time.Time{}, err
	}
	if !p.envelope.Date.IsZero() {
		return p.envelope.Date, nil
	}
	return e.received, nil
}

// hasHeader tests the fields of one name, or all of them with their names if
// it is "". An empty value asks whether the field is there.
func (m *searched) hasHeader(k headerKey) (bool, error) {
	p, err := m.parsed()
	if err != nil {
		return false, err
	}
	header := p.header
	if header == nil {
		raw, err := m.bytes()
		if err != nil {
			return false, err
		}
		header = raw[:headerEnd(raw, p.tree)]
	}
	return headerHas(header, fieldsOf(p.tree), k), nil
}

func headerHas(header []byte, fields []mimetree.Field, k headerKey) bool {
	for _, f := range fields {
		if f.Raw.End > len(header) || k.name != "" && !f.Is(k.name) {
			continue
		}
		text := fold(decodeWords(f.Text(header)))
		if k.name == "" {
			text = fold(f.Name) + ": " + text
		}
		if strings.Contains(text, k.value) {
			return true
		}
	}
	return false
}

// hasBody tests the text parts, or the whole body if there is none.
func (m *searched) hasBody(want string) (bool, error) {
	if !m.loaded {
		p, err := m.parsed()
		if err != nil {
			return false, err
		}
		raw, err := m.bytes()
		if err != nil {
			return false, err
		}
		m.bodies, m.loaded = texts(raw, p.tree), true
	}
	for _, b := range m.bodies {
		if strings.Contains(b, want) {
			return true, nil
		}
	}
	return false, nil
}

// texts returns the folded texts of a message.
func texts(raw []byte, tree *mimetree.Part) []string {
	if tree == nil {
		return []string{fold(string(raw[headerEnd(raw, nil):]))}
	}
	var l []string
	tree.Walk(func(p *mimetree.Part) bool {
		switch {
		case messageIn(p) != nil: // the header of a message inside counts as body
			l = append(l, fold(decodeWords(string(messageIn(p).Header.Of(raw)))))
		case strings.HasPrefix(p.MediaType, "text/"):
			if data, err := p.Decode(raw); err == nil {
				l = append(l, fold(decodeCharset(data, p.Params["charset"])))
			}
		}
		return true
	})
	return l
}

func decodeCharset(data []byte, charset string) string {
	enc, err := htmlindex.Get(charset)
	if err != nil {
		return string(data)
	}
	decoded, err := enc.NewDecoder().Bytes(data)
	if err != nil {
		return string(data)
	}
	return string(decoded)
}
