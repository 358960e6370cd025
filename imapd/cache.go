package imapd

import (
	"container/list"
	"sync"

	"github.com/hispnode/hisp/hisp"
)

// cacheKey names what is kept of one message. A message never changes, and a
// UID is not given twice within one UIDVALIDITY.
type cacheKey struct {
	account  hisp.Address // Key form
	folder   string
	validity uint32
	uid      uint32
	raw      bool // the message itself, not what was parsed
}

// cache keeps the most recently used values up to a number of octets.
type cache struct {
	mu    sync.Mutex
	limit int64
	used  int64
	byKey map[cacheKey]*list.Element
	order *list.List // of *cached, most recent first
}

type cached struct {
	key   cacheKey
	value any
	cost  int64
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, byKey: make(map[cacheKey]*list.Element), order: list.New()}
}

func (c *cache) get(k cacheKey) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).value, true
}

// put keeps value, which costs about cost octets, unless it is too large.
func (c *cache) put(k cacheKey, value any, cost int64) {
	if cost > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[k]; ok {
		c.dropLocked(e)
	}
	c.byKey[k] = c.order.PushFront(&cached{k, value, cost})
	c.used += cost
	for c.used > c.limit {
		c.dropLocked(c.order.Back())
	}
}

func (c *cache) dropLocked(e *list.Element) {
	old := e.Value.(*cached)
	c.order.Remove(e)
	delete(c.byKey, old.key)
	c.used -= old.cost
}
