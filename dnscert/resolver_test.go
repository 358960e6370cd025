package dnscert

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testdns"
	"github.com/miekg/dns"
)

// newTestResolver asks srv with short times and a clock the test moves.
func newTestResolver(t testing.TB, clock *fakeClock, srvs ...*testdns.Server) *Resolver {
	t.Helper()
	cfg := ResolverConfig{Timeout: 5 * time.Second, Total: 30 * time.Second}
	if clock != nil {
		cfg.Clock = clock.Now
	}
	for _, s := range srvs {
		cfg.Servers = append(cfg.Servers, s.Addr())
	}
	r, err := NewResolver(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *fakeClock { return &fakeClock{t: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

var testCA = sync.OnceValue(func() *testca.CA { return testca.NewRoot("dnscert test CA") })

// newDER makes a small certificate; what it is for does not matter in DNS.
func newDER(name string) []byte {
	return testCA().Issue(testca.Spec{Name: name, KeyKind: testca.P256}).Cert.Raw
}

func address(t testing.TB, s string) hisp.Address {
	t.Helper()
	a, err := hisp.ParseAddress(s)
	if err != nil {
		t.Fatalf("ParseAddress(%q): %v", s, err)
	}
	return a
}

func TestOwnerName(t *testing.T) {
	long := strings.Repeat("x", 64)
	tests := []struct{ name, addr, want string }{
		{"plain", "amy@example.org", "amy.example.org."},
		{"DISC-17 dots separate labels", "a.b.c@example.org", "a.b.c.example.org."},
		{"DISC-17 case is folded", "Amy.B@Example.ORG", "amy.b.example.org."},
		{"apostrophe and slash", "o'neil/x@example.org", `o\'neil/x.example.org.`},
		{"quoted blank and at", `"a b@c"@example.org`, `a\ b\@c.example.org.`},
		{"quoted backslash", `"a\\b"@example.org`, `a\\b.example.org.`},
		{"UTF-8 octets", "é@example.org", `\195\169.example.org.`},
		{"label of 64 octets", long + "@example.org", ""},
		{"label of 63 octets", long[:63] + "@example.org", long[:63] + ".example.org."},
		{"empty label", `"a..b"@example.org`, ""},
		{"leading dot", `".a"@example.org`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ownerName(address(t, tt.addr))
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("ownerName = %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// certNames are the common names of certs, sorted.
func certNames(certs []hisp.Cert) string {
	var names []string
	for _, c := range certs {
		names = append(names, c.Source+":"+c.Subject.CommonName)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func certLine(owner string, ctype uint16, data []byte) *dns.CERT {
	return &dns.CERT{
		Hdr:  dns.RR_Header{Name: dns.Fqdn(owner), Rrtype: dns.TypeCERT, Class: dns.ClassINET, Ttl: 300},
		Type: ctype, KeyTag: 4711, Algorithm: 200, Certificate: base64.StdEncoding.EncodeToString(data),
	}
}

func TestLookupCerts(t *testing.T) {
	srv := testdns.New(t)
	srv.Zone("b.example", time.Minute)
	past := func(name string) []byte {
		at := time.Now().AddDate(-1, 0, 0)
		return testCA().Issue(testca.Spec{Name: name, KeyKind: testca.P256, NotBefore: at, NotAfter: at}).Cert.Raw
	}
	d2, d9 := newDER("D2_valB"), newDER("D9_valA")
	srv.AddCert("d1.domain1.b.example", newDER("D1_valA"))
	srv.AddCert("domain1.b.example", past("D1_invB"))
	srv.AddCert("domain1.b.example", d2)
	srv.AddCert("d5.domain1.b.example", past("D5_invA"))
	srv.AddCert("domain4.b.example", past("D6_invB"))
	srv.AddCert("d9.domain1.b.example", d9)
	srv.AddCert("d9.domain1.b.example", past("D9_invA"))
	srv.AddCert("a.b.dots.b.example", newDER("dots"))
	srv.AddCert("Mixed.b.example", newDER("mixed"))
	srv.AddCert(`a\032b.b.example`, newDER("blank"))
	srv.AddCert("dup.b.example", d9)
	srv.AddRR(certLine("dup.b.example", dns.CertPKIX, d9))
	for _, ctype := range []uint16{dns.CertSPKI, dns.CertPGP, dns.CertIPIX, dns.CertURI, dns.CertOID, 4000} {
		srv.AddRR(certLine("other.types.b.example", ctype, []byte("http://127.0.0.1:9/x")))
		srv.AddRR(certLine("mixed.types.b.example", ctype, d2))
	}
	srv.AddCert("types.b.example", newDER("types"))
	srv.AddRR(certLine("mixed.types.b.example", dns.CertPKIX, newDER("pkix")))
	srv.AddCert("junk.types.b.example", []byte("this is no certificate"))
	srv.AddCert("empty.types.b.example", nil)
	srv.AddCert("half.types.b.example", []byte("junk"))
	srv.AddCert("half.types.b.example", newDER("good"))
	srv.AddCert("tail.types.b.example", append(slices.Clone(d2), 0))
	srv.Add(t, "apex-only.b.example. 300 IN A 127.0.0.1", "wild.b.example. 300 IN A 127.0.0.1")

	tests := []struct {
		name, addr, want string
		kind             hisp.Kind
	}{
		{name: "D1 address before domain", addr: "d1@domain1.b.example", want: "dns-address:D1_valA"},
		{name: "D2 domain set unfiltered", addr: "d2@domain1.b.example", want: "dns-domain:D1_invB dns-domain:D2_valB"},
		{name: "D5 expired at address ends the search", addr: "d5@domain1.b.example", want: "dns-address:D5_invA"},
		{name: "D6 expired at domain", addr: "d6@domain4.b.example", want: "dns-domain:D6_invB"},
		{name: "D9 whole set", addr: "d9@domain1.b.example", want: "dns-address:D9_invA dns-address:D9_valA"},
		{name: "D11 nothing, NXDOMAIN", addr: "d11@domain6.b.example"},
		{name: "D11 nothing, NODATA", addr: "d11@apex-only.b.example"},
		{name: "domain only", addr: "@domain4.b.example", want: "dns-domain:D6_invB"},
		{name: "BB-18 tag stripped", addr: "d1+inbox@domain1.b.example", want: "dns-address:D1_valA"},
		{name: "DISC-17 dots", addr: "a.b@dots.b.example", want: "dns-address:dots"},
		{name: "case", addr: "mIXED@b.example", want: "dns-address:mixed"},
		{name: "quoted local part", addr: `"a b"@b.example`, want: "dns-address:blank"},
		{name: "no DNS name: domain step", addr: `"a..b"@types.b.example`, want: "dns-domain:types"},
		{name: "same certificate twice", addr: "dup@b.example", want: "dns-address:D9_valA"},
		{name: "DISC-02 only other types: next step", addr: "other@types.b.example", want: "dns-domain:types"},
		{name: "DISC-02 other types beside PKIX", addr: "mixed@types.b.example", want: "dns-address:pkix"},
		{name: "unreadable beside readable", addr: "half@types.b.example", want: "dns-address:good"},
		{name: "only unreadable ends the search", addr: "junk@types.b.example", kind: hisp.NoCertificate},
		{name: "empty PKIX record", addr: "empty@types.b.example", kind: hisp.NoCertificate},
		{name: "trailing octets", addr: "tail@types.b.example", kind: hisp.NoCertificate},
	}
	r := newTestResolver(t, nil, srv)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := hisp.Address{Domain: hisp.Domain(strings.TrimPrefix(tt.addr, "@"))}
			if tt.addr[0] != '@' {
				addr = address(t, tt.addr)
			}
			certs, err := r.LookupCerts(t.Context(), addr)
			if got := certNames(certs); got != tt.want {
				t.Errorf("certificates = %q, want %q", got, tt.want)
			}
			if (err != nil || tt.kind != 0) && hisp.KindOf(err) != tt.kind {
				t.Errorf("err = %v, want kind %v", err, tt.kind)
			}
		})
	}
	if n := srv.Count("domain4.b.example", "CERT"); n != 1 {
		t.Errorf("domain4 was asked %d times, want once and then from the cache", n)
	}
}

// TestLookupCerts_stop: after an address step with certificates the domain is
// not even asked (DISC-05).
func TestLookupCerts_stop(t *testing.T) {
	srv := testdns.New(t)
	srv.Zone("b.example", time.Minute)
	srv.AddCert("amy.b.example", newDER("amy"))
	srv.AddCert("b.example", newDER("domain"))
	r := newTestResolver(t, nil, srv)
	if _, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); err != nil {
		t.Fatal(err)
	}
	if n := srv.Count("b.example", "CERT"); n != 0 {
		t.Errorf("domain step asked %d times, want 0", n)
	}
}

func TestLookupCerts_limit(t *testing.T) {
	srv := testdns.New(t)
	srv.Zone("b.example", time.Minute)
	for i := range 40 {
		end := time.Now().AddDate(0, 0, i-20)
		srv.AddCert("many.b.example", testCA().Issue(testca.Spec{
			Name: fmt.Sprintf("c%02d", i), KeyKind: testca.P256, NotBefore: end.AddDate(-1, 0, 0), NotAfter: end,
		}).Cert.Raw)
	}
	steps := newTestResolver(t, nil, srv).Explain(t.Context(), address(t, "many@b.example"))
	if len(steps) != 1 || len(steps[0].Certs) != defaultMaxCerts {
		t.Fatalf("steps = %d, certificates = %d, want 1 and %d", len(steps), len(steps[0].Certs), defaultMaxCerts)
	}
	if got := steps[0].Certs[0].Subject.CommonName; got != "c39" {
		t.Errorf("first = %s, want the one valid longest, c39", got)
	}
	if want := []string{"24 of 40 certificates are above the limit"}; !slices.Equal(steps[0].Skipped, want) {
		t.Errorf("skipped = %q, want %q", steps[0].Skipped, want)
	}
}

// TestLookupCerts_large is D14: an answer that only fits TCP.
func TestLookupCerts_large(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	srv := testdns.New(t)
	srv.AddCert("d14.b.example", testCA().Issue(testca.Spec{Name: "D14_valA", Key: key}).Cert.Raw)
	srv.AddCert("d14.b.example", testCA().Issue(testca.Spec{Name: "D14_other", Key: key}).Cert.Raw)
	certs, err := newTestResolver(t, nil, srv).LookupCerts(t.Context(), address(t, "d14@b.example"))
	if got, want := certNames(certs), "dns-address:D14_other dns-address:D14_valA"; err != nil || got != want {
		t.Errorf("LookupCerts = %q, %v, want %q", got, err, want)
	}
	qs := srv.Queries()
	if len(qs) != 2 || qs[0].TCP || qs[0].EDNS != ednsSize || !qs[1].TCP {
		t.Errorf("queries = %+v, want UDP with EDNS %d, then TCP", qs, ednsSize)
	}
}

func TestLookupCerts_faults(t *testing.T) {
	tests := []struct {
		name  string
		fault testdns.Fault
		found bool
	}{
		{"DISC-07 truncated: TCP", testdns.Truncate, true},
		{"truncated over TCP too", testdns.TruncateAll, false},
		{"malformed over UDP: TCP", testdns.Malformed, true},
		{"garbage with our id: TCP", testdns.Garbage, true},
		{"UDP lost: TCP in the last round", testdns.DropUDP, true},
		{"EDNS not known", testdns.FormErr, true},
		{"question in lower case: TCP", testdns.LowerCase, true},
		{"D1 forged datagram before the answer", testdns.Spoof, true},
		{"D1 wrong id only: TCP never asked, wrong there too", testdns.WrongID, false},
		{"D1 answer to another question", testdns.WrongQuestion, false},
		{"D2 SERVFAIL", testdns.ServFail, false},
		{"REFUSED", testdns.Refuse, false},
		{"NOTIMP", testdns.NotImp, false},
		{"lame referral", testdns.Referral, false},
		{"no answer at all", testdns.Drop, false},
	}
	der := newDER("amy")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := testdns.New(t)
			srv.AddCert("amy.b.example", der)
			srv.AddCert("b.example", newDER("domain"))
			srv.SetFault("amy.b.example", "CERT", tt.fault)
			r := newTestResolver(t, nil, srv)
			r.timeout = 500 * time.Millisecond
			certs, err := r.LookupCerts(t.Context(), address(t, "amy@b.example"))
			if tt.found {
				if len(certs) != 1 || err != nil {
					t.Errorf("LookupCerts = %d certificates, %v, want 1", len(certs), err)
				}
				byTCP := slices.ContainsFunc(srv.Queries(), func(q testdns.Query) bool { return q.TCP })
				if want := strings.Contains(tt.name, "TCP"); byTCP != want {
					t.Errorf("TCP asked: %v, want %v", byTCP, want)
				}
				return
			}
			if len(certs) != 0 || !errors.Is(err, hisp.Temporary) {
				t.Errorf("LookupCerts = %d certificates, %v, want Temporary", len(certs), err)
			}
			if srv.Count("b.example", "CERT") != 0 {
				t.Error("the domain was asked although the address step is not known")
			}
		})
	}
}

func TestErrors_noLocalPart(t *testing.T) {
	srv := testdns.New(t)
	srv.SetFault("", "ANY", testdns.ServFail)
	_, err := newTestResolver(t, nil, srv).LookupCerts(t.Context(), address(t, "canarylocal@b.example"))
	if err == nil || strings.Contains(err.Error(), "canarylocal") {
		t.Errorf("err = %v, want one without the local part", err)
	}
}

func TestCNAME(t *testing.T) {
	srv := testdns.New(t)
	srv.Zone("b.example", time.Minute)
	chainOf := func(prefix string, n int) {
		for i := range n {
			srv.Add(t, fmt.Sprintf("%s%d.b.example. 300 IN CNAME %s%d.b.example.", prefix, i, prefix, i+1))
		}
	}
	chainOf("ok", 8)
	srv.AddCert("ok8.b.example", newDER("end"))
	chainOf("long", 9)
	srv.AddCert("long9.b.example", newDER("end"))
	srv.Add(t, "loop.b.example. 300 IN CNAME loop2.b.example.", "loop2.b.example. 300 IN CNAME LOOP.b.example.",
		"self.b.example. 300 IN CNAME self.b.example.", "dangling.b.example. 300 IN CNAME nowhere.b.example.",
		"host.b.example. 300 IN A 127.0.0.1", "bare.b.example. 300 IN CNAME host.b.example.")
	tests := []struct {
		local string
		want  int
		kind  hisp.Kind
	}{
		{local: "ok0", want: 1},
		{local: "long0", kind: hisp.Temporary},
		{local: "loop", kind: hisp.Temporary},
		{local: "self", kind: hisp.Temporary},
		{local: "dangling"},
		{local: "bare"},
	}
	r := newTestResolver(t, nil, srv)
	for _, tt := range tests {
		t.Run(tt.local, func(t *testing.T) {
			before := len(srv.Queries())
			certs, err := r.LookupCerts(t.Context(), hisp.Address{Local: tt.local, Domain: "b.example"})
			if len(certs) != tt.want || (err != nil || tt.kind != 0) && hisp.KindOf(err) != tt.kind {
				t.Errorf("LookupCerts = %d, %v, want %d, %v", len(certs), err, tt.want, tt.kind)
			}
			if n := len(srv.Queries()) - before; n > maxChain+2 {
				t.Errorf("%d queries, want a bounded number", n)
			}
		})
	}
}

// TestAnswer_strangersRecords: records beside the chain are not believed.
func TestAnswer_strangersRecords(t *testing.T) {
	srv := testdns.New(t)
	evil := newDER("evil")
	srv.SetHandler(func(req *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(req)
		m.RecursionAvailable = true
		m.Answer = []dns.RR{certLine("other.example", dns.CertPKIX, evil)}
		m.Extra = []dns.RR{certLine(req.Question[0].Name, dns.CertPKIX, evil)}
		return m
	})
	certs, err := newTestResolver(t, nil, srv).LookupCerts(t.Context(), address(t, "amy@b.example"))
	if len(certs) != 0 || err != nil {
		t.Errorf("LookupCerts = %q, %v, want none", certNames(certs), err)
	}
}

// TestFlights_leaderGivesUp: those who wait for a cancelled asker ask
// themselves, once for all of them.
func TestFlights_leaderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q := newFlights(), question{"amy.b.example.", dns.TypeCERT}
		first, cancel := context.WithCancel(t.Context())
		asked := 0
		ask := func(ctx context.Context) (*answer, error) {
			if asked++; asked == 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Second) // in the bubble's time
			return &answer{outcome: found}, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.do(first, q, ask); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled asker: %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() {
				if ans, err := f.do(t.Context(), q, ask); ans == nil || err != nil {
					t.Errorf("one that waited: %v, %v, want the answer", ans, err)
				}
			})
		}
		impatient, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		wg.Go(func() {
			if _, err := f.do(impatient, q, ask); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("one that cannot wait: %v, want its own deadline", err)
			}
		})
		synctest.Wait()
		time.Sleep(2 * time.Millisecond)
		cancel()
		wg.Wait()
		if asked != 2 || len(f.fly) != 0 {
			t.Errorf("asked %d times with %d left, want 2 and 0", asked, len(f.fly))
		}
	})
}

func TestServers_failover(t *testing.T) {
	dead, refuses, good := testdns.New(t), testdns.New(t), testdns.New(t)
	dead.SetFault("", "ANY", testdns.Drop)
	refuses.SetFault("", "ANY", testdns.Refuse)
	good.AddCert("amy.b.example", newDER("amy"))
	good.AddCert("bob.b.example", newDER("bob"))
	r := newTestResolver(t, nil, dead, refuses, good)
	r.timeout = time.Second
	for _, name := range []string{"amy", "bob"} {
		certs, err := r.LookupCerts(t.Context(), hisp.Address{Local: name, Domain: "b.example"})
		if len(certs) != 1 || err != nil {
			t.Fatalf("LookupCerts = %d, %v, want 1", len(certs), err)
		}
	}
	if n := len(dead.Queries()); n != 1 {
		t.Errorf("the dead server was asked %d times, want once: the good one is preferred then", n)
	}
}

func TestLookup_boundedTime(t *testing.T) {
	srv := testdns.New(t)
	const oneTry = time.Minute // without Total the first try would take this
	srv.SetFault("", "ANY", testdns.Drop)
	r, err := NewResolver(ResolverConfig{Servers: []netip.AddrPort{srv.Addr()}, Timeout: oneTry, Total: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := r.LookupCerts(t.Context(), address(t, "amy@b.example")); !errors.Is(err, hisp.Temporary) {
		t.Errorf("err = %v, want Temporary", err)
	}
	if d := time.Since(start); d >= oneTry {
		t.Errorf("took %v, want less than one try, %v", d, oneTry)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.LookupMX(ctx, "b.example"); !errors.Is(err, hisp.Temporary) {
		t.Errorf("cancelled: %v, want Temporary", err)
	}
}

// TestQuery_unguessable is security row D1: ids, ports and letter case.
func TestQuery_unguessable(t *testing.T) {
	srv := testdns.New(t)
	r := newTestResolver(t, nil, srv)
	const n = 1000
	spellings := map[string]bool{}
	srv.SetHandler(func(req *dns.Msg, _ bool) *dns.Msg {
		spellings[req.Question[0].Name] = true
		return nil
	})
	for range n {
		if _, err := r.exchange(t.Context(), srv.Addr(), question{"clinic.hospital.example.", dns.TypeCERT}, true, udpFirst); err != nil {
			t.Fatal(err)
		}
	}
	ids, ports := map[uint16]bool{}, map[uint16]bool{}
	high := 0
	for _, q := range srv.Queries() {
		ids[q.ID], ports[q.Port] = true, true
		if q.ID >= 1<<15 {
			high++
		}
	}
	if len(ids) < n*95/100 || high < n*4/10 || high > n*6/10 {
		t.Errorf("%d different ids, %d above the middle, want them uniform", len(ids), high)
	}
	if len(ports) < n*8/10 {
		t.Errorf("%d different ports of %d", len(ports), n)
	}
	if len(spellings) < n*95/100 {
		t.Errorf("%d different spellings of %d", len(spellings), n)
	}
}
