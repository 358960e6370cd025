package hisp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// door knows one account with one password.
type door struct {
	Directory
	calls int
	check func() // while a password is checked; nil is at once
}

func (d *door) Authenticate(_ context.Context, c Credentials) (Account, error) {
	d.calls++
	if d.check != nil {
		d.check()
	}
	if c.Username == "nurse@hospital.example" && c.Password == "right" {
		return Account{Address: Address{"nurse", "hospital.example"}}, nil
	}
	return Account{}, &Error{Kind: Denied}
}

type trail struct {
	mu      sync.Mutex
	records []AuditRecord
}

func (a *trail) Record(_ context.Context, r AuditRecord) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records = append(a.records, r)
	return nil
}

func newDoor(now *time.Time) (*Node, *door, *trail) {
	d, a := &door{}, &trail{}
	n := &Node{throttle: newThrottle()}
	n.Directory, n.Auditor, n.Log = d, a, slog.New(slog.DiscardHandler)
	n.Clock = func() time.Time { return *now }
	return n, d, a
}

func credentials(ip, password string) Credentials {
	return Credentials{Username: "nurse@hospital.example", Password: password, Peer: netip.MustParseAddr(ip), Edge: "imap"}
}

// Security row T7: 100 wrong passwords from one peer are stopped within 20, a
// right one from another peer still works, and the attacker's right guess
// after that is not even looked at.
func TestAuthenticate_throttlesPeerNotAccount(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	n, d, a := newDoor(&now)
	for range 100 {
		_, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "wrong"))
		if err == nil {
			t.Fatal("a wrong password was let in")
		}
	}
	if d.calls > 20 {
		t.Errorf("%d wrong passwords were checked, want at most 20", d.calls)
	}
	if _, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "right")); !errors.Is(err, Throttled) {
		t.Errorf("a throttled peer got %v", err)
	}
	if _, err := n.Authenticate(t.Context(), credentials("192.0.2.3", "right")); err != nil {
		t.Errorf("another peer is locked out: %v", err)
	}
	if len(a.records) > 15 {
		t.Errorf("%d audit records for one attack: the trail can be flooded", len(a.records))
	}
	now = now.Add(2 * loginWindow)
	if _, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "right")); err != nil {
		t.Errorf("after the window the peer is still locked out: %v", err)
	}
}

func TestAuthenticate_sprayOverAccounts(t *testing.T) {
	now := time.Now()
	n, d, _ := newDoor(&now)
	for i := range 100 {
		c := credentials("2001:db8::1", "wrong")
		c.Username = fmt.Sprintf("user%d@hospital.example", i)
		// The attacker changes its address inside its /64.
		c.Peer = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1))
		n.Authenticate(t.Context(), c)
	}
	if d.calls > 2*loginBurst {
		t.Errorf("%d accounts were tried, want at most %d", d.calls, 2*loginBurst)
	}
}

// Security row T7 for a peer that opens its connections all at once: those that
// are being checked count as if they had failed.
func TestAuthenticate_throttlesParallelLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		n, d, _ := newDoor(&now)
		var mu sync.Mutex
		checked := make(chan struct{})
		d.check = func() { mu.Unlock(); <-checked; mu.Lock() }
		n.Directory = &locked{d, &mu}
		var logins sync.WaitGroup
		var throttled atomic.Int32
		for range 40 {
			logins.Go(func() {
				if _, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "wrong")); errors.Is(err, Throttled) {
					throttled.Add(1)
				}
			})
		}
		synctest.Wait()
		if d.calls != loginBurst {
			t.Errorf("%d passwords are checked at once, want %d", d.calls, loginBurst)
		}
		close(checked)
		logins.Wait()
		if d.calls > 20 {
			t.Errorf("%d wrong passwords were checked, want at most 20", d.calls)
		}
		if got, want := int(throttled.Load()), 40-loginBurst; got != want {
			t.Errorf("%d logins were throttled, want %d", got, want)
		}
	})
}

// All clients behind one address come back at once: none is refused.
func TestAuthenticate_parallelRightPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		n, d, _ := newDoor(&now)
		var mu sync.Mutex
		d.check = func() { mu.Unlock(); <-time.After(time.Second); mu.Lock() }
		n.Directory = &locked{d, &mu}
		var logins sync.WaitGroup
		for range 200 {
			logins.Go(func() {
				if _, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "right")); err != nil {
					t.Errorf("a right password got %v", err)
				}
			})
		}
		logins.Wait()
		if len(n.throttle.buckets) != 0 {
			t.Errorf("%d buckets are left after successes, want 0", len(n.throttle.buckets))
		}
	})
}

// A client that gives up while it waits takes no place with it.
func TestAuthenticate_clientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		n, d, _ := newDoor(&now)
		var mu sync.Mutex
		checked := make(chan struct{})
		d.check = func() { mu.Unlock(); <-checked; mu.Lock() }
		n.Directory = &locked{d, &mu}
		var logins sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range 40 {
			logins.Go(func() { _, _ = n.Authenticate(ctx, credentials("192.0.2.2", "right")) })
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(checked)
		logins.Wait()
		if d.calls != loginBurst || len(n.throttle.buckets) != 0 {
			t.Errorf("%d checks and %d buckets, want %d and 0", d.calls, len(n.throttle.buckets), loginBurst)
		}
	})
}

// A directory that cannot answer, and one that panics, leave no place taken.
func TestAuthenticate_placesComeBack(t *testing.T) {
	now := time.Now()
	n, d, _ := newDoor(&now)
	n.Directory = sickDirectory{Kind: Temporary}
	for range 100 {
		if _, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "right")); !errors.Is(err, Temporary) {
			t.Fatalf("a directory that cannot answer gives %v, want Temporary", err)
		}
	}
	n.Directory = panickingDirectory{}
	func() {
		defer func() { _ = recover() }()
		_, _ = n.Authenticate(t.Context(), credentials("192.0.2.2", "right"))
	}()
	n.Directory = d
	if _, err := n.Authenticate(t.Context(), credentials("192.0.2.2", "right")); err != nil {
		t.Errorf("after that a right password gets %v", err)
	}
	for k, b := range n.throttle.buckets {
		if b.trying != 0 {
			t.Errorf("%d places of %v are still taken", b.trying, k.user != "")
		}
	}
}

// A client certificate names no account: refused ones count once each.
func TestAuthenticate_refusedCertificateCountsOnce(t *testing.T) {
	now := time.Now()
	n, d, _ := newDoor(&now)
	c := credentials("192.0.2.2", "")
	c.Username, c.Cert = "", &x509.Certificate{}
	for range 100 {
		_, _ = n.Authenticate(t.Context(), c)
	}
	if d.calls != 2*loginBurst-1 {
		t.Errorf("%d certificates were checked, want %d", d.calls, 2*loginBurst-1)
	}
}

// locked lets one login after the other into a directory, which may unlock.
type locked struct {
	Directory
	mu *sync.Mutex
}

func (l *locked) Authenticate(ctx context.Context, c Credentials) (Account, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Directory.Authenticate(ctx, c)
}

type sickDirectory struct {
	Directory
	Kind Kind
}

func (d sickDirectory) Authenticate(context.Context, Credentials) (Account, error) {
	return Account{}, &Error{Kind: d.Kind}
}

type panickingDirectory struct{ Directory }

func (panickingDirectory) Authenticate(context.Context, Credentials) (Account, error) {
	panic("directory")
}

func TestThrottle_memoryBounded(t *testing.T) {
	th := newThrottle()
	now := time.Now()
	for i := range 3 * maxThrottleKeys {
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		keys := throttleKeys(Credentials{Username: "x", Peer: ip})
		th.enter(t.Context(), keys, func() time.Time { return now })
		th.leave(keys, now, loginFailed)
	}
	if len(th.buckets) > maxThrottleKeys+2 {
		t.Errorf("%d buckets kept", len(th.buckets))
	}
}

func TestAuthenticate_auditBeforeSuccess(t *testing.T) {
	now := time.Now()
	n, _, _ := newDoor(&now)
	n.Auditor = brokenAuditor{}
	if _, err := n.Authenticate(t.Context(), credentials("192.0.2.3", "right")); !errors.Is(err, Temporary) {
		t.Errorf("a login that cannot be audited got %v, want Temporary", err)
	}
}

type brokenAuditor struct{}

func (brokenAuditor) Record(context.Context, AuditRecord) error { return errors.New("disk") }
