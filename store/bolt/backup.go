package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// manifestName is written last: a backup without it was cut short.
const manifestName = "backup.json"

// manifest says what a backup holds.
type manifest struct {
	Schema int
	Time   time.Time
	Seq    uint64 // of the audit head
	Hash   []byte
	Bodies int // files
}

// Backup writes a copy of the store as it is now into dir. Body files that are
// removed meanwhile stay until the copy has them.
func (s *Store) Backup(ctx context.Context, dir string) error {
	const op = "bolt.Backup"
	if err := emptyDir(op, dir); err != nil {
		return err
	}
	s.bodies.pin()
	defer s.bodies.unpin()
	var files map[uint64]bodyRef
	var head store.AuditHead
	err := s.view(ctx, op, func(tx *bbolt.Tx) (err error) {
		if files, err = s.referencedFiles(tx); err != nil {
			return err
		}
		if head, err = s.readHead(tx); err != nil {
			return err
		}
		return writeDurably(filepath.Join(dir, dbName), func(w io.Writer) error {
			_, err := tx.WriteTo(w)
			return err
		})
	})
	if err != nil {
		return err
	}
	for id := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyBody(s.bodies.dir, filepath.Join(dir, bodiesName), id); err != nil {
			return wrapErr(op, err)
		}
	}
	heads := fmt.Appendf(nil, "%d %x %s\n", head.Seq, head.Hash, s.now().Format(time.RFC3339))
	m, err := json.Marshal(manifest{schemaVersion, s.now(), head.Seq, head.Hash[:], len(files)})
	if err != nil {
		return wrapErr(op, err)
	}
	if head.Seq > 0 {
		err = writeDurably(filepath.Join(dir, headsName), func(w io.Writer) error { _, err := w.Write(heads); return err })
	}
	if err == nil {
		err = writeDurably(filepath.Join(dir, manifestName), func(w io.Writer) error { _, err := w.Write(m); return err })
	}
	return wrapErr(op, err)
}

// Restore makes a store in the missing or empty folder o.Dir from a backup and
// verifies it. Errors: Malformed when the backup is not whole, Denied for a
// wrong master key, Conflict when the folder is not empty.
func Restore(ctx context.Context, from string, o Options) (store.Report, error) {
	const op = "bolt.Restore"
	o = withDefaults(o)
	m, err := readManifest(from)
	if err != nil {
		return store.Report{}, err
	}
	if err := checkBackup(from, o); err != nil {
		return store.Report{}, err
	}
	if err := emptyDir(op, o.Dir); err != nil {
		return store.Report{}, err
	}
	found, err := listBodies(filepath.Join(from, bodiesName))
	if err != nil || len(found) != m.Bodies {
		return store.Report{}, errors.Join(wrapErr(op, err),
			fail(op, hisp.Malformed, fmt.Sprintf("the backup has %d of %d message files", len(found), m.Bodies)))
	}
	for _, f := range found {
		if err := copyBody(filepath.Join(from, bodiesName), filepath.Join(o.Dir, bodiesName), f.id); err != nil {
			return store.Report{}, wrapErr(op, err)
		}
	}
	for _, name := range []string{headsName, dbName} { // the database last: without it there is no store
		if err := copyFile(filepath.Join(from, name), filepath.Join(o.Dir, name)); err != nil && !(name == headsName && errors.Is(err, fs.ErrNotExist)) {
			return store.Report{}, wrapErr(op, err)
		}
	}
	s, err := Open(o)
	if err != nil {
		return store.Report{}, err
	}
	var report store.Report
	if err = s.skipUIDs(ctx); err == nil {
		report, err = s.Verify(ctx)
	}
	return report, errors.Join(err, s.Close())
}

// uidGap is more messages than a folder gets between a backup and its
// restoration.
const uidGap = 1 << 20

// skipUIDs leaves out the UIDs and modification sequences that the lost store
// may have given away after the backup: a client would take other messages for
// the ones it knows (RFC 9051 §2.3.1.1).
func (s *Store) skipUIDs(ctx context.Context) error {
	return s.commit.do(ctx, &op{name: "bolt.Restore", write: func(tx *bbolt.Tx, _ *batch) error {
		changed := map[string]*store.Folder{}
		err := tx.Bucket(s.b.folders.name).ForEach(func(k, v []byte) error {
			plain, err := s.b.folders.open(k, v)
			if err != nil {
				return err
			}
			f, err := decodeFolder(plain)
			if err == nil && f.UIDNext < math.MaxUint32-uidGap {
				f.UIDNext += uidGap
				f.HighestModSeq += uidGap
				changed[string(k)] = f
			}
			return err
		})
		for k, f := range changed {
			if err == nil {
				err = s.b.folders.put(tx, []byte(k), encodeFolder(f))
			}
		}
		return err
	}})
}

func readManifest(dir string) (manifest, error) {
	var m manifest
	raw, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, &hisp.Error{Op: "bolt.Restore", Kind: hisp.Malformed,
			Hint: "this is no whole backup: its " + manifestName + " is missing or damaged", Err: err}
	}
	return m, nil
}

// checkBackup opens the backup's database with the master key before anything
// is copied.
func checkBackup(dir string, o Options) error {
	o.ReadOnly = true
	db, _, err := openDB(filepath.Join(dir, dbName), o)
	if err != nil {
		return err
	}
	_, err = readMeta(db, o.MasterKey)
	return errors.Join(err, db.Close())
}

// emptyDir makes dir if it is missing and refuses one with files in it.
func emptyDir(op, dir string) error {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return wrapErr(op, err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return wrapErr(op, err)
	}
	if len(names) > 0 {
		return fail(op, hisp.Conflict, "the folder is not empty: choose another one")
	}
	return nil
}

// writeDurably writes a file that after a crash is either whole or not there.
func writeDurably(path string, write func(io.Writer) error) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

func copyBody(from, to string, id uint64) error {
	target := bodyPath(to, id)
	if err := os.MkdirAll(filepath.Dir(target), dirMode); err != nil {
		return err
	}
	return copyFile(bodyPath(from, id), target)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeDurably(to, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}
