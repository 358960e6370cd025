package hisp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// door knows one account with one password.
type door struct {
	Directory
	calls int
}

func (d *door) Authenticate(_ context.Context, c Credentials) (Account, error) {
	d.calls++
	if c.Username == "nurse@hospital.example" && c.Password == "right" {
		return Account{Address: Address{"nurse", "hospital.example"}}, nil
	}
	return Account{}, &Error{Kind: Denied}
}

type trail struct{ records []AuditRecord }

func (a *trail) Record(_ context.Context, r AuditRecord) error {
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

func TestThrottle_memoryBounded(t *testing.T) {
	th := newThrottle()
	now := time.Now()
	for i := range 3 * maxThrottleKeys {
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		th.failed(throttleKeys(Credentials{Username: "x", Peer: ip}), now)
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
