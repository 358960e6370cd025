package dnscert

import (
	"context"
	"encoding/base64"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzAnswer feeds the resolver hostile packets: no panic, no endless loop,
// nothing above the limits.
func FuzzAnswer(f *testing.F) {
	q := question{"amy.b.example.", dns.TypeCERT}
	asked := newQuestion(q.name, q.qtype)
	asked.Id = 0x1234
	seed := func(change func(*dns.Msg)) {
		m := new(dns.Msg).SetReply(asked)
		m.Compress = true
		change(m)
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, uint16(dns.TypeCERT))
	}
	rr := func(line string) dns.RR {
		rr, err := dns.NewRR(line)
		if err != nil {
			f.Fatal(err)
		}
		return rr
	}
	der := newDER("amy")
	seed(func(m *dns.Msg) { m.Answer = []dns.RR{certLine(q.name, dns.CertPKIX, der)} })
	seed(func(m *dns.Msg) {
		m.Answer = []dns.RR{certLine(q.name, dns.CertURI, []byte("http://x")), certLine(q.name, dns.CertPKIX, der[:50])}
	})
	seed(func(m *dns.Msg) {
		m.Answer = []dns.RR{rr("amy.b.example. 1 IN CNAME b.example."), rr("b.example. 1 IN CNAME amy.b.example.")}
	})
	seed(func(m *dns.Msg) {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{rr("b.example. 9 IN SOA a. b. 1 2 3 4 5")}
	})
	seed(func(m *dns.Msg) { m.Truncated = true; m.SetEdns0(4096, true) })
	f.Add([]byte{0x12, 0x34}, uint16(dns.TypeMX))
	r, err := NewResolver(ResolverConfig{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte, qtype uint16) {
		if len(raw) >= 2 {
			raw[0], raw[1] = 0x12, 0x34
		}
		calls := 0
		ask := func(_ context.Context, q question) (*dns.Msg, error) {
			if calls++; calls > maxChain+1 {
				t.Fatalf("asked %d times for one question", calls)
			}
			asked := newQuestion(q.name, q.qtype)
			asked.Id = 0x1234
			m, err := readAnswer(raw, asked, anyCase)
			if err != nil {
				return nil, err
			}
			return onlyOwn(m, q), judge(m)
		}
		ans, err := r.chase(t.Context(), question{q.name, qtype}, ask)
		if err != nil {
			return
		}
		if n := len(ans.certs.certs); n > r.maxCerts || len(ans.certs.skipped) > maxSkipped {
			t.Errorf("%d certificates and %d remarks, want bounds", n, len(ans.certs.skipped))
		}
		if ans.ttl < 0 || ans.ttl > maxTTL {
			t.Errorf("ttl = %v", ans.ttl)
		}
		if mxs := exchangers(ans.rrs); len(mxs) > maxExchangers {
			t.Errorf("%d exchangers", len(mxs))
		}
		addrsOf(ans.rrs)
	})
}

// FuzzQuery feeds the server hostile packets: no panic, an answer that packs,
// fits its datagram and is about the question.
func FuzzQuery(f *testing.F) {
	ix, _ := compile([]Zone{hospital()}, nil, time.Unix(1, 0))
	for _, name := range []string{"amy.hospital.example", "big.hospital.example", "HOSPITAL.example", "b.hospital.example", "x.example", `a\ b.hospital.example`} {
		for _, qtype := range []uint16{dns.TypeCERT, dns.TypeMX, dns.TypeANY, dns.TypeAXFR, dns.TypeNS, dns.TypeSOA} {
			m := newQuestion(name, qtype)
			m.SetEdns0(4096, true)
			raw, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, true)
			f.Add(raw[:len(raw)-11], false)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, udp bool) {
		req := new(dns.Msg)
		if err := req.Unpack(raw); err != nil {
			return
		}
		size := dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = max(size, min(int(opt.UDPSize()), ednsSize))
		}
		m := ix.answerQuery(req, udp)
		if m == nil {
			return
		}
		out, err := m.Pack()
		if err != nil {
			t.Fatalf("answer does not pack: %v", err)
		}
		// A query with many questions is answered FORMERR with all of them
		// packed back; the library answers those before us.
		if udp && len(out) > size && len(req.Question) <= 1 {
			t.Errorf("%d octets for a datagram of %d", len(out), size)
		}
		for _, rr := range m.Answer {
			if !strings.EqualFold(rr.Header().Name, req.Question[0].Name) {
				t.Errorf("a record of another name in the answer")
			}
		}
	})
}

func FuzzDecodeCerts(f *testing.F) {
	f.Add(newDER("amy"), uint16(dns.CertPKIX))
	f.Add([]byte("http://127.0.0.1/"), uint16(dns.CertURI))
	f.Fuzz(func(t *testing.T, data []byte, ctype uint16) {
		rr := certLine("amy.b.example", ctype, data)
		set := decodeCerts([]dns.RR{rr, rr}, 1)
		if len(set.certs) > 1 || len(set.certs) == 1 && base64.StdEncoding.EncodeToString(set.certs[0].Raw) != rr.Certificate {
			t.Errorf("%d certificates, want at most the one", len(set.certs))
		}
	})
}
