package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Hosted tells whether d is one of our domains.
func (s *Store) Hosted(ctx context.Context, d hisp.Domain) (bool, error) {
	var hosted bool
	err := s.view(ctx, "bolt.Hosted", func(tx *bbolt.Tx) error {
		hosted = tx.Bucket(s.b.domains.name).Get([]byte(d)) != nil
		return nil
	})
	return hosted, err
}

// resolve finds the account that receives mail for addr: the address itself,
// else without +tag (row BB-18). ok is false if there is none.
func (s *Store) resolve(tx *bbolt.Tx, addr hisp.Address) (key acctKey, ok bool) {
	for _, a := range []hisp.Address{addr, addr.Base()} {
		key = s.b.account(a)
		if tx.Bucket(s.b.accounts.name).Get(key[:]) != nil {
			return key, true
		}
	}
	return acctKey{}, false
}

// Account finds the account that receives mail for addr: UnknownRecipient.
func (s *Store) Account(ctx context.Context, addr hisp.Address) (hisp.Account, error) {
	const name = "bolt.Account"
	var acct hisp.Account
	err := s.view(ctx, name, func(tx *bbolt.Tx) error {
		key, ok := s.resolve(tx, addr)
		if !ok {
			return fail(name, hisp.UnknownRecipient, "there is no such address here")
		}
		a, err := s.account(tx, key)
		if err == nil {
			acct = a.Account
		}
		return err
	})
	return acct, err
}

// Authenticate checks a client certificate, or else a password. An unknown
// user, a disabled account and a wrong password take the same time and give
// the same Denied.
func (s *Store) Authenticate(ctx context.Context, c hisp.Credentials) (hisp.Account, error) {
	const name = "bolt.Authenticate"
	denied := fail(name, hisp.Denied, "wrong user name or password")
	a, byCert, err := s.candidate(ctx, c)
	if err != nil {
		return hisp.Account{}, err
	}
	if byCert {
		if a.Disabled {
			return hisp.Account{}, denied
		}
		return a.Account, nil
	}
	hash := ""
	if a != nil && !a.Disabled {
		hash = a.PasswordHash
	}
	if err := s.pw.Check(ctx, hash, c.Password); err != nil {
		return hisp.Account{}, err
	}
	return a.Account, nil
}

// candidate finds the account the credentials name and whether their
// certificate alone proves it. Without a user name the certificate must belong
// to exactly one account.
func (s *Store) candidate(ctx context.Context, c hisp.Credentials) (a *store.AccountRecord, byCert bool, err error) {
	var sum [32]byte
	if c.Cert != nil {
		sum = sha256.Sum256(c.Cert.Raw)
	}
	err = s.view(ctx, "bolt.Authenticate", func(tx *bbolt.Tx) error {
		key, ok := acctKey{}, false
		if c.Username != "" {
			if addr, err := hisp.ParseAddress(c.Username); err == nil {
				key, ok = s.b.account(addr), true
			}
		} else if c.Cert != nil {
			key, ok = s.soleOwner(tx, sum)
		}
		if !ok {
			return nil
		}
		if a, err = s.account(tx, key); a == nil || err != nil || c.Cert == nil {
			return err
		}
		k := s.b.certificate(sum)
		byCert = tx.Bucket([]byte(bCerts)).Get(append(k[:], key[:]...)) != nil
		return nil
	})
	return a, byCert, err
}

func (s *Store) soleOwner(tx *bbolt.Tx, sum [32]byte) (acctKey, bool) {
	prefix := s.b.certificate(sum)
	c := tx.Bucket([]byte(bCerts)).Cursor()
	k, _ := c.Seek(prefix[:])
	if !bytes.HasPrefix(k, prefix[:]) || len(k) != 2*len(prefix) {
		return acctKey{}, false
	}
	owner := acctKey(k[len(prefix):])
	next, _ := c.Next()
	return owner, !bytes.HasPrefix(next, prefix[:])
}

// Room tells whether an account can take size octets more: nil, Full, or
// UnknownRecipient.
func (s *Store) Room(ctx context.Context, acct hisp.Address, size int64) error {
	const name = "bolt.Room"
	return s.view(ctx, name, func(tx *bbolt.Tx) error {
		key, ok := s.resolve(tx, acct)
		if !ok {
			return fail(name, hisp.UnknownRecipient, "there is no such address here")
		}
		return s.checkRoom(tx, name, key, size)
	})
}

func (s *Store) checkRoom(tx *bbolt.Tx, name string, key acctKey, size int64) error {
	a, err := s.account(tx, key)
	if err != nil || a == nil || a.Quota == 0 {
		return err
	}
	used, err := s.usage(tx, key)
	if err != nil {
		return err
	}
	if used+size > a.Quota {
		return fail(name, hisp.Full, "the mailbox is full: messages must be removed first")
	}
	return nil
}
