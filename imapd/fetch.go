package imapd

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
	"github.com/hispnode/hisp/store"
)

const (
	seenBatch   = 64        // messages whose \Seen is set in one step
	keepHeader  = 16 << 10  // octets of a header kept with the parsed message
	keepPartial = 256 << 10 // octets from which a message fetched in parts is kept
)

// Fetch implements FETCH. What comes from the store is complete before the
// first octet goes to the client.
func (s *session) Fetch(w *imapserver.FetchWriter, set imap.NumSet, options *imap.FetchOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sel, err := s.selected(false)
	if err != nil {
		return err
	}
	if err := checkSections(options); err != nil {
		return err
	}
	picked, err := sel.resolve(set)
	if err != nil || len(picked) == 0 {
		return err
	}
	now, err := sel.view.now(s.ctx)
	if err != nil {
		return s.refuse("imapd.Fetch", err)
	}
	f := &fetch{session: s, sel: sel, now: now, options: options}
	f.marks = !sel.readOnly && setsSeen(options)
	for batch := range slices.Chunk(picked, seenBatch) {
		if err := f.markSeen(batch); err != nil {
			return err
		}
		for _, i := range batch {
			if err := f.one(w, i); err != nil {
				return err
			}
		}
	}
	return expungeIssued(f.missing)
}

// fetch is one FETCH command.
type fetch struct {
	*session
	sel     *selection
	now     *snapshot
	options *imap.FetchOptions
	marks   bool // sets \Seen
	seen    map[uint32]entry
	missing bool
}

// checkSections refuses sections that do not exist in the grammar and that
// go-imap lets through (RFC 9051 §9: MIME needs a part number).
func checkSections(options *imap.FetchOptions) error {
	for _, b := range options.BodySection {
		if b.Specifier == imap.PartSpecifierMIME && len(b.Part) == 0 {
			return bad("MIME needs a part number")
		}
		if len(b.Part) > mimetree.MaxDepth*2 {
			return bad("no message has so many levels")
		}
		if b.Partial != nil && b.Partial.Size == 0 {
			return bad("a partial fetch asks for one octet or more") // RFC 9051 §9: nz-number64
		}
	}
	return nil
}

func setsSeen(options *imap.FetchOptions) bool {
	return slices.ContainsFunc(options.BodySection, func(b *imap.FetchItemBodySection) bool { return !b.Peek }) ||
		slices.ContainsFunc(options.BinarySection, func(b *imap.FetchItemBinarySection) bool { return !b.Peek })
}

// markSeen sets \Seen on the messages of a batch that do not have it.
func (f *fetch) markSeen(batch []int) error {
	if !f.marks {
		return nil
	}
	var uids []uint32
	for _, i := range batch {
		if e := f.now.get(f.sel.known.list[i].uid); e != nil && !e.has(imap.FlagSeen) {
			uids = append(uids, e.uid)
		}
	}
	f.seen = nil
	if len(uids) == 0 {
		return nil
	}
	infos, err := f.srv.store.SetFlags(f.ctx, f.acct.Address, f.sel.view.key.folder, uids, store.FlagsAdd, []string{string(imap.FlagSeen)})
	if err != nil {
		return f.refuse("imapd.Fetch", err)
	}
	f.sel.view.invalidate()
	f.seen = make(map[uint32]entry, len(infos))
	shared := make(map[string][]imap.Flag)
	for _, m := range infos {
		f.seen[m.UID] = newEntry(m, shared)
		f.sel.tell(m.UID, m.ModSeq)
	}
	return nil
}

// one answers for one message.
func (f *fetch) one(w *imapserver.FetchWriter, i int) error {
	e := f.now.get(f.sel.known.list[i].uid)
	if e == nil {
		f.missing = true
		return nil
	}
	if e.size >= keepPartial && f.readsMessage() { // it is held until the client has taken it
		if !f.srv.messages.take(e.size) {
			return no(imap.ResponseCodeUnavailable, "too many large messages are being fetched, try again later")
		}
		defer f.srv.messages.give(e.size)
	}
	body, err := f.load(e)
	switch {
	case errors.Is(err, hisp.NotFound):
		f.missing = true
		return nil
	case err != nil:
		return err
	}
	marked, changed := f.seen[e.uid]
	if changed {
		e = &marked
	}
	r := w.CreateMessage(uint32(i + 1)) // from here on nothing may return before Close
	if f.options.UID {
		r.WriteUID(imap.UID(e.uid))
	}
	if f.options.Flags || changed { // RFC 9051 §6.4.5: tell the implicit \Seen
		r.WriteFlags(e.flags)
	}
	if f.options.InternalDate {
		r.WriteInternalDate(e.received)
	}
	if f.options.RFC822Size {
		r.WriteRFC822Size(e.size)
	}
	body.write(r, f.options)
	return r.Close()
}

// bodyData is what one answer takes from the message itself.
type bodyData struct {
	envelope  *imap.Envelope
	structure imap.BodyStructure
	sections  [][]byte
	binaries  [][]byte
	sizes     []uint32
}

// write writes what load made. An error stays in the encoder until Close.
func (b *bodyData) write(r *imapserver.FetchResponseWriter, options *imap.FetchOptions) {
	if options.Envelope {
		r.WriteEnvelope(b.envelope)
	}
	if options.BodyStructure != nil {
		r.WriteBodyStructure(b.structure)
	}
	for i, item := range options.BodySection {
		wc := r.WriteBodySection(item, int64(len(b.sections[i])))
		_, _ = wc.Write(b.sections[i]) // the connection's error comes back from Close of r
		_ = wc.Close()
	}
	for i, item := range options.BinarySection {
		wc := r.WriteBinarySection(item, int64(len(b.binaries[i])))
		_, _ = wc.Write(b.binaries[i])
		_ = wc.Close()
	}
	for i, item := range options.BinarySectionSize {
		r.WriteBinarySectionSize(item, b.sizes[i])
	}
}

// readsMessage tells whether more is asked for than the store lists.
func (f *fetch) readsMessage() bool {
	o := f.options
	return o.Envelope || o.BodyStructure != nil || len(o.BodySection)+len(o.BinarySection)+len(o.BinarySectionSize) > 0
}

// load reads and cuts what the options ask for.
func (f *fetch) load(e *entry) (*bodyData, error) {
	o := f.options
	if !f.readsMessage() {
		return &bodyData{}, nil
	}
	m := &content{ctx: f.ctx, srv: f.srv, key: f.cacheKey(e.uid), folder: f.sel.view.key.folder, account: f.acct.Address, keep: keepsMessage(o, e.size)}
	p, err := m.parsed()
	if err != nil {
		return nil, f.notFoundOr(err)
	}
	b := &bodyData{envelope: p.envelope, structure: p.structure}
	for _, item := range o.BodySection {
		section, err := m.section(item)
		if err != nil {
			return nil, f.notFoundOr(err)
		}
		b.sections = append(b.sections, section)
	}
	for _, item := range o.BinarySection {
		data, err := m.binary(item.Part)
		if err != nil {
			return nil, f.notFoundOr(err)
		}
		b.binaries = append(b.binaries, cut(data, item.Partial))
	}
	for _, item := range o.BinarySectionSize {
		data, err := m.binary(item.Part)
		if err != nil {
			return nil, f.notFoundOr(err)
		}
		b.sizes = append(b.sizes, uint32(len(data)))
	}
	return b, nil
}

// notFoundOr keeps NotFound, which means that the message went away, and
// renders anything else.
func (f *fetch) notFoundOr(err error) error {
	var answer *imap.Error
	switch {
	case errors.Is(err, hisp.NotFound):
		return err
	case errors.As(err, &answer):
		return answer
	}
	return f.refuse("imapd.Fetch", err)
}

func (s *session) cacheKey(uid uint32) cacheKey {
	return cacheKey{account: s.sel.view.key.account, folder: s.sel.view.key.folder, validity: s.sel.known.folder.UIDValidity, uid: uid}
}

// keepsMessage tells whether the client fetches a large message in pieces.
func keepsMessage(o *imap.FetchOptions, size int64) bool {
	return size >= keepPartial && slices.ContainsFunc(o.BodySection, func(b *imap.FetchItemBodySection) bool {
		return b.Partial != nil && b.Partial.Size < size
	})
}

// parsedMessage is what is kept of a message.
type parsedMessage struct {
	tree      *mimetree.Part // nil if the structure is beyond the limits of mimetree
	header    []byte         // of the message, nil if it is large
	envelope  *imap.Envelope
	structure imap.BodyStructure
}

// content gives access to one message, read and parsed at most once.
type content struct {
	ctx     context.Context // of one command
	srv     *Server
	key     cacheKey
	account hisp.Address
	folder  string
	keep    bool // keep the message itself for the next command
	raw     []byte
	p       *parsedMessage
}

// bytes returns the message.
func (m *content) bytes() ([]byte, error) {
	if m.raw != nil {
		return m.raw, nil
	}
	key := m.key
	key.raw = true
	if v, ok := m.srv.cache.get(key); ok {
		m.raw = v.([]byte)
		return m.raw, nil
	}
	msg, err := m.srv.store.ReadMessage(m.ctx, m.account, m.folder, m.key.uid)
	if err != nil {
		return nil, err
	}
	m.raw = msg.Bytes()
	if m.keep {
		m.srv.cache.put(key, m.raw, msg.Size())
	}
	return m.raw, nil
}

// parsed returns the structure.
func (m *content) parsed() (*parsedMessage, error) {
	if m.p != nil {
		return m.p, nil
	}
	if v, ok := m.srv.cache.get(m.key); ok {
		m.p = v.(*parsedMessage)
		return m.p, nil
	}
	raw, err := m.bytes()
	if err != nil {
		return nil, err
	}
	p, cost := parse(raw)
	m.srv.cache.put(m.key, p, cost)
	m.p = p
	return p, nil
}

// parse reads the structure of a message and guesses the memory it takes.
func parse(raw []byte) (*parsedMessage, int64) {
	p := &parsedMessage{}
	cost := int64(1024)
	tree, err := mimetree.Parse(raw)
	if err != nil { // beyond the limits: one opaque part
		tree = nil
	}
	p.tree = tree
	p.envelope = envelopeOf(raw, tree)
	p.structure = structureOf(raw, tree)
	if tree != nil {
		tree.Walk(func(q *mimetree.Part) bool {
			cost += 768 + 112*int64(len(q.Fields))
			return true
		})
	}
	if n := headerEnd(raw, tree); n <= keepHeader {
		p.header = bytes.Clone(raw[:n])
		cost += int64(n)
	}
	return p, cost
}

// headerEnd returns where the body of the message starts.
func headerEnd(raw []byte, tree *mimetree.Part) int {
	if tree != nil {
		return tree.Header.End
	}
	if i := bytes.Index(raw, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return len(raw)
}
