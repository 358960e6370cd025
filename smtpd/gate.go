package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxCommand    = 2048             // octets; RFC 5321 §4.5.3.1.4 says 512, extensions add
	maxAuthLine   = 12288            // octets, RFC 4954 §4
	handshakeTime = 30 * time.Second // for the whole TLS handshake
	flushTime     = 60 * time.Second // for the peer to take our replies
	maxAuthFails  = 3                // wrong logins in one session, then 421
)

// expect says what the next octets of the peer are.
type expect uint8

const (
	expectCommand expect = iota
	expectAuth           // an answer to a 334
	expectContent
)

// closeReason is why the server wants a session to end.
type closeReason uint8

const (
	closeNone closeReason = iota
	closeShutdown
	closeEvicted
)

// gate is the connection that go-smtp sees. Each Read gives it exactly one
// command line that passed the checks, so it never holds input of its own and
// the gate knows what every reply answers. Content stays in the gate: go-smtp
// reads an empty one and the session takes the real one from here.
type gate struct {
	srv    *Server
	raw    net.Conn
	how    start
	ctx    context.Context // ends with the connection; go-smtp's interfaces have none
	cancel context.CancelFunc
	peer   netip.Addr
	source netip.Prefix
	end    time.Time // of the session
	once   sync.Once

	// For the session's goroutine only.
	conn      net.Conn             // raw or TLS over it
	tls       *tls.ConnectionState // nil in the clear
	r         *bufio.Reader
	out       []byte // replies not yet sent
	line      []byte // what go-smtp may read
	expect    expect
	verb      string // of the command go-smtp works on
	helo      string // "" before EHLO
	extended  bool   // it was EHLO, not HELO
	offered   string // the name of an EHLO that go-smtp works on
	muted     string // a reply code that is not for the peer
	started   bool
	over      bool
	errs      int
	idle      int
	authFails int
	lineStart time.Time
	sess      *session
	body      content

	mu      sync.Mutex
	since   time.Time // start of the present wait for the peer, zero while we work
	content bool      // that wait is for content
	reason  closeReason
}

func newGate(ctx context.Context, srv *Server, c net.Conn, how start) *gate {
	g := &gate{srv: srv, raw: c, conn: c, how: how, end: time.Now().Add(srv.cfg.Limits.Session)}
	g.ctx, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	g.peer, g.source = sourceOf(c.RemoteAddr())
	g.r = bufio.NewReaderSize(netReader{g}, 4096)
	return g
}

// Read implements net.Conn for go-smtp.
func (g *gate) Read(p []byte) (n int, err error) {
	defer g.contain(&err)
	for len(g.line) == 0 {
		if g.over {
			_ = g.flush() // the session is over either way
			return 0, io.EOF
		}
		if g.expect == expectContent {
			err = g.readData()
		} else {
			err = g.readCommand()
		}
		if err != nil {
			g.hangUp(err)
		}
	}
	n = copy(p, g.line)
	g.line = g.line[n:]
	return n, nil
}

// Write implements net.Conn for go-smtp, which writes one reply line at a time.
func (g *gate) Write(p []byte) (n int, err error) {
	defer g.contain(&err)
	if !g.started {
		g.started = true
		if g.how == startTLS {
			if err := g.handshake(); err != nil {
				g.over = true
				return len(p), nil
			}
		}
	}
	if !g.over && len(p) > 3 {
		g.reply(string(p))
	}
	return len(p), nil
}

// reply passes on what go-smtp says, except where the gate knows better.
func (g *gate) reply(line string) {
	code, last := line[:3], line[3] != '-'
	switch {
	case (g.verb == verbEHLO || g.verb == verbHELO) && code == codeOK:
		if last {
			g.greet()
		}
		return
	case code == codeStartMail:
		g.expect = expectContent
	case code == codeContinue:
		g.expect = expectAuth
	}
	if g.muted == code {
		g.muted = ""
		return
	}
	if code == codeOK && last {
		switch g.verb { // go-smtp's words repeat the address
		case verbMail:
			line = replySenderOK
		case verbRcpt:
			line = replyRecipientOK
		}
	}
	for _, w := range rewrites {
		if w.verbs == "" || strings.Contains(w.verbs, g.verb) {
			if rest, ok := strings.CutPrefix(line, w.from); ok {
				line = w.to + rest
				break
			}
		}
	}
	g.out = append(g.out, line...)
	if last {
		g.answered(code)
	}
}

// Replies to MAIL and RCPT, RFC 3463 §3.2.
const (
	replySenderOK    = codeOK + " 2.1.0 sender ok\r\n"
	replyRecipientOK = codeOK + " 2.1.5 recipient ok\r\n"
)

// rewrites are go-smtp's reply codes that differ from the standards: a bad
// sequence of commands is 503 (RFC 5321 §4.2.2), bad base64 is 501 (RFC 4954 §4).
var rewrites = []struct{ verbs, from, to string }{
	{"MAIL RCPT DATA AUTH", "502 5.5.1 ", "503 5.5.1 "},
	{"AUTH", "502 5.5.4 ", "501 5.5.4 "},
	{"AUTH", "454 4.7.0 Invalid base64", "501 5.5.2 invalid base64"},
	{"AUTH", "454 4.7.0 sasl: ", "501 5.5.2 "},
	{"MAIL RCPT", "500 5.5.4 ", "555 5.5.4 "}, // unknown parameter, RFC 5321 §4.1.1.11
}

// greet writes the EHLO reply; go-smtp knows neither our TLS nor our limits.
func (g *gate) greet() {
	g.helo, g.extended = g.offered, g.verb == verbEHLO
	host := g.srv.cfg.Hostname
	if g.verb == verbHELO {
		g.say(codeOK + " " + host)
		return
	}
	caps := []string{host, "PIPELINING", paramSize + " " + strconv.FormatInt(g.srv.cfg.Limits.MessageOctets, 10)}
	if g.tls == nil {
		caps = append(caps, verbStartTLS)
	} else if mechs := g.sess.AuthMechanisms(); len(mechs) > 0 {
		caps = append(caps, verbAuth+" "+strings.Join(mechs, " "))
	}
	caps = append(caps, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING",
		"LIMITS RCPTMAX="+strconv.Itoa(g.srv.cfg.Limits.Recipients))
	for _, c := range caps[:len(caps)-1] {
		g.out = append(g.out, codeOK+"-"+c+"\r\n"...)
	}
	g.say(codeOK + " " + caps[len(caps)-1])
}

// say gives a whole reply of our own.
func (g *gate) say(line string) {
	g.out = append(g.out, line+"\r\n"...)
	g.answered(line[:3])
}

// finish gives the last reply of a session.
func (g *gate) finish(line string) {
	g.out = append(g.out, line+"\r\n"...)
	g.over = true
}

func (g *gate) answered(code string) {
	if code == codeClosing {
		g.over = true
	}
	if g.over || code[0] < '4' {
		return
	}
	g.errs++
	if code == codeBadLogin {
		g.authFails++
	}
	if g.errs > g.srv.cfg.Limits.Errors || g.authFails >= maxAuthFails {
		g.finish(codeClosing + " 4.7.0 " + g.srv.cfg.Hostname + " too many errors, closing")
	}
}

// hangUp ends the session after an error of the network.
func (g *gate) hangUp(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) && !g.over {
		g.mu.Lock()
		reason := g.reason
		g.mu.Unlock()
		host := g.srv.cfg.Hostname
		switch reason {
		case closeShutdown:
			g.finish(codeClosing + " 4.3.2 " + host + " is shutting down, try again later")
		case closeEvicted:
			g.finish(codeClosing + " 4.7.0 " + host + " is busy and you were idle, try again later")
		default:
			g.finish(codeClosing + " 4.4.2 " + host + " waited too long, closing")
		}
	}
	g.over = true
}

// contain turns a panic into the end of this session only.
func (g *gate) contain(err *error) {
	v := recover()
	if v == nil {
		return
	}
	g.srv.logPanic(v)
	if !g.over {
		g.finish(codeClosing + " 4.3.0 " + g.srv.cfg.Hostname + " " + textInternal)
	}
	_ = g.flush()
	*err = io.EOF
}

// logPanic logs where and, when Go itself panicked, why; other values could
// hold content.
func (s *Server) logPanic(v any) {
	why := fmt.Sprintf("%T", v)
	if e, ok := v.(runtime.Error); ok {
		why = e.Error()
	}
	s.cfg.Log.Error("panic contained", "op", "smtpd", "err", why, "stack", string(debug.Stack()))
}

// netReader reads from the peer for the gate's bufio.Reader: the one place that
// waits. Replies go out before the wait and not sooner, so that a pipelining
// peer gets them together (RFC 2920 §3.2).
type netReader struct{ g *gate }

func (n netReader) Read(p []byte) (int, error) {
	g := n.g
	if err := g.flush(); err != nil {
		return 0, err
	}
	if err := g.arm(); err != nil {
		return 0, err
	}
	got, err := g.conn.Read(p)
	g.mu.Lock()
	g.since = time.Time{}
	g.mu.Unlock()
	return got, err
}

// arm sets the deadline of the next read: absolute for a command line, by block
// and by average rate for content, by session for both (threat T10).
func (g *gate) arm() error {
	l := g.srv.cfg.Limits
	now := time.Now()
	content := g.expect == expectContent || g.body.reading
	var deadline time.Time
	since := now
	if content {
		deadline = now.Add(l.Block)
		earned := l.Grace + time.Duration(float64(g.body.octets)/float64(l.Rate)*float64(time.Second))
		deadline = earliest(deadline, g.body.began.Add(earned))
	} else {
		since = g.lineStart
		deadline = g.lineStart.Add(l.Command)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reason == closeEvicted || g.reason == closeShutdown && !content {
		return os.ErrDeadlineExceeded
	}
	g.since, g.content = since, content
	return g.raw.SetReadDeadline(earliest(deadline, g.end))
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// interrupt asks the session to end for reason: at once when it waits for a
// command, after the message when it is in one and the reason is shutdown.
func (g *gate) interrupt(reason closeReason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reason == closeNone {
		g.reason = reason
	}
	if !g.since.IsZero() && (reason == closeEvicted || !g.content) {
		_ = g.raw.SetReadDeadline(time.Unix(1, 0)) // fails only when it is closed already
	}
}

// waitingFor is how long the peer has let us wait by now.
func (g *gate) waitingFor() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since.IsZero() || g.reason != closeNone {
		return 0
	}
	return time.Since(g.since)
}

func (g *gate) flush() error {
	if len(g.out) == 0 {
		return nil
	}
	if err := g.raw.SetWriteDeadline(time.Now().Add(flushTime)); err != nil {
		return err
	}
	_, err := g.conn.Write(g.out)
	g.out = g.out[:0]
	if err != nil {
		g.over = true
	}
	return err
}

// handshake turns the connection into TLS and forgets everything said before
// (RFC 3207 §4.2).
func (g *gate) handshake() error {
	deadline := earliest(time.Now().Add(handshakeTime), g.end)
	if err := g.raw.SetDeadline(deadline); err != nil {
		return err
	}
	g.mu.Lock()
	g.since, g.content = time.Now(), false
	g.mu.Unlock()
	c := tls.Server(g.raw, g.srv.cfg.TLS)
	err := c.Handshake()
	g.mu.Lock()
	g.since = time.Time{}
	g.mu.Unlock()
	if err != nil {
		g.srv.cfg.Log.Debug("tls handshake failed", "err", err)
		g.out = g.out[:0]
		g.over = true // no reply can be understood now
		return nil
	}
	state := c.ConnectionState()
	g.conn, g.tls = c, &state
	g.r.Reset(netReader{g})
	g.helo = ""
	if g.sess != nil {
		g.sess.Reset()
	}
	return nil
}

// Close implements net.Conn for go-smtp's goroutine.
func (g *gate) Close() error {
	if !g.over {
		g.over = true
		_ = g.flush() // the reply to QUIT; a peer that is gone does not mind
	}
	return g.abort()
}

// abort closes from any goroutine.
func (g *gate) abort() error {
	var err error
	g.once.Do(func() {
		g.cancel()
		err = g.raw.Close()
		g.srv.table.remove(g)
	})
	return err
}

// LocalAddr implements net.Conn.
func (g *gate) LocalAddr() net.Addr { return g.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (g *gate) RemoteAddr() net.Addr { return g.raw.RemoteAddr() }

// SetDeadline implements net.Conn; the gate sets its own.
func (g *gate) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn; the gate sets its own.
func (g *gate) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn; the gate sets its own.
func (g *gate) SetWriteDeadline(time.Time) error { return nil }
