package dnscert

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

// Bounds of what one domain may make us try.
const (
	maxExchangers = 20
	maxAddrs      = 16
)

// LookupMX returns d's mail exchangers by preference, equal ones in random
// order (RFC 5321 §5.1), at most 20. A domain without MX gets itself. A null
// MX (RFC 7505) or a domain that does not exist is UnknownRecipient, anything
// that leaves the question open is Temporary.
func (r *Resolver) LookupMX(ctx context.Context, d hisp.Domain) ([]hisp.MX, error) {
	const op = "dnscert.LookupMX"
	ctx, cancel := context.WithTimeout(ctx, r.total)
	defer cancel()
	name, err := ownerName(hisp.Address{Domain: d})
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.UnknownRecipient, Hint: "the recipient's domain is not a DNS name"}
	}
	ans, err := r.resolve(ctx, question{name, dns.TypeMX})
	if err != nil {
		return nil, temporary(op, err)
	}
	switch ans.outcome {
	case nxDomain:
		return nil, &hisp.Error{Op: op, Kind: hisp.UnknownRecipient, Hint: "the recipient's domain does not exist"}
	case noData:
		return []hisp.MX{{Host: string(d)}}, nil
	}
	mxs := exchangers(ans.rrs)
	if len(mxs) == 0 {
		return nil, &hisp.Error{Op: op, Kind: hisp.UnknownRecipient, Hint: "the recipient's domain accepts no mail"}
	}
	return mxs, nil
}

// exchangers leaves out null MX records: alone they mean no mail, beside
// others they mean nothing (RFC 7505 §3).
func exchangers(rrs []dns.RR) []hisp.MX {
	var mxs []hisp.MX
	for _, rr := range rrs {
		if mx, ok := rr.(*dns.MX); ok && mx.Mx != "." {
			mxs = append(mxs, hisp.MX{Host: strings.TrimSuffix(dns.CanonicalName(mx.Mx), "."), Pref: mx.Preference})
		}
	}
	rand.Shuffle(len(mxs), func(i, j int) { mxs[i], mxs[j] = mxs[j], mxs[i] })
	slices.SortStableFunc(mxs, func(a, b hisp.MX) int { return cmp.Compare(a.Pref, b.Pref) })
	return mxs[:min(len(mxs), maxExchangers)]
}

// LookupAddrs returns the addresses of host, IPv4 before IPv6, at most 16. A
// host that does not exist or has no address is UnknownRecipient; it is
// Temporary when one family could not be asked and the other has nothing.
func (r *Resolver) LookupAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	const op = "dnscert.LookupAddrs"
	ctx, cancel := context.WithTimeout(ctx, r.total)
	defer cancel()
	name, err := canonical(host)
	if err != nil || name == "." {
		return nil, &hisp.Error{Op: op, Kind: hisp.UnknownRecipient, Hint: "the mail exchanger's name is not a DNS name"}
	}
	addrs, err := r.addrs(ctx, name)
	switch {
	case err != nil:
		return nil, temporary(op, err)
	case len(addrs) == 0:
		return nil, &hisp.Error{Op: op, Kind: hisp.UnknownRecipient, Hint: "the mail exchanger has no address"}
	}
	return addrs, nil
}

// addrs asks for both families at the same time; an error only if nothing was
// found and one of them could not be asked.
func (r *Resolver) addrs(ctx context.Context, name string) ([]netip.Addr, error) {
	var (
		wg   sync.WaitGroup
		six  *answer
		err6 error
	)
	wg.Go(func() { six, err6 = r.contained(ctx, question{name, dns.TypeAAAA}) })
	four, err4 := r.contained(ctx, question{name, dns.TypeA})
	wg.Wait()
	var addrs []netip.Addr
	for _, ans := range []*answer{four, six} {
		if ans != nil {
			addrs = append(addrs, addrsOf(ans.rrs)...)
		}
	}
	if len(addrs) == 0 {
		return nil, cmp.Or(err4, err6)
	}
	return addrs[:min(len(addrs), maxAddrs)], nil
}

// contained is resolve for a goroutine of its own, where a panic over what a
// stranger's zone says would end the process, and again after each start.
func (r *Resolver) contained(ctx context.Context, q question) (ans *answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			// The value of a panic may quote input; its type and the stack do not.
			err = fmt.Errorf("panic of type %T", v)
			r.log.Error("panic contained", "op", "dnscert.LookupAddrs", "err", err, "stack", string(debug.Stack()))
		}
	}()
	return r.resolve(ctx, q)
}

func addrsOf(rrs []dns.RR) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range rrs {
		var addr netip.Addr
		var ok bool
		switch rr := rr.(type) {
		case *dns.A:
			addr, ok = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			addr, ok = netip.AddrFromSlice(rr.AAAA)
		}
		if ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
