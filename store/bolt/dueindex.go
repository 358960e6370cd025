package bolt

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// maxWait bounds a timer, so that a step of the system clock is noticed.
const maxWait = 10 * time.Second

// entry is what memory holds of a queued item.
type entry struct {
	id     hisp.ID
	due    int64 // Unix nanoseconds
	work   hisp.Work
	domain hisp.Domain
	body   bodyRef
	raw    *byte // first octet of the message while leased
	leased bool
	pos    int // in its domain's heap
}

func (e *entry) compare(o *entry) int {
	return cmp.Or(cmp.Compare(e.due, o.due), cmp.Compare(e.id, o.id))
}

// dueIndex knows when each item is due and which are leased. Leases live in
// memory only: the node is one process. Items wait in one heap per work and
// domain, and the domains in a heap by their first item, so that a dead domain
// with many items costs the others nothing.
type dueIndex struct {
	clock hisp.Clock

	mu     sync.Mutex
	items  map[hisp.ID]*entry
	lines  map[hisp.Work]*line
	closed bool
}

// line is all items of one kind of work.
type line struct {
	domains map[hisp.Domain]*domainLine
	heads   domainHeap
	waiters []*waiter
	timer   *time.Timer
}

type domainLine struct {
	domain hisp.Domain
	items  entryHeap
	leased int
	pos    int // in heads, -1 when no item waits
}

type waiter struct {
	perDomain int
	got       chan *entry // closed when the index closes
}

func newDueIndex(clock hisp.Clock) *dueIndex {
	return &dueIndex{clock: clock, items: map[hisp.ID]*entry{}, lines: map[hisp.Work]*line{}}
}

// lease waits for an item; see hisp.Queue.Lease.
func (x *dueIndex) lease(ctx context.Context, r hisp.LeaseRequest) (*entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil, errClosed("bolt.Lease")
	}
	l := x.line(r.Work)
	w := &waiter{perDomain: r.PerDomain, got: make(chan *entry, 1)}
	l.waiters = append(l.waiters, w)
	x.match(l)
	x.mu.Unlock()
	select {
	case e, ok := <-w.got:
		if !ok {
			return nil, errClosed("bolt.Lease")
		}
		return e, nil
	case <-ctx.Done():
		x.abandon(l, w)
		return nil, ctx.Err()
	}
}

// abandon takes a waiter away; what it was given meanwhile goes back.
func (x *dueIndex) abandon(l *line, w *waiter) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l.waiters = slices.DeleteFunc(l.waiters, func(o *waiter) bool { return o == w })
	select {
	case e, ok := <-w.got:
		if ok {
			x.putBack(e)
		}
	default:
	}
}

// match gives due items to waiters, first come first served.
func (x *dueIndex) match(l *line) {
	if x.closed {
		return
	}
	now := x.clock().UnixNano()
	left := l.waiters[:0]
	for _, w := range l.waiters {
		if e := l.take(w.perDomain, now); e != nil {
			w.got <- e
			continue
		}
		left = append(left, w)
	}
	clear(l.waiters[len(left):])
	l.waiters = left
	x.arm(l, now)
}

// arm sets the timer for the next item that becomes due.
func (x *dueIndex) arm(l *line, now int64) {
	if l.timer != nil {
		l.timer.Stop()
	}
	if len(l.waiters) == 0 {
		return
	}
	next, found := l.nextAfter(now)
	if !found {
		return
	}
	wait := min(time.Duration(next-now), maxWait)
	l.timer = time.AfterFunc(wait, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.match(l)
	})
}

// nextAfter is the first due time after now among the heads. Heads already due
// are held back by their domain's limit and move when a lease ends.
func (l *line) nextAfter(now int64) (next int64, found bool) {
	if len(l.heads) == 0 {
		return 0, false
	}
	if first := l.heads[0].items[0].due; first > now {
		return first, true
	}
	for _, d := range l.heads {
		if due := d.items[0].due; due > now && (!found || due < next) {
			next, found = due, true
		}
	}
	return next, found
}

// take leases the first due item whose domain has room.
func (l *line) take(perDomain int, now int64) *entry {
	var full []*domainLine
	var got *entry
	for len(l.heads) > 0 && l.heads[0].items[0].due <= now {
		d := l.heads[0]
		if perDomain > 0 && d.leased >= perDomain {
			full = append(full, heap.Pop(&l.heads).(*domainLine))
			continue
		}
		got = heap.Pop(&d.items).(*entry)
		got.leased = true
		d.leased++
		if len(d.items) == 0 {
			heap.Pop(&l.heads)
		} else {
			heap.Fix(&l.heads, 0)
		}
		break
	}
	for _, d := range full {
		heap.Push(&l.heads, d)
	}
	return got
}

func (x *dueIndex) line(w hisp.Work) *line {
	l := x.lines[w]
	if l == nil {
		l = &line{domains: map[hisp.Domain]*domainLine{}}
		x.lines[w] = l
	}
	return l
}

// add puts an item in; the caller calls match or nobody waits yet.
func (x *dueIndex) add(e *entry) {
	x.items[e.id] = e
	x.push(e)
}

func (x *dueIndex) push(e *entry) {
	l := x.line(e.work)
	d := l.domains[e.domain]
	if d == nil {
		d = &domainLine{domain: e.domain, pos: -1}
		l.domains[e.domain] = d
	}
	heap.Push(&d.items, e)
	if d.pos < 0 {
		heap.Push(&l.heads, d)
	} else {
		heap.Fix(&l.heads, d.pos)
	}
}

// unlease ends a lease without putting the item back.
func (x *dueIndex) unlease(e *entry) {
	l := x.line(e.work)
	d := l.domains[e.domain]
	e.leased, e.raw = false, nil
	d.leased--
	if d.leased == 0 && len(d.items) == 0 {
		delete(l.domains, e.domain)
	}
}

func (x *dueIndex) putBack(e *entry) {
	x.unlease(e)
	x.push(e)
	x.match(x.line(e.work))
}

// change follows a committed step: finished is done, added are new.
func (x *dueIndex) change(finished *entry, added []*entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if finished != nil && x.items[finished.id] == finished {
		delete(x.items, finished.id)
		if finished.leased {
			x.unlease(finished)
		} else { // released while it was being finished
			x.drop(finished)
		}
		x.match(x.line(finished.work))
	}
	for _, e := range added {
		x.add(e)
	}
	for _, e := range added {
		x.match(x.line(e.work))
	}
}

// drop takes a waiting item out.
func (x *dueIndex) drop(e *entry) {
	l := x.line(e.work)
	d := l.domains[e.domain]
	heap.Remove(&d.items, e.pos)
	if len(d.items) == 0 {
		heap.Remove(&l.heads, d.pos)
	} else {
		heap.Fix(&l.heads, d.pos)
	}
}

// leased returns the item if it is leased, else nil.
func (x *dueIndex) leased(id hisp.ID) *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.items[id]; e != nil && e.leased {
		return e
	}
	return nil
}

func (x *dueIndex) loaded(e *entry, raw *byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.raw = raw
}

// release puts a leased item back; others are left alone.
func (x *dueIndex) release(id hisp.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.items[id]; e != nil && e.leased {
		x.putBack(e)
	}
}

// reschedule puts a leased item back with a new due time.
func (x *dueIndex) reschedule(id hisp.ID, due time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.items[id]; e != nil && e.leased {
		e.due = unixNano(due)
		x.putBack(e)
	}
}

type holdResult int

const (
	held holdResult = iota
	holdMissing
	holdLeased
)

// hold leases a waiting item, due or not, for the operator.
func (x *dueIndex) hold(id hisp.ID) holdResult {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.items[id]
	switch {
	case e == nil:
		return holdMissing
	case e.leased:
		return holdLeased
	}
	x.drop(e)
	e.leased = true
	x.line(e.work).domains[e.domain].leased++
	return held
}

// close ends all waiting.
func (x *dueIndex) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	for _, l := range x.lines {
		if l.timer != nil {
			l.timer.Stop()
		}
		for _, w := range l.waiters {
			close(w.got)
		}
		l.waiters = nil
	}
}

type entryHeap []*entry

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].pos, h[j].pos = i, j }
func (h *entryHeap) Push(v any)        { e := v.(*entry); e.pos = len(*h); *h = append(*h, e) }

func (h *entryHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}

type domainHeap []*domainLine

func (h domainHeap) Len() int           { return len(h) }
func (h domainHeap) Less(i, j int) bool { return h[i].items[0].compare(h[j].items[0]) < 0 }
func (h domainHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].pos, h[j].pos = i, j }
func (h *domainHeap) Push(v any)        { d := v.(*domainLine); d.pos = len(*h); *h = append(*h, d) }

func (h *domainHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	d.pos = -1
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return d
}
