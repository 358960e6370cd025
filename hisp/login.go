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
	keys := throttleKeys(c)
	switch n.throttle.enter(ctx, keys, n.now) {
	case refusedFirst:
		n.auditLogin(ctx, c, Address{}, OutcomeRefused, Throttled)
		fallthrough
	case refusedAgain:
		return Account{}, &Error{Op: op, Kind: Throttled, Hint: "too many failed logins; wait some minutes and check the password"}
	case gone:
		return Account{}, &Error{Op: op, Kind: Temporary, Hint: "the login was given up; try again", Err: ctx.Err()}
	}
	acct, err := n.checkLogin(ctx, c, keys)
	if err != nil {
		if KindOf(err) == Denied {
			n.auditLogin(ctx, c, Address{}, OutcomeRefused, Denied)
		}
		return Account{}, err
	}
	if err := n.auditLogin(ctx, c, acct.Address, OutcomeOK, Internal); err != nil {
		return Account{}, &Error{Op: op, Kind: Temporary, Hint: "the login could not be audited; try again", Err: err}
	}
	return acct, nil
}

// checkLogin asks the directory and tells the throttle that entered keys. A
// panic, which the edge contains, counts as a failure.
func (n *Node) checkLogin(ctx context.Context, c Credentials, keys []throttleKey) (acct Account, err error) {
	end := loginFailed
	defer func() { n.throttle.leave(keys, n.now(), end) }()
	acct, err = n.Directory.Authenticate(ctx, c)
	switch {
	case err == nil:
		end = loginOK
	case KindOf(err) != Denied:
		end = loginUndecided
	}
	return acct, err
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

// throttleKeys: an IPv6 customer has a /64, so that is one peer. A certificate
// names no account, so its failure counts for the peer, once.
func throttleKeys(c Credentials) []throttleKey {
	bits := 32
	if c.Peer.Is6() && !c.Peer.Is4In6() {
		bits = 64
	}
	net, err := c.Peer.Unmap().Prefix(bits)
	if err != nil {
		return nil
	}
	keys := []throttleKey{{net: net}}
	if c.Username != "" {
		keys = append(keys, throttleKey{net: net, user: strings.ToLower(c.Username)})
	}
	return keys
}

// throttle counts failed logins in leaky buckets. A login that is being checked
// holds a place in its buckets, so that however many come at once, no more are
// checked than may fail. The rest waits: the clients of a whole hospital come
// back at once after a restart, with the right passwords.
type throttle struct {
	mu      sync.Mutex
	buckets map[throttleKey]*bucket
	left    chan struct{} // closed when a login under way has ended
}

type bucket struct {
	level   float64 // failures not yet forgiven
	trying  int     // logins being checked
	at      time.Time
	refused bool // the refusal has been audited
}

// admission is what the throttle says to a login.
type admission uint8

const (
	admitted     admission = iota
	refusedFirst           // the first refusal since a bucket became full
	refusedAgain
	gone // the client did not wait
)

// loginEnd is how the check of an admitted login ended.
type loginEnd uint8

const (
	loginOK loginEnd = iota
	loginFailed
	loginUndecided // the directory could not tell
)

func newThrottle() *throttle {
	return &throttle{buckets: map[throttleKey]*bucket{}, left: make(chan struct{})}
}

// enter takes a place in all buckets of a login. It waits while places are held
// by logins that may yet succeed. What is admitted must leave.
func (t *throttle) enter(ctx context.Context, keys []throttleKey, now Clock) admission {
	for {
		a, left := t.tryEnter(keys, now())
		if left == nil {
			return a
		}
		select {
		case <-left:
		case <-ctx.Done():
			return gone
		}
	}
}

// tryEnter decides, or returns what to wait for.
func (t *throttle) tryEnter(keys []throttleKey, now time.Time) (admission, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	busy := false
	for _, k := range keys {
		b := t.bucket(k, now)
		if b.level >= k.limit() {
			first := !b.refused
			b.refused = true
			if first {
				return refusedFirst, nil
			}
			return refusedAgain, nil
		}
		busy = busy || b.level+float64(b.trying) >= k.limit()
	}
	if busy {
		return admitted, t.left
	}
	for _, k := range keys {
		t.buckets[k].trying++
	}
	return admitted, nil
}

// leave gives the places back. A failure fills them; a success forgives the
// account's failures from this peer, not those the peer has with other accounts.
func (t *throttle) leave(keys []throttleKey, now time.Time, end loginEnd) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		b := t.bucket(k, now)
		b.trying--
		switch {
		case end == loginFailed:
			b.level++
		case end == loginOK && k.user != "":
			b.level, b.refused = 0, false
		}
		if b.empty() {
			delete(t.buckets, k)
		}
	}
	close(t.left)
	t.left = make(chan struct{})
}

// limit: a peer that tries many accounts gets a little more before it is
// stopped than one that tries one account.
func (k throttleKey) limit() float64 {
	if k.user == "" {
		return 2*loginBurst - 1 // what is forgiven meanwhile makes it 20
	}
	return loginBurst
}

// bucket returns the bucket of k as it is now, a new one if there is none.
func (t *throttle) bucket(k throttleKey, now time.Time) *bucket {
	b := t.buckets[k]
	if b == nil {
		if len(t.buckets) >= maxThrottleKeys {
			t.sweep(now)
		}
		b = &bucket{at: now}
		t.buckets[k] = b
	}
	b.leak(now)
	return b
}

func (b *bucket) empty() bool { return b.level == 0 && b.trying == 0 }

func (b *bucket) leak(now time.Time) {
	if now.Before(b.at) {
		return // the clock was read before another login took the lock
	}
	b.level = max(0, b.level-float64(now.Sub(b.at))/float64(loginWindow/loginBurst))
	b.at = now
	if b.level == 0 {
		b.refused = false
	}
}

// sweep forgets the empty buckets, and if that frees nothing all that no login
// is in: the memory is bounded even against a whole botnet.
func (t *throttle) sweep(now time.Time) {
	for k, b := range t.buckets {
		if b.leak(now); b.empty() {
			delete(t.buckets, k)
		}
	}
	if len(t.buckets) < maxThrottleKeys {
		return
	}
	for k, b := range t.buckets {
		if b.trying == 0 {
			delete(t.buckets, k)
		}
	}
}
