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
	"log/slog"
	"net"
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
	Clock        hisp.Clock                                                           // nil is time.Now
	Log          *slog.Logger                                                         // nil discards
	Limits       Limits
}

// Limits bound one delivery. A zero field means the default in its comment.
type Limits struct {
	Exchangers int           // 5 hosts tried per attempt
	Addresses  int           // 8 addresses tried per attempt
	Idle       int           // 64 idle connections kept in all, 2 per destination
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
type Relay struct{}

var _ hisp.Transport = (*Relay)(nil)

// New makes a Relay. The error is Malformed with a Hint.
func New(cfg Config) (*Relay, error) { return &Relay{}, nil }

// Send hands msg to the exchangers of the domain of env.To, which must be one
// domain, and returns one result per recipient in order. It implements
// hisp.Transport.
func (r *Relay) Send(ctx context.Context, env hisp.Envelope, msg hisp.Message) []hisp.Result {
	return nil
}

// Close ends the idle connections. Sends under way go on.
func (r *Relay) Close() error { return nil }
