package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
)

// postpone is for how long an item is left alone whose body cannot be read.
const postpone = 5 * time.Minute

const maxIDOctets = 128

// preparedStep is a Step after the expensive work, done by the caller: bodies
// sealed and large ones written, records encoded and sealed.
type preparedStep struct {
	s          *Store
	finish     *entry
	items      []preparedItem
	deliveries []preparedDelivery
	tracks     []preparedTrack
	seen       []hisp.Seen
	audit      []preparedRecord
	bodies     map[sameBytes]*body // one body for all that share a message
	octets     int
}

// sameBytes names a message by where its octets are in memory.
type sameBytes struct {
	first *byte
	size  int64
}

type preparedItem struct {
	entry  *entry
	sealed []byte
	body   *body
}

type preparedDelivery struct {
	hisp.Delivery
	marker [16]byte
	body   *body
	acct   acctKey
}

// Commit applies st in one transaction and returns when it is on disk.
func (s *Store) Commit(ctx context.Context, st hisp.Step) error {
	const name = "bolt.Commit"
	if err := ctx.Err(); err != nil {
		return err
	}
	grows := len(st.Queue)+len(st.Deliver) > 0
	if grows && s.low() {
		return fail(name, hisp.Full, hintFull)
	}
	p := &preparedStep{s: s, bodies: map[sameBytes]*body{}, seen: st.Seen}
	err := p.prepare(st)
	if err == nil {
		err = s.commit.do(ctx, &op{name: name, grows: grows,
			octets: p.octets, check: p.check, write: p.write, done: p.done})
	}
	for _, b := range p.bodies {
		s.bodies.settle(b, err == nil)
	}
	return wrapErr(name, err)
}

func (p *preparedStep) prepare(st hisp.Step) error {
	const name = "bolt.Commit"
	if st.Finish != "" {
		if p.finish = p.s.index.leased(st.Finish); p.finish == nil {
			return fail(name, hisp.Conflict, "the item is not leased: another worker may have finished it")
		}
	}
	for _, it := range st.Queue {
		if it.ID == "" || len(it.ID) > maxIDOctets || it.Work == 0 || bytes.IndexByte([]byte(it.Envelope.ID), 0) >= 0 {
			return fail(name, hisp.Malformed, "a queue item needs an ID and its work")
		}
		b, err := p.body(it.Message)
		if err != nil {
			return err
		}
		if it.Created.IsZero() {
			it.Created = p.s.now()
		}
		stored := storedItem{Item: it, body: b.bodyRef}
		p.items = append(p.items, preparedItem{
			entry: &entry{id: it.ID, due: unixNano(it.Due), work: it.Work, domain: it.Domain, body: b.bodyRef},
			body:  b, sealed: p.s.b.queue.seal([]byte(it.ID), stored.encode()),
		})
	}
	for _, d := range st.Deliver {
		b, err := p.body(d.Message)
		if err != nil {
			return err
		}
		if d.Received.IsZero() {
			d.Received = p.s.now()
		}
		p.deliveries = append(p.deliveries, preparedDelivery{Delivery: d, body: b,
			marker: p.s.b.delivered(d.ID, d.Recipient)})
	}
	for _, t := range st.Track {
		p.tracks = append(p.tracks, p.s.prepareTrack(t))
	}
	p.audit = p.s.prepareAudit(st.Audit)
	return nil
}

// body prepares msg once, whoever shares it. A message that is the one of the
// finished item is not written again.
func (p *preparedStep) body(msg hisp.Message) (*body, error) {
	raw := msg.Bytes()
	if len(raw) == 0 {
		return &body{}, nil
	}
	same := sameBytes{&raw[0], msg.Size()}
	if b := p.bodies[same]; b != nil {
		return b, nil
	}
	if f := p.finish; f != nil && f.raw == &raw[0] && f.body.size == msg.Size() {
		return &body{bodyRef: f.body}, nil
	}
	b, err := p.s.bodies.prepare(raw)
	if err != nil {
		return nil, err
	}
	p.bodies[same] = b
	p.octets += len(b.sealed)
	return b, nil
}

func (p *preparedStep) check(tx *bbolt.Tx) error {
	const name = "bolt.Commit"
	queue := tx.Bucket(p.s.b.queue.name)
	if p.finish != nil && queue.Get([]byte(p.finish.id)) == nil {
		return fail(name, hisp.Conflict, "the item was finished already")
	}
	ids := map[hisp.ID]struct{}{}
	for _, it := range p.items {
		if _, twice := ids[it.entry.id]; twice || queue.Get([]byte(it.entry.id)) != nil {
			return fail(name, hisp.Conflict, "an item with this ID is queued already")
		}
		ids[it.entry.id] = struct{}{}
	}
	for i := range p.deliveries {
		d := &p.deliveries[i]
		var ok bool
		if d.acct, ok = p.s.resolve(tx, d.Recipient); !ok {
			return fail(name, hisp.UnknownRecipient, "there is no such address here")
		}
	}
	seen := tx.Bucket([]byte(bSeen))
	for _, d := range p.seen {
		if k := p.s.b.seen(d.Digest); p.s.unexpired(seen.Get(k[:])) {
			return fail(name, hisp.Conflict, "another step has done this already")
		}
	}
	return p.s.checkTracks(tx, p.tracks)
}

func (p *preparedStep) write(tx *bbolt.Tx, b *batch) error {
	s := p.s
	for _, body := range p.bodies {
		body.refs = 0
	}
	var shared uint32 // new references to the body of the finished item
	count := func(body *body) {
		if p.finish != nil && body.bodyRef == p.finish.body {
			shared++
			return
		}
		body.refs++
	}
	queue := tx.Bucket(s.b.queue.name)
	for _, it := range p.items {
		count(it.body)
		if err := queue.Put([]byte(it.entry.id), it.sealed); err != nil {
			return err
		}
	}
	for i := range p.deliveries {
		fresh, err := s.deliver(tx, b, &p.deliveries[i])
		if err != nil {
			return err
		}
		if fresh {
			count(p.deliveries[i].body)
		}
	}
	for _, body := range p.bodies {
		if err := s.bodies.put(tx, body); err != nil {
			return err
		}
	}
	if p.finish != nil {
		if err := s.bodies.addRefs(tx, p.finish.body, shared); err != nil {
			return err
		}
		if err := s.bodies.unref(tx, b, p.finish.body); err != nil {
			return err
		}
		if err := queue.Delete([]byte(p.finish.id)); err != nil {
			return err
		}
	}
	return p.writeRecords(tx, b)
}

func (p *preparedStep) writeRecords(tx *bbolt.Tx, b *batch) error {
	if err := p.s.putTracks(tx, p.tracks); err != nil {
		return err
	}
	seen := tx.Bucket([]byte(bSeen))
	for _, d := range p.seen {
		k := p.s.b.seen(d.Digest)
		if err := seen.Put(k[:], timeKey(d.Expires)); err != nil {
			return err
		}
	}
	return p.s.appendAudit(tx, b, p.audit)
}

func (p *preparedStep) done() {
	var added []*entry
	for _, it := range p.items {
		added = append(added, it.entry)
	}
	p.s.index.change(p.finish, added)
}

// deliver stores one copy in a mailbox, unless the same ID was delivered to
// the same recipient before. A folder that is gone is replaced by INBOX: mail
// that was accepted is not lost. Quota was asked for before (Room).
func (s *Store) deliver(tx *bbolt.Tx, b *batch, d *preparedDelivery) (fresh bool, err error) {
	markers := tx.Bucket([]byte(bDelivered))
	if markers.Get(d.marker[:]) != nil {
		return false, nil
	}
	f, err := s.folder(tx, d.acct, folderName(d.Mailbox))
	if f == nil && err == nil {
		f, err = s.folder(tx, d.acct, inbox)
	}
	if err != nil {
		return false, err
	}
	if f == nil {
		return false, fail("bolt.Commit", hisp.Internal, "an account has no INBOX: run hisp verify")
	}
	info := storedMessage{Received: d.Received, body: d.body.bodyRef}
	if _, err := s.addMessage(tx, b, d.acct, f, &info); err != nil {
		return false, err
	}
	if err := s.putFolder(tx, d.acct, f); err != nil {
		return false, err
	}
	return true, markers.Put(d.marker[:], timeKey(s.now()))
}

// Lease waits for the next due item that r admits and loads its message.
func (s *Store) Lease(ctx context.Context, r hisp.LeaseRequest) (hisp.Item, error) {
	for {
		e, err := s.index.lease(ctx, r)
		if err != nil {
			return hisp.Item{}, err
		}
		it, err := s.loadItem(ctx, e)
		if err == nil {
			return it, nil
		}
		if ctx.Err() != nil {
			s.index.release(e.id)
			return hisp.Item{}, err
		}
		if hisp.KindOf(err) == hisp.Temporary {
			return hisp.Item{}, err // closed
		}
		s.log.Error("a queued item cannot be read: run hisp verify", "op", "bolt.Lease", "id", string(e.id), "err", err)
		s.index.reschedule(e.id, s.now().Add(postpone))
	}
}

func (s *Store) loadItem(ctx context.Context, e *entry) (hisp.Item, error) {
	it, err := s.storedItem(ctx, e.id)
	if err != nil {
		return hisp.Item{}, err
	}
	var raw []byte
	err = s.view(ctx, "bolt.Lease", func(tx *bbolt.Tx) error {
		if it.body.file {
			return nil
		}
		raw, err = s.bodies.read(tx, it.body)
		return err
	})
	if err == nil && it.body.file {
		raw, err = s.bodies.read(nil, it.body)
	}
	if err != nil {
		return hisp.Item{}, wrapErr("bolt.Lease", err)
	}
	if len(raw) > 0 {
		s.index.loaded(e, &raw[0])
	}
	it.Message = hisp.NewMessage(raw)
	return it.Item, nil
}

func (s *Store) storedItem(ctx context.Context, id hisp.ID) (storedItem, error) {
	var it storedItem
	err := s.view(ctx, "bolt.Queue", func(tx *bbolt.Tx) error {
		plain, err := s.b.queue.get(tx, []byte(id))
		if err != nil {
			return err
		}
		if plain == nil {
			return fail("bolt.Queue", hisp.NotFound, "there is no such item in the queue")
		}
		it, err = decodeItem(id, plain)
		return err
	})
	return it, err
}

// Retry puts a leased item back until due. Its body is not written again.
func (s *Store) Retry(ctx context.Context, id hisp.ID, due time.Time, reason string, rec []hisp.AuditRecord) error {
	const name = "bolt.Retry"
	if s.index.leased(id) == nil {
		return fail(name, hisp.Conflict, "the item is not leased")
	}
	it, err := s.storedItem(ctx, id)
	if err != nil {
		return err
	}
	it.Due, it.LastErr = due.UTC(), reason
	it.Attempt++
	return s.rewriteItem(ctx, name, it, s.prepareAudit(rec))
}

func (s *Store) rewriteItem(ctx context.Context, name string, it storedItem, audit []preparedRecord) error {
	key := []byte(it.ID)
	value := s.b.queue.seal(key, it.encode())
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			if tx.Bucket(s.b.queue.name).Get(key) == nil {
				return fail(name, hisp.Conflict, "the item was finished already")
			}
			return nil
		},
		write: func(tx *bbolt.Tx, b *batch) error {
			if err := tx.Bucket(s.b.queue.name).Put(key, value); err != nil {
				return err
			}
			return s.appendAudit(tx, b, audit)
		},
		done: func() { s.index.reschedule(it.ID, it.Due) },
	})
}

// Release puts a leased item back at once.
func (s *Store) Release(id hisp.ID) { s.index.release(id) }

// Seen tells whether a digest was committed and has not expired.
func (s *Store) Seen(ctx context.Context, digest [32]byte) (bool, error) {
	var seen bool
	err := s.view(ctx, "bolt.Seen", func(tx *bbolt.Tx) error {
		k := s.b.seen(digest)
		seen = s.unexpired(tx.Bucket([]byte(bSeen)).Get(k[:]))
		return nil
	})
	return seen, err
}

// unexpired reads the marker of a digest.
func (s *Store) unexpired(v []byte) bool {
	return len(v) == 8 && int64(binary.BigEndian.Uint64(v)) > s.now().UnixNano()
}

// ListItems returns the queued items without their messages, by Due.
func (s *Store) ListItems(ctx context.Context) ([]hisp.Item, error) {
	var items []hisp.Item
	err := s.view(ctx, "bolt.ListItems", func(tx *bbolt.Tx) error {
		return tx.Bucket(s.b.queue.name).ForEach(func(k, v []byte) error {
			plain, err := s.b.queue.open(k, v)
			if err != nil {
				return err
			}
			it, err := decodeItem(hisp.ID(k), plain)
			items = append(items, it.Item)
			return err
		})
	})
	slices.SortStableFunc(items, func(a, b hisp.Item) int { return a.Due.Compare(b.Due) })
	return items, err
}

// Reschedule sets Due of an item that is not leased: NotFound, Conflict.
func (s *Store) Reschedule(ctx context.Context, id hisp.ID, due time.Time) error {
	const name = "bolt.Reschedule"
	switch s.index.hold(id) {
	case holdMissing:
		return fail(name, hisp.NotFound, "there is no such item in the queue")
	case holdLeased:
		return fail(name, hisp.Conflict, "the item is being worked on: try again later")
	}
	it, err := s.storedItem(ctx, id)
	if err == nil {
		it.Due = due.UTC()
		err = s.rewriteItem(ctx, name, it, nil)
	}
	if err != nil {
		s.index.release(id)
	}
	return err
}

// Take leases one item by its ID, due or not: NotFound, Conflict.
func (s *Store) Take(ctx context.Context, id hisp.ID) (hisp.Item, error) {
	const name = "bolt.Take"
	switch s.index.hold(id) {
	case holdMissing:
		return hisp.Item{}, fail(name, hisp.NotFound, "there is no such item in the queue")
	case holdLeased:
		return hisp.Item{}, fail(name, hisp.Conflict, "the item is being worked on: try again later")
	}
	e := s.index.leased(id)
	if e == nil {
		return hisp.Item{}, fail(name, hisp.Conflict, "the item is being worked on: try again later")
	}
	it, err := s.loadItem(ctx, e)
	if err != nil {
		s.index.release(id)
	}
	return it, err
}

// loadQueue fills the due index without reading bodies.
func (s *Store) loadQueue(tx *bbolt.Tx) error {
	return tx.Bucket(s.b.queue.name).ForEach(func(k, v []byte) error {
		plain, err := s.b.queue.open(k, v)
		if err != nil {
			return err
		}
		e, err := decodeEntry(hisp.ID(k), plain)
		if err == nil {
			s.index.add(e)
		}
		return err
	})
}
