package dnscert

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testdns"
	"github.com/miekg/dns"
)

func TestCache_ttl(t *testing.T) {
	tests := []struct {
		name  string
		ttl   uint32
		after time.Duration
		asked int
	}{
		{"D6 TTL 0 is kept 60 s", 0, 59 * time.Second, 1},
		{"D6 TTL 0 ends at 60 s", 0, 60 * time.Second, 2},
		{"TTL 300 kept", 300, 299 * time.Second, 1},
		{"TTL 300 ended", 300, 300 * time.Second, 2},
		{"D6 TTL of a year is kept a day", 31536000, 24*time.Hour - time.Second, 1},
		{"D6 TTL of a year ends after a day", 31536000, 24 * time.Hour, 2},
		{"RFC 2181 §8 top bit is 0", 1 << 31, 60 * time.Second, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock, srv := newClock(), testdns.New(t)
			rr := certLine("amy.b.example", dns.CertPKIX, newDER("amy"))
			rr.Hdr.Ttl = tt.ttl
			srv.AddRR(rr)
			r := newTestResolver(t, clock, srv)
			for range 2 {
				if _, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); err != nil {
					t.Fatal(err)
				}
				clock.add(tt.after)
			}
			if n := srv.Count("amy.b.example", "CERT"); n != tt.asked {
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
		})
	}
}

func TestCache_negative(t *testing.T) {
	tests := []struct {
		name  string
		soa   time.Duration // 0 is no SOA
		after time.Duration
		asked int
	}{
		{"RFC 2308 SOA minimum 120", 2 * time.Minute, 119 * time.Second, 1},
		{"RFC 2308 SOA minimum 120 ended", 2 * time.Minute, 120 * time.Second, 2},
		{"D6 SOA minimum 1 s is kept 60 s", time.Second, 59 * time.Second, 1},
		{"D6 SOA minimum of a week ends at 15 min", 7 * 24 * time.Hour, 15 * time.Minute, 2},
		{"no SOA is not kept", 0, 0, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock, srv := newClock(), testdns.New(t)
			if tt.soa > 0 {
				srv.Zone("b.example", tt.soa)
			}
			r := newTestResolver(t, clock, srv)
			for range 2 {
				if certs, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); err != nil || len(certs) != 0 {
					t.Fatalf("LookupCerts = %d, %v", len(certs), err)
				}
				clock.add(tt.after)
			}
			if n := srv.Count("amy.b.example", "CERT"); n != tt.asked {
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
		})
	}
}

// TestCache_failures: what could not be found out is asked again.
func TestCache_failures(t *testing.T) {
	srv := testdns.New(t)
	srv.AddCert("amy.b.example", newDER("amy"))
	srv.SetFault("amy.b.example", "CERT", testdns.ServFail)
	r := newTestResolver(t, nil, srv)
	if _, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); !errors.Is(err, hisp.Temporary) {
		t.Fatalf("err = %v, want Temporary", err)
	}
	srv.SetFault("amy.b.example", "CERT", testdns.None)
	if certs, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); len(certs) != 1 || err != nil {
		t.Errorf("LookupCerts = %d, %v, want 1", len(certs), err)
	}
}

func TestCache_bounds(t *testing.T) {
	c, now := newCache(), time.Now()
	for i := range maxCacheEntries + 10 {
		c.put(question{fmt.Sprint(i), 1}, &answer{octets: 10}, now.Add(time.Hour))
	}
	if n := len(c.entries); n != maxCacheEntries || c.order.Len() != n || c.octets != 10*n {
		t.Errorf("entries = %d, list = %d, octets = %d, want %d entries", n, c.order.Len(), c.octets, maxCacheEntries)
	}
	if c.get(question{"0", 1}, now) != nil {
		t.Error("the oldest entry is still there")
	}
	c.put(question{"big", 1}, &answer{octets: maxCacheOctets}, now.Add(time.Hour))
	if n := len(c.entries); n != 1 {
		t.Errorf("entries = %d, want 1 when the octets are used up", n)
	}
}

func TestFlights_oneQuestion(t *testing.T) {
	srv := testdns.New(t)
	srv.AddCert("amy.b.example", newDER("amy"))
	gate := make(chan struct{})
	srv.SetGate(gate)
	r := newTestResolver(t, nil, srv)
	r.timeout = 5 * time.Second
	first, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := r.LookupCerts(first, address(t, "amy@b.example")); !errors.Is(err, hisp.Temporary) {
			t.Errorf("cancelled lookup: %v, want Temporary", err)
		}
	})
	waitFor(t, func() bool { return srv.Count("amy.b.example", "CERT") == 1 })
	for range 50 {
		wg.Go(func() {
			if certs, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); len(certs) != 1 || err != nil {
				t.Errorf("LookupCerts = %d, %v, want 1", len(certs), err)
			}
		})
	}
	cancel() // the others go on without the first
	waitFor(t, func() bool { return srv.Count("amy.b.example", "CERT") == 2 })
	close(gate)
	wg.Wait()
	if n := srv.Count("amy.b.example", "CERT"); n != 2 {
		t.Errorf("asked %d times, want 2: the cancelled one and one for all others", n)
	}
}

// waitFor polls a condition on another goroutine of the test.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("condition not reached in 10 s")
		}
	}
}
