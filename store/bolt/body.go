package bolt

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// inlineMax is the largest body kept in the database. Below it one sync less
// beats writing the bytes once more; above it copying pages costs more than a
// file (20 KB: 3668 against 2446 messages/s; 1 MiB: 184 against 353).
const inlineMax = 64 << 10 // octets

// fileChunk is sealed at once in a body file, so that a large message is not
// in memory twice.
const fileChunk = 1 << 20 // octets

// bodyRef says where a message is. The zero bodyRef is an empty message.
type bodyRef struct {
	id   uint64 // 0 is none
	size int64  // octets of the plain message
	file bool
}

func (r bodyRef) key() []byte { return binary.BigEndian.AppendUint64(nil, r.id) }

// body is a message ready to be stored: sealed, and already on disk when it is
// a file.
type body struct {
	bodyRef
	sealed []byte // inline
	refs   uint32 // counted while the transaction is written
}

// bodyStore writes, reads and removes message bodies.
type bodyStore struct {
	s      *Store
	dir    string
	files  *store.Sealer
	next   atomic.Uint64 // last number given out
	reaper sync.WaitGroup

	dirMu sync.Mutex
	dirs  map[string]bool // folders known to be on disk

	mu       sync.Mutex
	inflight map[uint64]struct{} // files not yet committed
	pins     int                 // backups that may still read removed files
	doomed   []bodyRef
	work     chan struct{}
	closed   bool
}

func newBodyStore(s *Store, key *store.DataKey) *bodyStore {
	return &bodyStore{s: s, dir: filepath.Join(s.opts.Dir, bodiesName), files: key.Sealer("body files"),
		inflight: map[uint64]struct{}{}, dirs: map[string]bool{}, work: make(chan struct{}, 1)}
}

func bodyPath(dir string, id uint64) string {
	name := hex.EncodeToString(binary.BigEndian.AppendUint64(nil, id))
	return filepath.Join(dir, name[len(name)-2:], name)
}

// prepare seals raw under a new number and writes it when it is large. The
// caller must call settle when the outcome of the commit is known.
func (bs *bodyStore) prepare(raw []byte) (*body, error) {
	b := &body{bodyRef: bodyRef{size: int64(len(raw))}}
	if len(raw) == 0 {
		return b, nil
	}
	b.id = bs.next.Add(1)
	if len(raw) <= inlineMax {
		b.sealed = bs.s.b.bodies.seal(b.key(), raw)
		return b, nil
	}
	b.file = true
	bs.mu.Lock()
	bs.inflight[b.id] = struct{}{}
	bs.mu.Unlock()
	if err := bs.writeFile(b.bodyRef, raw); err != nil {
		bs.settle(b, false)
		return nil, err
	}
	return b, nil
}

// settle ends a prepared body: a file that was not committed is removed.
func (bs *bodyStore) settle(b *body, committed bool) {
	if !b.file {
		return
	}
	bs.mu.Lock()
	delete(bs.inflight, b.id)
	bs.mu.Unlock()
	if !committed || b.refs == 0 {
		bs.remove([]bodyRef{b.bodyRef})
	}
}

// writeFile makes the file durable before anything refers to it. A failed sync
// ends the process (die).
func (bs *bodyStore) writeFile(r bodyRef, raw []byte) error {
	path := bodyPath(bs.dir, r.id)
	tmp := path + ".tmp"
	if err := bs.ensureDir(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	err = bs.writeChunks(f, r, raw)
	if err == nil {
		err = f.Sync()
		if err != nil {
			bs.s.die(err)
		}
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		if rmErr := os.Remove(tmp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
		if !isNoSpace(err) && errors.Is(err, syscall.EIO) {
			bs.s.die(err)
		}
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		bs.s.die(err)
		return err
	}
	return nil
}

func (bs *bodyStore) writeChunks(w io.Writer, r bodyRef, raw []byte) error {
	buf := make([]byte, 0, min(len(raw), fileChunk)+store.SealOverhead)
	for i := uint32(0); len(raw) > 0; i++ {
		n := min(len(raw), fileChunk)
		buf = bs.files.Seal(buf[:0], raw[:n], chunkPlace(r, i))
		if _, err := w.Write(buf); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}

// chunkPlace binds a chunk to its body, its position and the body's size.
func chunkPlace(r bodyRef, i uint32) []byte {
	b := binary.BigEndian.AppendUint64(r.key(), uint64(r.size))
	return binary.BigEndian.AppendUint32(b, i)
}

// read returns the plain message. A body file may be gone when its message was
// removed meanwhile: NotFound.
func (bs *bodyStore) read(tx *bbolt.Tx, r bodyRef) ([]byte, error) {
	switch {
	case r.id == 0:
		return nil, nil
	case r.file:
		return bs.readFile(bs.dir, r)
	}
	plain, err := bs.s.b.bodies.get(tx, r.key())
	if err == nil && int64(len(plain)) != r.size {
		err = fail("bolt", hisp.Internal, "a message body is missing: run hisp verify")
	}
	return plain, err
}

func (bs *bodyStore) readFile(dir string, r bodyRef) ([]byte, error) {
	f, err := os.Open(bodyPath(dir, r.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail("bolt", hisp.NotFound, "the message body is gone")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain := make([]byte, 0, r.size)
	buf := make([]byte, min(r.size, fileChunk)+store.SealOverhead)
	in := bufio.NewReaderSize(f, 16)
	for i := uint32(0); int64(len(plain)) < r.size; i++ {
		n := min(r.size-int64(len(plain)), fileChunk) + store.SealOverhead
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return nil, damagedBody(err)
		}
		if plain, err = bs.files.Open(plain, buf[:n], chunkPlace(r, i)); err != nil {
			return nil, damagedBody(err)
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return nil, damagedBody(errors.New("octets after the end"))
	}
	return plain, nil
}

func damagedBody(err error) error {
	return &hisp.Error{Op: "bolt", Kind: hisp.Internal, Hint: "a message body is damaged: run hisp verify", Err: err}
}

// put stores an inline body and the number of its references.
func (bs *bodyStore) put(tx *bbolt.Tx, b *body) error {
	if b.id == 0 || b.refs == 0 {
		return nil
	}
	bodies := tx.Bucket(bs.s.b.bodies.name)
	if b.id > bodies.Sequence() {
		if err := bodies.SetSequence(b.id); err != nil {
			return err
		}
	}
	if !b.file {
		if err := bodies.Put(b.key(), b.sealed); err != nil {
			return err
		}
	}
	return bs.setRefs(tx, b.bodyRef, b.refs)
}

// A body without an entry in refs has one reference: the common case needs no
// write of its own.
func (bs *bodyStore) refs(tx *bbolt.Tx, r bodyRef) uint32 {
	if v := tx.Bucket([]byte(bRefs)).Get(r.key()); len(v) == 4 {
		return binary.BigEndian.Uint32(v)
	}
	return 1
}

func (bs *bodyStore) setRefs(tx *bbolt.Tx, r bodyRef, n uint32) error {
	b := tx.Bucket([]byte(bRefs))
	if n <= 1 {
		if b.Get(r.key()) == nil {
			return nil
		}
		return b.Delete(r.key())
	}
	return b.Put(r.key(), binary.BigEndian.AppendUint32(nil, n))
}

func (bs *bodyStore) addRefs(tx *bbolt.Tx, r bodyRef, n uint32) error {
	if r.id == 0 || n == 0 {
		return nil
	}
	return bs.setRefs(tx, r, bs.refs(tx, r)+n)
}

// unref takes one reference away and the body with the last one.
func (bs *bodyStore) unref(tx *bbolt.Tx, b *batch, r bodyRef) error {
	if r.id == 0 {
		return nil
	}
	if n := bs.refs(tx, r); n > 1 {
		return bs.setRefs(tx, r, n-1)
	}
	if r.file {
		b.removed = append(b.removed, r)
		return nil
	}
	return bs.s.b.bodies.delete(tx, r.key())
}

// start begins the removal of files in the background.
func (bs *bodyStore) start() {
	bs.reaper.Go(func() {
		for range bs.work {
			bs.reap()
		}
		bs.reap()
	})
}

func (bs *bodyStore) stop() {
	bs.mu.Lock()
	bs.closed = true
	close(bs.work)
	bs.mu.Unlock()
	bs.reaper.Wait()
}

// remove deletes files nothing refers to, later and outside the committer. A
// crash before leaves orphans, which the next Open removes.
func (bs *bodyStore) remove(rs []bodyRef) {
	if len(rs) == 0 {
		return
	}
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.doomed = append(bs.doomed, rs...)
	bs.signal()
}

func (bs *bodyStore) signal() {
	if bs.closed {
		return
	}
	select {
	case bs.work <- struct{}{}:
	default:
	}
}

// expected tells whether a file without reference is on its way in or out.
func (bs *bodyStore) expected(id uint64) bool {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	_, in := bs.inflight[id]
	return in || slices.ContainsFunc(bs.doomed, func(r bodyRef) bool { return r.id == id })
}

// pin keeps removed files on disk until unpin.
func (bs *bodyStore) pin() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.pins++
}

func (bs *bodyStore) unpin() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.pins--
	bs.signal()
}

func (bs *bodyStore) reap() {
	bs.mu.Lock()
	if bs.pins > 0 {
		bs.mu.Unlock()
		return
	}
	doomed := bs.doomed
	bs.doomed = nil
	bs.mu.Unlock()
	for _, r := range doomed {
		if err := os.Remove(bodyPath(bs.dir, r.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			bs.s.log.Warn("a body file was not removed", "op", "bolt", "err", err)
		}
	}
}

// load finds the last number used and removes the files no record refers to:
// those of steps that a crash cut short.
func (bs *bodyStore) load(tx *bbolt.Tx) error {
	bs.next.Store(tx.Bucket(bs.s.b.bodies.name).Sequence())
	found, err := listBodies(bs.dir)
	if err != nil || len(found) == 0 {
		return err
	}
	used, err := bs.s.referencedFiles(tx)
	if err != nil {
		return err
	}
	removed := 0
	for _, f := range found {
		bs.next.Store(max(bs.next.Load(), f.id))
		if _, ok := used[f.id]; ok && !f.temporary {
			continue
		}
		if err := os.Remove(f.path); err != nil {
			return err
		}
		removed++
	}
	if removed > 0 {
		bs.s.log.Info("removed body files of steps cut short", "op", "bolt.Open", "count", removed)
	}
	return nil
}

// ensureDir makes the folder of a body durable before its first use in this
// process; another goroutine that needs it waits for the sync too.
func (bs *bodyStore) ensureDir(dir string) error {
	bs.dirMu.Lock()
	defer bs.dirMu.Unlock()
	if bs.dirs[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	if err := errors.Join(syncDir(bs.dir), syncDir(filepath.Dir(bs.dir))); err != nil {
		bs.s.die(err)
		return err
	}
	bs.dirs[dir] = true
	return nil
}

type foundBody struct {
	id        uint64
	path      string
	temporary bool
}

// listBodies lists the body files of a folder, temporary ones too.
func listBodies(dir string) ([]foundBody, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		return nil, err
	}
	var found []foundBody
	for _, p := range paths {
		name, temporary := strings.CutSuffix(filepath.Base(p), ".tmp")
		raw, err := hex.DecodeString(name)
		if err != nil || len(raw) != 8 {
			continue // not ours
		}
		found = append(found, foundBody{binary.BigEndian.Uint64(raw), p, temporary})
	}
	return found, nil
}
