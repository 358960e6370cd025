package bolt

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
)

// A database that is unlinked or replaced under the node takes no more mail:
// its 250 would be lost with the process.
func TestStore_databaseGoneWhileOpen(t *testing.T) {
	o := testOptions(t)
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, o)
	record := func() error { return s.Record(t.Context(), hisp.AuditRecord{Event: hisp.AuditReject}) }
	ok(t, record())
	path := filepath.Join(o.Dir, dbName)
	ok(t, os.Rename(path, path+".away"))
	for range 3 {
		if err := record(); !errors.Is(err, hisp.Temporary) {
			t.Errorf("without its file: %v, want Temporary", err)
		}
	}
	report, err := s.Verify(t.Context())
	if err != nil || report.OK() || !strings.Contains(report.Findings[0].Text, "removed") {
		t.Errorf("verify = %+v, %v; want a finding", report, err)
	}
	ok(t, os.WriteFile(path, nil, 0o600)) // another file
	if err := record(); !errors.Is(err, hisp.Temporary) {
		t.Errorf("with another file in its place: %v, want Temporary", err)
	}
	ok(t, os.Rename(path+".away", path))
	ok(t, record())
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want 1:\n%s", n, log.String())
	}
}
