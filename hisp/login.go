package hisp

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Limits of the login throttle (security row T7).
const (
	loginBurst      = 10               // failures before the first refusal
	loginWindow     = 15 * time.Minute // one failure is forgiven per window/burst
	maxThrottleKeys = 20_000           // peers and accounts remembered
)

var _ Authenticator = (*Node)(nil)

// Authenticate logs a client in for any edge. A peer that fails too often, for
// one account or over all, is Throttled; other peers are not affected, so that
// nobody can lock an account out. Every decision is audited before it is told.
func (n *Node) Authenticate(ctx context.Context, c Credentials) (Account, error) {
	const op = "hisp.Authenticate"
	now := n.now()
	keys := throttleKeys(c)
	if wait, first := n.throttle.blocked(keys, now); wait > 0 {
		if first {
			n.auditLogin(ctx, c, Address{}, OutcomeRefused, Throttled)
		}
		return Account{}, &Error{Op: op, Kind: Throttled, Hint: "too many failed logins; wait some minutes and check the password"}
	}
	acct, err := n.Directory.Authenticate(ctx, c)
	if err != nil {
		if KindOf(err) == Denied {
			n.throttle.failed(keys, now)
			n.auditLogin(ctx, c, Address{}, OutcomeRefused, Denied)
		}
		return Account{}, err
	}
	n.throttle.succeeded(keys)
	if err := n.auditLogin(ctx, c, acct.Address, OutcomeOK, Internal); err != nil {
		return Account{}, &Error{Op: op, Kind: Temporary, Hint: "the login could not be audited; try again", Err: err}
	}
	return acct, nil
}

func (n *Node) auditLogin(ctx context.Context, c Credentials, acct Address, outcome AuditOutcome, kind Kind) error {
	r := AuditRecord{
		Time: n.now(), Event: AuditLogin, Outcome: outcome, Detail: c.Edge,
		Private: AuditPrivate{Account: acct, Auth: AuthPassword, Peer: c.Peer},
	}
	if c.Cert != nil {
		r.Private.Auth = AuthCertificate
	}
	if outcome != OutcomeOK {
		r.Kind = kind.Error()
		if addr, err := ParseAddress(c.Username); err == nil {
			r.Private.Account = addr
		}
		n.Log.Warn("login refused", "op", c.Edge, "kind", r.Kind, "peer", c.Peer.String())
	}
	err := n.Auditor.Record(ctx, r)
	if err != nil {
		n.Log.Error("login not audited", "err", err)
	}
	return err
}

// throttleKey is a peer network, alone or with the account it tried.
type throttleKey struct {
	net  netip.Prefix
	user string
}

// throttleKeys: an IPv6 customer has a /64, so that is one peer.
func throttleKeys(c Credentials) []throttleKey {
	bits := 32
	if c.Peer.Is6() && !c.Peer.Is4In6() {
		bits = 64
	}
	net, err := c.Peer.Unmap().Prefix(bits)
	if err != nil {
		return nil
	}
	return []throttleKey{{net: net}, {net: net, user: strings.ToLower(c.Username)}}
}

// throttle counts failed logins in leaky buckets.
type throttle struct {
	mu      sync.Mutex
	buckets map[throttleKey]*bucket
}

type bucket struct {
	level   float64 // failures not yet forgiven
	at      time.Time
	refused bool // the refusal has been audited
}

func newThrottle() *throttle { return &throttle{buckets: map[throttleKey]*bucket{}} }

// blocked returns how long the first full bucket needs to have room, and
// whether this is its first refusal.
func (t *throttle) blocked(keys []throttleKey, now time.Time) (wait time.Duration, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		b := t.buckets[k]
		if b == nil {
			continue
		}
		b.leak(now)
		if limit := k.limit(); b.level >= limit {
			first = !b.refused
			b.refused = true
			return time.Duration((b.level - limit + 1) * float64(loginWindow/loginBurst)), first
		}
	}
	return 0, false
}

// limit: a peer that tries many accounts gets a little more before it is
// stopped than one that tries one account.
func (k throttleKey) limit() float64 {
	if k.user == "" {
		return 2 * loginBurst
	}
	return loginBurst
}

func (b *bucket) leak(now time.Time) {
	b.level = max(0, b.level-float64(now.Sub(b.at))/float64(loginWindow/loginBurst))
	b.at = now
	if b.level == 0 {
		b.refused = false
	}
}

func (t *throttle) failed(keys []throttleKey, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buckets) >= maxThrottleKeys {
		t.sweep(now)
	}
	for _, k := range keys {
		b := t.buckets[k]
		if b == nil {
			b = &bucket{at: now}
			t.buckets[k] = b
		}
		b.leak(now)
		b.level++
	}
}

// succeeded forgives the account's failures from this peer, not those the peer
// has with other accounts.
func (t *throttle) succeeded(keys []throttleKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		if k.user != "" {
			delete(t.buckets, k)
		}
	}
}

// sweep forgets the empty buckets, and all of them if that frees nothing: the
// memory is bounded even against a whole botnet.
func (t *throttle) sweep(now time.Time) {
	for k, b := range t.buckets {
		if b.leak(now); b.level == 0 {
			delete(t.buckets, k)
		}
	}
	if len(t.buckets) >= maxThrottleKeys {
		clear(t.buckets)
	}
}
