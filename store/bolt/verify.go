package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// maxFindings bounds a report; a ruined store has one for each record.
const maxFindings = 1000

// Areas of findings.
const (
	areaDatabase = "database"
	areaRecords  = "records"
	areaBodies   = "bodies"
	areaFolders  = "folders"
	areaQueue    = "queue"
	areaTracks   = "tracks"
	areaAudit    = "audit"
)

// verifier collects what one Verify sees.
type verifier struct {
	s      *Store
	ctx    context.Context // of the one call this value lives in
	tx     *bbolt.Tx
	report store.Report
	refs   map[bodyRef]uint32
	files  []foundBody
}

// Verify checks the pages of the database, during which writers wait, and then
// in a read transaction that every record opens, every body referred to exists
// and opens, counters and UIDs fit, and the audit trail is whole and reaches
// the heads noted outside.
func (s *Store) Verify(ctx context.Context) (store.Report, error) {
	v := &verifier{s: s, ctx: ctx, refs: map[bodyRef]uint32{}}
	if err := s.quiet(ctx, func() error { return v.pages() }); isDamage(err) {
		cause := errors.Unwrap(err)
		if cause == nil {
			cause = err
		}
		v.find(areaDatabase, "%v: restore a backup", cause)
		return v.report, nil // the records are behind the pages
	} else if err != nil {
		return v.report, wrapErr("bolt.Verify", err)
	}
	s.bodies.pin() // a file removed meanwhile is no finding
	defer s.bodies.unpin()
	files, err := listBodies(s.bodies.dir)
	if err != nil {
		return v.report, wrapErr("bolt.Verify", err)
	}
	for _, f := range files {
		if !s.bodies.expected(f.id) {
			v.files = append(v.files, f)
		}
	}
	err = s.view(ctx, "bolt.Verify", func(tx *bbolt.Tx) error {
		v.tx = tx
		for _, step := range []func() error{v.records, v.queue, v.folders, v.bodies, v.tracks, v.audit} {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	return v.report, err
}

// quiet runs fn while no transaction writes.
func (s *Store) quiet(ctx context.Context, fn func() error) error {
	if s.opts.ReadOnly {
		return fn()
	}
	return s.commit.do(ctx, &op{name: "bolt.Verify", alone: fn})
}

func (v *verifier) find(area, format string, args ...any) {
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, store.Finding{Area: area, Text: fmt.Sprintf(format, args...)})
	}
}

func (v *verifier) findErr(area string, err error) {
	if hint := hisp.HintOf(err); hint != "" {
		v.find(area, "%s", hint)
		return
	}
	v.find(area, "%v", err)
}

func (v *verifier) pages() error {
	if v.s.gone() {
		v.find(areaDatabase, "%s", hintLost)
	}
	if err := v.s.checkPages(); err != nil {
		return err
	}
	return viewDB(v.s.db, func(tx *bbolt.Tx) error {
		for err := range tx.Check(bbolt.WithKVStringer(hiddenKV{})) {
			v.find(areaDatabase, "the database file is damaged: %v: restore a backup", err)
		}
		return nil
	})
}

// checkPages reads all pages in use, without bbolt.
func (s *Store) checkPages() error {
	st, err := s.file.Stat()
	if err != nil {
		return err
	}
	p, err := openPages(s.file, st.Size())
	if err != nil {
		return err
	}
	return p.checkAll()
}

// hiddenKV keeps keys and values out of bbolt's error texts.
type hiddenKV struct{}

func (hiddenKV) KeyToString([]byte) string   { return "a key" }
func (hiddenKV) ValueToString([]byte) string { return "a value" }

// records opens all values of the operator's data.
func (v *verifier) records() error {
	b := &v.s.b
	for _, bucket := range []sealed{b.domains, b.accounts, b.anchors, b.keys} {
		err := v.tx.Bucket(bucket.name).ForEach(func(key, value []byte) error {
			plain, err := bucket.open(key, value)
			if err != nil {
				v.findErr(areaRecords, err)
			} else if !json.Valid(plain) {
				v.find(areaRecords, "a record in bucket %s cannot be read", bucket.name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) queue() error {
	return v.tx.Bucket(v.s.b.queue.name).ForEach(func(key, value []byte) error {
		v.report.Items++
		plain, err := v.s.b.queue.open(key, value)
		if err != nil {
			v.find(areaQueue, "item %s does not open: it cannot be sent", key)
			return nil
		}
		it, err := decodeItem(hisp.ID(key), plain)
		if err != nil {
			v.find(areaQueue, "item %s cannot be read: it cannot be sent", key)
			return nil
		}
		v.refs[it.body]++
		return nil
	})
}

// folders counts the messages of each folder again and compares.
func (v *verifier) folders() error {
	s := v.s
	known := map[string]bool{} // message prefixes of folders that exist
	usage := map[acctKey]int64{}
	err := v.tx.Bucket(s.b.folders.name).ForEach(func(key, value []byte) error {
		plain, err := s.b.folders.open(key, value)
		if err != nil {
			v.findErr(areaFolders, err)
			return nil
		}
		f, err := decodeFolder(plain)
		if err != nil {
			v.findErr(areaFolders, err)
			return nil
		}
		acct := acctKey(key[:16])
		known[string(messagePrefix(acct, f))] = true
		size, err := v.folder(acct, f)
		usage[acct] += size
		return err
	})
	if err != nil {
		return err
	}
	err = v.tx.Bucket(s.b.messages.name).ForEach(func(key, _ []byte) error {
		if len(key) != 24 || !known[string(key[:20])] {
			v.find(areaFolders, "a message belongs to no folder")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.tx.Bucket(s.b.accounts.name).ForEach(func(key, _ []byte) error {
		v.report.Accounts++
		used, err := s.usage(v.tx, acctKey(key))
		if err != nil || used != usage[acctKey(key)] {
			v.find(areaFolders, "an account is counted with %d octets but has %d", used, usage[acctKey(key)])
		}
		if f, err := s.folder(v.tx, acctKey(key), inbox); f == nil || err != nil {
			v.find(areaFolders, "an account has no INBOX")
		}
		return nil
	})
}

func (v *verifier) folder(acct acctKey, f *store.Folder) (size int64, err error) {
	want := store.Folder{Name: f.Name, SpecialUse: f.SpecialUse, Subscribed: f.Subscribed, UIDValidity: f.UIDValidity,
		UIDNext: f.UIDNext, HighestModSeq: f.HighestModSeq}
	prefix := messagePrefix(acct, f)
	c := v.tx.Bucket(v.s.b.messages.name).Cursor()
	for key, value := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, value = c.Next() {
		v.report.Messages++
		plain, err := v.s.b.messages.open(key, value)
		if err != nil {
			v.findErr(areaFolders, err)
			continue
		}
		m, err := decodeMessage(plain)
		if err != nil {
			v.findErr(areaFolders, err)
			continue
		}
		v.refs[m.body]++
		count(&want, m, 1)
		if uid := binary.BigEndian.Uint32(key[len(prefix):]); uid >= f.UIDNext || m.ModSeq > f.HighestModSeq {
			v.find(areaFolders, "a message has a UID or modification sequence above its folder's")
		}
	}
	if want != *f {
		v.find(areaFolders, "the counters of a folder do not fit its messages: %d counted, %d there", f.Messages, want.Messages)
	}
	return want.Size, v.ctx.Err()
}

// bodies reads every body referred to and looks for bodies nobody refers to.
func (v *verifier) bodies() error {
	bs := v.s.bodies
	seen := map[uint64]bool{}
	for r, n := range v.refs {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		if r.id == 0 {
			continue
		}
		seen[r.id] = true
		v.report.Bodies++
		if _, err := bs.read(v.tx, r); err != nil {
			v.find(areaBodies, "body %x: %s", r.id, hisp.HintOf(err))
		}
		if counted := bs.refs(v.tx, r); counted != n {
			v.find(areaBodies, "body %x is counted with %d references but has %d", r.id, counted, n)
		}
	}
	for _, f := range v.files {
		if !seen[f.id] {
			v.report.Orphans++
		}
	}
	return v.tx.Bucket(v.s.b.bodies.name).ForEach(func(key, _ []byte) error {
		if len(key) != 8 || !seen[binary.BigEndian.Uint64(key)] {
			v.find(areaBodies, "body %x is in the database but nothing refers to it", key)
		}
		return nil
	})
}

// tracks checks that each track is in its indexes.
func (v *verifier) tracks() error {
	return v.tx.Bucket(v.s.b.tracks.name).ForEach(func(key, value []byte) error {
		v.report.Tracks++
		plain, err := v.s.b.tracks.open(key, value)
		if err != nil {
			v.findErr(areaTracks, err)
			return nil
		}
		t, err := decodeTrack(plain)
		if err != nil {
			v.findErr(areaTracks, err)
			return nil
		}
		bucket, at := trackTime(&t)
		if v.tx.Bucket([]byte(bucket)).Get(append(at, key...)) == nil {
			v.find(areaTracks, "a track of message %s is not in the index of times: its deadline would pass unseen", t.Message)
		}
		if v.tx.Bucket([]byte(bTrackMsg)).Get(joinKey(string(t.Message), key)) == nil {
			v.find(areaTracks, "a track of message %s is not in the index of messages", t.Message)
		}
		return nil
	})
}

func (v *verifier) audit() error {
	var chain store.Chain
	err := v.tx.Bucket(v.s.b.audit.name).ForEach(func(key, value []byte) error {
		e, err := v.s.decodeEntry(key, value)
		if err != nil {
			v.find(areaAudit, "audit entry %x cannot be read", key)
			return nil
		}
		if err := chain.Next(e); err != nil {
			v.findErr(areaAudit, err)
		}
		if e.Seq != binary.BigEndian.Uint64(key) {
			v.find(areaAudit, "audit entry %d is at the place of another", e.Seq)
		}
		if _, err := v.s.b.audit.sealer.Open(nil, e.Sealed, store.AppendAuditPlain(nil, e.Record)); err != nil {
			v.find(areaAudit, "the private part of audit entry %d does not open", e.Seq)
		}
		if id := e.Record.Message; id != "" && v.tx.Bucket([]byte(bAuditMsg)).Get(joinKey(string(id), key)) == nil {
			v.find(areaAudit, "audit entry %d is not in the index of messages", e.Seq)
		}
		return nil
	})
	if err != nil {
		return err
	}
	v.report.Head = chain.Head()
	noted, err := readHeads(filepath.Join(v.s.opts.Dir, headsName))
	if err != nil {
		return err
	}
	for _, err := range v.s.checkHeads(v.tx, noted) {
		v.findErr(areaAudit, err)
	}
	return nil
}

// eachRef calls fn for every reference to a body: queue items and messages.
func (s *Store) eachRef(tx *bbolt.Tx, fn func(bodyRef)) error {
	err := tx.Bucket(s.b.queue.name).ForEach(func(k, v []byte) error {
		plain, err := s.b.queue.open(k, v)
		if err != nil {
			return err
		}
		e, err := decodeEntry(hisp.ID(k), plain)
		if err == nil {
			fn(e.body)
		}
		return err
	})
	if err != nil {
		return err
	}
	return tx.Bucket(s.b.messages.name).ForEach(func(k, v []byte) error {
		plain, err := s.b.messages.open(k, v)
		if err != nil {
			return err
		}
		m, err := decodeMessage(plain)
		if err == nil {
			fn(m.body)
		}
		return err
	})
}

// referencedFiles returns the numbers of all body files in use.
func (s *Store) referencedFiles(tx *bbolt.Tx) (map[uint64]bodyRef, error) {
	used := map[uint64]bodyRef{}
	err := s.eachRef(tx, func(r bodyRef) {
		if r.file {
			used[r.id] = r
		}
	})
	return used, err
}
