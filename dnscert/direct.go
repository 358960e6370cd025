package dnscert

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// Bounds of asking authoritative servers (row DISC-12).
const (
	maxCuts       = 10 // labels walked up in search of NS records
	maxDirect     = 4  // name servers asked
	maxPerServer  = 2  // addresses of one of them
	minZoneLabels = 2  // never ask the servers of a top-level domain
)

// askDirect asks the authoritative servers of q's zone, found through the
// recursive ones, without recursion. Only an authoritative answer counts.
func (r *Resolver) askDirect(ctx context.Context, q question) (*dns.Msg, error) {
	hosts, err := r.nameServers(ctx, q.name)
	if err != nil {
		return nil, err
	}
	last := error(errLame)
	for _, host := range hosts {
		addrs, err := r.addrs(ctx, host)
		if err != nil {
			last = err
			continue
		}
		for _, addr := range addrs[:min(len(addrs), maxPerServer)] {
			if !r.mayAsk(addr) {
				continue
			}
			m, err := r.exchange(ctx, netip.AddrPortFrom(addr, r.directPort), q, false, udpFirst)
			if err == nil && m.Authoritative {
				return onlyOwn(m, q), nil
			}
			if err != nil {
				last = err
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, last
}

// onlyOwn drops answers about other names than the one asked: a server is
// believed about its own zone only, a CNAME target is asked for anew.
func onlyOwn(m *dns.Msg, q question) *dns.Msg {
	var own []dns.RR
	moved := false
	for _, rr := range m.Answer {
		if dns.CanonicalName(rr.Header().Name) == q.name {
			own = append(own, rr)
			moved = moved || rr.Header().Rrtype == dns.TypeCNAME
		}
	}
	m.Answer = own
	if moved { // rcode and SOA are about the end of the chain
		m.Rcode, m.Ns = dns.RcodeSuccess, nil
	}
	return m
}

// nameServers finds the NS records of the zone that holds name.
func (r *Resolver) nameServers(ctx context.Context, name string) ([]string, error) {
	for range maxCuts {
		if dns.CountLabel(name) < minZoneLabels {
			break
		}
		ans, err := r.resolve(ctx, question{name, dns.TypeNS})
		if err != nil {
			return nil, err
		}
		if ans.outcome == found {
			var hosts []string
			for _, rr := range ans.rrs {
				if ns, ok := rr.(*dns.NS); ok && len(hosts) < maxDirect {
					hosts = append(hosts, dns.CanonicalName(ns.Ns))
				}
			}
			return hosts, nil
		}
		off, end := dns.NextLabel(name, 0)
		if end {
			break
		}
		name = name[off:]
	}
	return nil, errLame
}

// isPublic keeps name servers chosen by strangers from pointing us into our
// own network (security row D5).
func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !sharedSpace.Contains(addr)
}

// sharedSpace is RFC 6598 address space.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
