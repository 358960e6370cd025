package trust

import (
	"crypto/sha256"
	"sync"
)

// signatureKey names the check of a certificate's signature by a public key:
// SHA-256 of the SubjectPublicKeyInfo and of the whole certificate. The many
// cross certificates of one CA are one check.
type signatureKey struct{ key, subject [sha256.Size]byte }

// signatureCache remembers signatures that verified: a fact about bytes that
// no time, anchor or policy changes. It keeps between half of and all its
// capacity: when the young half is full it becomes the old half, and a hit in
// the old half makes the entry young again.
type signatureCache struct {
	mu         sync.Mutex
	half       int
	young, old map[signatureKey]struct{}
}

func newSignatureCache(capacity int) *signatureCache {
	return &signatureCache{half: max(capacity/2, 1), young: map[signatureKey]struct{}{}}
}

func (c *signatureCache) has(k signatureKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[k]; ok {
		return true
	}
	_, ok := c.old[k]
	if ok {
		c.insert(k)
	}
	return ok
}

func (c *signatureCache) add(k signatureKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insert(k)
}

func (c *signatureCache) insert(k signatureKey) {
	if len(c.young) >= c.half {
		c.old, c.young = c.young, make(map[signatureKey]struct{}, c.half)
	}
	c.young[k] = struct{}{}
}
