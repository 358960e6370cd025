package dnscert

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxBuckets bounds the memory of the rate limit; there are two generations.
const maxBuckets = 16_384

// Networks that count as one client: what one subscriber usually has.
const (
	bits4 = 24
	bits6 = 56
)

// verdict is what happens to an answer over UDP.
type verdict uint8

const (
	pass verdict = iota
	slip         // an empty answer with TC: a true client comes back over TCP
	drop
)

// limiter is a token bucket per client network against being used to flood
// others with answers. Every second answer above the rate slips.
type limiter struct {
	mu       sync.Mutex
	rate     float64
	now, old map[netip.Prefix]*bucket
	clock    func() time.Time
}

type bucket struct {
	tokens float64
	last   time.Time
	above  int
}

func newLimiter(rate int, clock func() time.Time) *limiter {
	return &limiter{rate: float64(rate), now: make(map[netip.Prefix]*bucket), clock: clock}
}

func (l *limiter) allow(addr netip.Addr) verdict {
	if l.rate <= 0 {
		return pass
	}
	key := network(addr, bits4, bits6)
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.clock()
	b := l.bucket(key, t)
	b.tokens = min(l.rate, b.tokens+t.Sub(b.last).Seconds()*l.rate)
	b.last = t
	if b.tokens >= 1 {
		b.tokens--
		return pass
	}
	b.above++
	if b.above%2 == 0 {
		return slip
	}
	return drop
}

func (l *limiter) bucket(key netip.Prefix, t time.Time) *bucket {
	if b := l.now[key]; b != nil {
		return b
	}
	if len(l.now) >= maxBuckets {
		l.old, l.now = l.now, make(map[netip.Prefix]*bucket)
	}
	b := l.old[key]
	if b == nil {
		b = &bucket{tokens: l.rate, last: t}
	}
	l.now[key] = b
	return b
}

func network(addr netip.Addr, four, six int) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := six
	if addr.Is4() {
		bits = four
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// cappedListener closes connections above its limits at once.
type cappedListener struct {
	net.Listener
	total, perIP int
	idle         time.Duration

	mu   sync.Mutex
	open map[netip.Prefix]int
	sum  int
}

// Accept returns the next connection that is within the limits.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key := peerNetwork(conn)
		if l.take(key) {
			return &cappedConn{Conn: conn, release: sync.OnceFunc(func() { l.give(key) }), idle: l.idle}, nil
		}
		_ = conn.Close()
	}
}

// peerNetwork is one address in IPv4 and one link in IPv6.
func peerNetwork(conn net.Conn) netip.Prefix {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return network(tcp.AddrPort().Addr(), 32, 64)
	}
	return netip.Prefix{}
}

func (l *cappedListener) take(key netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sum >= l.total || l.open[key] >= l.perIP {
		return false
	}
	l.sum++
	l.open[key]++
	return true
}

func (l *cappedListener) give(key netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum--
	if l.open[key]--; l.open[key] <= 0 {
		delete(l.open, key)
	}
}

// idleTimeout is shorter when connections are scarce (RFC 7766 §6.2.3).
func (l *cappedListener) idleTimeout() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sum > l.total/2 {
		return l.idle / 5
	}
	return l.idle
}

type cappedConn struct {
	net.Conn
	release func()
	idle    time.Duration
}

// Write gives up on a peer that does not read.
func (c *cappedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close frees the connection's place.
func (c *cappedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
