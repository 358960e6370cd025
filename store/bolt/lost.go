package bolt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hispnode/hisp/hisp"
)

const hintLost = "the database file was removed from the data folder or replaced while the node runs: " +
	"do not stop the node before the file is back (move it back, or copy it from /proc/PID/fd)"

// gone tells whether the open database is no longer the file in the folder.
// Whatever is written then is lost when the process ends. It tells the log
// once, and once when the file is back. It costs a stat.
func (s *Store) gone() bool {
	open, err := s.file.Stat()
	if err != nil {
		return false // closed
	}
	there, err := os.Stat(filepath.Join(s.opts.Dir, dbName))
	gone := errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(open, there)
	if s.lost.Swap(gone) != gone {
		if gone {
			s.log.Error("the database file is gone: nothing is accepted", "op", "bolt", "hint", hintLost, "pid", os.Getpid())
		} else {
			s.log.Warn("the database file is back", "op", "bolt")
		}
	}
	return gone
}

// refuseLost answers what would write to a file that is gone.
func refuseLost(ops []*op) []*op {
	kept := ops[:0:0]
	for _, o := range ops {
		if o.alone == nil {
			o.result <- fail(o.name, hisp.Temporary, "the database file of the node is gone: the operator must bring it back")
			continue
		}
		kept = append(kept, o)
	}
	return kept
}
