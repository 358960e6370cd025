package bolt

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// keyIndex knows the owner of every key, so that finding the keys of one
// address, which each message needs several times, does not open the keys of
// all others. It holds no secrets.
type keyIndex struct {
	mu      sync.RWMutex
	ids     map[hisp.Address]map[string]struct{} // by Owner.Key(), Local "" for domain-bound
	owners  map[string]hisp.Address
	damaged bool // some key cannot be read: whose it is, is not known
}

func newKeyIndex() *keyIndex {
	return &keyIndex{ids: map[hisp.Address]map[string]struct{}{}, owners: map[string]hisp.Address{}}
}

func (x *keyIndex) put(id string, owner hisp.Address) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(id)
	owner = owner.Key()
	if x.ids[owner] == nil {
		x.ids[owner] = map[string]struct{}{}
	}
	x.ids[owner][id], x.owners[id] = struct{}{}, owner
}

func (x *keyIndex) remove(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(id)
}

func (x *keyIndex) drop(id string) {
	owner, ok := x.owners[id]
	if !ok {
		return
	}
	delete(x.owners, id)
	if delete(x.ids[owner], id); len(x.ids[owner]) == 0 {
		delete(x.ids, owner)
	}
}

// owned returns the IDs of the keys of an address and of its domain. It cannot
// tell when every key is asked for, or when one cannot be read.
func (x *keyIndex) owned(a hisp.Address) (ids []string, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.damaged || a.Domain == "" {
		return nil, false
	}
	for id := range x.ids[hisp.Address{Domain: a.Domain}] {
		ids = append(ids, id)
	}
	if a.Local == "" {
		return ids, true
	}
	for id := range x.ids[a.Key()] {
		ids = append(ids, id)
	}
	return ids, true
}

// loadKeys fills the index.
func (s *Store) loadKeys(tx *bbolt.Tx) error {
	return tx.Bucket(s.b.keys.name).ForEach(func(k, v []byte) error {
		var sk storedKey
		plain, err := s.b.keys.open(k, v)
		if err == nil {
			err = json.Unmarshal(plain, &sk)
		}
		clear(plain)
		clear(sk.PKCS8)
		if err != nil {
			s.log.Error("a key cannot be read: run hisp verify", "op", "bolt.Open", "err", err)
			s.keys.damaged = true
			return nil
		}
		s.keys.put(string(k), sk.Owner)
		return nil
	})
}

// storedKeys reads the keys of owner.
func (s *Store) storedKeys(ctx context.Context, owner hisp.Address) ([]storedKey, error) {
	ids, ok := s.keys.owned(owner)
	if !ok {
		return list(ctx, s, s.b.keys, nil, func(k storedKey) bool { return ownedBy(k.Owner, owner) })
	}
	var keys []storedKey
	err := s.view(ctx, "bolt.ListKeys", func(tx *bbolt.Tx) error {
		for _, id := range ids {
			plain, err := s.b.keys.get(tx, []byte(id))
			if err != nil {
				return err
			}
			if plain == nil {
				continue // removed meanwhile
			}
			var k storedKey
			if err := json.Unmarshal(plain, &k); err != nil {
				return wrapErr("bolt.ListKeys", err)
			}
			keys = append(keys, k)
		}
		return nil
	})
	return keys, err
}

// anchorCache holds the anchors of domains as they were last read.
type anchorCache struct {
	mu      sync.Mutex
	changes uint64 // counts changes, so that what was read before one is not kept after it
	of      map[hisp.Domain][]store.Anchor
}

// maxCachedAnchors bounds the domains in the cache.
const maxCachedAnchors = 1024

func newAnchorCache() *anchorCache { return &anchorCache{of: map[hisp.Domain][]store.Anchor{}} }

func (c *anchorCache) get(d hisp.Domain) (list []store.Anchor, changes uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, ok = c.of[d]
	return list, c.changes, ok
}

// put keeps list unless something changed since changes was read.
func (c *anchorCache) put(d hisp.Domain, list []store.Anchor, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return
	}
	if len(c.of) >= maxCachedAnchors {
		clear(c.of)
	}
	c.of[d] = list
}

// changed runs after the commit of any change to anchors.
func (c *anchorCache) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	clear(c.of)
}

// Anchors returns the anchors for the domain of a local address and a
// direction.
func (s *Store) Anchors(ctx context.Context, local hisp.Address, dir hisp.Direction) ([]*x509.Certificate, error) {
	if local.Domain == "" {
		return nil, ctx.Err()
	}
	as, changes, ok := s.anchors.get(local.Domain)
	if !ok || ctx.Err() != nil {
		var err error
		if as, err = s.ListAnchors(ctx, local.Domain); err != nil {
			return nil, err
		}
		s.anchors.put(local.Domain, as, changes)
	}
	var certs []*x509.Certificate
	for _, a := range as {
		if a.Direction&dir != 0 {
			certs = append(certs, a.Cert)
		}
	}
	return certs, nil
}
