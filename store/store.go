// Package store is the storage contract of the node beyond the queue: the
// operator's data (domains, accounts, anchors, keys), the mailboxes as IMAP
// sees them, the audit trail, and what both backends share: the sealing of
// values at rest, password hashes and the audit chain.
//
// Backends are store/bolt (embedded) and later store/postgres; both pass
// store/storetest. This package opens no file.
package store

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// Store is everything a backend offers. Users take the small interfaces.
type Store interface {
	hisp.Queue
	hisp.Tracker
	hisp.Auditor
	hisp.Directory
	hisp.TrustStore
	QueueAdmin
	Domains
	Accounts
	Anchors
	Keys
	Folders
	Messages
	AuditTrail
	// Close waits for the commit in progress and closes the backend.
	Close() error
}

// Domain is one of our Health Internet Domains.
type Domain struct {
	Name    hisp.Domain
	Created time.Time
}

// Domains is the list of our domains. Removing a domain that still has
// accounts is Conflict.
type Domains interface {
	AddDomain(ctx context.Context, d Domain) error // Conflict if it exists
	RemoveDomain(ctx context.Context, name hisp.Domain) error
	ListDomains(ctx context.Context) ([]Domain, error) // by name
}

// AccountRecord is an account with its secrets.
type AccountRecord struct {
	hisp.Account
	PasswordHash string     // HashPassword, "" when only certificates log in
	ClientCerts  [][32]byte // SHA-256 of certificates that may log in
	Created      time.Time
}

// Accounts is the list of our accounts. PutAccount creates or replaces; the
// domain must be hosted (NotFound otherwise). A new account has the folders
// INBOX, Sent, Drafts, Junk and Trash with their special uses (RFC 6154).
type Accounts interface {
	PutAccount(ctx context.Context, a AccountRecord) error
	RemoveAccount(ctx context.Context, addr hisp.Address) error // and its mail
	GetAccount(ctx context.Context, addr hisp.Address) (AccountRecord, error)
	ListAccounts(ctx context.Context, d hisp.Domain) ([]AccountRecord, error) // by address; "" lists all domains
}

// Anchor is a trust anchor of one local domain.
type Anchor struct {
	Domain    hisp.Domain
	Direction hisp.Direction
	Cert      *x509.Certificate
	Added     time.Time
}

// Anchors is the list of trust anchors. The same certificate is listed once
// per domain; adding it again changes its direction.
type Anchors interface {
	PutAnchor(ctx context.Context, a Anchor) error
	RemoveAnchor(ctx context.Context, d hisp.Domain, sha256 [32]byte) error // NotFound
	ListAnchors(ctx context.Context, d hisp.Domain) ([]Anchor, error)       // "" lists all
}

// KeyRole says what a key is for (conformance row CRT-07).
type KeyRole string

const (
	RoleSign    KeyRole = "sign"    // makes our signatures, is not published
	RoleEncrypt KeyRole = "encrypt" // others encrypt to it
	RoleDual    KeyRole = "dual"    // both
)

// Key is a private key with its certificate chain. A key without Chain waits
// for the certificate of its CSR.
type Key struct {
	ID      string       // hex SHA-256 of the public key's SubjectPublicKeyInfo
	Owner   hisp.Address // address-bound, or Local "" for domain-bound
	Role    KeyRole
	Chain   []*x509.Certificate // certificate first, then intermediates
	PKCS8   []byte              // private key, DER; at rest under the data key
	Created time.Time
	Retired time.Time // zero while active; a retired key only decrypts
}

// Keys is the list of private keys.
type Keys interface {
	PutKey(ctx context.Context, k Key) error // creates or replaces by ID
	// ListKeys returns the keys of the address and of its domain, newest
	// first. Local "" gives domain-bound keys and, with Domain "" too, all.
	ListKeys(ctx context.Context, owner hisp.Address) ([]Key, error)
	RemoveKey(ctx context.Context, id string) error // NotFound
}

// QueueAdmin is the operator's view of the queue.
type QueueAdmin interface {
	// ListItems returns the queued items without their messages, by Due.
	ListItems(ctx context.Context) ([]hisp.Item, error)
	// Reschedule sets Due of an item that is not leased: NotFound, Conflict.
	Reschedule(ctx context.Context, id hisp.ID, due time.Time) error
	// Take leases one item, due or not, as Queue.Lease does: NotFound,
	// Conflict if it is leased.
	Take(ctx context.Context, id hisp.ID) (hisp.Item, error)
}

// Folder is one mailbox of an account.
type Folder struct {
	Name          string // UTF-8, "/" separates levels, INBOX in upper case
	SpecialUse    string // RFC 6154 attribute such as `\Sent`, or ""
	Subscribed    bool
	UIDValidity   uint32
	UIDNext       uint32
	Messages      uint32
	Unseen        uint32
	Deleted       uint32
	Size          int64 // octets of all messages
	HighestModSeq uint64
}

// Folders lists and changes the mailboxes of an account. A name that does not
// exist is NotFound, one that exists already Conflict. INBOX cannot be deleted.
type Folders interface {
	ListFolders(ctx context.Context, acct hisp.Address) ([]Folder, error) // by name, INBOX first
	CreateFolder(ctx context.Context, acct hisp.Address, name, specialUse string) error
	DeleteFolder(ctx context.Context, acct hisp.Address, name string) error
	RenameFolder(ctx context.Context, acct hisp.Address, from, to string) error // INBOX: moves its messages, RFC 9051 §6.3.6
	SubscribeFolder(ctx context.Context, acct hisp.Address, name string, on bool) error
}

// MessageInfo is a stored message without its bytes.
type MessageInfo struct {
	UID      uint32
	ModSeq   uint64
	Flags    []string // RFC 9051 §2.3.2, sorted, `\Seen` spelling
	Received time.Time
	Size     int64
}

// FlagOp says how SetFlags combines.
type FlagOp uint8

const (
	FlagsReplace FlagOp = iota // the flags given and no others
	FlagsAdd                   // those given too
	FlagsRemove                // all but those given
)

// Messages reads and changes the messages of one folder. UIDs that do not
// exist are passed over. Every change raises the folder's modification
// sequence and wakes Watch.
type Messages interface {
	// ListMessages returns all messages of a folder by UID.
	ListMessages(ctx context.Context, acct hisp.Address, folder string) (Folder, []MessageInfo, error)
	// ReadMessage returns the bytes as they were delivered. NotFound.
	ReadMessage(ctx context.Context, acct hisp.Address, folder string, uid uint32) (hisp.Message, error)
	// Append stores msg and returns where: NotFound, Full.
	Append(ctx context.Context, acct hisp.Address, folder string, msg hisp.Message, flags []string, received time.Time) (Folder, MessageInfo, error)
	SetFlags(ctx context.Context, acct hisp.Address, folder string, uids []uint32, op FlagOp, flags []string) ([]MessageInfo, error)
	// CopyMessages copies, or moves when mode is Move, all in one step, and
	// returns the target folder and the pairs of source and new UID.
	CopyMessages(ctx context.Context, acct hisp.Address, from string, uids []uint32, to string, mode CopyMode) (Folder, []UIDPair, error)
	// Expunge removes the messages among uids that have \Deleted; nil means
	// all such messages. It returns the UIDs removed.
	Expunge(ctx context.Context, acct hisp.Address, folder string, uids []uint32) ([]uint32, error)
	// Watch returns a channel that gets a value after each change of the
	// folder until ctx ends. Changes while the reader is busy are merged.
	Watch(ctx context.Context, acct hisp.Address, folder string) <-chan struct{}
}

// CopyMode tells Copy from Move.
type CopyMode uint8

const (
	Copy CopyMode = iota // the source stays
	Move                 // the source goes in the same step
)

// UIDPair is a message's UID before and after a copy.
type UIDPair struct{ From, To uint32 }

// AuditTrail reads the audit trail.
type AuditTrail interface {
	// ReadAudit calls fn for the entries from sequence number from (1 is the
	// first) until fn returns false.
	ReadAudit(ctx context.Context, from uint64, fn func(AuditEntry) bool) error
	// AuditHead returns the last sequence number and its hash.
	AuditHead(ctx context.Context) (AuditHead, error)
	// MessageAudit returns the entries about one message, oldest first.
	MessageAudit(ctx context.Context, id hisp.ID) ([]AuditEntry, error)
}

// AuditHead names the end of the audit chain. Logged outside the store it
// shows truncation.
type AuditHead struct {
	Seq  uint64
	Hash [32]byte
}

// AuditEntry is an audit record in the chain: Hash is SHA-256 over Prev and
// the canonical form of the rest, the private part in its sealed form, so that
// the chain can be verified without the data key.
type AuditEntry struct {
	Seq    uint64
	Prev   [32]byte
	Hash   [32]byte
	Record hisp.AuditRecord
	Sealed []byte // Record.Private under the data key
}
