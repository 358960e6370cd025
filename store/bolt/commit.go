package bolt

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Bounds of one transaction, so that one huge batch does not make the others
// wait.
const (
	maxBatchOps    = 512
	maxBatchOctets = 16 << 20
)

// Without waiting, busy clients fall into two groups that take turns, and half
// of the syncs are for nothing. So the committer waits, for a quarter of the
// time the last transaction took, for those it has just answered. A lone
// client never waits, and when nobody comes back it goes on without for a
// while.
const (
	gatherPart = 4
	gatherMax  = 5 * time.Millisecond
	gatherSkip = 16 // transactions
)

// op is one change, applied whole or not at all.
type op struct {
	name   string
	grows  bool // brings new mail: refused when only the reserve is left
	octets int

	// check finds out whether the change is possible and writes nothing; its
	// error is the result of this op alone. write makes the change; an error
	// undoes the whole transaction and the ops are tried one by one. Both may
	// run again and start afresh each time.
	check func(tx *bbolt.Tx) error
	write func(tx *bbolt.Tx, b *batch) error
	// alone runs outside any transaction, while nothing writes; an op with
	// it has nothing else.
	alone func() error
	// done runs after the commit, in the committer: the effects in memory.
	done func()

	result chan error
	err    error // of check
}

// batch is the state of one transaction.
type batch struct {
	head    store.AuditHead
	removed []bodyRef // body files to delete after the commit
	wake    []watchKey
}

// committer owns all writing. Callers hand it ops; it takes whatever waits
// into one transaction, so that nobody waits for a timer and everybody shares
// the syncs.
type committer struct {
	s    *Store
	head store.AuditHead // of the committed trail

	mu      sync.Mutex
	waiting []*op
	closed  bool
	wake    chan struct{}
	ended   chan struct{}
}

func newCommitter(s *Store) *committer {
	return &committer{s: s, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (c *committer) start() { go c.run() }

func (c *committer) stop() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	<-c.ended
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// do hands o over and waits until it is on disk or refused. A ctx that ends
// later does not take back what was handed over.
func (c *committer) do(ctx context.Context, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.s.opts.ReadOnly {
		return fail(o.name, hisp.Denied, "the store was opened for reading only")
	}
	o.result = make(chan error, 1)
	c.mu.Lock()
	if c.closed || c.s.failed.Load() {
		c.mu.Unlock()
		return errClosed(o.name)
	}
	c.waiting = append(c.waiting, o)
	c.mu.Unlock()
	c.signal()
	return <-o.result
}

func (c *committer) run() {
	defer close(c.ended)
	expected, skip, took := 1, 0, time.Duration(0)
	for {
		if skip > 0 {
			skip--
		} else if !c.gather(expected, took) {
			skip = gatherSkip
		}
		ops, closed := c.take()
		if len(ops) > 0 {
			start := time.Now()
			c.apply(ops)
			took = time.Since(start)
			expected = len(ops) + c.count()
			continue
		}
		if closed {
			return
		}
		<-c.wake
	}
}

// gather waits a moment until as many ops are there as were at work during the
// last transaction, when one is there already. It tells whether that was worth
// while.
func (c *committer) gather(expected int, took time.Duration) bool {
	waiting := c.count()
	if waiting == 0 || waiting >= expected {
		return true
	}
	timer := time.NewTimer(min(took/gatherPart, gatherMax))
	defer timer.Stop()
	defer c.signal() // a wake taken here must not be missed
	for c.count() < expected {
		select {
		case <-c.wake:
		case <-timer.C:
			return c.count() >= waiting+(expected-waiting)/2
		}
	}
	return true
}

func (c *committer) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return maxBatchOps // no reason to wait
	}
	return len(c.waiting)
}

// take returns the ops of the next transaction, in the order they came.
func (c *committer) take() ([]*op, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, octets := 0, 0
	if len(c.waiting) > 0 && c.waiting[0].alone != nil {
		n = 1
	}
	for n < len(c.waiting) && c.waiting[0].alone == nil && c.waiting[n].alone == nil && n < maxBatchOps && (n == 0 || octets+c.waiting[n].octets <= maxBatchOctets) {
		octets += c.waiting[n].octets
		n++
	}
	ops := c.waiting[:n:n]
	if c.waiting = c.waiting[n:]; len(c.waiting) == 0 {
		c.waiting = nil
	}
	return ops, c.closed
}

func (c *committer) apply(ops []*op) {
	ops = c.admit(ops)
	if len(ops) == 0 {
		return
	}
	if alone := ops[0].alone; alone != nil {
		ops[0].result <- alone()
		return
	}
	err := c.try(ops)
	if err != nil && !c.s.failed.Load() && (len(ops) > 1 || isNoSpace(err)) {
		c.applySingly(ops)
		return
	}
	for _, o := range ops {
		c.answer(o, err)
	}
}

// admit refuses new mail while only the reserve is left, and everything while
// what is written would be lost.
func (c *committer) admit(ops []*op) []*op {
	if c.s.failed.Load() {
		for _, o := range ops {
			o.result <- errClosed(o.name)
		}
		return nil
	}
	if c.s.gone() {
		return refuseLost(ops)
	}
	if !c.s.low() {
		return ops
	}
	kept := ops[:0:0]
	for _, o := range ops {
		if o.grows {
			o.result <- fail(o.name, hisp.Full, hintFull)
			continue
		}
		kept = append(kept, o)
	}
	return kept
}

// applySingly gives every op a transaction of its own after a failed write. On
// a full disk the reserve is freed first for those that bring no new mail.
func (c *committer) applySingly(ops []*op) {
	for _, o := range ops {
		err := c.try([]*op{o})
		if err != nil && isNoSpace(err) && !o.grows && !c.s.failed.Load() {
			c.s.space.release()
			c.s.log.Warn("the disk is full: using the reserve", "op", o.name)
			err = c.try([]*op{o})
		}
		c.answer(o, err)
	}
}

func (c *committer) answer(o *op, err error) {
	if o.err != nil {
		err = o.err
	}
	o.result <- wrapErr(o.name, err)
}

// try runs one transaction for ops. On success their done functions have run.
func (c *committer) try(ops []*op) error {
	b := &batch{head: c.head}
	wrote := false
	err := c.s.update(func(tx *bbolt.Tx) error {
		for _, o := range ops {
			o.err = nil
			if o.check != nil {
				if o.err = o.check(tx); o.err != nil {
					continue
				}
			}
			wrote = true
			if err := o.write(tx, b); err != nil {
				return &writeError{err}
			}
		}
		if !wrote {
			return errNothing
		}
		return nil
	})
	var we *writeError
	switch {
	case errors.Is(err, errNothing):
		return nil
	case errors.As(err, &we):
		return we.err
	case err != nil && mustDie(err) && !c.s.failed.Load():
		c.s.die(err)
		return err
	case err != nil:
		return err
	}
	c.committed(ops, b)
	return nil
}

// update is db.Update for a file that may be damaged: then it does not roll
// back, for which bbolt would walk the damaged pages, but ends the process.
func (s *Store) update(fn func(tx *bbolt.Tx) error) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	err = guard(func() error { return fn(tx) })
	if err == nil {
		if err = guard(tx.Commit); err == nil {
			return nil
		}
	}
	if isDamage(err) {
		s.die(err)
	}
	if undo := guard(tx.Rollback); undo != nil && !errors.Is(undo, berrors.ErrTxClosed) {
		return errors.Join(err, undo)
	}
	return err
}

func (c *committer) committed(ops []*op, b *batch) {
	grown := b.head.Seq != c.head.Seq
	c.head = b.head
	for _, o := range ops {
		if o.err == nil && o.done != nil {
			o.done()
		}
	}
	c.s.bodies.remove(b.removed)
	for _, k := range b.wake {
		c.s.watch.notify(k)
	}
	if grown {
		c.s.noteHead(b.head)
	}
}

// die is the end: the disk did not do what it was told.
func (s *Store) die(err error) {
	s.failed.Store(true)
	s.opts.Fatal(err)
}

// writeError marks an error of an op's write, after which bbolt has undone the
// transaction in memory and nothing reached the disk.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

var errNothing = errors.New("nothing to write")
