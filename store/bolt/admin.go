package bolt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// AddDomain adds a domain: Conflict if it exists.
func (s *Store) AddDomain(ctx context.Context, d store.Domain) error {
	const name = "bolt.AddDomain"
	if d.Created.IsZero() {
		d.Created = s.now()
	}
	plain, err := json.Marshal(d)
	if err != nil {
		return wrapErr(name, err)
	}
	key := []byte(d.Name)
	value := s.b.domains.seal(key, plain)
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			if d.Name == "" {
				return fail(name, hisp.Malformed, "a domain has a name")
			}
			if tx.Bucket(s.b.domains.name).Get(key) != nil {
				return fail(name, hisp.Conflict, "the domain is already hosted")
			}
			return nil
		},
		write: func(tx *bbolt.Tx, _ *batch) error { return tx.Bucket(s.b.domains.name).Put(key, value) },
	})
}

// RemoveDomain removes a domain: NotFound, or Conflict while it has accounts.
func (s *Store) RemoveDomain(ctx context.Context, d hisp.Domain) error {
	const name = "bolt.RemoveDomain"
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			if tx.Bucket(s.b.domains.name).Get([]byte(d)) == nil {
				return fail(name, hisp.NotFound, "the domain is not hosted")
			}
			as, err := s.accounts(tx, d)
			if err == nil && len(as) > 0 {
				err = fail(name, hisp.Conflict, "the domain still has accounts: remove them first")
			}
			return err
		},
		write: func(tx *bbolt.Tx, _ *batch) error { return s.b.domains.delete(tx, []byte(d)) },
	})
}

// ListDomains returns the domains by name.
func (s *Store) ListDomains(ctx context.Context) ([]store.Domain, error) {
	return list(ctx, s, s.b.domains, nil, func(store.Domain) bool { return true })
}

// list decodes the JSON values whose key has the prefix and that keep admits.
func list[T any](ctx context.Context, s *Store, b sealed, prefix []byte, keep func(T) bool) ([]T, error) {
	var all []T
	err := s.view(ctx, "bolt.List", func(tx *bbolt.Tx) error {
		var err error
		all, err = scan(tx, b, prefix, keep)
		return err
	})
	return all, err
}

func scan[T any](tx *bbolt.Tx, b sealed, prefix []byte, keep func(T) bool) ([]T, error) {
	var all []T
	c := tx.Bucket(b.name).Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		plain, err := b.open(k, v)
		if err != nil {
			return nil, err
		}
		var t T
		if err := json.Unmarshal(plain, &t); err != nil {
			return nil, wrapErr("bolt.List", err)
		}
		if keep(t) {
			all = append(all, t)
		}
	}
	return all, nil
}

// PutAccount creates or replaces an account: NotFound if its domain is not
// hosted. A new one gets its folders.
func (s *Store) PutAccount(ctx context.Context, a store.AccountRecord) error {
	const name = "bolt.PutAccount"
	if a.Address.Local == "" || len(a.ClientCerts) > maxClientCerts {
		return fail(name, hisp.Malformed, "an account has a local part and at most 64 client certificates")
	}
	if a.Created.IsZero() {
		a.Created = s.now()
	}
	plain, err := json.Marshal(a)
	if err != nil {
		return wrapErr(name, err)
	}
	key := s.b.account(a.Address)
	value := s.b.accounts.seal(key[:], plain)
	var old *store.AccountRecord
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			if tx.Bucket(s.b.domains.name).Get([]byte(a.Address.Domain)) == nil {
				return fail(name, hisp.NotFound, "the account's domain is not hosted: add the domain first")
			}
			var err error
			old, err = s.account(tx, key)
			return err
		},
		write: func(tx *bbolt.Tx, _ *batch) error {
			if err := s.replaceCerts(tx, key, old, &a); err != nil {
				return err
			}
			if old == nil {
				if err := s.createAccountFolders(tx, key); err != nil {
					return err
				}
			}
			return tx.Bucket(s.b.accounts.name).Put(key[:], value)
		},
	})
}

const maxClientCerts = 64

func (s *Store) replaceCerts(tx *bbolt.Tx, key acctKey, old, now *store.AccountRecord) error {
	b := tx.Bucket([]byte(bCerts))
	if old != nil {
		for _, sum := range old.ClientCerts {
			k := s.b.certificate(sum)
			if err := b.Delete(append(k[:], key[:]...)); err != nil {
				return err
			}
		}
	}
	if now != nil {
		for _, sum := range now.ClientCerts {
			k := s.b.certificate(sum)
			if err := b.Put(append(k[:], key[:]...), present()); err != nil {
				return err
			}
		}
	}
	return nil
}

// account returns nil if there is none.
func (s *Store) account(tx *bbolt.Tx, key acctKey) (*store.AccountRecord, error) {
	plain, err := s.b.accounts.get(tx, key[:])
	if plain == nil || err != nil {
		return nil, err
	}
	var a store.AccountRecord
	if err := json.Unmarshal(plain, &a); err != nil {
		return nil, wrapErr("bolt", err)
	}
	return &a, nil
}

func (s *Store) accounts(tx *bbolt.Tx, d hisp.Domain) ([]store.AccountRecord, error) {
	as, err := scan(tx, s.b.accounts, nil, func(a store.AccountRecord) bool { return d == "" || a.Address.Domain == d })
	slices.SortFunc(as, func(a, b store.AccountRecord) int {
		return cmp.Or(cmp.Compare(a.Address.Domain, b.Address.Domain),
			cmp.Compare(a.Address.Key().Local, b.Address.Key().Local))
	})
	return as, err
}

// RemoveAccount removes an account and its mail: NotFound.
func (s *Store) RemoveAccount(ctx context.Context, addr hisp.Address) error {
	const name = "bolt.RemoveAccount"
	key := s.b.account(addr)
	var old *store.AccountRecord
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			var err error
			if old, err = s.account(tx, key); err == nil && old == nil {
				err = fail(name, hisp.NotFound, "there is no such account")
			}
			return err
		},
		write: func(tx *bbolt.Tx, b *batch) error {
			if err := s.replaceCerts(tx, key, old, nil); err != nil {
				return err
			}
			if err := s.removeMail(tx, b, key); err != nil {
				return err
			}
			return s.b.accounts.delete(tx, key[:])
		},
	})
}

// GetAccount returns the account with exactly this address, case of the local
// part aside: NotFound.
func (s *Store) GetAccount(ctx context.Context, addr hisp.Address) (store.AccountRecord, error) {
	var a store.AccountRecord
	err := s.view(ctx, "bolt.GetAccount", func(tx *bbolt.Tx) error {
		got, err := s.account(tx, s.b.account(addr))
		if err != nil {
			return err
		}
		if got == nil {
			return fail("bolt.GetAccount", hisp.NotFound, "there is no such account")
		}
		a = *got
		return nil
	})
	return a, err
}

// ListAccounts returns the accounts of d by address, all with "".
func (s *Store) ListAccounts(ctx context.Context, d hisp.Domain) ([]store.AccountRecord, error) {
	var as []store.AccountRecord
	err := s.view(ctx, "bolt.ListAccounts", func(tx *bbolt.Tx) error {
		var err error
		as, err = s.accounts(tx, d)
		return err
	})
	return as, err
}

// storedAnchor and storedKey hold certificates as DER.
type storedAnchor struct {
	Domain    hisp.Domain
	Direction hisp.Direction
	Cert      []byte
	Added     time.Time
}

type storedKey struct {
	ID      string
	Owner   hisp.Address
	Role    store.KeyRole
	Chain   [][]byte
	PKCS8   []byte
	Created time.Time
	Retired time.Time
}

func anchorKey(d hisp.Domain, sum [32]byte) []byte { return joinKey(string(d), sum[:]) }

// PutAnchor adds an anchor of a hosted domain or changes its direction:
// NotFound if the domain is not hosted.
func (s *Store) PutAnchor(ctx context.Context, a store.Anchor) error {
	const name = "bolt.PutAnchor"
	if a.Cert == nil || a.Direction&hisp.Both == 0 {
		return fail(name, hisp.Malformed, "an anchor has a certificate and a direction")
	}
	if a.Added.IsZero() {
		a.Added = s.now()
	}
	plain, err := json.Marshal(storedAnchor{a.Domain, a.Direction, a.Cert.Raw, a.Added})
	if err != nil {
		return wrapErr(name, err)
	}
	key := anchorKey(a.Domain, sha256.Sum256(a.Cert.Raw))
	value := s.b.anchors.seal(key, plain)
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			if tx.Bucket(s.b.domains.name).Get([]byte(a.Domain)) == nil {
				return fail(name, hisp.NotFound, "the anchor's domain is not hosted: add the domain first")
			}
			return nil
		},
		write: func(tx *bbolt.Tx, _ *batch) error { return tx.Bucket(s.b.anchors.name).Put(key, value) },
		done:  s.anchors.changed,
	})
}

// RemoveAnchor removes an anchor by its SHA-256: NotFound.
func (s *Store) RemoveAnchor(ctx context.Context, d hisp.Domain, sum [32]byte) error {
	return s.removeRecord(ctx, "bolt.RemoveAnchor", s.b.anchors, anchorKey(d, sum), "the domain has no such anchor", s.anchors.changed)
}

func (s *Store) removeRecord(ctx context.Context, name string, b sealed, key []byte, missing string, done func()) error {
	return s.commit.do(ctx, &op{name: name,
		check: func(tx *bbolt.Tx) error {
			if tx.Bucket(b.name).Get(key) == nil {
				return fail(name, hisp.NotFound, missing)
			}
			return nil
		},
		write: func(tx *bbolt.Tx, _ *batch) error { return b.delete(tx, key) },
		done:  done,
	})
}

// ListAnchors returns the anchors of d, oldest first; "" lists all by domain.
func (s *Store) ListAnchors(ctx context.Context, d hisp.Domain) ([]store.Anchor, error) {
	var prefix []byte
	if d != "" {
		prefix = joinKey(string(d), nil)
	}
	stored, err := list(ctx, s, s.b.anchors, prefix, func(storedAnchor) bool { return true })
	if err != nil {
		return nil, err
	}
	as := make([]store.Anchor, 0, len(stored))
	for _, sa := range stored {
		cert, err := x509.ParseCertificate(sa.Cert)
		if err != nil {
			return nil, wrapErr("bolt.ListAnchors", err)
		}
		as = append(as, store.Anchor{Domain: sa.Domain, Direction: sa.Direction, Cert: cert, Added: sa.Added})
	}
	slices.SortStableFunc(as, func(a, b store.Anchor) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), a.Added.Compare(b.Added))
	})
	return as, nil
}

// PutKey creates or replaces a private key by ID.
func (s *Store) PutKey(ctx context.Context, k store.Key) error {
	const name = "bolt.PutKey"
	if k.ID == "" || strings.ContainsRune(k.ID, 0) || len(k.PKCS8) == 0 {
		return fail(name, hisp.Malformed, "a key has an ID and a private key")
	}
	if k.Created.IsZero() {
		k.Created = s.now()
	}
	sk := storedKey{ID: k.ID, Owner: k.Owner, Role: k.Role, PKCS8: k.PKCS8, Created: k.Created, Retired: k.Retired}
	for _, c := range k.Chain {
		sk.Chain = append(sk.Chain, c.Raw)
	}
	plain, err := json.Marshal(sk)
	if err != nil {
		return wrapErr(name, err)
	}
	key := []byte(k.ID)
	value := s.b.keys.seal(key, plain)
	return s.commit.do(ctx, &op{name: name,
		write: func(tx *bbolt.Tx, _ *batch) error { return tx.Bucket(s.b.keys.name).Put(key, value) },
		done:  func() { s.keys.put(k.ID, k.Owner) },
	})
}

// ListKeys returns the keys of an address and of its domain, newest first.
func (s *Store) ListKeys(ctx context.Context, owner hisp.Address) ([]store.Key, error) {
	stored, err := s.storedKeys(ctx, owner)
	if err != nil {
		return nil, err
	}
	ks := make([]store.Key, 0, len(stored))
	for _, sk := range stored {
		k := store.Key{ID: sk.ID, Owner: sk.Owner, Role: sk.Role, PKCS8: sk.PKCS8, Created: sk.Created, Retired: sk.Retired}
		for _, der := range sk.Chain {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, wrapErr("bolt.ListKeys", err)
			}
			k.Chain = append(k.Chain, cert)
		}
		ks = append(ks, k)
	}
	slices.SortStableFunc(ks, func(a, b store.Key) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return ks, nil
}

func ownedBy(owner, asked hisp.Address) bool {
	switch {
	case asked.Local == "" && asked.Domain == "":
		return true
	case owner.Local == "":
		return owner.Domain == asked.Domain
	}
	return owner.Equal(asked)
}

// RemoveKey removes a private key: NotFound.
func (s *Store) RemoveKey(ctx context.Context, id string) error {
	return s.removeRecord(ctx, "bolt.RemoveKey", s.b.keys, []byte(id), "there is no such key", func() { s.keys.remove(id) })
}
