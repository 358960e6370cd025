package bolt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// inbox is the one name every account has, in any case (RFC 9051 §5.1).
const inbox = "INBOX"

const maxFolderName = 512 // octets

// The folders of a new account with their special uses, RFC 6154 §2.
var newFolders = [...][2]string{{inbox, ""}, {"Sent", `\Sent`}, {"Drafts", `\Drafts`}, {"Junk", `\Junk`}, {"Trash", `\Trash`}}

// folderName gives INBOX its one spelling; "" is INBOX.
func folderName(name string) string {
	if name == "" || strings.EqualFold(name, inbox) {
		return inbox
	}
	return name
}

// encodeFolder writes f. UIDValidity, unique in the store and never changed,
// is the number of the folder in the keys of its messages.
func encodeFolder(f *store.Folder) []byte {
	e := newEncoder(64 + len(f.Name))
	e.str(f.Name)
	e.str(f.SpecialUse)
	e.flag(f.Subscribed)
	for _, v := range []uint32{f.UIDValidity, f.UIDNext, f.Messages, f.Unseen, f.Deleted} {
		e.u32(v)
	}
	e.u64(uint64(f.Size))
	e.u64(f.HighestModSeq)
	return e.b
}

func decodeFolder(b []byte) (*store.Folder, error) {
	d := newDecoder(b)
	f := &store.Folder{Name: d.str(), SpecialUse: d.str(), Subscribed: d.flag(), UIDValidity: d.u32(),
		UIDNext: d.u32(), Messages: d.u32(), Unseen: d.u32(), Deleted: d.u32(),
		Size: int64(d.u64()), HighestModSeq: d.u64()}
	return f, d.err("a folder")
}

// folder returns nil if there is none.
func (s *Store) folder(tx *bbolt.Tx, acct acctKey, name string) (*store.Folder, error) {
	plain, err := s.b.folders.get(tx, s.b.folder(acct, name))
	if plain == nil || err != nil {
		return nil, err
	}
	return decodeFolder(plain)
}

func (s *Store) putFolder(tx *bbolt.Tx, acct acctKey, f *store.Folder) error {
	return s.b.folders.put(tx, s.b.folder(acct, f.Name), encodeFolder(f))
}

// mustFolder is folder with NotFound.
func (s *Store) mustFolder(tx *bbolt.Tx, op string, acct acctKey, name string) (*store.Folder, error) {
	f, err := s.folder(tx, acct, name)
	if f == nil && err == nil {
		err = fail(op, hisp.NotFound, "there is no such folder")
	}
	return f, err
}

// newFolder makes a folder record with a UIDVALIDITY never used before in this
// store: at least the time, so that a restored backup does not reuse one.
func (s *Store) newFolder(tx *bbolt.Tx, name, specialUse string) (*store.Folder, error) {
	meta := tx.Bucket(metaBucket)
	var last uint32
	if v := meta.Get(keyUIDVal); len(v) == 4 {
		last = binary.BigEndian.Uint32(v)
	}
	next := max(last+1, uint32(s.now().Unix()))
	f := &store.Folder{Name: name, SpecialUse: specialUse, Subscribed: true, UIDValidity: next, UIDNext: 1, HighestModSeq: 1}
	return f, meta.Put(keyUIDVal, binary.BigEndian.AppendUint32(nil, next))
}

func (s *Store) createAccountFolders(tx *bbolt.Tx, acct acctKey) error {
	for _, n := range newFolders {
		f, err := s.newFolder(tx, n[0], n[1])
		if err == nil {
			err = s.putFolder(tx, acct, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// folders returns all folders of an account by name, INBOX first.
func (s *Store) folders(tx *bbolt.Tx, acct acctKey) ([]*store.Folder, error) {
	var fs []*store.Folder
	c := tx.Bucket(s.b.folders.name).Cursor()
	for k, v := c.Seek(acct[:]); bytes.HasPrefix(k, acct[:]); k, v = c.Next() {
		plain, err := s.b.folders.open(k, v)
		if err != nil {
			return nil, err
		}
		f, err := decodeFolder(plain)
		if err != nil {
			return nil, err
		}
		fs = append(fs, f)
	}
	slices.SortFunc(fs, func(a, b *store.Folder) int {
		switch {
		case a.Name == inbox:
			return -1
		case b.Name == inbox:
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return fs, nil
}

// ListFolders returns the folders of an account: NotFound without the account.
func (s *Store) ListFolders(ctx context.Context, acct hisp.Address) ([]store.Folder, error) {
	const name = "bolt.ListFolders"
	var all []store.Folder
	err := s.view(ctx, name, func(tx *bbolt.Tx) error {
		fs, err := s.folders(tx, s.b.account(acct))
		if err == nil && len(fs) == 0 {
			err = fail(name, hisp.NotFound, "there is no such account")
		}
		for _, f := range fs {
			all = append(all, *f)
		}
		return err
	})
	return all, err
}

// CreateFolder creates a folder: Conflict if it exists, NotFound without the
// account.
func (s *Store) CreateFolder(ctx context.Context, acct hisp.Address, folder, specialUse string) error {
	const name = "bolt.CreateFolder"
	key := s.b.account(acct)
	folder = folderName(folder)
	if !validFolder(folder) {
		return fail(name, hisp.Malformed, "a folder name has 1 to 512 octets without controls or empty levels")
	}
	return s.commit.do(ctx, &op{name: name, grows: true,
		check: func(tx *bbolt.Tx) error {
			if tx.Bucket(s.b.accounts.name).Get(key[:]) == nil {
				return fail(name, hisp.NotFound, "there is no such account")
			}
			f, err := s.folder(tx, key, folder)
			if f != nil {
				err = fail(name, hisp.Conflict, "the folder exists already")
			}
			return err
		},
		write: func(tx *bbolt.Tx, _ *batch) error {
			f, err := s.newFolder(tx, folder, specialUse)
			if err != nil {
				return err
			}
			return s.putFolder(tx, key, f)
		},
	})
}

func validFolder(name string) bool {
	if len(name) > maxFolderName {
		return false
	}
	for level := range strings.SplitSeq(name, "/") {
		if level == "" || strings.ContainsFunc(level, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
			return false
		}
	}
	return true
}

// DeleteFolder removes a folder and its messages: NotFound; Denied for INBOX.
func (s *Store) DeleteFolder(ctx context.Context, acct hisp.Address, folder string) error {
	const name = "bolt.DeleteFolder"
	key := s.b.account(acct)
	folder = folderName(folder)
	if folder == inbox {
		return fail(name, hisp.Denied, "INBOX cannot be deleted")
	}
	var f *store.Folder
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) (err error) {
			f, err = s.mustFolder(tx, name, key, folder)
			return err
		},
		write: func(tx *bbolt.Tx, b *batch) error {
			if err := s.removeMessages(tx, b, key, f); err != nil {
				return err
			}
			b.wake = append(b.wake, watchKey{key, folder})
			return s.b.folders.delete(tx, s.b.folder(key, folder))
		},
	})
}

// removeMail removes everything an account has.
func (s *Store) removeMail(tx *bbolt.Tx, b *batch, acct acctKey) error {
	fs, err := s.folders(tx, acct)
	if err != nil {
		return err
	}
	for _, f := range fs {
		if err := s.removeMessages(tx, b, acct, f); err != nil {
			return err
		}
		if err := s.b.folders.delete(tx, s.b.folder(acct, f.Name)); err != nil {
			return err
		}
		b.wake = append(b.wake, watchKey{acct, f.Name})
	}
	return s.b.usage.delete(tx, acct[:])
}

// RenameFolder renames a folder and those below it. Renaming INBOX moves its
// messages into a new folder and leaves INBOX empty (RFC 9051 §6.3.6).
func (s *Store) RenameFolder(ctx context.Context, acct hisp.Address, from, to string) error {
	const name = "bolt.RenameFolder"
	key := s.b.account(acct)
	from, to = folderName(from), folderName(to)
	if !validFolder(to) || strings.HasPrefix(to, from+"/") {
		return fail(name, hisp.Malformed, "this is no possible new name for the folder")
	}
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error { return s.checkRename(tx, key, from, to) },
		write: func(tx *bbolt.Tx, b *batch) error {
			b.wake = append(b.wake, watchKey{key, from}, watchKey{key, to})
			if from == inbox {
				return s.moveInbox(tx, b, key, to)
			}
			return s.renameTree(tx, key, from, to)
		},
	})
}

func (s *Store) checkRename(tx *bbolt.Tx, key acctKey, from, to string) error {
	const name = "bolt.RenameFolder"
	if _, err := s.mustFolder(tx, name, key, from); err != nil {
		return err
	}
	fs, err := s.folders(tx, key)
	if err != nil {
		return err
	}
	for _, f := range fs {
		if below, ok := strings.CutPrefix(f.Name, from); ok && (below == "" || below[0] == '/' && from != inbox) {
			if taken, err := s.folder(tx, key, to+below); taken != nil || err != nil {
				return cmp.Or(err, fail(name, hisp.Conflict, "a folder with the new name exists already"))
			}
		}
	}
	return nil
}

func (s *Store) renameTree(tx *bbolt.Tx, key acctKey, from, to string) error {
	fs, err := s.folders(tx, key)
	if err != nil {
		return err
	}
	for _, f := range fs {
		below, ok := strings.CutPrefix(f.Name, from)
		if !ok || below != "" && below[0] != '/' {
			continue
		}
		if err := s.b.folders.delete(tx, s.b.folder(key, f.Name)); err != nil {
			return err
		}
		f.Name = to + below
		if err := s.putFolder(tx, key, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) moveInbox(tx *bbolt.Tx, b *batch, key acctKey, to string) error {
	f, err := s.newFolder(tx, to, "")
	if err != nil {
		return err
	}
	in, err := s.mustFolder(tx, "bolt.RenameFolder", key, inbox)
	if err != nil {
		return err
	}
	uids, err := s.uids(tx, key, in)
	if err != nil {
		return err
	}
	if _, err := s.copyInto(tx, b, key, in, uids, f, store.Move); err != nil {
		return err
	}
	if err := s.putFolder(tx, key, in); err != nil {
		return err
	}
	return s.putFolder(tx, key, f)
}

// SubscribeFolder sets or clears the subscription of a folder: NotFound.
func (s *Store) SubscribeFolder(ctx context.Context, acct hisp.Address, folder string, on bool) error {
	const name = "bolt.SubscribeFolder"
	key := s.b.account(acct)
	var f *store.Folder
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) (err error) {
			f, err = s.mustFolder(tx, name, key, folderName(folder))
			return err
		},
		write: func(tx *bbolt.Tx, _ *batch) error {
			f.Subscribed = on
			return s.putFolder(tx, key, f)
		},
	})
}
