package smtpd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// start tells whether a connection begins in the clear or with TLS.
type start uint8

const (
	startClear start = iota
	startTLS
)

// door admits connections: it keeps the caps and hands go-smtp a gate for each.
type door struct {
	net.Listener
	ctx context.Context // of Serve; net.Listener leaves no other way
	srv *Server
	how start
}

const (
	acceptPause  = 50 * time.Millisecond // after running out of descriptors
	refuseWithin = time.Second           // for the 421 to a connection over the cap
	tellEvery    = time.Minute
	maxTold      = 1024            // addresses remembered
	evictAfter   = 2 * time.Second // a wait shorter than this is honest work
)

// Accept implements net.Listener. It returns a gate.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		switch {
		case err == nil:
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			d.srv.cfg.Log.Warn("cannot accept", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-d.ctx.Done():
			}
			continue
		default:
			return nil, err
		}
		g := newGate(d.ctx, d.srv, c, d.how)
		victim, ok := d.srv.table.add(g)
		if !ok {
			d.tell(g)
			d.turnAway(c)
			continue
		}
		if victim != nil {
			victim.interrupt(closeEvicted)
		}
		return g, nil
	}
}

// tell logs a refusal, once a minute for each address: an operator looks for
// the partner whose mail waits, and a flood must not fill the log.
func (d *door) tell(g *gate) {
	t := &d.srv.table
	now := d.srv.cfg.Clock()
	t.mu.Lock()
	capped := t.perIP[g.source] >= t.each
	quiet := t.draining || now.Sub(t.told[g.source]) < tellEvery
	if !quiet {
		if len(t.told) >= maxTold {
			clear(t.told)
		}
		t.told[g.source] = now
	}
	t.mu.Unlock()
	switch {
	case quiet:
	case capped:
		d.srv.cfg.Log.Warn("too many connections from one address: refused", "op", "smtpd", "peer", g.peer.String(), "limit", t.each)
	default:
		d.srv.cfg.Log.Warn("too many connections: refused", "op", "smtpd", "peer", g.peer.String(), "limit", t.total)
	}
}

func (d *door) turnAway(c net.Conn) {
	if d.how == startClear {
		_ = c.SetWriteDeadline(time.Now().Add(refuseWithin)) // best effort: it is refused anyway
		_, _ = c.Write([]byte(codeClosing + " 4.7.0 " + d.srv.cfg.Hostname + " too many connections, try again later\r\n"))
	}
	_ = c.Close()
}

// table counts the live gates.
type table struct {
	mu       sync.Mutex
	gates    map[*gate]struct{}
	perIP    map[netip.Prefix]int
	told     map[netip.Prefix]time.Time // of the last log line about a refusal
	total    int
	each     int
	draining bool
}

func (t *table) init(l Limits) {
	t.gates = make(map[*gate]struct{})
	t.perIP = make(map[netip.Prefix]int)
	t.told = make(map[netip.Prefix]time.Time)
	t.total, t.each = l.Connections, l.ConnectionsPerIP
}

// add admits g unless a cap is reached. When the house is full, the gate that
// has waited longest for its peer gives way: peers that hold connections
// without using them must not lock out the others (threat T10).
func (t *table) add(g *gate) (victim *gate, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.draining || t.perIP[g.source] >= t.each {
		return nil, false
	}
	if len(t.gates) >= t.total {
		var longest time.Duration
		for other := range t.gates {
			if d := other.waitingFor(); d > longest {
				victim, longest = other, d
			}
		}
		// The victim is still counted until it has closed, so the house may
		// be over full for a moment; twice the cap is never passed.
		if longest < evictAfter || len(t.gates) >= 2*t.total {
			return nil, false
		}
	}
	t.gates[g] = struct{}{}
	t.perIP[g.source]++
	return victim, true
}

func (t *table) remove(g *gate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, in := t.gates[g]; !in {
		return
	}
	delete(t.gates, g)
	if t.perIP[g.source]--; t.perIP[g.source] <= 0 {
		delete(t.perIP, g.source)
	}
}

// drain admits no more and returns the gates there are.
func (t *table) drain() []*gate {
	t.mu.Lock()
	t.draining = true
	t.mu.Unlock()
	return t.all()
}

func (t *table) isDraining() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.draining
}

func (t *table) all() []*gate {
	t.mu.Lock()
	defer t.mu.Unlock()
	gates := make([]*gate, 0, len(t.gates))
	for g := range t.gates {
		gates = append(gates, g)
	}
	return gates
}

// sourceOf is what the per-address cap counts: an IPv4 address or an IPv6 /64,
// which one customer has whole.
func sourceOf(a net.Addr) (netip.Addr, netip.Prefix) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}, netip.Prefix{} // not IP: all share one count
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return ip, netip.Prefix{}
	}
	return ip, p
}

// budget is the memory all sessions together may hold content in.
type budget struct{ free atomic.Int64 }

func (b *budget) take(n int64) bool {
	if b.free.Add(-n) < 0 {
		b.free.Add(n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.free.Add(n) }
