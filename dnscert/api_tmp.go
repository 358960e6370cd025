// Package dnscert is being written: this file holds the signatures.
package dnscert

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// ResolverConfig says whom to ask. The zero value asks the servers of
// /etc/resolv.conf with the defaults named below.
type ResolverConfig struct {
	Servers  []netip.AddrPort // asked in this order; none means /etc/resolv.conf
	Timeout  time.Duration    // of one try at one server; 0 means 3 s
	Total    time.Duration    // of one question with all tries; 0 means 15 s
	Tries    int              // rounds over the servers; 0 means 2
	MaxCerts int              // at most so many certificates per lookup; 0 means 16
	MinTTL   time.Duration    // answers are kept at least so long; 0 means 60 s
	Clock    hisp.Clock       // nil means time.Now
	Log      *slog.Logger     // nil means none
}

// Resolver implements hisp.CertResolver and hisp.HostResolver.
type Resolver struct{}

// NewResolver makes a Resolver.
func NewResolver(cfg ResolverConfig) (*Resolver, error) { return &Resolver{}, nil }

// LookupCerts implements hisp.CertResolver.
func (r *Resolver) LookupCerts(ctx context.Context, addr hisp.Address) ([]hisp.Cert, error) {
	return nil, &hisp.Error{Kind: hisp.Temporary}
}

// Step is one question of a certificate search.
type Step struct {
	Name    string // owner name asked, PHI when address-bound: for the operator's eyes, never for a log
	Source  string // "dns-address" or "dns-domain"
	Certs   []hisp.Cert
	Skipped []string // why records were not used
	Err     error    // Temporary when the step could not be done
}

// Explain does what LookupCerts does and tells each step it took.
func (r *Resolver) Explain(ctx context.Context, addr hisp.Address) []Step { return nil }

// LookupMX implements hisp.HostResolver.
func (r *Resolver) LookupMX(ctx context.Context, d hisp.Domain) ([]hisp.MX, error) {
	return nil, &hisp.Error{Kind: hisp.Temporary}
}

// LookupAddrs implements hisp.HostResolver.
func (r *Resolver) LookupAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	return nil, &hisp.Error{Kind: hisp.Temporary}
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Addr        string        // "host:port" for UDP and TCP; port 0 picks one free on both
	Source      Source        //
	Refresh     time.Duration // how often Source is asked again; 0 means 1 minute
	Rate        int           // UDP answers per second and client network; 0 means 200, negative no limit
	Conns       int           // open TCP connections; 0 means 256
	ConnsPerIP  int           // of them per client address; 0 means 16
	IdleTimeout time.Duration // of a TCP connection; 0 means 10 s
	Clock       hisp.Clock    // nil means time.Now
	Log         *slog.Logger  // nil means none
}

// Server is an authoritative DNS server.
type Server struct{}

// NewServer loads the zones and opens the sockets.
func NewServer(ctx context.Context, cfg ServerConfig) (*Server, error) { return &Server{}, nil }

// Addr is where the server listens, on UDP and on TCP.
func (s *Server) Addr() netip.AddrPort { return netip.AddrPort{} }

// Run serves until ctx ends, then finishes what it is answering.
func (s *Server) Run(ctx context.Context) error { return nil }

// Reload asks the Source at once.
func (s *Server) Reload(ctx context.Context) error { return nil }

// Records renders z as zone-file lines, one record a line, SOA first.
func Records(z Zone, now time.Time) ([]string, error) { return nil, nil }

// Finding is one comparison of what DNS says with what it should say.
type Finding struct {
	Name string   `json:"name"`
	Type string   `json:"type"`
	Want []string `json:"want"`
	Got  []string `json:"got"`
	OK   bool     `json:"ok"`
	Hint string   `json:"hint,omitempty"` // what to do when not OK
}

// Check asks r for everything z should show to the world.
func Check(ctx context.Context, r *Resolver, z Zone) []Finding { return nil }
