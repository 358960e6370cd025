package bolt

import (
	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
)

// eachRef calls fn for every reference to a body: queue items and messages.
func (s *Store) eachRef(tx *bbolt.Tx, fn func(bodyRef)) error {
	err := tx.Bucket(s.b.queue.name).ForEach(func(k, v []byte) error {
		plain, err := s.b.queue.open(k, v)
		if err != nil {
			return err
		}
		e, err := decodeEntry(hisp.ID(k), plain)
		if err == nil {
			fn(e.body)
		}
		return err
	})
	if err != nil {
		return err
	}
	return tx.Bucket(s.b.messages.name).ForEach(func(k, v []byte) error {
		plain, err := s.b.messages.open(k, v)
		if err != nil {
			return err
		}
		m, err := decodeMessage(plain)
		if err == nil {
			fn(m.body)
		}
		return err
	})
}

// referencedFiles returns the numbers of all body files in use.
func (s *Store) referencedFiles(tx *bbolt.Tx) (map[uint64]bodyRef, error) {
	used := map[uint64]bodyRef{}
	err := s.eachRef(tx, func(r bodyRef) {
		if r.file {
			used[r.id] = r
		}
	})
	return used, err
}
