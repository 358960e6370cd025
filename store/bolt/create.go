package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Files of the data folder.
const (
	dbName      = "hisp.db"
	lockName    = "lock"
	bodiesName  = "bodies"
	headsName   = "audit.heads"
	reserveName = "reserve"
)

// schemaVersion is raised by every change an older node would misread.
const schemaVersion = 1

const (
	dirMode  = 0o700
	fileMode = 0o600

	// mmapSize is address space, not memory: with it the database grows to 8
	// GiB before bbolt must remap, for which it stops all readers.
	mmapSize = 8 << 30

	lockPoll = 25 * time.Millisecond
)

var (
	metaBucket = []byte("meta")
	keySchema  = []byte("schema")
	keyDataKey = []byte("datakey")
	keyUIDVal  = []byte("uidvalidity")
)

// lockDir takes the folder's lock: exclusive, or shared when ReadOnly.
func lockDir(o Options) (*os.File, error) {
	const op = "bolt.Open"
	flags, how := os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	if o.ReadOnly {
		how = syscall.LOCK_SH
	}
	if o.Create && !o.ReadOnly {
		if err := os.MkdirAll(o.Dir, dirMode); err != nil {
			return nil, wrapErr(op, err)
		}
	} else if err := isThere(o); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(o.Dir, lockName), flags, fileMode)
	if err != nil {
		return nil, wrapErr(op, err)
	}
	for deadline := time.Now().Add(o.LockTimeout); ; {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			if err = noteOwner(f, o); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(deadline) {
			return nil, errors.Join(lockedError(f), f.Close())
		}
		<-time.After(lockPoll)
	}
}

// isThere tells whether the folder holds a store, before anything is written.
func isThere(o Options) error {
	_, err := os.Stat(filepath.Join(o.Dir, dbName))
	if errors.Is(err, fs.ErrNotExist) {
		return fail("bolt.Open", hisp.NotFound, "there is no store in the data folder: hisp init makes one, hisp restore brings one back")
	}
	return wrapErr("bolt.Open", err)
}

func noteOwner(f *os.File, o Options) error {
	if o.ReadOnly {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return wrapErr("bolt.Open", err)
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	if isNoSpaceOrNil(err) {
		return nil // the number is only a help for the reader of a hint
	}
	return wrapErr("bolt.Open", err)
}

func isNoSpaceOrNil(err error) bool { return err == nil || isNoSpace(err) }

func lockedError(f *os.File) error {
	hint := "the data folder is locked by another process"
	var b [16]byte
	if n, _ := f.ReadAt(b[:], 0); n > 0 {
		hint += " (pid " + strings.TrimSpace(string(b[:n])) + ")"
	}
	return fail("bolt.Open", hisp.Conflict, hint+": stop it, or use its control socket")
}

// ensureCreated makes the database when the folder has none. A crash at any
// moment leaves either none or a whole one: it is made under another name,
// synced, renamed, and the folder synced (bbolt issue 567).
func (s *Store) ensureCreated(path string) error {
	const op = "bolt.Open"
	_, err := os.Stat(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return wrapErr(op, err)
	}
	if !s.opts.Create { // it went between two looks
		return isThere(s.opts)
	}
	if left, _ := filepath.Glob(filepath.Join(s.opts.Dir, bodiesName, "*", "*")); len(left) > 0 {
		return fail(op, hisp.Conflict,
			"the data folder has message bodies but no database: restore a backup, or choose an empty folder")
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return wrapErr(op, err)
	}
	if err := createDB(tmp, s.opts); err != nil {
		return wrapErr(op, errors.Join(err, os.Remove(tmp)))
	}
	if err := os.Rename(tmp, path); err != nil {
		return wrapErr(op, err)
	}
	return wrapErr(op, syncDir(s.opts.Dir))
}

func createDB(path string, o Options) error {
	db, err := bbolt.Open(path, fileMode, &bbolt.Options{Timeout: o.LockTimeout})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range bucketNames {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if err := meta.Put(keySchema, binary.BigEndian.AppendUint32(nil, schemaVersion)); err != nil {
			return err
		}
		return meta.Put(keyDataKey, store.NewDataKey().Wrap(o.MasterKey))
	})
	return errors.Join(err, db.Sync(), db.Close())
}

// openDB opens the database after a look at its pages, and returns the file
// too, which closing the database closes.
func openDB(path string, o Options) (db *bbolt.DB, file *os.File, err error) {
	if err := checkFile(path); err != nil {
		return nil, nil, err
	}
	options := &bbolt.Options{
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, perm)
			return file, err
		},
		Timeout:  o.LockTimeout,
		ReadOnly: o.ReadOnly,
		// Writing the free list with each commit costs more than the message
		// once many pages are free; Close writes it, and after a crash it is
		// made again from the pages.
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mmapSize,
	}
	err = guard(func() (err error) {
		db, err = bbolt.Open(path, fileMode, options)
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, nil, fail("bolt.Open", hisp.Conflict, "the database is locked by another process: stop it first")
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, nil, &hisp.Error{Op: "bolt.Open", Kind: hisp.Malformed, Hint: hintDamaged, Err: err}
	case err != nil:
		return nil, nil, wrapErr("bolt.Open", err)
	}
	return db, file, nil
}

// readMeta checks the schema and unwraps the data key. It writes nothing.
func readMeta(db *bbolt.DB, master store.MasterKey) (*store.DataKey, error) {
	const op = "bolt.Open"
	var key *store.DataKey
	err := viewDB(db, func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil || len(meta.Get(keySchema)) != 4 {
			return fail(op, hisp.Malformed, "the database was not made by this node: choose another data folder")
		}
		if v := binary.BigEndian.Uint32(meta.Get(keySchema)); v > schemaVersion {
			return fail(op, hisp.Refused, fmt.Sprintf(
				"the store has schema %d, this version of hisp knows %d: use a newer hisp; nothing was changed", v, schemaVersion))
		}
		var err error
		key, err = store.UnwrapDataKey(master, meta.Get(keyDataKey))
		return err
	})
	return key, wrapErr(op, err)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
