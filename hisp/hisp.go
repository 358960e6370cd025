// Package hisp is the node of a health information service provider: it takes
// messages from edges, has them sealed, relays them to other HISPs, takes
// messages from the backbone, has them opened, delivers them and answers with
// disposition notices (Direct Applicability Statement; NHIN Direct consensus
// proposal).
//
// This file is the map of the system: every noun and every contract that
// crosses the node. It uses the standard library only. The parts (agent,
// dnscert, smtpd, imapd, store/bolt) know this package and not each other;
// cmd/hisp wires them.
//
// The package does not speak SMTP, IMAP, DNS or CMS and does no storage.
package hisp

import (
	"context"
	"crypto"
	"crypto/x509"
	"net/netip"
	"time"
)

// Clock tells the time. Use time.Now, or a fixed clock in tests and for
// "open -at TIME". Results are used in UTC.
type Clock func() time.Time

// Direction tells for which way an anchor is trusted, seen from the local
// domain (Direct AS §4; conformance row TR-02).
type Direction uint8

const (
	Incoming Direction             = 1 << iota // senders of messages we receive
	Outgoing                                   // recipients of messages we send
	Both     = Incoming | Outgoing             // partners in both ways
)

// String returns "incoming", "outgoing" or "both".
func (d Direction) String() string {
	switch d {
	case Incoming:
		return "incoming"
	case Outgoing:
		return "outgoing"
	case Both:
		return "both"
	}
	return "none"
}

// Origin says through which side a message entered the node.
type Origin uint8

const (
	Edge     Origin = iota + 1 // one of our users or devices, authenticated
	Backbone                   // another HISP, by SMTP on port 25
	Self                       // the node itself: MDNs and DSNs
)

// Envelope is the SMTP sender and recipients of one message, not the CMS
// EnvelopedData, with what the audit must know about its arrival (row AU-01).
type Envelope struct {
	ID       ID        // of the message in this node; the same through its whole life
	Origin   Origin    //
	From     Address   // MAIL FROM; the zero Address is the null sender <>
	To       []Address // RCPT TO, at least one
	Received time.Time // UTC
	Account  Address   // authenticated account; zero unless Origin is Edge
	Auth     AuthKind  // how the account was authenticated
	Peer     netip.Addr
	TLS      bool // the hop to us was TLS
}

// AuthKind is how a peer proved who it is.
type AuthKind string

const (
	AuthNone        AuthKind = ""                   // not at all
	AuthPassword    AuthKind = "password"           //
	AuthCertificate AuthKind = "client-certificate" // in the TLS handshake
	AuthLocal       AuthKind = "local"              // the operator's command line
)

// Agent is the security and trust agent (STA). It signs and encrypts what
// leaves and decrypts and verifies what arrives. Recipients fail one by one:
// an error means that the whole message failed for every recipient, otherwise
// each recipient of env.To is in exactly one copy or rejection.
type Agent interface {
	// Seal signs msg with the active signing keys of env.From and encrypts it
	// to the trusted certificates of env.To, one copy per destination domain.
	// A message that already is S/MIME encrypted comes back byte for byte
	// (row BB-04). Errors: NoKey, Malformed, Temporary.
	Seal(ctx context.Context, env Envelope, msg Message) (Sealed, error)

	// Open decrypts msg with the keys of env.To, verifies it and decides trust
	// for each recipient. Every decryption failure is the same CannotDecrypt.
	// Errors: Unprotected, CannotDecrypt, BadSignature, Untrusted, Tampered,
	// Malformed, Temporary.
	Open(ctx context.Context, env Envelope, msg Message) (Opened, error)
}

// Sealed is the result of Agent.Seal.
type Sealed struct {
	Copies   []Copy
	Rejected []Rejection
}

// Copy is a message sealed for the recipients in one destination domain.
type Copy struct {
	Domain  Domain
	To      []Address
	Message Message
}

// Opened is the result of Agent.Open: the authoritative inner message, whom it
// is from, and who may read it.
type Opened struct {
	Message Message
	From    Address           // the single From of Message
	Signer  *x509.Certificate // verified, trusted, bound to From
	Trusted []Address
	// NoticeOnly are recipients who trust the signer for sending to it and not
	// for hearing from it. Only a notice about a message of theirs may count;
	// nothing is delivered to them (row TR-05).
	NoticeOnly []Address
	Rejected   []Rejection
}

// Rejection is one recipient for whom the agent refused a message. KindOf(Err)
// is NoCertificate, Untrusted or Temporary when sealing and Untrusted when
// opening.
type Rejection struct {
	Recipient Address
	Err       error
}

// Cert is a certificate found for a recipient.
type Cert struct {
	*x509.Certificate
	Source string // "dns-address", "dns-domain", "ldap-address", "ldap-domain"
}

// CertResolver finds the certificates published for an address. The first step
// that yields a certificate ends the search (rows DISC-04, DISC-05). No
// certificate is an empty slice and nil; a resolver that could not find out
// returns Temporary.
type CertResolver interface {
	LookupCerts(ctx context.Context, addr Address) ([]Cert, error)
}

// HostResolver finds mail exchangers. A domain without MX gets itself as its
// only exchanger (RFC 5321 §5.1); a null MX (RFC 7505) or a domain that does
// not exist is UnknownRecipient, a resolver failure is Temporary.
type HostResolver interface {
	LookupMX(ctx context.Context, d Domain) ([]MX, error)
	LookupAddrs(ctx context.Context, host string) ([]netip.Addr, error)
}

// MX is one mail exchanger.
type MX struct {
	Host string // without trailing dot
	Pref uint16
}

// TrustStore knows the configured trust anchors. Anchors are for the local
// address's domain and direction, independent of the system's TLS roots
// (row TR-04).
type TrustStore interface {
	Anchors(ctx context.Context, local Address, dir Direction) ([]*x509.Certificate, error)
}

// KeyStore holds private keys. Keys are handles: they may live in a token.
type KeyStore interface {
	// SigningKeys returns the active, unexpired keys that may sign for addr,
	// address-bound before domain-bound. None is an empty slice and nil.
	SigningKeys(ctx context.Context, addr Address) ([]SigningKey, error)
	// DecryptionKeys returns every key that may have been encrypted to for
	// addr, retired ones included, newest first.
	DecryptionKeys(ctx context.Context, addr Address) ([]DecryptionKey, error)
}

// SigningKey is a private key with its certificate and the intermediates to
// send along. Chain[0] is the certificate.
type SigningKey struct {
	Chain []*x509.Certificate
	crypto.Signer
}

// DecryptionKey is a private key and the certificate others encrypted to.
type DecryptionKey struct {
	Cert *x509.Certificate
	crypto.Decrypter
}

// Account is a local Direct address that may log in.
type Account struct {
	Address     Address
	Disabled    bool
	PassThrough bool  // receives the sealed message as it is: holds its own keys (row BB-06)
	Quota       int64 // octets, 0 is unlimited
}

// Credentials are what a client offered at login: a password, or a certificate
// it proved possession of in the TLS handshake.
type Credentials struct {
	Username string
	Password string
	Cert     *x509.Certificate
	Peer     netip.Addr
	Edge     string // "submission", "imap", for the audit
}

// Directory knows our domains and accounts.
type Directory interface {
	// Hosted tells whether d is one of our Health Internet Domains.
	Hosted(ctx context.Context, d Domain) (bool, error)
	// Account finds the account that receives mail for addr: the local part
	// without case (row BB-19), without +tag if need be (row BB-18).
	// UnknownRecipient if there is none.
	Account(ctx context.Context, addr Address) (Account, error)
	// Authenticate checks c in time that does not depend on whether the
	// account exists. Denied if it does not fit.
	Authenticate(ctx context.Context, c Credentials) (Account, error)
	// Room tells whether an account can take size octets more: nil or Full.
	Room(ctx context.Context, acct Address, size int64) error
}

// Authenticator is how every edge logs a client in: Directory.Authenticate
// behind one throttle, with one audit record per attempt. Denied, or Throttled
// when the peer or the account has failed too often.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (Account, error)
}

// Submitter is the one way in for every edge. nil means that the message is
// durable and that the node answers for it. Errors carry a Hint that the edge
// may show: Malformed, TooLarge, Denied, NoKey, UnknownRecipient, Full,
// Temporary.
type Submitter interface {
	Submit(ctx context.Context, env Envelope, msg Message) error
}

// Receiver is the way in from the backbone. nil means durable. It refuses at
// once what is not enveloped S/MIME (Unprotected, row BB-05) and says nothing
// about what it finds inside.
type Receiver interface {
	Receive(ctx context.Context, env Envelope, msg Message) error
}

// Transport is the one way out towards other HISPs. Send returns one result
// per recipient of env.To, in that order.
type Transport interface {
	Send(ctx context.Context, env Envelope, msg Message) []Result
}

// Result is the outcome for one recipient. A nil Err means the peer took
// responsibility; Temporary will be tried again; any other kind is final.
type Result struct {
	Recipient Address
	Err       error
	Host      string // the exchanger that answered, if any
	Code      int    // its SMTP reply code, 0 if none
	Enhanced  string // its enhanced status code such as "5.1.1", "" if none
}

// Work is what a queued item waits for.
type Work uint8

const (
	WorkSeal  Work = iota + 1 // submitted or composed here, to be sealed
	WorkRelay                 // sealed, to be sent to Item.Domain
	WorkOpen                  // received, to be opened and delivered
)

// String returns "seal", "relay" or "open".
func (w Work) String() string {
	switch w {
	case WorkSeal:
		return "seal"
	case WorkRelay:
		return "relay"
	case WorkOpen:
		return "open"
	}
	return "unknown"
}

// Item is one piece of work in the queue.
type Item struct {
	ID       ID // of this item; Envelope.ID is that of the message
	Work     Work
	Envelope Envelope
	Message  Message
	Domain   Domain    // destination of WorkRelay
	Attempt  int       // finished attempts
	Created  time.Time // when the node took responsibility; retry age runs from it
	Due      time.Time // not before
	LastErr  string    // of the last attempt, without PHI
}

// Step is one durable change of the node's state: all of it happens or
// nothing does. Taking a message in is a Step with Queue and Audit; sealing it
// is a Step that finishes one item, queues its successors and starts tracking.
type Step struct {
	Finish  ID         // the leased item this step completes, "" if none
	Queue   []Item     // items to add
	Deliver []Delivery // copies for local mailboxes; idempotent by ID and Recipient
	Track   []Track    // tracks to store; Conflict if the stored Version differs
	Seen    []Seen     // digests to remember against replay (row SC-07)
	Audit   []AuditRecord
}

// Delivery is one message for one local mailbox.
type Delivery struct {
	ID        ID // Envelope.ID
	Recipient Address
	Mailbox   string // "" is INBOX
	Message   Message
	Received  time.Time
}

// Seen is a digest of a message and recipient already processed.
type Seen struct {
	Digest  [32]byte
	Expires time.Time
}

// Queue is the durable work of the node.
type Queue interface {
	// Commit applies s in one transaction and returns when it is on disk. The
	// error is Full when storage has no room, Conflict when a Track was
	// changed by another step, Finish is not leased, an item's ID is queued
	// already or a Seen digest was committed before, UnknownRecipient when a Delivery has no account; then nothing
	// changed. A Delivery does not ask for quota (see Room); one for a folder
	// that is gone goes to INBOX.
	Commit(ctx context.Context, s Step) error
	// Lease waits for the next due item that r admits and hides it from other
	// leases until it is finished, retried or released, or the process ends.
	Lease(ctx context.Context, r LeaseRequest) (Item, error)
	// Retry puts a leased item back until due with one more attempt counted
	// and writes rec in the same transaction. The reason carries no PHI.
	Retry(ctx context.Context, id ID, due time.Time, reason string, rec []AuditRecord) error
	// Release puts a leased item back at once, as if it had not been leased.
	Release(id ID)
	// Seen tells whether a digest was committed before and has not expired.
	Seen(ctx context.Context, digest [32]byte) (bool, error)
}

// LeaseRequest selects what a worker is ready to do.
type LeaseRequest struct {
	Work      Work
	PerDomain int // at most so many leased items per Item.Domain, 0 is no limit
}

// Track is what we still expect to hear about one recipient of a message we
// sent (Direct IG Delivery Notification §1; rows DN-09..DN-17).
type Track struct {
	Message   ID      // Envelope.ID of the original
	MessageID string  // its Message-ID with angle brackets, the correlation key
	Sender    Address // local account that gets the final notice
	Recipient Address
	Requested bool      // the sender asked for dispatched (DN-01)
	Sent      time.Time // first send, deadlines run from it (DN-15)
	Deadline  time.Time // when silence becomes failure
	Processed time.Time // zero until a processed MDN was accepted
	Final     TrackState
	Ended     time.Time // when Final left Waiting
	Reason    string    // disposition of a success, enhanced status of a failure
	Header    []byte    // header of the original for the notice, bounded
	Version   uint64    // counted by the store, 0 for a new track
}

// TrackState is the final word on one recipient.
type TrackState uint8

const (
	Waiting   TrackState = iota // nothing final was heard
	Succeeded                   // processed, or dispatched when it was requested
	Failed                      // failure notice, refused relay, rejected recipient
	TimedOut                    // nothing in time
)

// String returns "waiting", "succeeded", "failed" or "timed-out".
func (s TrackState) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Succeeded:
		return "succeeded"
	case Failed:
		return "failed"
	case TimedOut:
		return "timed-out"
	}
	return "unknown"
}

// Tracker reads tracks; they are written by Queue.Commit.
type Tracker interface {
	// Track finds the track for a message and recipient: NotFound if none.
	Track(ctx context.Context, messageID string, rcpt Address) (Track, error)
	// Tracks returns all tracks of one message of this node.
	Tracks(ctx context.Context, id ID) ([]Track, error)
	// Overdue returns at most limit waiting tracks whose deadline has passed.
	Overdue(ctx context.Context, now time.Time, limit int) ([]Track, error)
	// Forget removes ended tracks and expired Seen digests (row DN-17).
	Forget(ctx context.Context, endedBefore time.Time) error
}

// AuditEvent is what an audit record is about (rows AU-01, AU-03).
type AuditEvent string

const (
	AuditAccept  AuditEvent = "accept"  // taken from an edge
	AuditSeal    AuditEvent = "seal"    //
	AuditSend    AuditEvent = "send"    // a peer took responsibility, or refused
	AuditReceive AuditEvent = "receive" // taken from the backbone
	AuditOpen    AuditEvent = "open"    //
	AuditReject  AuditEvent = "reject"  // refused, with the reason
	AuditDeliver AuditEvent = "deliver" // in a local mailbox
	AuditNotify  AuditEvent = "notify"  // MDN or DSN produced or received
	AuditLogin   AuditEvent = "login"   //
	AuditAdmin   AuditEvent = "admin"   // an operator changed something
	AuditExpire  AuditEvent = "expire"  // deadline of a track passed
)

// AuditRecord is one entry of the audit trail. The exported trail shows the
// plain fields; Private is stored sealed with the data key, because local
// parts and Message-IDs are PHI (row AU-04).
type AuditRecord struct {
	Time    time.Time
	Event   AuditEvent
	Message ID     // Envelope.ID, "" if no message
	Domain  Domain // of the other side
	Outcome AuditOutcome
	Kind    string // Kind of a refusal, disposition of a notice, "" otherwise
	Detail  string // constant text or status codes, never PHI
	Private AuditPrivate
}

// AuditOutcome is how the audited act ended.
type AuditOutcome string

const (
	OutcomeBegun   AuditOutcome = "begun" // an operator's act, recorded before it happens
	OutcomeOK      AuditOutcome = "ok"
	OutcomeRefused AuditOutcome = "refused" // a rule of ours or of the peer says no
	OutcomeFailed  AuditOutcome = "failed"  // it was allowed and did not work
	OutcomeRetry   AuditOutcome = "retry"   // it will be tried again
)

// AuditPrivate is the part of an audit record that names people.
type AuditPrivate struct {
	From      Address
	To        []Address
	Account   Address
	MessageID string
	Auth      AuthKind
	Peer      netip.Addr
}

// Auditor writes the audit trail. Record returns when the record is durable;
// its error stops the act. Records of a Step travel in Step.Audit instead.
type Auditor interface {
	Record(ctx context.Context, r AuditRecord) error
}
