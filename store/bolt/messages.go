package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Flags of RFC 9051 §2.3.2 in their one spelling.
const (
	flagSeen    = `\Seen`
	flagDeleted = `\Deleted`
	flagRecent  = `\Recent` // never stored
)

const (
	maxFlags    = 64 // per message
	maxFlagName = 64 // octets
)

// storedMessage is what the messages bucket holds.
type storedMessage struct {
	ModSeq   uint64
	Flags    []string
	Received time.Time
	body     bodyRef
}

func (m *storedMessage) info(uid uint32) store.MessageInfo {
	return store.MessageInfo{UID: uid, ModSeq: m.ModSeq, Flags: m.Flags, Received: m.Received, Size: m.body.size}
}

func (m *storedMessage) has(flag string) bool { return slices.Contains(m.Flags, flag) }

func (m *storedMessage) encode() []byte {
	e := newEncoder(64)
	e.u64(m.ModSeq)
	e.u8(uint8(len(m.Flags)))
	for _, f := range m.Flags {
		e.str(f)
	}
	e.time(m.Received)
	e.body(m.body)
	return e.b
}

func decodeMessage(b []byte) (*storedMessage, error) {
	d := newDecoder(b)
	m := &storedMessage{ModSeq: d.u64()}
	for range d.u8() {
		m.Flags = append(m.Flags, d.str())
	}
	m.Received = d.time()
	m.body = d.body()
	return m, d.err("a message record")
}

// messagePrefix begins the keys of all messages of a folder.
func messagePrefix(acct acctKey, f *store.Folder) []byte {
	return binary.BigEndian.AppendUint32(acct[:len(acct):len(acct)], f.UIDValidity)
}

func messageKey(acct acctKey, f *store.Folder, uid uint32) []byte {
	return binary.BigEndian.AppendUint32(messagePrefix(acct, f), uid)
}

// message returns nil if there is none.
func (s *Store) message(tx *bbolt.Tx, acct acctKey, f *store.Folder, uid uint32) (*storedMessage, error) {
	plain, err := s.b.messages.get(tx, messageKey(acct, f, uid))
	if plain == nil || err != nil {
		return nil, err
	}
	return decodeMessage(plain)
}

func (s *Store) putMessage(tx *bbolt.Tx, acct acctKey, f *store.Folder, uid uint32, m *storedMessage) error {
	return s.b.messages.put(tx, messageKey(acct, f, uid), m.encode())
}

// addMessage gives m the next UID of f and counts it. The caller puts f and
// has counted the reference to the body.
func (s *Store) addMessage(tx *bbolt.Tx, b *batch, acct acctKey, f *store.Folder, m *storedMessage) (uint32, error) {
	if f.UIDNext == math.MaxUint32 {
		return 0, fail("bolt", hisp.Full, "the folder has used up its UIDs: copy it into a new one")
	}
	uid := f.UIDNext
	f.UIDNext++
	f.HighestModSeq++
	m.ModSeq = f.HighestModSeq
	count(f, m, 1)
	b.wake = append(b.wake, watchKey{acct, f.Name})
	if err := s.putMessage(tx, acct, f, uid, m); err != nil {
		return 0, err
	}
	return uid, s.addUsage(tx, acct, m.body.size)
}

// dropMessage removes a message, its reference and its share of the counters.
func (s *Store) dropMessage(tx *bbolt.Tx, b *batch, acct acctKey, f *store.Folder, uid uint32, m *storedMessage) error {
	count(f, m, -1)
	if err := s.b.messages.delete(tx, messageKey(acct, f, uid)); err != nil {
		return err
	}
	if err := s.bodies.unref(tx, b, m.body); err != nil {
		return err
	}
	return s.addUsage(tx, acct, -m.body.size)
}

// count adds or takes m from the counters of f.
func count(f *store.Folder, m *storedMessage, sign int) {
	add := func(n *uint32) { *n = uint32(int64(*n) + int64(sign)) }
	add(&f.Messages)
	f.Size += int64(sign) * m.body.size
	if !m.has(flagSeen) {
		add(&f.Unseen)
	}
	if m.has(flagDeleted) {
		add(&f.Deleted)
	}
}

func (s *Store) usage(tx *bbolt.Tx, acct acctKey) (int64, error) {
	plain, err := s.b.usage.get(tx, acct[:])
	if err != nil || len(plain) != 8 {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(plain)), nil
}

func (s *Store) addUsage(tx *bbolt.Tx, acct acctKey, octets int64) error {
	used, err := s.usage(tx, acct)
	if err != nil {
		return err
	}
	return s.b.usage.put(tx, acct[:], seqKey(uint64(max(used+octets, 0))))
}

// eachMessage calls fn for the messages of a folder by UID. fn must not change
// the bucket.
func (s *Store) eachMessage(tx *bbolt.Tx, acct acctKey, f *store.Folder, fn func(uid uint32, m *storedMessage) error) error {
	prefix := messagePrefix(acct, f)
	c := tx.Bucket(s.b.messages.name).Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		plain, err := s.b.messages.open(k, v)
		if err != nil {
			return err
		}
		m, err := decodeMessage(plain)
		if err != nil {
			return err
		}
		if err := fn(binary.BigEndian.Uint32(k[len(prefix):]), m); err != nil {
			return err
		}
	}
	return nil
}

// uids returns the UIDs of a folder without reading the records.
func (s *Store) uids(tx *bbolt.Tx, acct acctKey, f *store.Folder) ([]uint32, error) {
	var uids []uint32
	prefix := messagePrefix(acct, f)
	c := tx.Bucket(s.b.messages.name).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		uids = append(uids, binary.BigEndian.Uint32(k[len(prefix):]))
	}
	return uids, nil
}

// removeMessages removes all messages of a folder.
func (s *Store) removeMessages(tx *bbolt.Tx, b *batch, acct acctKey, f *store.Folder) error {
	type found struct {
		uid uint32
		m   *storedMessage
	}
	var all []found
	err := s.eachMessage(tx, acct, f, func(uid uint32, m *storedMessage) error {
		all = append(all, found{uid, m})
		return nil
	})
	for _, x := range all {
		if err == nil {
			err = s.dropMessage(tx, b, acct, f, x.uid, x.m)
		}
	}
	return err
}

// ListMessages returns a folder and all its messages by UID, of one moment.
func (s *Store) ListMessages(ctx context.Context, acct hisp.Address, folder string) (store.Folder, []store.MessageInfo, error) {
	const name = "bolt.ListMessages"
	var f store.Folder
	var infos []store.MessageInfo
	err := s.view(ctx, name, func(tx *bbolt.Tx) error {
		key := s.b.account(acct)
		found, err := s.mustFolder(tx, name, key, folderName(folder))
		if err != nil {
			return err
		}
		f = *found
		infos = make([]store.MessageInfo, 0, f.Messages)
		return s.eachMessage(tx, key, found, func(uid uint32, m *storedMessage) error {
			infos = append(infos, m.info(uid))
			return nil
		})
	})
	return f, infos, err
}

// ReadMessage returns the bytes as they were delivered: NotFound.
func (s *Store) ReadMessage(ctx context.Context, acct hisp.Address, folder string, uid uint32) (hisp.Message, error) {
	const name = "bolt.ReadMessage"
	var raw []byte
	var ref bodyRef
	err := s.view(ctx, name, func(tx *bbolt.Tx) error {
		key := s.b.account(acct)
		f, err := s.mustFolder(tx, name, key, folderName(folder))
		if err != nil {
			return err
		}
		m, err := s.message(tx, key, f, uid)
		if err != nil {
			return err
		}
		if m == nil {
			return fail(name, hisp.NotFound, "there is no such message")
		}
		if ref = m.body; ref.file {
			return nil // read outside the transaction
		}
		raw, err = s.bodies.read(tx, ref)
		return err
	})
	if err == nil && ref.file {
		raw, err = s.bodies.read(nil, ref)
	}
	return hisp.NewMessage(raw), wrapErr(name, err)
}

// Append stores msg in a folder: NotFound, Full.
func (s *Store) Append(ctx context.Context, acct hisp.Address, folder string, msg hisp.Message, flags []string, received time.Time) (store.Folder, store.MessageInfo, error) {
	const name = "bolt.Append"
	if s.low() {
		return store.Folder{}, store.MessageInfo{}, fail(name, hisp.Full, hintFull)
	}
	flags, err := cleanFlags(name, flags)
	if err != nil {
		return store.Folder{}, store.MessageInfo{}, err
	}
	if received.IsZero() {
		received = s.now()
	}
	body, err := s.bodies.prepare(msg.Bytes())
	if err != nil {
		return store.Folder{}, store.MessageInfo{}, wrapErr(name, err)
	}
	key := s.b.account(acct)
	var f *store.Folder
	var info store.MessageInfo
	err = s.commit.do(ctx, &op{name: name, grows: true, octets: len(body.sealed),
		check: func(tx *bbolt.Tx) (err error) {
			if f, err = s.mustFolder(tx, name, key, folderName(folder)); err == nil {
				err = s.checkRoom(tx, name, key, msg.Size())
			}
			return err
		},
		write: func(tx *bbolt.Tx, b *batch) error {
			m := &storedMessage{Flags: flags, Received: received.UTC(), body: body.bodyRef}
			uid, err := s.addMessage(tx, b, key, f, m)
			if err != nil {
				return err
			}
			info = m.info(uid)
			body.refs = 1
			if err := s.bodies.put(tx, body); err != nil {
				return err
			}
			return s.putFolder(tx, key, f)
		},
	})
	s.bodies.settle(body, err == nil)
	if err != nil {
		return store.Folder{}, store.MessageInfo{}, err
	}
	return *f, info, nil
}

// SetFlags changes flags and returns the messages among uids as they are then.
// Only messages whose flags really change get a new modification sequence.
func (s *Store) SetFlags(ctx context.Context, acct hisp.Address, folder string, uids []uint32, fop store.FlagOp, flags []string) ([]store.MessageInfo, error) {
	const name = "bolt.SetFlags"
	flags, err := cleanFlags(name, flags)
	if err != nil {
		return nil, err
	}
	key := s.b.account(acct)
	var infos []store.MessageInfo
	var f *store.Folder
	err = s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) (err error) {
			f, err = s.mustFolder(tx, name, key, folderName(folder))
			return err
		},
		write: func(tx *bbolt.Tx, b *batch) error {
			infos = infos[:0]
			before := f.HighestModSeq
			for _, uid := range sorted(uids) {
				m, err := s.message(tx, key, f, uid)
				if err != nil {
					return err
				}
				if m == nil {
					continue
				}
				if err := s.setFlags(tx, key, f, uid, m, fop, flags); err != nil {
					return err
				}
				infos = append(infos, m.info(uid))
			}
			if f.HighestModSeq == before {
				return nil
			}
			b.wake = append(b.wake, watchKey{key, f.Name})
			return s.putFolder(tx, key, f)
		},
	})
	return infos, err
}

func (s *Store) setFlags(tx *bbolt.Tx, key acctKey, f *store.Folder, uid uint32, m *storedMessage, fop store.FlagOp, flags []string) error {
	want := combine(m.Flags, fop, flags)
	if len(want) > maxFlags {
		return fail("bolt.SetFlags", hisp.TooLarge, "a message has at most 64 flags")
	}
	if slices.Equal(want, m.Flags) {
		return nil
	}
	count(f, m, -1)
	m.Flags = want
	count(f, m, 1)
	f.HighestModSeq++
	m.ModSeq = f.HighestModSeq
	return s.putMessage(tx, key, f, uid, m)
}

// combine applies fop to sorted flags.
func combine(have []string, fop store.FlagOp, flags []string) []string {
	var out []string
	switch fop {
	case store.FlagsAdd:
		out = append(slices.Clone(have), flags...)
	case store.FlagsRemove:
		out = slices.DeleteFunc(slices.Clone(have), func(h string) bool {
			return slices.ContainsFunc(flags, func(r string) bool { return strings.EqualFold(h, r) })
		})
	default:
		out = slices.Clone(flags)
	}
	slices.Sort(out)
	return compactFold(out)
}

// compactFold removes what differs from an earlier flag in case only: flags
// are compared without case (RFC 9051 §2.3.2).
func compactFold(flags []string) []string {
	var out []string
	for _, f := range flags {
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, f) }) {
			out = append(out, f)
		}
	}
	return out
}

// systemFlags are kept in this spelling.
var systemFlags = [...]string{flagSeen, `\Answered`, `\Flagged`, flagDeleted, `\Draft`}

// cleanFlags gives flags their one spelling, sorted, without \Recent.
func cleanFlags(name string, flags []string) ([]string, error) {
	if len(flags) > maxFlags {
		return nil, fail(name, hisp.TooLarge, "a message has at most 64 flags")
	}
	var out []string
	for _, f := range flags {
		if f == "" || len(f) > maxFlagName {
			return nil, fail(name, hisp.Malformed, "a flag has 1 to 64 octets")
		}
		for _, known := range systemFlags {
			if strings.EqualFold(f, known) {
				f = known
			}
		}
		if !strings.EqualFold(f, flagRecent) {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return compactFold(out), nil
}

// sorted returns uids in order, each once.
func sorted(uids []uint32) []uint32 {
	s := slices.Clone(uids)
	slices.Sort(s)
	return slices.Compact(s)
}

// CopyMessages copies or moves messages in one step. A copy shares the body.
// NotFound, Full.
func (s *Store) CopyMessages(ctx context.Context, acct hisp.Address, from string, uids []uint32, to string, mode store.CopyMode) (store.Folder, []store.UIDPair, error) {
	const name = "bolt.CopyMessages"
	key := s.b.account(acct)
	var src, dst *store.Folder
	var pairs []store.UIDPair
	err := s.commit.do(ctx, &op{name: name, grows: mode == store.Copy,
		check: func(tx *bbolt.Tx) (err error) {
			if src, err = s.mustFolder(tx, name, key, folderName(from)); err != nil {
				return err
			}
			if dst, err = s.mustFolder(tx, name, key, folderName(to)); err != nil {
				return err
			}
			if src.UIDValidity == dst.UIDValidity {
				dst = src // one record for both roles
			}
			if mode == store.Move {
				return nil
			}
			return s.checkCopyRoom(tx, key, src, uids)
		},
		write: func(tx *bbolt.Tx, b *batch) (err error) {
			if pairs, err = s.copyInto(tx, b, key, src, sorted(uids), dst, mode); err != nil || len(pairs) == 0 {
				return err
			}
			if err := s.putFolder(tx, key, src); err != nil {
				return err
			}
			return s.putFolder(tx, key, dst)
		},
	})
	if err != nil {
		return store.Folder{}, nil, err
	}
	return *dst, pairs, nil
}

func (s *Store) checkCopyRoom(tx *bbolt.Tx, key acctKey, src *store.Folder, uids []uint32) error {
	var size int64
	for _, uid := range sorted(uids) {
		m, err := s.message(tx, key, src, uid)
		if err != nil {
			return err
		}
		if m != nil {
			size += m.body.size
		}
	}
	return s.checkRoom(tx, "bolt.CopyMessages", key, size)
}

func (s *Store) copyInto(tx *bbolt.Tx, b *batch, key acctKey, src *store.Folder, uids []uint32, dst *store.Folder, mode store.CopyMode) ([]store.UIDPair, error) {
	var pairs []store.UIDPair
	for _, uid := range uids {
		m, err := s.message(tx, key, src, uid)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		if err := s.bodies.addRefs(tx, m.body, 1); err != nil {
			return nil, err
		}
		c := *m
		to, err := s.addMessage(tx, b, key, dst, &c)
		if err != nil {
			return nil, err
		}
		if mode == store.Move {
			if err := s.dropMessage(tx, b, key, src, uid, m); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, store.UIDPair{From: uid, To: to})
	}
	if mode == store.Move && len(pairs) > 0 {
		src.HighestModSeq++
		b.wake = append(b.wake, watchKey{key, src.Name})
	}
	return pairs, nil
}

// Expunge removes the messages among uids that have \Deleted, or all such
// messages when uids is nil, and returns their UIDs.
func (s *Store) Expunge(ctx context.Context, acct hisp.Address, folder string, uids []uint32) ([]uint32, error) {
	const name = "bolt.Expunge"
	key := s.b.account(acct)
	var f *store.Folder
	var removed []uint32
	err := s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) (err error) {
			f, err = s.mustFolder(tx, name, key, folderName(folder))
			return err
		},
		write: func(tx *bbolt.Tx, b *batch) (err error) {
			removed, err = s.expunge(tx, b, key, f, uids)
			return err
		},
	})
	return removed, err
}

func (s *Store) expunge(tx *bbolt.Tx, b *batch, key acctKey, f *store.Folder, uids []uint32) ([]uint32, error) {
	if f.Deleted == 0 {
		return nil, nil
	}
	if uids == nil {
		var err error
		if uids, err = s.uids(tx, key, f); err != nil {
			return nil, err
		}
	}
	var removed []uint32
	for _, uid := range sorted(uids) {
		m, err := s.message(tx, key, f, uid)
		if err != nil {
			return nil, err
		}
		if m == nil || !m.has(flagDeleted) {
			continue
		}
		if err := s.dropMessage(tx, b, key, f, uid, m); err != nil {
			return nil, err
		}
		removed = append(removed, uid)
	}
	if len(removed) == 0 {
		return nil, nil
	}
	f.HighestModSeq++
	b.wake = append(b.wake, watchKey{key, f.Name})
	return removed, s.putFolder(tx, key, f)
}
