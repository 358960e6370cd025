package imapd

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// maxRest bounds how long an idle session waits between two looks at a folder
// that changes all the time.
const maxRest = 2 * time.Second

// entry is one message of a snapshot.
type entry struct {
	uid      uint32
	modSeq   uint64
	size     int64
	received time.Time
	flags    []imap.Flag // shared, never changed
}

func (e *entry) has(f imap.Flag) bool { return hasFlag(e.flags, f) }

// snapshot is a folder at one moment, by UID. It never changes; all sessions
// that know the same state share one.
type snapshot struct {
	folder store.Folder
	list   []entry
}

// find returns the index of uid, or where it would stand.
func (s *snapshot) find(uid uint32) (int, bool) {
	return slices.BinarySearchFunc(s.list, uid, func(e entry, uid uint32) int { return int(int64(e.uid) - int64(uid)) })
}

func (s *snapshot) get(uid uint32) *entry {
	if i, ok := s.find(uid); ok {
		return &s.list[i]
	}
	return nil
}

// viewKey names a folder of an account.
type viewKey struct {
	account hisp.Address // Key form
	folder  string
}

// viewTable holds one view for each folder that is selected by someone.
//
// Message numbers are not kept with go-imap's MailboxTracker: it numbers wrong
// when several messages arrive at once, and its queue for a session that does
// not ask grows without bound. A session holds the snapshot its client knows;
// what to tell the client is the difference to the present one.
type viewTable struct {
	store Mailboxes
	clock hisp.Clock

	mu    sync.Mutex
	views map[viewKey]*view
}

func newViewTable(s Mailboxes, clock hisp.Clock) *viewTable {
	return &viewTable{store: s, clock: clock, views: make(map[viewKey]*view)}
}

// view follows one folder for all sessions that have it selected.
type view struct {
	table   *viewTable
	key     viewKey
	account hisp.Address
	stop    context.CancelFunc
	changes <-chan struct{}
	ended   chan struct{}
	refs    int // guarded by viewTable.mu

	ask     chan struct{} // now asks follow whether there are changes it has not noted
	noted   chan struct{}
	loading sync.Mutex // held while the store is asked
	current *snapshot

	mu     sync.Mutex
	dirty  bool
	rest   time.Duration // between two looks of an idle session
	wakeup chan struct{} // closed at the next change
}

// acquire returns the view of a folder, which release must give back.
func (t *viewTable) acquire(account hisp.Address, folder string) *view {
	key := viewKey{account.Key(), folder}
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.views[key]
	if !ok {
		ctx, stop := context.WithCancel(context.Background()) // lives as long as its sessions
		v = &view{
			table: t, key: key, account: account, stop: stop, dirty: true,
			wakeup: make(chan struct{}), ended: make(chan struct{}), ask: make(chan struct{}), noted: make(chan struct{}),
		}
		v.changes = t.store.Watch(ctx, account, folder) // before the first look, so that no change is missed
		t.views[key] = v
		go v.follow(ctx) // release waits for it
	}
	v.refs++
	return v
}

// touch makes all sessions see a change that one of them made, without waiting
// for Watch.
func (t *viewTable) touch(account hisp.Address, folder string) {
	t.mu.Lock()
	v := t.views[viewKey{account.Key(), folder}]
	t.mu.Unlock()
	if v != nil {
		v.invalidate()
	}
}

// release gives a view back.
func (t *viewTable) release(v *view) {
	t.mu.Lock()
	v.refs--
	last := v.refs == 0
	if last {
		delete(t.views, v.key)
	}
	t.mu.Unlock()
	if last {
		v.stop()
		<-v.ended
	}
}

// follow wakes the sessions at each change of the store.
func (v *view) follow(ctx context.Context) {
	defer close(v.ended)
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-v.changes:
			if !ok {
				return
			}
			v.invalidate()
		case <-v.ask:
			select {
			case <-v.changes:
				v.invalidate()
			default:
			}
			v.noted <- struct{}{}
		}
	}
}

// settle returns when every change signalled so far is noted: a client that
// asks after a change must see it.
func (v *view) settle() {
	select {
	case v.ask <- struct{}{}:
		<-v.noted
	case <-v.ended: // the store is going down
	}
}

// invalidate notes a change and wakes who waits for one.
func (v *view) invalidate() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirty = true
	close(v.wakeup)
	v.wakeup = make(chan struct{})
}

// changed returns a channel that is closed at the next change, and how long an
// idle session should rest before it looks.
func (v *view) changed() (<-chan struct{}, time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.wakeup, v.rest
}

// now returns the present state, from the store only if it changed.
func (v *view) now(ctx context.Context) (*snapshot, error) {
	v.loading.Lock()
	defer v.loading.Unlock()
	v.settle()
	v.mu.Lock()
	dirty := v.dirty
	v.dirty = false
	v.mu.Unlock()
	if !dirty {
		return v.current, nil
	}
	start := v.table.clock()
	f, infos, err := v.table.store.ListMessages(ctx, v.account, v.key.folder)
	if err != nil {
		v.mu.Lock()
		v.dirty = true
		v.mu.Unlock()
		return nil, err
	}
	v.current = newSnapshot(f, infos)
	v.mu.Lock()
	v.rest = min(10*v.table.clock().Sub(start), maxRest) // at most a tenth of the time goes into looking
	v.mu.Unlock()
	return v.current, nil
}

func newSnapshot(f store.Folder, infos []store.MessageInfo) *snapshot {
	s := &snapshot{folder: f, list: make([]entry, len(infos))}
	shared := make(map[string][]imap.Flag) // few combinations for many messages
	for i, m := range infos {
		s.list[i] = newEntry(m, shared)
	}
	return s
}

func newEntry(m store.MessageInfo, shared map[string][]imap.Flag) entry {
	e := entry{uid: m.UID, modSeq: m.ModSeq, size: m.Size, received: m.Received.UTC()}
	if len(m.Flags) == 0 {
		return e
	}
	key := strings.Join(m.Flags, " ")
	flags, ok := shared[key]
	if !ok {
		for _, f := range m.Flags {
			flags = append(flags, imap.Flag(f))
		}
		shared[key] = flags
	}
	e.flags = flags
	return e
}

// change is what a client must be told to get from one snapshot to another.
type change struct {
	expunged []uint32 // message numbers in the old snapshot, ascending
	flags    []int    // indexes in the new snapshot of messages known before
	added    bool
}

// diff compares two snapshots of one folder.
func diff(before, after *snapshot) change {
	var c change
	i, j := 0, 0
	for i < len(before.list) && j < len(after.list) {
		b, a := &before.list[i], &after.list[j]
		switch {
		case b.uid == a.uid:
			if b.modSeq != a.modSeq {
				c.flags = append(c.flags, j)
			}
			i++
			j++
		case b.uid < a.uid:
			c.expunged = append(c.expunged, uint32(i+1))
			i++
		default: // a UID that appears out of order; the store never does this
			c.added = true
			j++
		}
	}
	for ; i < len(before.list); i++ {
		c.expunged = append(c.expunged, uint32(i+1))
	}
	c.added = c.added || j < len(after.list)
	return c
}
