package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// chainVersion begins the canonical form; a change of the form needs a new one.
const chainVersion = "hisp audit v1"

// Canonical returns the form of the entry that Hash covers: version, sequence
// number, previous hash and the plain fields and the sealed private part, each
// of them with its length before it. Record.Private is not part of it.
func (e *AuditEntry) Canonical() []byte {
	b := make([]byte, 0, 192+len(e.Sealed))
	b = appendField(b, chainVersion)
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = append(b, e.Prev[:]...)
	b = AppendAuditPlain(b, e.Record)
	return appendField(b, string(e.Sealed))
}

// AppendAuditPlain appends the canonical form of the plain fields of r. It is
// the associated data of the sealed private part too.
func AppendAuditPlain(b []byte, r hisp.AuditRecord) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	for _, f := range []string{string(r.Event), string(r.Message), string(r.Domain),
		string(r.Outcome), r.Kind, r.Detail} {
		b = appendField(b, f)
	}
	return b
}

// computeHash returns SHA-256 over Canonical.
func (e *AuditEntry) computeHash() [32]byte { return sha256.Sum256(e.Canonical()) }

// ParseCanonical reads what Canonical wrote and computes the hash.
func ParseCanonical(b []byte) (AuditEntry, error) {
	bad := &hisp.Error{Op: "store.ParseCanonical", Kind: hisp.Malformed, Hint: "not an audit entry of this version"}
	r := fieldReader{rest: b}
	if r.field() != chainVersion {
		return AuditEntry{}, bad
	}
	e := AuditEntry{Hash: sha256.Sum256(b)}
	e.Seq = r.uint64()
	copy(e.Prev[:], r.take(len(e.Prev)))
	e.Record.Time = time.Unix(0, int64(r.uint64())).UTC()
	e.Record.Event = hisp.AuditEvent(r.field())
	e.Record.Message = hisp.ID(r.field())
	e.Record.Domain = hisp.Domain(r.field())
	e.Record.Outcome = hisp.AuditOutcome(r.field())
	e.Record.Kind = r.field()
	e.Record.Detail = r.field()
	if sealed := r.field(); sealed != "" {
		e.Sealed = []byte(sealed)
	}
	if r.failed || len(r.rest) != 0 {
		return AuditEntry{}, bad
	}
	return e, nil
}

// Chain verifies audit entries in the order of their sequence numbers.
type Chain struct {
	head  AuditHead
	begun bool
}

// Head is the last entry that fitted.
func (c *Chain) Head() AuditHead { return c.head }

// Next checks that e follows the entries before. The error is Tampered; its
// hint names the sequence number and what is wrong. After an error the chain
// goes on from e, so that one edit is one finding.
func (c *Chain) Next(e AuditEntry) error {
	want, prev, begun := c.head.Seq+1, c.head.Hash, c.begun
	c.head, c.begun = AuditHead{Seq: e.Seq, Hash: e.Hash}, true
	switch {
	case e.computeHash() != e.Hash:
		return tampered("audit entry %d was changed: its hash does not fit its content", e.Seq)
	case !begun && e.Seq != 1:
		return tampered("audit entries before %d are missing", e.Seq)
	case e.Seq > want:
		return tampered("audit entries %d to %d are missing", want, e.Seq-1)
	case e.Seq < want:
		return tampered("audit entry %d is out of order: %d was expected", e.Seq, want)
	case !bytes.Equal(e.Prev[:], prev[:]):
		return tampered("audit entry %d does not follow entry %d: one of them was replaced", e.Seq, e.Seq-1)
	}
	return nil
}

// End compares the end of the chain with a head noted outside the store. The
// error is Tampered when the trail ends before it.
func (c *Chain) End(noted AuditHead) error {
	if c.head.Seq < noted.Seq {
		return tampered("the audit trail was cut: it ends at entry %d, but entry %d was noted", c.head.Seq, noted.Seq)
	}
	if c.head.Seq == noted.Seq && c.head.Hash != noted.Hash {
		return tampered("audit entry %d is not the one that was noted", noted.Seq)
	}
	return nil
}

func tampered(format string, args ...any) error {
	return &hisp.Error{Op: "store.Chain", Kind: hisp.Tampered, Hint: fmt.Sprintf(format, args...)}
}

func appendField(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// fieldReader reads length-prefixed fields; after an error it gives zeros.
type fieldReader struct {
	rest   []byte
	failed bool
}

func (r *fieldReader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.rest) {
		r.failed = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *fieldReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *fieldReader) field() string {
	b := r.take(4)
	if b == nil {
		return ""
	}
	return string(r.take(int(binary.BigEndian.Uint32(b))))
}
