package bolt

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/hispnode/hisp/hisp"
)

const (
	hintFull    = "no room on the disk of the node: the operator must free space"
	hintDamaged = "the database file is damaged: stop the node, keep the data folder as it is and restore a backup"
)

func fail(op string, kind hisp.Kind, hint string) error {
	return &hisp.Error{Op: op, Kind: kind, Hint: hint}
}

func errClosed(op string) error {
	return fail(op, hisp.Temporary, "the store is closed: the node is stopping")
}

// wrapErr gives an error of bbolt or the system a Kind; a *hisp.Error and a
// context's error stay as they are.
func wrapErr(op string, err error) error {
	var known *hisp.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return errClosed(op)
	case isNoSpace(err):
		return &hisp.Error{Op: op, Kind: hisp.Full, Hint: hintFull, Err: err}
	}
	return &hisp.Error{Op: op, Kind: hisp.Internal, Err: err}
}

// isNoSpace also knows the text of bbolt's grow, which drops the errno.
func isNoSpace(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return true
		}
	}
	return false
}

// isSyncFailure tells whether err came from a sync. bbolt returns fdatasync's
// bare errno, while writes come as *fs.PathError; its grow names the sync.
func isSyncFailure(err error) bool {
	var errno syscall.Errno
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Op == "sync"
	}
	return errors.As(err, &errno) || strings.Contains(err.Error(), "file sync error")
}

// mustDie tells whether a failed commit leaves the disk in doubt: everything
// but a lack of room found before the sync.
func mustDie(err error) bool {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return false
	}
	return isSyncFailure(err) || !isNoSpace(err)
}
