// Package relay is the SMTP client of the node: it hands messages to the mail
// exchangers of other HISPs.
//
// Standards: RFC 5321 (§4.5.3.2 time-outs, §5 exchangers), RFC 3207 (STARTTLS),
// RFC 7505 (null MX), RFC 2920 (PIPELINING), RFC 1870 (SIZE), RFC 6152
// (8BITMIME), RFC 6531 (SMTPUTF8), RFC 3463 (enhanced codes). TLS with a
// verified certificate is required by default (NHIN Direct proposal, row
// TLS-01); what is required is never negotiated away.
//
// The package does not queue, retry or schedule, does not authenticate to
// peers, never changes a message, and does not do DANE or MTA-STS.
package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// TLSPolicy is what a peer domain must offer.
type TLSPolicy uint8

const (
	Verify        TLSPolicy = iota // TLS with a certificate for the exchanger's name; the zero value
	Encrypt                        // TLS with any certificate
	Opportunistic                  // TLS if offered, else clear
)

// Peer is how to reach one destination domain. The zero Peer is MX lookup,
// port 25 and Verify.
type Peer struct {
	TLS  TLSPolicy
	Host string // "host" or "host:port" to use instead of MX lookup (smart route)
	Port uint16 // 0 is 25, for the exchangers found and a Host without port
}

// Config configures a Relay. Hostname and Resolver are required.
type Config struct {
	Hostname     string                                                               // for EHLO and to know ourselves among exchangers
	Resolver     hisp.HostResolver                                                    //
	Peer         func(hisp.Domain) Peer                                               // nil is the zero Peer for all
	Roots        *x509.CertPool                                                       // nil is the system's; the caller adds configured ones to it
	Certificates []tls.Certificate                                                    // shown to peers that ask; may be empty
	Dial         func(ctx context.Context, network, address string) (net.Conn, error) // nil is net.Dialer
	Log          *slog.Logger                                                         // nil discards
	Limits       Limits
}

// Limits bound one delivery. A zero field means the default in its comment.
type Limits struct {
	Exchangers int           // 5 hosts tried per attempt
	Addresses  int           // 8 addresses tried per attempt
	Idle       int           // 64 idle connections kept in all, 4 per destination
	IdleTime   time.Duration // 20 s an idle connection is kept
	Reuse      int           // 100 messages over one connection
	Connect    time.Duration // 30 s to connect
	Handshake  time.Duration // 30 s for TLS
	Command    time.Duration // 2 min for a reply; RFC 5321 §4.5.3.2 says 5 min
	Data       time.Duration // 3 min for one block of content
	Final      time.Duration // 10 min for the reply to the final dot, RFC 5321 §4.5.3.2.6
	Total      time.Duration // 30 min for one Send
}

// Relay is a hisp.Transport.
type Relay struct {
	cfg  Config
	pool pool
}

var _ hisp.Transport = (*Relay)(nil)

// New makes a Relay. The error is Malformed with a Hint.
func New(cfg Config) (*Relay, error) {
	if cfg.Hostname == "" || cfg.Resolver == nil {
		return nil, &hisp.Error{Op: "relay.New", Kind: hisp.Malformed, Hint: "the configuration lacks Hostname or Resolver"}
	}
	if cfg.Peer == nil {
		cfg.Peer = func(hisp.Domain) Peer { return Peer{} }
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	r := &Relay{cfg: cfg}
	r.pool.init(cfg.Limits)
	return r, nil
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		v *int
		d int
	}{{&l.Exchangers, 5}, {&l.Addresses, 8}, {&l.Idle, 64}, {&l.Reuse, 100}} {
		if *f.v <= 0 {
			*f.v = f.d
		}
	}
	for _, f := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&l.IdleTime, 20 * time.Second}, {&l.Connect, 30 * time.Second}, {&l.Handshake, 30 * time.Second},
		{&l.Command, 2 * time.Minute}, {&l.Data, 3 * time.Minute}, {&l.Final, 10 * time.Minute}, {&l.Total, 30 * time.Minute},
	} {
		if *f.v <= 0 {
			*f.v = f.d
		}
	}
	return l
}

// Send hands msg to the exchangers of the domain of env.To, which must be one
// domain, and returns one result per recipient in order. It implements
// hisp.Transport. Temporary covers the network, 4xx and any TLS that is not as
// the Peer demands; Refused, UnknownRecipient, TooLarge and Malformed are
// final. Hints name the exchanger and its code, never its text, which may
// repeat an address.
func (r *Relay) Send(ctx context.Context, env hisp.Envelope, msg hisp.Message) []hisp.Result {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Limits.Total)
	defer cancel()
	d := newDelivery(env, msg)
	if err := d.check(); err != nil {
		return d.endAll(err)
	}
	domain := env.To[0].Domain
	peer := r.cfg.Peer(domain)
	targets, err := r.targets(ctx, domain, peer)
	if err != nil {
		return d.endAll(err)
	}
	tries := 0
	for _, t := range targets {
		addrs, err := r.addrs(ctx, t)
		if err != nil {
			d.fail(t.host, err)
			continue
		}
		for _, addr := range addrs {
			if tries++; tries > r.cfg.Limits.Addresses || d.done() || ctx.Err() != nil {
				return d.results
			}
			r.try(ctx, d, t, addr, peer.TLS)
		}
	}
	return d.results
}

// try makes one attempt at one address, with a connection from the pool if
// there is one.
func (r *Relay) try(ctx context.Context, d *delivery, t target, addr string, policy TLSPolicy) {
	key := poolKey{t.host, addr, policy}
	for {
		c := r.pool.get(key)
		reused := c != nil
		if !reused {
			var err error
			if c, err = r.connect(ctx, t, addr, policy); err != nil {
				d.fail(t.host, err)
				r.cfg.Log.Debug("exchanger not usable", "domain", string(d.env.To[0].Domain), "host", t.host, "err", err)
				return
			}
		}
		stop := context.AfterFunc(ctx, c.interrupt)
		err := c.transact(ctx, d)
		if !stop() {
			c.close() // it was interrupted, or is about to be
			return
		}
		switch {
		case err == nil:
			r.pool.put(key, c)
			return
		case reused && !d.touched && errors.Is(err, errBroken):
			c.close() // the peer had closed it while idle: a new one, not an error
			continue
		}
		c.close()
		return
	}
}

// Close ends the idle connections. Sends under way go on.
func (r *Relay) Close() error {
	r.pool.close()
	return nil
}

// target is one exchanger.
type target struct {
	host string
	port uint16
}

const smtpPort = 25

// targets returns the exchangers to try, best first (RFC 5321 §5.1).
func (r *Relay) targets(ctx context.Context, d hisp.Domain, p Peer) ([]target, error) {
	port := p.Port
	if port == 0 {
		port = smtpPort
	}
	if p.Host != "" {
		host, given, err := net.SplitHostPort(p.Host)
		if err != nil {
			return []target{{strings.Trim(p.Host, "[]"), port}}, nil
		}
		n, err := strconv.ParseUint(given, 10, 16)
		if err != nil {
			return nil, &hisp.Error{Op: "relay.Send", Kind: hisp.Temporary, Hint: "the smart route for this domain has a bad port"}
		}
		return []target{{host, uint16(n)}}, nil
	}
	found, err := r.cfg.Resolver.LookupMX(ctx, d)
	if err != nil {
		return nil, err
	}
	mx := slices.Clone(found)
	rand.Shuffle(len(mx), func(i, j int) { mx[i], mx[j] = mx[j], mx[i] }) // equal preference: spread
	slices.SortStableFunc(mx, func(a, b hisp.MX) int { return int(a.Pref) - int(b.Pref) })
	var ts []target
	for _, m := range mx {
		host := strings.TrimSuffix(m.Host, ".")
		if strings.EqualFold(host, r.cfg.Hostname) {
			break // RFC 5321 §5.1: those behind us would send it back
		}
		if len(ts) < r.cfg.Limits.Exchangers && host != "" {
			ts = append(ts, target{host, port})
		}
	}
	if len(ts) == 0 {
		return nil, &hisp.Error{Op: "relay.Send", Kind: hisp.Refused,
			Hint: "mail for this domain loops back to this node; fix its MX or host the domain here"}
	}
	return ts, nil
}

func (r *Relay) addrs(ctx context.Context, t target) ([]string, error) {
	port := strconv.Itoa(int(t.port))
	if ip, err := netip.ParseAddr(t.host); err == nil {
		return []string{net.JoinHostPort(ip.String(), port)}, nil
	}
	ips, err := r.cfg.Resolver.LookupAddrs(ctx, t.host)
	if err != nil || len(ips) == 0 {
		// A host without address is a fault of today's zone, not of the recipient.
		return nil, temporary("the exchanger "+t.host+" has no address", err)
	}
	list := make([]string, 0, len(ips))
	for _, ip := range ips {
		list = append(list, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return list, nil
}

func temporary(hint string, err error) error {
	return &hisp.Error{Op: "relay.Send", Kind: hisp.Temporary, Hint: hint, Err: err}
}
