// Package bolt is the embedded backend of store.Store: one bbolt database for
// metadata, queue and bodies up to 64 KB, and one file for each larger body.
// All changes go through one committer that puts whatever waits into one
// transaction, so that a Commit costs a share of an fsync.
//
// Values are sealed under a data key (store.Sealer) that is itself wrapped by
// the master key; bucket keys made from names of people or Message-IDs are
// HMACs. In the clear are: names of our domains, identifiers of the node's own
// making, times of queue markers, and the plain fields of the audit trail.
//
// The package is for one process at a time. It does no replication and does
// not roll the audit trail over.
package bolt

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Defaults of Options.
const (
	defaultLockTimeout = 2 * time.Second
	defaultReserve     = 32 << 20 // octets
	defaultParallel    = 2        // password checks at once
)

// Options say how to open a store.
type Options struct {
	Dir       string          // data folder
	MasterKey store.MasterKey // kept outside Dir
	Create    bool            // make the folder, with mode 0700, and the store when there is none
	ReadOnly  bool            // for verify and list beside no running node; nothing is written

	Clock       hisp.Clock    // time.Now if nil
	Log         *slog.Logger  // discarded if nil
	LockTimeout time.Duration // how long to wait for another process, 2 s if 0

	// Reserve is the disk space in octets kept for audit records, expunging
	// and finishing what was accepted, when new mail is refused as Full. 32
	// MiB if 0.
	Reserve int64

	// PasswordChecks is how many argon2id checks run at once, 2 if 0.
	PasswordChecks int

	// Fatal is called when the disk can no longer be trusted: a failed fsync
	// or an I/O error, or when a transaction meets a damaged page. It must not return in production; the default logs and
	// ends the process, because retrying an fsync can lose data silently.
	Fatal func(error)
}

// Store is the backend. It implements store.Store.
type Store struct {
	opts    Options
	clock   hisp.Clock
	log     *slog.Logger
	db      *bbolt.DB
	file    *os.File // of db, which closes it
	lock    *os.File
	b       buckets
	pw      *store.Passwords
	index   *dueIndex
	watch   *watchers
	bodies  *bodyStore
	keys    *keyIndex
	anchors *anchorCache
	commit  *committer
	space   *reserve
	heads   *headsFile
	failed  atomic.Bool
	full    atomic.Bool // new mail is refused for lack of room
	lost    atomic.Bool // the database file is not in the folder
	closed  sync.Once
}

var (
	_ store.Store       = (*Store)(nil)
	_ store.Maintenance = (*Store)(nil)
)

// Open opens the store in o.Dir. Only with Create does it make one: a typing
// error in the path or a volume that is not mounted must not become an empty
// node that takes mail.
// Errors: Conflict when another process has it open; Denied when the master
// key is not the one it was created with; Refused when a newer version of the
// node wrote it, and then the files are untouched; NotFound when there is none
// and Create is not set, and then nothing is written.
func Open(o Options) (*Store, error) {
	o = withDefaults(o)
	lock, err := lockDir(o)
	if err != nil {
		return nil, err
	}
	s := &Store{opts: o, clock: o.Clock, log: o.Log, lock: lock,
		pw: store.NewPasswords(o.PasswordChecks), watch: newWatchers()}
	if err := s.open(); err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

func withDefaults(o Options) Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = defaultLockTimeout
	}
	if o.Reserve == 0 {
		o.Reserve = defaultReserve
	}
	if o.PasswordChecks == 0 {
		o.PasswordChecks = defaultParallel
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) {
			o.Log.Error("the disk failed: ending the process", "op", "bolt", "err", err, "hint", hisp.HintOf(err))
			os.Exit(1)
		}
	}
	return o
}

func (s *Store) open() error {
	path := filepath.Join(s.opts.Dir, dbName)
	if err := s.ensureCreated(path); err != nil {
		return err
	}
	db, file, err := openDB(path, s.opts)
	if err != nil {
		return err
	}
	s.db, s.file = db, file
	key, err := readMeta(db, s.opts.MasterKey)
	if err != nil {
		return err
	}
	s.b = newBuckets(key)
	s.bodies = newBodyStore(s, key)
	s.commit = newCommitter(s)
	s.index = newDueIndex(s.clock)
	s.keys, s.anchors = newKeyIndex(), newAnchorCache()
	if err := s.load(); err != nil {
		return err
	}
	if s.opts.ReadOnly {
		return nil
	}
	if s.space, err = openReserve(s.opts, s.freePages); err != nil {
		return err
	}
	if err := s.openHeads(); err != nil {
		return err
	}
	s.bodies.start()
	s.commit.start()
	return nil
}

// load reads what lives in memory: the due index, the next body number and
// the head of the audit trail; it removes bodies nothing refers to.
func (s *Store) load() error {
	err := viewDB(s.db, func(tx *bbolt.Tx) error {
		if err := s.loadHead(tx); err != nil {
			return err
		}
		if err := s.loadQueue(tx); err != nil {
			return err
		}
		if err := s.loadKeys(tx); err != nil {
			return err
		}
		if s.opts.ReadOnly {
			return nil
		}
		return s.bodies.load(tx)
	})
	return wrapErr("bolt.Open", err)
}

// Close waits for the commit in progress, notes the head of the audit trail
// and closes the files. Leases end; later calls are Temporary.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() {
		s.index.close()
		if !s.opts.ReadOnly {
			s.commit.stop()
			s.bodies.stop()
			err = errors.Join(s.closeHeads(), s.syncFreelist())
		}
		err = errors.Join(err, s.db.Close(), s.lock.Close())
	})
	return err
}

// freePages is the room inside the database in octets.
func (s *Store) freePages() int64 {
	st := s.db.Stats()
	return int64(st.FreePageN+st.PendingPageN) * int64(os.Getpagesize())
}

// syncFreelist writes the list of free pages, which commits leave out, so that
// the next Open need not walk the whole database.
func (s *Store) syncFreelist() error {
	if s.failed.Load() {
		return nil
	}
	s.db.NoFreelistSync = false
	return guard(func() error { return s.db.Update(func(tx *bbolt.Tx) error { return nil }) })
}

// view runs fn in a read transaction. fn must copy out what it returns and
// never wait for a peer.
func (s *Store) view(ctx context.Context, op string, fn func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := viewDB(s.db, fn)
	if isDamage(err) {
		s.die(err)
	}
	return wrapErr(op, err)
}

// viewDB is db.View for a file that may be damaged.
func viewDB(db *bbolt.DB, fn func(tx *bbolt.Tx) error) error {
	return guard(func() error { return db.View(fn) })
}

func (s *Store) now() time.Time { return s.clock().UTC() }
