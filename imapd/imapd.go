// Package imapd is the IMAP edge of the node: mail clients read and file the
// messages of their account through it. It speaks IMAP4rev1 (RFC 3501) and
// IMAP4rev2 (RFC 9051) with UIDPLUS (RFC 4315), MOVE (RFC 6851), IDLE
// (RFC 2177), SPECIAL-USE (RFC 6154), LIST-EXTENDED (RFC 5258), LIST-STATUS
// (RFC 5819), ESEARCH (RFC 4731), SEARCHRES (RFC 5182), APPENDLIMIT
// (RFC 7889), LITERAL- (RFC 7888) and UTF8=ACCEPT (RFC 6855), on TLS only: the
// clear-text port answers CAPABILITY, NOOP, LOGOUT and STARTTLS and nothing
// else (RFC 8314; conformance rows ED-02, ED-04, ED-06).
//
// Commands are parsed by emersion/go-imap; everything a stranger can send
// passes a gate of ours first, which frames lines and literals and bounds them
// (see gate). Message numbers, updates, search and MIME sections are ours.
//
// The package stores nothing, checks no password and submits no message: it
// uses store.Folders, store.Messages and hisp.Authenticator. It has no QUOTA,
// ID, CONDSTORE, QRESYNC, SORT or THREAD.
package imapd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Mailboxes is the part of the store that the edge serves.
type Mailboxes interface {
	store.Folders
	store.Messages
}

// Config is what a Server needs. Auth, Store and TLS are required. For login
// by client certificate (AUTH=EXTERNAL, RFC 4422 appendix A) TLS must ask for
// one: set ClientAuth to tls.RequestClientCert or stricter.
type Config struct {
	Auth   hisp.Authenticator
	Store  Mailboxes
	TLS    *tls.Config
	Limits Limits
	Log    *slog.Logger // nil logs nothing
	Clock  hisp.Clock   // nil is time.Now
}

// Limits bound what clients can make the edge hold. A zero field takes its
// default.
type Limits struct {
	Connections    int           // open connections in all, default 10000
	PerAddress     int           // open connections of one peer address, default 1000
	PerAccount     int           // logged-in connections of one account, default 50
	PreAuth        int           // connections that have not logged in, default 1000; the oldest gives way
	PreAuthPer     int           // the same for one peer address, default 100
	PreAuthTime    time.Duration // from accept to login, default 60 s
	MessageSize    int64         // octets of one APPEND, default 36 MiB
	MessageMemory  int64         // octets of messages held for APPEND and FETCH in progress, default 256 MiB
	CacheMemory    int64         // octets of parsed structures and large messages kept, default 64 MiB
	Folders        int           // folders of one account, default 1000
	SearchTime     time.Duration // of one SEARCH, default 60 s
	ShutdownPeriod time.Duration // for running commands at shutdown, default 10 s
}

func (l Limits) withDefaults() Limits {
	setInt := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	setSize := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	setTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	setInt(&l.Connections, 10000)
	setInt(&l.PerAddress, 1000)
	setInt(&l.PerAccount, 50)
	setInt(&l.PreAuth, 1000)
	setInt(&l.PreAuthPer, 100)
	setTime(&l.PreAuthTime, 60*time.Second)
	setSize(&l.MessageSize, 36<<20) // 25 MB of attachments in base64
	setSize(&l.MessageMemory, 256<<20)
	setSize(&l.CacheMemory, 64<<20)
	setInt(&l.Folders, 1000)
	setTime(&l.SearchTime, 60*time.Second)
	setTime(&l.ShutdownPeriod, 10*time.Second)
	l.MessageSize = min(l.MessageSize, 1<<31) // APPENDLIMIT is a 32-bit number, RFC 7889 §5
	return l
}

// Server is the IMAP edge. One Server may serve several listeners; their
// connections share its limits.
type Server struct {
	auth     hisp.Authenticator
	store    Mailboxes
	tls      *tls.Config
	limits   Limits
	log      *slog.Logger
	clock    hisp.Clock
	conns    *connTable
	views    *viewTable
	cache    *cache
	messages *budget
}

// New checks c and makes a Server. The error is Internal and tells what is
// missing.
func New(c Config) (*Server, error) {
	missing := func(what string) (*Server, error) {
		return nil, &hisp.Error{Op: "imapd.New", Kind: hisp.Internal, Hint: "the configuration has no " + what}
	}
	switch {
	case c.Auth == nil:
		return missing("authenticator")
	case c.Store == nil:
		return missing("store")
	case c.TLS == nil:
		return missing("TLS certificate")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	l := c.Limits.withDefaults()
	return &Server{
		auth: c.Auth, store: c.Store, tls: tlsConfig(c.TLS), limits: l, log: c.Log, clock: c.Clock,
		conns:    newConnTable(l),
		views:    newViewTable(c.Store, c.Clock),
		cache:    newCache(l.CacheMemory),
		messages: newBudget(l.MessageMemory),
	}, nil
}

// tlsConfig makes c no weaker than TLS 1.2 and names the protocol, so that a
// browser cannot be led here (RFC 7301; ALPACA).
func tlsConfig(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	if len(c.NextProtos) == 0 {
		c.NextProtos = []string{"imap"} // RFC 7301 registry
	}
	return c
}

// Serve accepts clear-text connections with STARTTLS (port 143) on ln until
// ctx ends, then says BYE to every client, lets running commands finish for
// Limits.ShutdownPeriod and returns. It closes ln. The error is nil after ctx
// ended, else why ln cannot accept.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, s.upgrade)
}

// ServeTLS is Serve for connections that start with TLS (port 993).
func (s *Server) ServeTLS(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, s.handshake)
}
