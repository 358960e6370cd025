package store

import "context"

// Finding is one thing Verify found wrong. It names no person.
type Finding struct {
	Area string // "database", "records", "bodies", "folders", "queue", "tracks", "audit"
	Text string // what is wrong and what it means
}

// Report is what Verify looked at and found. No finding means that the store
// is whole.
type Report struct {
	Findings []Finding
	Accounts int
	Messages int // in mailboxes
	Items    int // in the queue
	Bodies   int // read and opened
	Orphans  int // body files nothing refers to; harmless, the next start removes them
	Tracks   int
	Head     AuditHead
}

// OK tells whether nothing was found.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// Maintenance is what an operator does with a running store.
type Maintenance interface {
	// Verify reads everything and compares it. An error means that it could
	// not go on; damage is in the report.
	Verify(ctx context.Context) (Report, error)
	// Backup writes a consistent copy of the store as it is now into dir,
	// which must be missing or empty. Mail goes on meanwhile. The copy is as
	// encrypted as the store and useless without the master key.
	Backup(ctx context.Context, dir string) error
}
