package bolt

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// reserve keeps disk space for what must not fail when the disk is full: audit
// records, expunging, putting items back. It refuses new mail while less is
// free than the reserve, and holds half of it in a file that is emptied when
// the disk is full all the same, because others write there too.
type reserve struct {
	dir  string
	path string
	size int64 // octets of the file
	free int64 // octets that must be free for new mail

	inside func() int64 // octets of free pages in the database

	used atomic.Bool // the file was emptied
	mu   sync.Mutex
}

func openReserve(o Options, inside func() int64) (*reserve, error) {
	r := &reserve{inside: inside, dir: o.Dir, path: filepath.Join(o.Dir, reserveName), size: o.Reserve / 2, free: o.Reserve}
	st, err := os.Stat(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, wrapErr("bolt.Open", err)
	}
	if err != nil || st.Size() != r.size {
		r.used.Store(true)
		if !r.low() {
			return r, nil // made
		}
	}
	return r, nil
}

// low tells whether new mail must be refused. Free pages inside the database
// count as room. When there is room on the disk again it makes the file again.
func (r *reserve) low() bool {
	if r == nil {
		return false
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return false // the write itself will tell
	}
	room := int64(st.Bavail) * st.Bsize
	if room+r.inside() < r.free {
		return true
	}
	if r.used.Load() && room >= r.free+r.size {
		return r.refill() != nil
	}
	return false
}

// low is reserve.low and tells the log when new mail begins to be refused and
// when it is taken again, once each.
func (s *Store) low() bool {
	low := s.space.low()
	if s.full.Swap(low) != low {
		if low {
			s.log.Error("the disk is full: new mail is refused", "op", "bolt", "reserve", s.opts.Reserve, "hint", "free space on the volume of the data folder")
		} else {
			s.log.Warn("there is room on the disk again: new mail is taken", "op", "bolt")
		}
	}
	return low
}

// release frees the file's space.
func (r *reserve) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used.Swap(true) {
		_ = os.Truncate(r.path, 0) // on failure the next write fails as this one did
	}
}

// refill writes the file with real blocks.
func (r *reserve) refill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used.Load() {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	if err = unix.Fallocate(int(f.Fd()), 0, 0, r.size); errors.Is(err, unix.EOPNOTSUPP) {
		err = writeRandom(f, r.size)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Truncate(r.path, 0))
	}
	r.used.Store(false)
	return nil
}

// writeRandom fills f with octets no file system packs.
func writeRandom(f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	if _, err := rand.Read(block); err != nil {
		return err
	}
	for ; size > 0; size -= int64(len(block)) {
		if _, err := f.Write(block[:min(size, int64(len(block)))]); err != nil {
			return err
		}
	}
	return nil
}
