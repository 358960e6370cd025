package dnscert

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

// Defaults and bounds of a Resolver (rows DISC-11, security D6).
const (
	defaultTimeout  = 3 * time.Second
	defaultTotal    = 15 * time.Second
	defaultTries    = 3
	defaultMaxCerts = 16
	defaultMinTTL   = time.Minute
	maxTTL          = 24 * time.Hour
	maxNegativeTTL  = 15 * time.Minute // a new certificate must not wait for hours
	maxChain        = 8                // CNAMEs followed for one question
)

// What an answer takes of the cache.
const (
	decodedFactor  = 3   // of the message, for certificates that are parsed
	negativeOctets = 256 // for an answer without records
)

const (
	dnsPort    = 53
	resolvConf = "/etc/resolv.conf"
)

// ResolverConfig says whom to ask. The zero value asks the servers of
// /etc/resolv.conf.
type ResolverConfig struct {
	Servers  []netip.AddrPort // recursive servers, asked in this order; none means /etc/resolv.conf
	Timeout  time.Duration    // of one try on one transport; 0 means 3 s
	Total    time.Duration    // of one call with everything it asks; 0 means 15 s
	Tries    int              // rounds over the servers, the last one over TCP; 0 means 3
	MaxCerts int              // at most so many certificates per lookup; 0 means 16
	MinTTL   time.Duration    // answers are kept at least so long, at most a day; 0 means 60 s
	Clock    hisp.Clock       // nil means time.Now
	Log      *slog.Logger     // nil means none
}

// Resolver asks recursive name servers. It implements hisp.CertResolver and
// hisp.HostResolver and may be used by many goroutines. Answers are cached,
// identical questions at the same time are asked once.
type Resolver struct {
	servers  []netip.AddrPort
	prefer   atomic.Int32 // index of the server that answered last
	timeout  time.Duration
	total    time.Duration
	tries    int
	maxCerts int
	minTTL   time.Duration
	clock    hisp.Clock
	log      *slog.Logger
	cache    *cache
	flights  *flights

	directPort uint16                // of authoritative servers (row DISC-12)
	mayAsk     func(netip.Addr) bool // whether an authoritative server at that address may be asked
}

var (
	_ hisp.CertResolver = (*Resolver)(nil)
	_ hisp.HostResolver = (*Resolver)(nil)
)

// NewResolver makes a Resolver. The error is Malformed when there is no server
// to ask.
func NewResolver(cfg ResolverConfig) (*Resolver, error) {
	r := &Resolver{
		servers: cfg.Servers, timeout: cfg.Timeout, total: cfg.Total, tries: cfg.Tries,
		maxCerts: cfg.MaxCerts, minTTL: cfg.MinTTL, clock: cfg.Clock, log: cfg.Log,
		cache: newCache(), flights: newFlights(), directPort: dnsPort, mayAsk: isPublic,
	}
	orDefault(&r.timeout, defaultTimeout)
	orDefault(&r.total, defaultTotal)
	orDefault(&r.tries, defaultTries)
	orDefault(&r.maxCerts, defaultMaxCerts)
	orDefault(&r.minTTL, defaultMinTTL)
	r.minTTL = min(r.minTTL, maxTTL)
	if r.clock == nil {
		r.clock = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if len(r.servers) == 0 {
		r.servers = systemServers()
	}
	if len(r.servers) == 0 {
		return nil, &hisp.Error{Op: "dnscert.NewResolver", Kind: hisp.Malformed,
			Hint: "no DNS server is configured and " + resolvConf + " names none"}
	}
	return r, nil
}

func orDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func systemServers() []netip.AddrPort {
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		return nil
	}
	var servers []netip.AddrPort
	for _, s := range conf.Servers {
		if addr, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, dnsPort))
		}
	}
	return servers
}

// outcome is what DNS says about a name and type.
type outcome uint8

const (
	found    outcome = iota + 1
	noData           // the name exists without that type
	nxDomain         // the name does not exist
)

// answer is the outcome of one question with CNAMEs followed. It is shared and
// never changed.
type answer struct {
	outcome outcome
	rrs     []dns.RR // of the type asked, at the end of the chain
	certs   certSet  // decoded, when the type is CERT
	ttl     time.Duration
	octets  int
	hasSOA  bool // a negative answer with the SOA that RFC 2308 §3 demands
}

// resolve answers q from the cache or by asking. The error is not yet a
// *hisp.Error: every failure here means that nothing is known.
func (r *Resolver) resolve(ctx context.Context, q question) (*answer, error) {
	if ans := r.cache.get(q, r.clock()); ans != nil {
		return ans, nil
	}
	return r.flights.do(ctx, q, func(ctx context.Context) (*answer, error) {
		if ans := r.cache.get(q, r.clock()); ans != nil {
			return ans, nil // an earlier flight landed in between
		}
		ans, err := r.fresh(ctx, q)
		if err == nil && ans.ttl > 0 {
			r.cache.put(q, ans, r.clock().Add(ans.ttl))
		}
		return ans, err
	})
}

// fresh asks the servers, for CERT records also the authoritative ones when
// the recursive ones do not know the type (row DISC-12).
func (r *Resolver) fresh(ctx context.Context, q question) (*answer, error) {
	ans, err := r.chase(ctx, q, r.ask)
	if q.qtype != dns.TypeCERT || !r.typeUnknown(ctx, ans, err) {
		return ans, err
	}
	if direct, derr := r.chase(ctx, q, r.askDirect); derr == nil {
		r.log.Debug("authoritative servers asked for CERT", "op", "dnscert.resolve")
		return direct, nil
	}
	return ans, err
}

// typeUnknown tells whether the recursive servers seem not to know type 37: no
// answer, a refusal, or a negative answer without SOA. SERVFAIL is not among
// them: it may be DNSSEC validation, which must not be walked around (security
// row D2).
func (r *Resolver) typeUnknown(ctx context.Context, ans *answer, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if err == nil {
		return ans.outcome == noData && !ans.hasSOA
	}
	var rcode rcodeError
	if errors.As(err, &rcode) {
		return rcode == dns.RcodeRefused || rcode == dns.RcodeNotImplemented || rcode == dns.RcodeFormatError
	}
	return !errors.Is(err, errLoop)
}

// asker asks for one name and type and returns a usable message.
type asker func(ctx context.Context, q question) (*dns.Msg, error)

// chase follows CNAMEs, within a message and by asking again, at most maxChain
// in all (security row D3).
func (r *Resolver) chase(ctx context.Context, q question, ask asker) (*answer, error) {
	c := newChain(q)
	for {
		asked := c.name
		m, err := ask(ctx, question{asked, q.qtype})
		if err != nil {
			return nil, err
		}
		if err := c.follow(m); err != nil {
			return nil, err
		}
		switch soa := coveringSOA(m, c.name); {
		case len(c.rrs) > 0:
			return r.positive(c, m), nil
		case m.Rcode == dns.RcodeNameError:
			return r.negative(nxDomain, c, soa), nil
		case c.name == asked || soa != nil:
			return r.negative(noData, c, soa), nil
		}
	}
}

// chain is a walk along CNAME records.
type chain struct {
	name  string
	qtype uint16
	seen  map[string]bool
	ttl   time.Duration // the smallest on the way
	rrs   []dns.RR
}

func newChain(q question) chain {
	return chain{name: q.name, qtype: q.qtype, seen: map[string]bool{q.name: true}, ttl: maxTTL}
}

// follow walks as far as m goes. Records of other names are not looked at.
func (c *chain) follow(m *dns.Msg) error {
	for {
		target := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || dns.CanonicalName(h.Name) != c.name {
				continue
			}
			switch {
			case h.Rrtype == c.qtype:
				c.rrs = append(c.rrs, rr)
				c.lower(h.Ttl)
			case h.Rrtype == dns.TypeCNAME && target == "":
				target = dns.CanonicalName(rr.(*dns.CNAME).Target)
				c.lower(h.Ttl)
			}
		}
		if len(c.rrs) > 0 || target == "" {
			return nil
		}
		if c.seen[target] || len(c.seen) > maxChain {
			return errLoop
		}
		c.seen[target] = true
		c.name = target
	}
}

// lower takes a TTL into account; one with the top bit set is 0 (RFC 2181 §8).
func (c *chain) lower(ttl uint32) {
	if ttl > 1<<31-1 {
		ttl = 0
	}
	c.ttl = min(c.ttl, time.Duration(ttl)*time.Second)
}

func (r *Resolver) positive(c chain, m *dns.Msg) *answer {
	ans := &answer{outcome: found, rrs: c.rrs, ttl: max(c.ttl, r.minTTL), octets: m.Len()}
	if c.qtype == dns.TypeCERT {
		ans.certs = decodeCerts(c.rrs, r.maxCerts)
		ans.rrs = nil // the decoded form is enough
		ans.octets *= decodedFactor
	}
	return ans
}

// negative is kept for the smaller of the SOA's TTL and minimum (RFC 2308 §5);
// without SOA it is not kept at all.
func (r *Resolver) negative(o outcome, c chain, soa *dns.SOA) *answer {
	ans := &answer{outcome: o, octets: negativeOctets}
	if soa != nil {
		c.lower(soa.Hdr.Ttl)
		c.lower(soa.Minttl)
		ans.hasSOA = true
		ans.ttl = min(max(c.ttl, r.minTTL), maxNegativeTTL)
	}
	return ans
}

// coveringSOA is the SOA in the authority section of m if it is of a zone that
// holds name.
func coveringSOA(m *dns.Msg, name string) *dns.SOA {
	soa := soaOf(m)
	if soa == nil || !dns.IsSubDomain(dns.CanonicalName(soa.Hdr.Name), name) {
		return nil
	}
	return soa
}

// ask asks the recursive servers in rounds, beginning with the one that
// answered last; the last of several rounds goes over TCP, for networks that
// lose UDP. A server that refuses is not asked again.
func (r *Resolver) ask(ctx context.Context, q question) (*dns.Msg, error) {
	last := error(errLame)
	out := make([]bool, len(r.servers))
	start := int(r.prefer.Load())
	for round := range r.tries {
		first := udpFirst
		if round > 0 && round == r.tries-1 {
			first = tcpOnly
		}
		for n := range r.servers {
			i := (start + n) % len(r.servers)
			if out[i] {
				continue
			}
			m, err := r.exchange(ctx, r.servers[i], q, true, first)
			if err == nil {
				r.prefer.Store(int32(i))
				return m, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			last, out[i] = err, final(err)
		}
	}
	return nil, last
}

// final tells whether asking the same server again is useless.
func final(err error) bool {
	var rcode rcodeError
	return errors.Is(err, errLame) || errors.As(err, &rcode) && rcode != dns.RcodeServerFailure
}

// temporary is the error of every lookup that could not find out.
func temporary(op string, err error) error {
	return &hisp.Error{Op: op, Kind: hisp.Temporary, Hint: "DNS gave no usable answer; the lookup will be tried again", Err: err}
}
