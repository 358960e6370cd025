package dnscert

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testdns"
	"github.com/miekg/dns"
)

// TestRecords_sameAsServer: what the lines say is what the server answers.
func TestRecords_sameAsServer(t *testing.T) {
	z := hospital()
	z.Certs = append(z.Certs,
		Published{Owner: address(t, `"a b$;(@\""@hospital.example`), Cert: z.Certs[1].Cert},
		Published{Owner: address(t, "$dollar@hospital.example"), Cert: z.Certs[1].Cert},
		Published{Owner: address(t, "é@hospital.example"), Cert: z.Certs[1].Cert})
	now := time.Unix(1_700_000_000, 0)
	lines, err := Records(z, now)
	if !errors.Is(err, hisp.Malformed) || !strings.Contains(hisp.HintOf(err), "wildcard") {
		t.Errorf("err = %v, want Malformed because of *@hospital.example", err)
	}
	ix, _ := compile([]Zone{z}, nil, now)
	count := 0
	for _, node := range ix.nodes {
		for _, set := range node {
			count += len(set)
		}
	}
	if len(lines) != count || !strings.Contains(lines[0], " SOA ") || !strings.Contains(lines[0], " 1700000000 ") {
		t.Errorf("%d lines, want %d, the first a SOA: %s", len(lines), count, lines[0])
	}
	zp := dns.NewZoneParser(strings.NewReader(strings.Join(lines, "\n")), "", "")
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		h := rr.Header()
		name, err := canonical(h.Name)
		if err != nil {
			t.Fatal(err)
		}
		h.Name = name
		set := ix.nodes[name][h.Rrtype]
		if !slices.ContainsFunc(set, func(have dns.RR) bool { return have.String() == rr.String() }) {
			t.Errorf("the server does not have %s %s", h.Name, dns.TypeToString[h.Rrtype])
		}
		count--
	}
	if zp.Err() != nil || count != 0 {
		t.Errorf("zone parser: %v, %d records missing", zp.Err(), count)
	}
}

func TestRecords_badZone(t *testing.T) {
	if lines, err := Records(Zone{Name: "bad..zone"}, time.Unix(1, 0)); len(lines) != 0 || !errors.Is(err, hisp.Malformed) {
		t.Errorf("Records = %q, %v, want none and Malformed", lines, err)
	}
}

// TestAlgorithmAndTag is RFC 4398 §2.1 with the key forms of RFC 3110, 6605 and
// 8080.
func TestAlgorithmAndTag(t *testing.T) {
	rsaCert := issue("rsa", testca.Spec{KeyKind: testca.RSA2048}).Cert
	p256 := issue("p256", testca.Spec{KeyKind: testca.P256}).Cert
	tests := []struct {
		name string
		cert *x509.Certificate
		alg  uint8
		key  int // octets of the DNSKEY public key
	}{
		{"RSA", rsaCert, dns.RSASHA256, 1 + 3 + 256},
		{"P-256", p256, dns.ECDSAP256SHA256, 64},
		{"P-384", issue("p384", testca.Spec{KeyKind: testca.P384}).Cert, dns.ECDSAP384SHA384, 96},
		{"Ed25519", issue("ed", testca.Spec{KeyKind: testca.Ed25519}).Cert, dns.ED25519, 32},
		{"P-521 has no DNSSEC algorithm", issue("p521", testca.Spec{KeyKind: testca.P521}).Cert, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			alg, key := dnsKey(tt.cert)
			_, tag := algorithmAndTag(tt.cert)
			if alg != tt.alg || len(key) != tt.key {
				t.Errorf("algorithm %d with %d octets, want %d with %d", alg, len(key), tt.alg, tt.key)
			}
			if want := referenceTag(alg, key); tag != want {
				t.Errorf("tag = %d, want %d", tag, want)
			}
		})
	}
}

// referenceTag is the C code of RFC 4034 appendix B, for any algorithm but 1.
func referenceTag(alg uint8, key []byte) uint16 {
	if alg == 0 {
		return 0
	}
	rdata := append([]byte{1, 0, 3, alg}, key...)
	var ac uint32
	for i, b := range rdata {
		if i&1 == 1 {
			ac += uint32(b)
		} else {
			ac += uint32(b) << 8
		}
	}
	ac += ac >> 16 & 0xffff
	return uint16(ac & 0xffff)
}

// TestRecords_elsewhere: who publishes the zone has name servers of their own.
func TestRecords_elsewhere(t *testing.T) {
	z := hospital()
	z.Certs, z.Elsewhere = z.Certs[:1], true
	lines, err := Records(z, time.Unix(1_700_000_000, 0))
	text := strings.Join(lines, "\n")
	if err != nil || strings.Contains(text, " SOA ") || strings.Contains(text, " NS ") || !strings.Contains(text, " MX ") {
		t.Errorf("Records = %v:\n%s\nwant MX, neither SOA nor NS", err, text)
	}
	srv := testdns.New(t)
	publish(srv, z)
	if got := findings(Check(t.Context(), newTestResolver(t, nil, srv), z)); got != "" {
		t.Errorf("findings:\n%s\nwant none", got)
	}
}

// TestCheck_incomplete: what the zone itself lacks is found, too.
func TestCheck_incomplete(t *testing.T) {
	z := hospital()
	z.Mail = []hisp.MX{{Host: "mail.partner.example", Pref: 10}}
	z.Certs = nil
	srv := testdns.New(t)
	publish(srv, z)
	r := newTestResolver(t, nil, srv)
	got := findings(Check(t.Context(), r, z))
	for _, want := range []string{"mail.partner.example A/AAAA: the mail exchanger has no address", "hospital.example CERT: the domain has no certificate"} {
		if !strings.Contains(got, want) {
			t.Errorf("findings:\n%s\nwant %q", got, want)
		}
	}
	srv.Add(t, "mail.partner.example. 60 IN AAAA 2001:db8::7")
	if got := findings(Check(t.Context(), r, z)); strings.Contains(got, "A/AAAA") {
		t.Errorf("findings with an address:\n%s", got)
	}
}

// publish gives srv the records of z.
func publish(srv *testdns.Server, z Zone) {
	apex, rrs, _ := zoneRecords(z)
	soa := soaRecord(z, apex)
	srv.AddRR(soa)
	for _, rr := range rrs {
		srv.AddRR(rr)
	}
}

func findings(fs []Finding) string {
	var bad []string
	for _, f := range fs {
		if !f.OK {
			bad = append(bad, f.Name+" "+f.Type+": "+f.Hint)
		}
	}
	return strings.Join(bad, "\n")
}

func TestCheck(t *testing.T) {
	z := hospital()
	z.Certs = z.Certs[:len(z.Certs)-1] // without the wildcard
	tests := []struct {
		name   string
		change func(*testdns.Server)
		want   []string // parts of the findings that are not OK, in order
	}{
		{"all there", func(*testdns.Server) {}, nil},
		{"certificate missing", func(s *testdns.Server) { s.Remove("amy.hospital.example", "CERT") },
			[]string{"amy.hospital.example CERT: no CERT record is published: add the lines"}},
		{"old certificate left", func(s *testdns.Server) { s.AddCert("amy.hospital.example", newDER("old")) },
			[]string{"amy.hospital.example CERT: 1 CERT records are not ours or no longer used"}},
		{"one of two certificates", func(s *testdns.Server) {
			s.Remove("big.hospital.example", "CERT")
			s.AddCert("big.hospital.example", z.Certs[3].Cert.Raw)
		}, []string{"big.hospital.example CERT: 1 CERT records are missing"}},
		{"another exchanger", func(s *testdns.Server) { s.Add(t, "hospital.example. 60 IN MX 5 evil.example.") },
			[]string{"hospital.example MX: 1 MX records are not ours"}},
		{"other name servers are the operator's business", func(s *testdns.Server) {
			s.Remove("hospital.example", "NS")
			s.Add(t, "hospital.example. 60 IN NS ns.elsewhere.example.")
		}, nil},
		{"SERVFAIL", func(s *testdns.Server) { s.SetFault("hospital.example", "MX", testdns.ServFail) },
			[]string{"hospital.example MX: the resolver got SERVFAIL"}},
		{"TCP blocked", func(s *testdns.Server) { s.SetFault("big.hospital.example", "CERT", testdns.DropTCP) },
			[]string{"big.hospital.example CERT: no answer in time: check that port 53 is open on UDP and on TCP"}},
		{"wildcard", func(s *testdns.Server) {
			s.SetHandler(func(req *dns.Msg, _ bool) *dns.Msg {
				if !strings.HasPrefix(strings.ToLower(req.Question[0].Name), "hisp-check-") {
					return nil
				}
				m := new(dns.Msg).SetReply(req)
				m.RecursionAvailable = true
				m.Answer = []dns.RR{certLine(req.Question[0].Name, dns.CertPKIX, newDER("wild"))}
				return m
			})
		}, []string{"CERT: the zone has a wildcard"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := testdns.New(t)
			publish(srv, z)
			tt.change(srv)
			r := newTestResolver(t, nil, srv)
			r.timeout, r.tries = 10*time.Second, 1
			got := findings(Check(t.Context(), r, z))
			lines := strings.Split(got, "\n")
			if got == "" {
				lines = nil
			}
			if len(lines) != len(tt.want) {
				t.Fatalf("findings:\n%s\nwant %q", got, tt.want)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("finding = %q, want %q", lines[i], want)
				}
			}
		})
	}
}

func TestCheck_notDelegated(t *testing.T) {
	srv := testdns.New(t)
	z := hospital()
	fs := Check(t.Context(), newTestResolver(t, nil, srv), z)
	if len(fs) < 5 || fs[0].OK || fs[1].OK || !strings.Contains(findings(fs), "delegate it") || !strings.Contains(fs[0].Hint, "wildcard") {
		t.Errorf("findings:\n%s\nwant all but the last not OK, the problem first", findings(fs))
	}
	if last := fs[len(fs)-1]; !last.OK {
		t.Errorf("the name that must not exist: %+v, want OK", last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if fs := Check(ctx, newTestResolver(t, nil, srv), Zone{Name: "hospital.example"}); len(fs) != 0 {
		t.Errorf("cancelled: %d findings, want 0", len(fs))
	}
}

func BenchmarkLookupCerts(b *testing.B) {
	z := hospital()
	s := startServer(b, ServerConfig{Source: &memory{zones: []Zone{z}}, Rate: -1})
	r, err := NewResolver(ResolverConfig{Servers: []netip.AddrPort{s.Addr()}})
	if err != nil {
		b.Fatal(err)
	}
	amy := hisp.Address{Local: "amy", Domain: "hospital.example"}
	lookup := func(b *testing.B) {
		if certs, err := r.LookupCerts(b.Context(), amy); len(certs) != 1 || err != nil {
			b.Fatal(len(certs), err)
		}
	}
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			lookup(b)
		}
	})
	b.Run("uncached", func(b *testing.B) {
		for b.Loop() {
			r.cache = newCache()
			lookup(b)
		}
	})
	big := hisp.Address{Local: "big", Domain: "hospital.example"}
	b.Run("uncached, TCP", func(b *testing.B) {
		for b.Loop() {
			r.cache = newCache()
			if certs, err := r.LookupCerts(b.Context(), big); len(certs) != 2 || err != nil {
				b.Fatal(len(certs), err)
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	ix, _ := compile([]Zone{hospital()}, nil, time.Unix(1, 0))
	q := newQuestion("amy.hospital.example", dns.TypeCERT)
	q.SetEdns0(1232, false)
	for b.Loop() {
		if _, err := ix.answerQuery(q, true).Pack(); err != nil {
			b.Fatal(err)
		}
	}
}
