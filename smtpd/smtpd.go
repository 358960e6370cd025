// Package smtpd is the SMTP side of the node: submission for our users and
// devices (the edge, ports 465 and 587) and port 25 for other HISPs (the
// backbone).
//
// Standards: RFC 5321 (SMTP), RFC 6409 (submission), RFC 8314 (implicit TLS),
// RFC 3207 (STARTTLS), RFC 4954 (AUTH) with PLAIN, LOGIN and EXTERNAL,
// RFC 1870 (SIZE), RFC 2920 (PIPELINING), RFC 6152 (8BITMIME), RFC 6531
// (SMTPUTF8), RFC 2034 with RFC 3463 (enhanced codes), RFC 3030 §2 (CHUNKING,
// not BINARYMIME). TLS is required in both roles unless a peer domain is
// exempt (NHIN Direct proposal, row TLS-01).
//
// github.com/emersion/go-smtp dispatches the commands. In front of it stands a
// gate that owns the socket: it reads lines and content, so that content ends
// at CRLF.CRLF only, holds no bare CR, LF or NUL, and is byte for byte what the
// peer sent; it does STARTTLS, deadlines, rates and counts.
//
// The package does not relay (see smtpd/relay), look at what a message says
// beyond counting Received fields, compare From with the account (the node's
// Submit does), or store anything.
package smtpd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/hispnode/hisp/hisp"
)

// Config is what both roles need. Hostname, TLS, Directory and Audit are
// required.
type Config struct {
	Hostname  string         // in the greeting, EHLO and Received
	TLS       *tls.Config    // certificates; TLS 1.2 is the least whatever it says
	Directory hisp.Directory //
	Audit     hisp.Auditor   // refused attempts (row AU-01)
	Clock     hisp.Clock     // nil is time.Now; dates only, deadlines use the monotonic clock
	Log       *slog.Logger   // nil discards
	Limits    Limits
}

// Limits bound what a peer can take. A zero field means the default in its
// comment.
type Limits struct {
	MessageOctets    int64         // 50 MiB; also the longest content line: some peers send base64 on one line
	Recipients       int           // 100 per message, RFC 5321 §4.5.3.1.8
	Connections      int           // 4096 in all
	ConnectionsPerIP int           // 32 per IPv4 address or IPv6 /64
	ContentOctets    int64         // 512 MiB of content in memory over all connections
	Errors           int           // 15 refused commands in one session, then 421
	Idle             int           // 100 commands that do not advance a message, then 421
	Command          time.Duration // 5 min for a whole command line, RFC 5321 §4.5.3.2.7
	Block            time.Duration // 3 min without content, RFC 5321 §4.5.3.2.5
	Grace            time.Duration // 60 s of content at any rate, then Rate
	Rate             int64         // 512 octets per second of content, averaged
	Session          time.Duration // 1 h for a whole session
}

// SubmissionConfig configures the edge.
//
// A client logs in with AUTH PLAIN or LOGIN, or with a TLS client certificate:
// by AUTH EXTERNAL, or by going straight to MAIL. Certificates are asked for
// only if TLS.ClientAuth says so; RequestClientCert is enough, because
// Authenticator decides what a certificate is worth.
type SubmissionConfig struct {
	Config
	Authenticator hisp.Authenticator
	Submitter     hisp.Submitter
}

// BackboneConfig configures port 25.
type BackboneConfig struct {
	Config
	Receiver hisp.Receiver
	// AllowPlain exempts a peer domain from TLS; nil exempts none. It is asked
	// about the domain of MAIL FROM, and for the null sender about the EHLO
	// name and its parent domains. Both are claims: the exemption gives up the
	// secrecy of the envelope on that hop and nothing else, as the content is
	// S/MIME anyway.
	AllowPlain func(hisp.Domain) bool
}

// Server serves one role on any number of listeners.
type Server struct {
	cfg    Config
	sub    *SubmissionConfig // one of the two is nil
	back   *BackboneConfig
	smtp   *smtp.Server
	table  table
	budget budget
}

// NewSubmission makes the server for ports 465 (ServeTLS) and 587 (Serve). The
// error is Malformed with a Hint about the field that is missing.
func NewSubmission(cfg SubmissionConfig) (*Server, error) {
	if cfg.Authenticator == nil || cfg.Submitter == nil {
		return nil, missing("Authenticator and Submitter")
	}
	s, err := newServer(cfg.Config)
	if err != nil {
		return nil, err
	}
	s.sub = &cfg
	return s, nil
}

// NewBackbone makes the server for port 25. The error is Malformed with a Hint
// about the field that is missing.
func NewBackbone(cfg BackboneConfig) (*Server, error) {
	if cfg.Receiver == nil {
		return nil, missing("Receiver")
	}
	s, err := newServer(cfg.Config)
	if err != nil {
		return nil, err
	}
	if cfg.AllowPlain == nil {
		cfg.AllowPlain = func(hisp.Domain) bool { return false }
	}
	s.back = &cfg
	return s, nil
}

func missing(fields string) error {
	return &hisp.Error{Op: "smtpd.New", Kind: hisp.Malformed, Hint: "the configuration lacks " + fields}
}

func newServer(cfg Config) (*Server, error) {
	if cfg.Hostname == "" || cfg.TLS == nil || cfg.Directory == nil || cfg.Audit == nil {
		return nil, missing("one of Hostname, TLS, Directory and Audit")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS12) // row TLS-05
	s := &Server{cfg: cfg}
	s.table.init(cfg.Limits)
	s.budget.free.Store(cfg.Limits.ContentOctets)
	s.smtp = smtp.NewServer(smtp.BackendFunc(s.newSession))
	s.smtp.Domain = cfg.Hostname
	s.smtp.MaxRecipients = cfg.Limits.Recipients
	s.smtp.MaxLineLength = 0        // the gate bounds lines
	s.smtp.AllowInsecureAuth = true // the gate refuses AUTH before TLS
	s.smtp.EnableSMTPUTF8 = true
	s.smtp.ErrorLog = quietLog{cfg.Log}
	return s, nil
}

func (l Limits) withDefaults() Limits {
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orOctets := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	orOctets(&l.MessageOctets, 50<<20)
	orOctets(&l.ContentOctets, max(512<<20, 2*l.MessageOctets))
	orOctets(&l.Rate, 512)
	orInt(&l.Recipients, 100)
	orInt(&l.Connections, 4096)
	orInt(&l.ConnectionsPerIP, 32)
	orInt(&l.Errors, 15)
	orInt(&l.Idle, 100)
	orTime(&l.Command, 5*time.Minute)
	orTime(&l.Block, 3*time.Minute)
	orTime(&l.Grace, time.Minute)
	orTime(&l.Session, time.Hour)
	return l
}

// Serve answers in the clear, with STARTTLS, on ln until ctx is done or
// Shutdown is called, and closes ln. Sessions outlive ctx: end them with
// Shutdown. The error is that of ln, nil after an orderly end.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, startClear)
}

// ServeTLS is Serve with TLS from the first octet (RFC 8314 §3).
func (s *Server) ServeTLS(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, startTLS)
}

func (s *Server) serve(ctx context.Context, ln net.Listener, how start) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // Accept reports it
	defer stop()
	defer func() { _ = ln.Close() }() // twice is harmless
	err := s.smtp.Serve(&door{Listener: ln, ctx: ctx, srv: s, how: how})
	if err == nil || ctx.Err() != nil || s.table.isDraining() {
		return nil
	}
	return &hisp.Error{Op: "smtpd.Serve", Kind: hisp.Internal, Hint: "the listener failed", Err: err}
}

// Shutdown stops accepting, answers 421 to whoever waits for nothing, lets
// messages under way end with their reply, and returns when no session is
// left. When ctx ends first the rest is cut off and the error is ctx's.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, g := range s.table.drain() {
		g.interrupt(closeShutdown)
	}
	err := s.smtp.Shutdown(ctx)
	if err == nil || ctx.Err() == nil {
		return nil // a second Shutdown, or a listener that was closed before
	}
	for _, g := range s.table.all() {
		_ = g.abort() // nobody is told: time is up
	}
	return err
}

// quietLog is go-smtp's log. Its values may hold what a peer sent, so only the
// fact is kept; panics are contained before they get here.
type quietLog struct{ log *slog.Logger }

func (q quietLog) Printf(format string, _ ...any) { q.log.Debug("smtp session", "op", format) }
func (q quietLog) Println(...any)                 { q.log.Debug("smtp session") }
