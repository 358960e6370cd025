package dnscert

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testdns"
)

func TestLookupMX(t *testing.T) {
	srv := testdns.New(t)
	srv.Zone("b.example", time.Minute)
	srv.Add(t, "two.b.example. 300 IN MX 20 backup.b.example.", "two.b.example. 300 IN MX 10 MX.b.example.",
		"null.b.example. 300 IN MX 0 .", "both.b.example. 300 IN MX 0 .", "both.b.example. 300 IN MX 10 mx.b.example.",
		"host.b.example. 300 IN A 192.0.2.1", "alias.b.example. 300 IN CNAME two.b.example.", "fails.b.example. 300 IN MX 1 mx.b.example.")
	srv.SetFault("fails.b.example", "MX", testdns.ServFail)
	tests := []struct {
		domain hisp.Domain
		want   string
		kind   hisp.Kind
	}{
		{domain: "two.b.example", want: "10 mx.b.example, 20 backup.b.example"},
		{domain: "alias.b.example", want: "10 mx.b.example, 20 backup.b.example"},
		{domain: "both.b.example", want: "10 mx.b.example"},
		{domain: "host.b.example", want: "0 host.b.example"},
		{domain: "null.b.example", kind: hisp.UnknownRecipient},
		{domain: "nowhere.b.example", kind: hisp.UnknownRecipient},
		{domain: "fails.b.example", kind: hisp.Temporary},
		{domain: "bad..b.example", kind: hisp.UnknownRecipient},
	}
	r := newTestResolver(t, nil, srv)
	for _, tt := range tests {
		t.Run(string(tt.domain), func(t *testing.T) {
			mxs, err := r.LookupMX(t.Context(), tt.domain)
			var got []string
			for _, mx := range mxs {
				got = append(got, fmt.Sprint(mx.Pref, " ", mx.Host))
			}
			if s := strings.Join(got, ", "); s != tt.want || (err != nil || tt.kind != 0) && hisp.KindOf(err) != tt.kind {
				t.Errorf("LookupMX = %q, %v, want %q, %v", s, err, tt.want, tt.kind)
			}
		})
	}
}

func TestLookupMX_equalAtRandom(t *testing.T) {
	srv := testdns.New(t)
	for i := range 30 {
		srv.Add(t, fmt.Sprintf("b.example. 300 IN MX 10 mx%d.b.example.", i))
	}
	r := newTestResolver(t, nil, srv)
	first := map[string]bool{}
	for range 50 {
		mxs, err := r.LookupMX(t.Context(), "b.example")
		if err != nil || len(mxs) != maxExchangers {
			t.Fatalf("LookupMX = %d, %v, want %d", len(mxs), err, maxExchangers)
		}
		first[mxs[0].Host] = true
	}
	if len(first) < 5 {
		t.Errorf("%d different first exchangers in 50 lookups", len(first))
	}
}

func TestLookupAddrs(t *testing.T) {
	srv := testdns.New(t)
	srv.Zone("b.example", time.Minute)
	srv.Add(t, "both.b.example. 300 IN A 192.0.2.1", "both.b.example. 300 IN AAAA 2001:db8::1",
		"six.b.example. 300 IN AAAA 2001:db8::1", "half.b.example. 300 IN A 192.0.2.1", "open.b.example. 300 IN TXT x",
		"alias.b.example. 300 IN CNAME both.b.example.", "none.b.example. 300 IN TXT x")
	srv.SetFault("half.b.example", "AAAA", testdns.ServFail)
	srv.SetFault("open.b.example", "A", testdns.ServFail)
	tests := []struct {
		host, want string
		kind       hisp.Kind
	}{
		{host: "both.b.example", want: "[192.0.2.1 2001:db8::1]"},
		{host: "Alias.b.example.", want: "[192.0.2.1 2001:db8::1]"},
		{host: "six.b.example", want: "[2001:db8::1]"},
		{host: "half.b.example", want: "[192.0.2.1]"},
		{host: "open.b.example", want: "[]", kind: hisp.Temporary},
		{host: "none.b.example", want: "[]", kind: hisp.UnknownRecipient},
		{host: "nowhere.b.example", want: "[]", kind: hisp.UnknownRecipient},
		{host: "", want: "[]", kind: hisp.UnknownRecipient},
	}
	r := newTestResolver(t, nil, srv)
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			addrs, err := r.LookupAddrs(t.Context(), tt.host)
			if got := fmt.Sprint(addrs); got != tt.want || (err != nil || tt.kind != 0) && hisp.KindOf(err) != tt.kind {
				t.Errorf("LookupAddrs = %s, %v, want %s, %v", got, err, tt.want, tt.kind)
			}
		})
	}
}

// TestDirect is DISC-12: a recursive server that does not know type 37.
func TestDirect(t *testing.T) {
	// The authoritative server answers for itself, the recursor for NS and A.
	auth := testdns.New(t)
	auth.Zone("b.example", time.Minute)
	auth.AddCert("amy.b.example", newDER("amy"))
	auth.Add(t, "moved.b.example. 300 IN CNAME amy.b.example.")
	tests := []struct {
		name, local string
		fault       testdns.Fault
		public      bool // only public addresses may be asked
		want        int
		kind        hisp.Kind
	}{
		{name: "type dropped", local: "amy", fault: testdns.Drop, want: 1},
		{name: "type refused", local: "amy", fault: testdns.Refuse, want: 1},
		{name: "type not implemented", local: "amy", fault: testdns.NotImp, want: 1},
		{name: "empty answer without SOA", local: "amy", fault: testdns.NoSOA, want: 1},
		{name: "CNAME at the authoritative server", local: "moved", fault: testdns.Refuse, want: 1},
		{name: "no such address", local: "bob", fault: testdns.Refuse},
		{name: "D2 SERVFAIL may be DNSSEC: not walked around", local: "amy", fault: testdns.ServFail, kind: hisp.Temporary},
		{name: "D5 name server in our own network", local: "amy", fault: testdns.Refuse, public: true, kind: hisp.Temporary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rec := testdns.New(t)
			rec.Zone("b.example", time.Minute)
			rec.Add(t, "b.example. 300 IN NS ns.b.example.", "ns.b.example. 300 IN A 127.0.0.1", "amy.b.example. 300 IN TXT x")
			rec.SetFault("", "CERT", tt.fault)
			r := newTestResolver(t, nil, rec)
			r.timeout = 500 * time.Millisecond
			r.directPort = auth.Addr().Port()
			if !tt.public {
				r.mayAsk = func(netip.Addr) bool { return true }
			}
			certs, err := r.LookupCerts(t.Context(), hisp.Address{Local: tt.local, Domain: "b.example"})
			if len(certs) != tt.want || (err != nil || tt.kind != 0) && hisp.KindOf(err) != tt.kind {
				t.Errorf("LookupCerts = %d, %v, want %d, %v", len(certs), err, tt.want, tt.kind)
			}
		})
	}
}

func TestIsPublic(t *testing.T) {
	for addr, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "127.0.0.1": false, "10.1.2.3": false, "192.168.0.1": false, "169.254.169.254": false,
		"100.64.0.1": false, "::1": false, "fe80::1": false, "fd00::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "224.0.0.1": false,
	} {
		if got := isPublic(netip.MustParseAddr(addr)); got != want {
			t.Errorf("isPublic(%s) = %v, want %v", addr, got, want)
		}
	}
}

func TestNewResolver_systemServers(t *testing.T) {
	if _, err := NewResolver(ResolverConfig{}); err != nil && hisp.KindOf(err) != hisp.Malformed {
		t.Errorf("err = %v, want nil or Malformed", err)
	}
}

// A panic over what a stranger's zone says is an answer that nobody got, and
// not the end of the process: the same answer would end it again at each start.
func TestLookupAddrs_panicContained(t *testing.T) {
	const canary = "CANARY-host"
	var logged bytes.Buffer
	r := newTestResolver(t, nil, testdns.New(t))
	r.clock = func() time.Time { panic(canary) }
	r.log = slog.New(hisp.NewLogHandler(slog.NewTextHandler(&logged, nil)))
	_, err := r.LookupAddrs(t.Context(), "mx.b.example")
	if !errors.Is(err, hisp.Temporary) {
		t.Errorf("LookupAddrs = %v, want Temporary", err)
	}
	if text := logged.String() + fmt.Sprint(err); strings.Contains(text, canary) || !strings.Contains(text, "panic of type string") {
		t.Errorf("log and error are %s, want the panic without its value", text)
	}
}
