package main

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// zones makes the DNS zones of our domains from the store and the
// configuration. It is what we answer ourselves, what "hisp dns records" prints
// and what "hisp dns check" expects.
type zones struct {
	cfg   func() *config
	clock hisp.Clock
	store interface {
		store.Domains
		store.Keys
	}
}

// mxPreference is that of our only exchanger.
const mxPreference = 10

// Services that mail clients look up to set themselves up (RFC 6186, RFC 8314
// §5.1).
const (
	serviceSubmissions = "_submissions._tcp."
	serviceIMAPS       = "_imaps._tcp."
)

// Zones implements dnscert.Source.
func (z zones) Zones(ctx context.Context) ([]dnscert.Zone, error) {
	domains, err := z.store.ListDomains(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]dnscert.Zone, 0, len(domains))
	for _, d := range domains {
		zone, err := z.zone(ctx, d.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, zone)
	}
	return list, nil
}

func (z zones) zone(ctx context.Context, d hisp.Domain) (dnscert.Zone, error) {
	cfg := z.cfg()
	zone := dnscert.Zone{Name: d, NS: cfg.DNS.NameServers, Mail: []hisp.MX{{Host: cfg.Hostname, Pref: mxPreference}}}
	if len(zone.NS) == 0 {
		zone.NS = []string{cfg.Hostname}
	}
	if inZone(cfg.Hostname, d) {
		zone.Hosts = []dnscert.Host{{Name: cfg.Hostname, Addrs: publicAddrs(cfg)}}
	}
	zone.Services = services(cfg, d)
	keys, err := keysOf(ctx, z.store, d)
	if err != nil {
		return zone, err
	}
	now := z.clock()
	for _, k := range keys {
		if publishable(k, now) {
			zone.Certs = append(zone.Certs, dnscert.Published{Owner: k.Owner, Cert: k.Chain[0]})
		}
	}
	return zone, nil
}

// publishable: peers are to encrypt to active encryption keys only. During a
// rollover both the old and the new one are active.
func publishable(k store.Key, now time.Time) bool {
	return len(k.Chain) > 0 && k.Retired.IsZero() && k.Role != store.RoleSign && now.Before(k.Chain[0].NotAfter)
}

func inZone(host string, d hisp.Domain) bool {
	host = strings.ToLower(host)
	return host == string(d) || strings.HasSuffix(host, "."+string(d))
}

func publicAddrs(cfg *config) []netip.Addr {
	var list []netip.Addr
	for _, text := range cfg.DNS.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			list = append(list, a)
		}
	}
	return list
}

func services(cfg *config, d hisp.Domain) []dnscert.Service {
	var list []dnscert.Service
	add := func(name, listen string) {
		if port := portOf(listen); port != 0 {
			list = append(list, dnscert.Service{Name: name + string(d), Port: port, Target: cfg.Hostname})
		}
	}
	add(serviceSubmissions, cfg.Listen.SubmissionTLS)
	add(serviceIMAPS, cfg.Listen.IMAPS)
	return list
}

// portOf returns the port of "host:port", 0 if it has none.
func portOf(addr string) uint16 {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(p)
}
