package dnscert

import (
	"container/list"
	"sync"
	"time"
)

// Bounds of the cache. A CERT answer of one 2048-bit certificate is about
// 2 KB; the octets bound what a hostile zone can make us hold.
const (
	maxCacheEntries = 10_000
	maxCacheOctets  = 32 << 20
)

// cache keeps answers until they expire, the least recently used leaves first.
type cache struct {
	mu      sync.Mutex
	entries map[question]*list.Element
	order   *list.List // of *cached, front is the most recently used
	octets  int
}

type cached struct {
	q       question
	ans     *answer
	expires time.Time
}

func newCache() *cache {
	return &cache{entries: make(map[question]*list.Element), order: list.New()}
}

func (c *cache) get(q question, now time.Time) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[q]
	if el == nil {
		return nil
	}
	e := el.Value.(*cached)
	if !now.Before(e.expires) {
		c.remove(el)
		return nil
	}
	c.order.MoveToFront(el)
	return e.ans
}

func (c *cache) put(q question, ans *answer, expires time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[q]; old != nil {
		c.remove(old)
	}
	c.entries[q] = c.order.PushFront(&cached{q, ans, expires})
	c.octets += ans.octets
	for c.order.Len() > maxCacheEntries || c.octets > maxCacheOctets {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*cached)
	delete(c.entries, e.q)
	c.octets -= e.ans.octets
}
