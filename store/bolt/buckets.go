package bolt

import (
	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Bucket names. Keys and values:
const (
	bDomains   = "domains"   // name → sealed JSON
	bAccounts  = "accounts"  // account key → sealed JSON
	bCerts     = "certs"     // certificate key, account key → nothing
	bAnchors   = "anchors"   // domain, 0, SHA-256 → sealed JSON
	bKeys      = "keys"      // id → sealed JSON
	bQueue     = "queue"     // item ID → sealed item without body
	bBodies    = "bodies"    // body number → sealed body up to inlineMax
	bRefs      = "refs"      // body number → count, when more than 1
	bDelivered = "delivered" // delivery key → time
	bSeen      = "seen"      // digest key → time of expiry
	bTracks    = "tracks"    // track key → sealed track
	bTrackMsg  = "trackmsg"  // Envelope.ID, 0, track key → nothing
	bOverdue   = "overdue"   // deadline, track key → nothing, while waiting
	bEnded     = "ended"     // time of end, track key → nothing
	bFolders   = "folders"   // account key, name key → sealed folder
	bMessages  = "messages"  // account key, folder number, UID → sealed info
	bUsage     = "usage"     // account key → sealed octets
	bAudit     = "audit"     // sequence number → canonical entry
	bAuditMsg  = "auditmsg"  // Envelope.ID, 0, sequence number → nothing
)

var bucketNames = [...]string{bDomains, bAccounts, bCerts, bAnchors, bKeys, bQueue, bBodies, bRefs,
	bDelivered, bSeen, bTracks, bTrackMsg, bOverdue, bEnded, bFolders, bMessages, bUsage, bAudit, bAuditMsg}

// sealed is a bucket whose values are sealed under their key.
type sealed struct {
	name   []byte
	sealer *store.Sealer
}

// get returns a copy of the plain value, nil if there is none.
func (b sealed) get(tx *bbolt.Tx, key []byte) ([]byte, error) {
	v := tx.Bucket(b.name).Get(key)
	if v == nil {
		return nil, nil
	}
	return b.open(key, v)
}

func (b sealed) open(key, value []byte) ([]byte, error) {
	plain, err := b.sealer.Open(make([]byte, 0, len(value)), value, key)
	if err != nil {
		return nil, &hisp.Error{Op: "bolt", Kind: hisp.Internal,
			Hint: "a record in bucket " + string(b.name) + " is damaged: run hisp verify", Err: err}
	}
	return plain, nil
}

func (b sealed) seal(key, plain []byte) []byte { return b.sealer.Seal(nil, plain, key) }

func (b sealed) put(tx *bbolt.Tx, key, plain []byte) error {
	return tx.Bucket(b.name).Put(key, b.seal(key, plain))
}

func (b sealed) delete(tx *bbolt.Tx, key []byte) error { return tx.Bucket(b.name).Delete(key) }

// buckets holds the sealed buckets and the makers of keys.
type buckets struct {
	domains, accounts, anchors, keys sealed
	queue, bodies, tracks            sealed
	folders, messages, usage, audit  sealed

	index func(parts ...string) [16]byte
}

func newBuckets(key *store.DataKey) buckets {
	of := func(name string) sealed { return sealed{name: []byte(name), sealer: key.Sealer(name)} }
	return buckets{
		domains: of(bDomains), accounts: of(bAccounts), anchors: of(bAnchors), keys: of(bKeys),
		queue: of(bQueue), bodies: of(bBodies), tracks: of(bTracks),
		folders: of(bFolders), messages: of(bMessages), usage: of(bUsage), audit: of(bAudit),
		index: key.Index("keys"),
	}
}

// acctKey is the key of an account, the same for Equal addresses.
type acctKey [16]byte

func (b *buckets) account(a hisp.Address) acctKey {
	k := a.Key()
	return b.index(bAccounts, k.Local, string(k.Domain))
}

func (b *buckets) certificate(sum [32]byte) [16]byte { return b.index(bCerts, string(sum[:])) }

func (b *buckets) delivered(id hisp.ID, rcpt hisp.Address) [16]byte {
	k := rcpt.Key()
	return b.index(bDelivered, string(id), k.Local, string(k.Domain))
}

func (b *buckets) seen(digest [32]byte) [16]byte { return b.index(bSeen, string(digest[:])) }

func (b *buckets) track(messageID string, rcpt hisp.Address) [16]byte {
	k := rcpt.Key()
	return b.index(bTracks, messageID, k.Local, string(k.Domain))
}

func (b *buckets) folder(a acctKey, name string) []byte {
	k := b.index(bFolders, string(a[:]), name)
	return append(a[:len(a):len(a)], k[:]...)
}

// present is the value of keys that need none. It is not empty, because bbolt
// returns nil for an empty value put in the same transaction.
func present() []byte { return []byte{1} }
