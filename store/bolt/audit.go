package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// readChunk bounds how many entries are copied out of one read transaction.
const readChunk = 256

// preparedRecord is an audit record whose private part is already sealed.
type preparedRecord struct {
	record hisp.AuditRecord
	sealed []byte
}

func (s *Store) prepareAudit(rs []hisp.AuditRecord) []preparedRecord {
	ps := make([]preparedRecord, 0, len(rs))
	for _, r := range rs {
		if r.Time.IsZero() {
			r.Time = s.now()
		}
		r.Time = r.Time.UTC()
		ad := store.AppendAuditPlain(nil, r)
		p := preparedRecord{record: r, sealed: s.b.audit.sealer.Seal(nil, encodePrivate(r.Private), ad)}
		p.record.Private = hisp.AuditPrivate{}
		ps = append(ps, p)
	}
	return ps
}

// appendAudit chains the records to the trail.
func (s *Store) appendAudit(tx *bbolt.Tx, b *batch, ps []preparedRecord) error {
	for _, p := range ps {
		e := store.AuditEntry{Seq: b.head.Seq + 1, Prev: b.head.Hash, Record: p.record, Sealed: p.sealed}
		canonical := e.Canonical()
		hash := sha256.Sum256(canonical)
		key := seqKey(e.Seq)
		trail := tx.Bucket(s.b.audit.name)
		trail.FillPercent = 1 // appended only
		if err := trail.Put(key, append(canonical, hash[:]...)); err != nil {
			return err
		}
		if id := p.record.Message; id != "" {
			if err := tx.Bucket([]byte(bAuditMsg)).Put(joinKey(string(id), key), present()); err != nil {
				return err
			}
		}
		b.head = store.AuditHead{Seq: e.Seq, Hash: hash}
	}
	return nil
}

// Record writes one audit record and returns when it is on disk.
func (s *Store) Record(ctx context.Context, r hisp.AuditRecord) error {
	ps := s.prepareAudit([]hisp.AuditRecord{r})
	return s.commit.do(ctx, &op{
		name:  "bolt.Record",
		write: func(tx *bbolt.Tx, b *batch) error { return s.appendAudit(tx, b, ps) },
	})
}

// ReadAudit calls fn for the entries from sequence number from. No transaction
// is open while fn runs.
func (s *Store) ReadAudit(ctx context.Context, from uint64, fn func(store.AuditEntry) bool) error {
	for from = max(from, 1); ; {
		var chunk []store.AuditEntry
		err := s.view(ctx, "bolt.ReadAudit", func(tx *bbolt.Tx) error {
			c := tx.Bucket(s.b.audit.name).Cursor()
			for k, v := c.Seek(seqKey(from)); k != nil && len(chunk) < readChunk; k, v = c.Next() {
				e, err := s.decodeEntry(k, v)
				if err != nil {
					return err
				}
				chunk = append(chunk, e)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, e := range chunk {
			if !fn(e) {
				return nil
			}
		}
		if len(chunk) < readChunk {
			return nil
		}
		from = chunk[len(chunk)-1].Seq + 1
	}
}

// decodeEntry reads a stored entry. The stored hash is kept as it is, so that
// store.Chain sees a change. A private part that does not open stays sealed.
func (s *Store) decodeEntry(k, v []byte) (store.AuditEntry, error) {
	damaged := fail("bolt.ReadAudit", hisp.Internal, "an audit entry is damaged: run hisp audit verify")
	if len(k) != 8 || len(v) < 32 {
		return store.AuditEntry{}, damaged
	}
	e, err := store.ParseCanonical(bytes.Clone(v[:len(v)-32]))
	if err != nil {
		return store.AuditEntry{}, damaged
	}
	e.Hash = [32]byte(v[len(v)-32:])
	if plain, err := s.b.audit.sealer.Open(nil, e.Sealed, store.AppendAuditPlain(nil, e.Record)); err == nil {
		if e.Record.Private, err = decodePrivate(plain); err != nil {
			return store.AuditEntry{}, damaged
		}
	}
	return e, nil
}

// AuditHead returns the last sequence number and its hash.
func (s *Store) AuditHead(ctx context.Context) (store.AuditHead, error) {
	var head store.AuditHead
	err := s.view(ctx, "bolt.AuditHead", func(tx *bbolt.Tx) error {
		var err error
		head, err = s.readHead(tx)
		return err
	})
	return head, err
}

func (s *Store) readHead(tx *bbolt.Tx) (store.AuditHead, error) {
	k, v := tx.Bucket(s.b.audit.name).Cursor().Last()
	if k == nil {
		return store.AuditHead{}, nil
	}
	e, err := s.decodeEntry(k, v)
	return store.AuditHead{Seq: binary.BigEndian.Uint64(k), Hash: e.Hash}, err
}

func (s *Store) loadHead(tx *bbolt.Tx) error {
	head, err := s.readHead(tx)
	s.commit.head = head
	return err
}

// MessageAudit returns the entries about one message, oldest first.
func (s *Store) MessageAudit(ctx context.Context, id hisp.ID) ([]store.AuditEntry, error) {
	var es []store.AuditEntry
	err := s.view(ctx, "bolt.MessageAudit", func(tx *bbolt.Tx) error {
		prefix := joinKey(string(id), nil)
		c := tx.Bucket([]byte(bAuditMsg)).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			seq := k[len(prefix):]
			v := tx.Bucket(s.b.audit.name).Get(seq)
			e, err := s.decodeEntry(seq, v)
			if err != nil {
				return err
			}
			es = append(es, e)
		}
		return nil
	})
	return es, err
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// timeKey orders by time; times before 1970 are one.
func timeKey(t time.Time) []byte { return seqKey(uint64(max(unixNano(t), 0))) }

// joinKey separates with 0 a name of our own making, which has none, from
// what follows.
func joinKey(name string, rest []byte) []byte {
	b := make([]byte, 0, len(name)+1+len(rest))
	b = append(append(b, name...), 0)
	return append(b, rest...)
}
