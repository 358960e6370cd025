package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/hispnode/hisp/hisp"
)

// opener turns an accepted connection into one on TLS. muted tells that the
// client has had its greeting.
type opener func(c *conn) (tc *tls.Conn, muted bool, err error)

// acceptPause is how long accepting rests when the process is out of files.
const acceptPause = 100 * time.Millisecond

// sessionCaps is what go-imap may offer on top of what it always does. BINARY
// is not among it, because APPEND refuses NUL; IMAP4rev2 has FETCH BINARY
// without it (RFC 9051 §6.4.5).
func sessionCaps() imap.CapSet {
	return imap.CapSet{
		imap.CapIMAP4rev1: {}, imap.CapIMAP4rev2: {},
		imap.CapSpecialUse: {}, imap.CapCreateSpecialUse: {},
	}
}

// serve runs the accept loop and owns everything it starts.
func (s *Server) serve(ctx context.Context, ln net.Listener, open opener) error {
	feed := newFeed(ln.Addr())
	lib := s.parser()
	var library, running sync.WaitGroup
	library.Go(func() { _ = lib.Serve(feed) }) // ends with the feed
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()

	err := acceptAll(ctx, ln, func(nc net.Conn) {
		c, ok := s.conns.add(nc, s.clock(), s.limits.PreAuthTime, feed)
		if !ok {
			_ = nc.Close() // nothing to lose
			s.log.Warn("imap connection refused, too many", "kind", hisp.Throttled.Error())
			return
		}
		running.Go(func() { s.run(c, open) })
	})
	s.drain(feed, &running)
	feed.close()
	library.Wait()
	return err
}

// parser makes the go-imap server that reads commands behind the gate.
func (s *Server) parser() *imapserver.Server {
	return imapserver.New(&imapserver.Options{
		NewSession:   s.newSession,
		Caps:         sessionCaps(),
		Logger:       libraryLog{s.log},
		InsecureAuth: true, // the feed holds TLS connections only
	})
}

// drain ends the connections of one listener: those that wait for their client
// at once, those that work when they are done or when the period is over.
func (s *Server) drain(f *feed, running *sync.WaitGroup) {
	ended := make(chan struct{})
	var shutting sync.WaitGroup
	for _, c := range s.conns.of(f) {
		shutting.Go(func() { s.conns.shut(c) })
	}
	shutting.Go(func() {
		running.Wait()
		close(ended)
	})
	period := time.NewTimer(s.limits.ShutdownPeriod)
	defer period.Stop()
	select {
	case <-ended:
	case <-period.C:
		for _, c := range s.conns.of(f) {
			_ = c.Conn.Close()
		}
	}
	shutting.Wait()
}

// acceptAll calls fn for each connection until ln is closed.
func acceptAll(ctx context.Context, ln net.Listener, fn func(net.Conn)) error {
	for {
		nc, err := ln.Accept()
		if err == nil {
			fn(nc)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		var ne net.Error
		if !errors.As(err, &ne) || errors.Is(err, net.ErrClosed) {
			return &hisp.Error{Op: "imapd.Serve", Kind: hisp.Internal, Hint: "the listener does not accept connections any more", Err: err}
		}
		select { // out of file descriptors: others will end
		case <-ctx.Done():
			return nil
		case <-time.After(acceptPause):
		}
	}
}

// run opens c, hands it to go-imap and waits for its end.
func (s *Server) run(c *conn, open opener) {
	defer s.conns.remove(c)
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic in imap connection", "op", "imapd.run", "stack", string(debug.Stack()))
		}
	}()
	defer c.Close()
	tc, muted, err := open(c)
	if err != nil {
		s.log.Debug("imap connection ended before TLS", "op", "imapd.open")
		return
	}
	g := newGate(tc, c.peer, c.deadline)
	if certs := tc.ConnectionState().PeerCertificates; len(certs) > 0 {
		g.cert = certs[0]
	}
	g.mute = muted
	done := make(chan struct{})
	g.onClose = func() { close(done) }
	g.onLogin = func() { s.conns.admitted(c) }
	if !s.conns.attach(c, g) || !c.feed.push(g) {
		_ = g.bye(textShutdown)
		return
	}
	<-done
}

// handshake starts TLS at once.
func (s *Server) handshake(c *conn) (*tls.Conn, bool, error) {
	tc, err := s.startTLS(c)
	return tc, false, err
}

func (s *Server) startTLS(c *conn) (*tls.Conn, error) {
	tc := tls.Server(c.Conn, s.tls)
	if err := c.SetDeadline(c.deadline); err != nil {
		return nil, err
	}
	if err := tc.Handshake(); err != nil {
		return nil, err
	}
	return tc, c.SetDeadline(time.Time{}) // the gate takes over
}

// feed is the listener through which go-imap gets its connections.
type feed struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newFeed(addr net.Addr) *feed {
	return &feed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (f *feed) push(c net.Conn) bool {
	select {
	case f.conns <- c:
		return true
	case <-f.done:
		return false
	}
}

func (f *feed) close() { f.once.Do(func() { close(f.done) }) }

// Accept implements net.Listener.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (f *feed) Close() error {
	f.close()
	return nil
}

// Addr implements net.Listener.
func (f *feed) Addr() net.Addr { return f.addr }

// libraryLog takes what go-imap logs. Its arguments may quote the client, so
// only the constant format and, for a panic, the stack are kept.
type libraryLog struct{ log *slog.Logger }

// Printf implements imapserver.Logger.
func (l libraryLog) Printf(format string, args ...any) {
	if len(args) == 2 {
		if stack, ok := args[1].([]byte); ok {
			l.log.Error("panic in imap command", "op", "imapserver", "stack", string(stack))
			return
		}
	}
	l.log.Debug("imap protocol", "op", format)
}

func peerAddr(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{} // a pipe in tests
	}
	return ap.Addr().Unmap()
}
