package relay

import (
	"sync"
	"time"
)

// idlePerDestination is as many as the node sends to one domain at a time by
// default: with fewer, a burst pays a TLS handshake for almost every message.
const idlePerDestination = 4

// poolKey is what must be the same for a connection to be used again.
type poolKey struct {
	host   string
	addr   string
	policy TLSPolicy
}

// pool keeps idle connections for a short time: a node sends notices to the
// same few peers all day.
type pool struct {
	mu     sync.Mutex
	limits Limits
	idle   map[poolKey][]*idleClient
	count  int
	closed bool
}

type idleClient struct {
	*client
	timer *time.Timer
}

func (p *pool) init(l Limits) {
	p.limits, p.idle = l, make(map[poolKey][]*idleClient)
}

// get takes the connection used last, or nil.
func (p *pool) get(k poolKey) *client {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[k]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	p.drop(k, c)
	return c.client
}

// put keeps c or, when there are enough, closes it.
func (p *pool) put(k poolKey, c *client) {
	p.mu.Lock()
	keep := !p.closed && c.uses < p.limits.Reuse && p.count < p.limits.Idle &&
		len(p.idle[k]) < idlePerDestination && c.r.Buffered() == 0
	if keep {
		ic := &idleClient{client: c}
		ic.timer = time.AfterFunc(p.limits.IdleTime, func() { p.expire(k, ic) })
		p.idle[k] = append(p.idle[k], ic)
		p.count++
	}
	p.mu.Unlock()
	if !keep {
		c.close()
	}
}

func (p *pool) expire(k poolKey, c *idleClient) {
	p.mu.Lock()
	mine := p.drop(k, c)
	p.mu.Unlock()
	if mine {
		c.close()
	}
}

// drop removes c and tells whether it was there. The lock is held.
func (p *pool) drop(k poolKey, c *idleClient) bool {
	for i, have := range p.idle[k] {
		if have == c {
			c.timer.Stop()
			p.idle[k] = append(p.idle[k][:i], p.idle[k][i+1:]...)
			if len(p.idle[k]) == 0 {
				delete(p.idle, k)
			}
			p.count--
			return true
		}
	}
	return false
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	var all []*client
	for k, list := range p.idle {
		for _, c := range list {
			c.timer.Stop()
			all = append(all, c.client)
		}
		delete(p.idle, k)
	}
	p.count = 0
	p.mu.Unlock()
	for _, c := range all {
		c.close()
	}
}
