package imapd

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// conn is one accepted connection and what the table knows about it.
type conn struct {
	net.Conn
	peer     netip.Addr
	deadline time.Time // for login
	feed     *feed     // of the listener it came from

	// guarded by connTable.mu
	gate  *gate         // nil before TLS
	fresh *list.Element // in connTable.fresh until login
}

// connTable counts connections (security rows T7, T10). A stranger beyond the
// number of strangers allowed is taken in at the cost of the one who has been
// a stranger longest: who only holds connections cannot keep out who logs in.
type connTable struct {
	limits Limits

	mu       sync.Mutex
	conns    map[*conn]struct{}
	fresh    *list.List // of *conn, oldest first
	perPeer  map[netip.Addr]int
	freshPer map[netip.Addr]int
	accounts map[hisp.Address]int
}

func newConnTable(l Limits) *connTable {
	return &connTable{
		limits: l, fresh: list.New(),
		conns:   make(map[*conn]struct{}),
		perPeer: make(map[netip.Addr]int), freshPer: make(map[netip.Addr]int),
		accounts: make(map[hisp.Address]int),
	}
}

// add takes nc in, or tells that there are too many.
func (t *connTable) add(nc net.Conn, now time.Time, preAuth time.Duration, f *feed) (*conn, bool) {
	c := &conn{Conn: nc, feed: f, peer: peerAddr(nc), deadline: now.Add(preAuth)}
	var evicted *conn
	t.mu.Lock()
	defer func() {
		t.mu.Unlock()
		if evicted != nil {
			_ = evicted.Conn.Close()
		}
	}()
	switch {
	case t.freshPer[c.peer] >= t.limits.PreAuthPer:
		evicted = t.oldest(c.peer)
	case t.fresh.Len() >= t.limits.PreAuth || len(t.conns) >= t.limits.Connections:
		evicted = t.oldest(netip.Addr{})
	}
	if evicted != nil {
		t.dropLocked(evicted)
	}
	if len(t.conns) >= t.limits.Connections || t.perPeer[c.peer] >= t.limits.PerAddress {
		return nil, false
	}
	t.conns[c] = struct{}{}
	t.perPeer[c.peer]++
	t.freshPer[c.peer]++
	c.fresh = t.fresh.PushBack(c)
	return c, true
}

// oldest finds the oldest stranger, of one peer or of all.
func (t *connTable) oldest(peer netip.Addr) *conn {
	for e := t.fresh.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); !peer.IsValid() || c.peer == peer {
			return c
		}
	}
	return nil
}

// attach notes that c is on TLS now; false if it was evicted meanwhile.
func (t *connTable) attach(c *conn, g *gate) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.gate = g
	_, ok := t.conns[c]
	return ok
}

// admitted ends the time as a stranger.
func (t *connTable) admitted(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unfreshLocked(c)
}

func (t *connTable) unfreshLocked(c *conn) {
	if c.fresh == nil {
		return
	}
	t.fresh.Remove(c.fresh)
	c.fresh = nil
	decrement(t.freshPer, c.peer)
}

func (t *connTable) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(c)
}

func (t *connTable) dropLocked(c *conn) {
	if _, ok := t.conns[c]; !ok {
		return
	}
	delete(t.conns, c)
	t.unfreshLocked(c)
	decrement(t.perPeer, c.peer)
}

// enter counts a login of acct; false if it has too many connections.
func (t *connTable) enter(acct hisp.Address) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.accounts[acct.Key()] >= t.limits.PerAccount {
		return false
	}
	t.accounts[acct.Key()]++
	return true
}

// leave undoes enter.
func (t *connTable) leave(acct hisp.Address) {
	t.mu.Lock()
	defer t.mu.Unlock()
	decrement(t.accounts, acct.Key())
}

// of returns the connections of one listener.
func (t *connTable) of(f *feed) []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var l []*conn
	for c := range t.conns {
		if c.feed == f {
			l = append(l, c)
		}
	}
	return l
}

// shut ends c: at once if it waits for its client, else after its command.
func (t *connTable) shut(c *conn) {
	t.mu.Lock()
	g := c.gate
	t.mu.Unlock()
	if g == nil {
		_ = c.Conn.Close()
		return
	}
	g.shut(textShutdown)
}

func decrement[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}
