package bolt

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// The head of the audit trail is noted outside the database, in the log and in
// a file, because a chain alone does not show that its end was cut off.
const (
	headEvery  = 1000 // entries
	headPeriod = time.Minute
	maxHeads   = 1 << 20 // lines read
)

type headsFile struct {
	f     *os.File
	last  store.AuditHead
	since time.Time
}

// openHeads compares the trail with the newest noted head. A trail that was
// cut is reported as an Error in the log and by Verify; the node still runs,
// because mail must go on.
func (s *Store) openHeads() error {
	path := filepath.Join(s.opts.Dir, headsName)
	noted, err := readHeads(path)
	if err != nil {
		return wrapErr("bolt.Open", err)
	}
	err = viewDB(s.db, func(tx *bbolt.Tx) error { return errors.Join(s.checkHeads(tx, noted)...) })
	if err != nil {
		s.log.Error("the audit trail does not fit the noted heads", "op", "bolt.Open", "err", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, fileMode)
	if err != nil {
		return wrapErr("bolt.Open", err)
	}
	s.heads = &headsFile{f: f, last: s.commit.head, since: s.now()}
	return nil
}

func (s *Store) checkHeads(tx *bbolt.Tx, noted []store.AuditHead) []error {
	var errs []error
	for _, h := range noted {
		v := tx.Bucket(s.b.audit.name).Get(seqKey(h.Seq))
		switch {
		case len(v) < 32:
			errs = append(errs, fail("bolt", hisp.Tampered, fmt.Sprintf("the audit trail was cut: entry %d was noted", h.Seq)))
		case [32]byte(v[len(v)-32:]) != h.Hash:
			errs = append(errs, fail("bolt", hisp.Tampered, fmt.Sprintf("audit entry %d is not the one that was noted", h.Seq)))
		}
	}
	return errs
}

// noteHead runs in the committer after a commit that added entries.
func (s *Store) noteHead(head store.AuditHead) {
	now := s.now()
	if head.Seq-s.heads.last.Seq < headEvery && now.Sub(s.heads.since) < headPeriod {
		return
	}
	s.writeHead(head, now)
}

func (s *Store) writeHead(head store.AuditHead, now time.Time) {
	s.heads.last, s.heads.since = head, now
	hash := hex.EncodeToString(head.Hash[:])
	s.log.Info("audit head", "seq", head.Seq, "hash", hash)
	if _, err := fmt.Fprintf(s.heads.f, "%d %s %s\n", head.Seq, hash, now.Format(time.RFC3339)); err != nil {
		s.log.Warn("the audit head was not noted", "op", "bolt", "err", err)
	}
}

func (s *Store) closeHeads() error {
	if s.heads == nil {
		return nil
	}
	if s.commit.head != s.heads.last {
		s.writeHead(s.commit.head, s.now())
	}
	return errors.Join(s.heads.f.Sync(), s.heads.f.Close())
}

// readHeads reads the noted heads. A last line cut by a crash is passed over.
func readHeads(path string) ([]store.AuditHead, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var heads []store.AuditHead
	for sc := bufio.NewScanner(f); sc.Scan() && len(heads) < maxHeads; {
		var h store.AuditHead
		var hash, when string
		if n, _ := fmt.Sscan(sc.Text(), &h.Seq, &hash, &when); n < 2 {
			continue
		}
		if raw, err := hex.DecodeString(hash); err == nil && len(raw) == len(h.Hash) {
			h.Hash = [32]byte(raw)
			heads = append(heads, h)
		}
	}
	return heads, nil
}
