package dnscert

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

// Defaults of a Server.
const (
	defaultRefresh    = time.Minute
	defaultRate       = 200 // answers per second and network
	defaultConns      = 256
	defaultConnsPerIP = 16
	defaultIdle       = 10 * time.Second
	stopTimeout       = 5 * time.Second
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Addr        string        // "host:port" for UDP and TCP; port 0 picks one that is free on both
	Source      Source        // what to publish
	Refresh     time.Duration // how often Source is asked again; 0 means 1 minute
	Rate        int           // UDP answers per second and client network; 0 means 200, negative no limit
	Conns       int           // open TCP connections; 0 means 256
	ConnsPerIP  int           // of them per client address; 0 means 16
	IdleTimeout time.Duration // of a TCP connection; 0 means 10 s
	Clock       hisp.Clock    // nil means time.Now
	Log         *slog.Logger  // nil means none
}

// Server is an authoritative name server for the zones of its Source. It
// answers for exact names only: no wildcard, and never a domain's certificate
// for an address (row DISC-13).
type Server struct {
	cfg     ServerConfig
	index   atomic.Pointer[index]
	reload  sync.Mutex
	limiter *limiter
	udp     *net.UDPConn
	tcp     *cappedListener
}

// NewServer loads the zones and opens the sockets; Run serves them. The error
// is Conflict when the port is in use, Denied when it needs more rights, and
// what Source returned when the zones cannot be had.
func NewServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	orDefault(&cfg.Refresh, defaultRefresh)
	orDefault(&cfg.Conns, defaultConns)
	orDefault(&cfg.ConnsPerIP, defaultConnsPerIP)
	orDefault(&cfg.IdleTimeout, defaultIdle)
	if cfg.Rate == 0 {
		cfg.Rate = defaultRate
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, limiter: newLimiter(cfg.Rate, cfg.Clock)}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	udp, tcp, err := listenBoth(ctx, cfg.Addr)
	if err != nil {
		return nil, listenError(err)
	}
	s.udp = udp
	s.tcp = &cappedListener{Listener: tcp, total: cfg.Conns, perIP: cfg.ConnsPerIP, idle: cfg.IdleTimeout, open: make(map[netip.Prefix]int)}
	return s, nil
}

// Addr is where the server listens, on UDP and on TCP.
func (s *Server) Addr() netip.AddrPort { return s.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// Reload asks the Source at once, for whoever has just changed what it says.
// On an error the server keeps what it had.
func (s *Server) Reload(ctx context.Context) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	zones, err := s.cfg.Source.Zones(ctx)
	if err != nil {
		return &hisp.Error{Op: "dnscert.Reload", Kind: hisp.KindOf(err), Hint: "the zones to publish could not be read; DNS keeps the last ones", Err: err}
	}
	ix, problems := compile(zones, s.index.Load(), s.cfg.Clock())
	s.index.Store(ix)
	for _, p := range problems {
		s.cfg.Log.Warn("not published in DNS", "domain", string(p.Zone), "reason", p.Text)
	}
	return nil
}

// Run serves until ctx ends, then answers what it has read and closes the
// sockets. It returns nil after ctx ended and the failure of a socket
// otherwise. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	handler := dns.HandlerFunc(s.serve)
	servers := []*dns.Server{
		{PacketConn: s.udp, Handler: handler, UDPSize: ednsSize},
		{Listener: s.tcp, Handler: handler, IdleTimeout: s.tcp.idleTimeout, ReadTimeout: s.cfg.IdleTimeout},
	}
	ended := make(chan error, len(servers))
	for _, srv := range servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- srv.ActivateAndServe() }()
		select {
		case <-started:
		case err := <-ended: // nothing is running that Shutdown would not end
			_ = s.udp.Close()
			_ = s.tcp.Close()
			return err
		}
	}
	err := s.refreshUntil(ctx, ended)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	for _, srv := range servers {
		_ = srv.ShutdownContext(stop)
	}
	return err
}

// refreshUntil reloads the zones regularly until ctx or a server ends.
func (s *Server) refreshUntil(ctx context.Context, ended <-chan error) error {
	tick := time.NewTicker(s.cfg.Refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			if err == nil {
				err = net.ErrClosed
			}
			return &hisp.Error{Op: "dnscert.Run", Kind: hisp.Internal, Err: err}
		case <-tick.C:
			if err := s.Reload(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("zones not refreshed", "err", err)
			}
		}
	}
}

// serve answers one query. Queries and answers are never logged: names hold
// local parts.
func (s *Server) serve(w dns.ResponseWriter, req *dns.Msg) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("query crashed the answer", "op", "dnscert.serve")
			_ = w.WriteMsg(new(dns.Msg).SetRcode(req, dns.RcodeServerFailure))
		}
	}()
	peer, udp := w.RemoteAddr().(*net.UDPAddr)
	m := s.index.Load().answerQuery(req, udp)
	if m == nil {
		return
	}
	if udp {
		switch s.limiter.allow(peer.AddrPort().Addr()) {
		case drop:
			return
		case slip:
			m.Answer, m.Ns, m.Extra, m.Truncated = nil, nil, nil, true
		}
	}
	if err := w.WriteMsg(m); err != nil {
		_ = w.Close() // TCP: a peer that does not read; UDP: nothing to close
	}
}

// listenBoth opens addr for UDP and TCP; with port 0 it looks for a port that
// is free on both.
func listenBoth(ctx context.Context, addr string) (*net.UDPConn, net.Listener, error) {
	var lc net.ListenConfig
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, err
	}
	for try := 0; ; try++ {
		tcp, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		_, got, err := net.SplitHostPort(tcp.Addr().String())
		if err != nil {
			return nil, nil, errors.Join(err, tcp.Close())
		}
		udp, err := lc.ListenPacket(ctx, "udp", net.JoinHostPort(host, got))
		if err == nil {
			return udp.(*net.UDPConn), tcp, nil
		}
		_ = tcp.Close()
		if port != "0" || try >= 20 {
			return nil, nil, err
		}
	}
}
