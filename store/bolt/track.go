package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
)

// forgetChunk bounds how many keys Forget deletes in one transaction, so that
// mail does not wait for it.
const forgetChunk = 1000

// preparedTrack is a track sealed with its next version.
type preparedTrack struct {
	hisp.Track
	key    [16]byte
	sealed []byte
	old    *hisp.Track // found by check
}

func (s *Store) prepareTrack(t hisp.Track) preparedTrack {
	p := preparedTrack{Track: t, key: s.b.track(t.MessageID, t.Recipient)}
	t.Version++
	p.sealed = s.b.tracks.seal(p.key[:], encodeTrack(t))
	return p
}

func (s *Store) checkTracks(tx *bbolt.Tx, ps []preparedTrack) error {
	const name = "bolt.Commit"
	for i := range ps {
		p := &ps[i]
		plain, err := s.b.tracks.get(tx, p.key[:])
		if err != nil {
			return err
		}
		p.old = nil
		var version uint64
		if plain != nil {
			old, err := decodeTrack(plain)
			if err != nil {
				return err
			}
			p.old, version = &old, old.Version
		}
		for _, earlier := range ps[:i] {
			if earlier.key == p.key {
				return fail(name, hisp.Conflict, "a step has two tracks for one message and recipient")
			}
		}
		if version != p.Version {
			return fail(name, hisp.Conflict, "the track was changed by another step: read it again")
		}
	}
	return nil
}

// trackTime is the place of a track in its time index.
func trackTime(t *hisp.Track) (bucket string, key []byte) {
	if t.Final == hisp.Waiting {
		return bOverdue, timeKey(t.Deadline)
	}
	return bEnded, timeKey(t.Ended)
}

func (s *Store) putTracks(tx *bbolt.Tx, ps []preparedTrack) error {
	for i := range ps {
		p := &ps[i]
		if p.old != nil {
			bucket, at := trackTime(p.old)
			if err := tx.Bucket([]byte(bucket)).Delete(append(at, p.key[:]...)); err != nil {
				return err
			}
		}
		bucket, at := trackTime(&p.Track)
		if err := tx.Bucket([]byte(bucket)).Put(append(at, p.key[:]...), present()); err != nil {
			return err
		}
		if p.old == nil || p.old.Message != p.Message {
			if p.old != nil {
				if err := tx.Bucket([]byte(bTrackMsg)).Delete(joinKey(string(p.old.Message), p.key[:])); err != nil {
					return err
				}
			}
			if err := tx.Bucket([]byte(bTrackMsg)).Put(joinKey(string(p.Message), p.key[:]), present()); err != nil {
				return err
			}
		}
		if err := tx.Bucket(s.b.tracks.name).Put(p.key[:], p.sealed); err != nil {
			return err
		}
	}
	return nil
}

// Track finds the track for a message and recipient: NotFound.
func (s *Store) Track(ctx context.Context, messageID string, rcpt hisp.Address) (hisp.Track, error) {
	const name = "bolt.Track"
	var t hisp.Track
	err := s.view(ctx, name, func(tx *bbolt.Tx) error {
		key := s.b.track(messageID, rcpt)
		var err error
		t, err = s.track(tx, key[:])
		return err
	})
	return t, err
}

func (s *Store) track(tx *bbolt.Tx, key []byte) (hisp.Track, error) {
	plain, err := s.b.tracks.get(tx, key)
	if err != nil {
		return hisp.Track{}, err
	}
	if plain == nil {
		return hisp.Track{}, fail("bolt.Track", hisp.NotFound, "nothing is expected for this message and recipient")
	}
	return decodeTrack(plain)
}

// Tracks returns all tracks of one message.
func (s *Store) Tracks(ctx context.Context, id hisp.ID) ([]hisp.Track, error) {
	var ts []hisp.Track
	err := s.view(ctx, "bolt.Tracks", func(tx *bbolt.Tx) error {
		prefix := joinKey(string(id), nil)
		c := tx.Bucket([]byte(bTrackMsg)).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			t, err := s.track(tx, k[len(prefix):])
			if err != nil {
				return err
			}
			ts = append(ts, t)
		}
		return nil
	})
	return ts, err
}

// Overdue returns at most limit waiting tracks whose deadline has passed, the
// longest overdue first.
func (s *Store) Overdue(ctx context.Context, now time.Time, limit int) ([]hisp.Track, error) {
	var ts []hisp.Track
	err := s.view(ctx, "bolt.Overdue", func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bOverdue)).Cursor()
		end := timeKey(now)
		for k, _ := c.First(); k != nil && len(ts) < limit && bytes.Compare(k[:8], end) <= 0; k, _ = c.Next() {
			t, err := s.track(tx, k[8:])
			if err != nil {
				return err
			}
			ts = append(ts, t)
		}
		return nil
	})
	return ts, err
}

// Forget removes tracks that ended before a time, expired Seen digests and the
// markers of deliveries before that time.
func (s *Store) Forget(ctx context.Context, endedBefore time.Time) error {
	if err := s.forgetTracks(ctx, endedBefore); err != nil {
		return err
	}
	if err := s.forgetMarkers(ctx, bSeen, s.now()); err != nil {
		return err
	}
	return s.forgetMarkers(ctx, bDelivered, endedBefore)
}

func (s *Store) forgetTracks(ctx context.Context, before time.Time) error {
	end := timeKey(before)
	for {
		removed := 0
		err := s.commit.do(ctx, &op{name: "bolt.Forget", write: func(tx *bbolt.Tx, _ *batch) error {
			removed = 0
			var keys [][]byte
			c := tx.Bucket([]byte(bEnded)).Cursor()
			for k, _ := c.First(); k != nil && len(keys) < forgetChunk && bytes.Compare(k[:8], end) < 0; k, _ = c.Next() {
				keys = append(keys, bytes.Clone(k))
			}
			removed = len(keys)
			for _, k := range keys {
				if err := s.forgetTrack(tx, k); err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil || removed < forgetChunk {
			return err
		}
	}
}

func (s *Store) forgetTrack(tx *bbolt.Tx, endedKey []byte) error {
	key := endedKey[8:]
	if t, err := s.track(tx, key); err == nil {
		if err := tx.Bucket([]byte(bTrackMsg)).Delete(joinKey(string(t.Message), key)); err != nil {
			return err
		}
	}
	if err := s.b.tracks.delete(tx, key); err != nil {
		return err
	}
	return tx.Bucket([]byte(bEnded)).Delete(endedKey)
}

// forgetMarkers removes the keys of a bucket whose time is before a time.
func (s *Store) forgetMarkers(ctx context.Context, bucket string, before time.Time) error {
	var old [][]byte
	end := uint64(max(unixNano(before), 0))
	err := s.view(ctx, "bolt.Forget", func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			if len(v) == 8 && binary.BigEndian.Uint64(v) < end {
				old = append(old, bytes.Clone(k))
			}
			return nil
		})
	})
	for len(old) > 0 && err == nil {
		chunk := old[:min(len(old), forgetChunk)]
		old = old[len(chunk):]
		err = s.commit.do(ctx, &op{name: "bolt.Forget", write: func(tx *bbolt.Tx, _ *batch) error {
			for _, k := range chunk {
				if err := tx.Bucket([]byte(bucket)).Delete(k); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	return err
}
