package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// said is a connection whose peer said everything beforehand and listens.
type said struct {
	in     *bytes.Reader
	mu     sync.Mutex
	out    bytes.Buffer
	closed chan struct{}
	once   sync.Once
}

func (s *said) Read(p []byte) (int, error) { return s.in.Read(p) }
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}
func (s *said) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *said) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *said) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (s *said) SetDeadline(time.Time) error      { return nil }
func (s *said) SetReadDeadline(time.Time) error  { return nil }
func (s *said) SetWriteDeadline(time.Time) error { return nil }

// once is a listener with one connection.
type onceListener struct{ c chan net.Conn }

func (o onceListener) Accept() (net.Conn, error) {
	if c, ok := <-o.c; ok {
		return c, nil
	}
	return nil, io.EOF
}
func (o onceListener) Close() error   { return nil }
func (o onceListener) Addr() net.Addr { return &net.TCPAddr{} }

var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9][ -][ -~]*$`)

// FuzzSession lets a client say anything in several states of both servers, as
// if TLS were done. Whatever it is: replies are well formed, no panic is
// contained, nothing accepted has a bare CR, LF or NUL, and all memory comes
// back.
func FuzzSession(f *testing.F) {
	for state := range byte(4) {
		for _, s := range smuggles {
			f.Add(state, []byte("From: a\r\n\r\nx"+s.end+"MAIL FROM:<e@x.example>\r\n.\r\nQUIT\r\n"))
		}
		f.Add(state, []byte("BDAT 3\r\na\r\nBDAT 2 LAST\r\n\r\n"))
		f.Add(state, []byte("AUTH LOGIN\r\nYQ==\r\nYg==\r\nAUTH PLAIN AGEAYg==\r\nAUTH EXTERNAL =\r\n"))
		f.Add(state, []byte("MAIL FROM:<\"a@b\"@c.example> SIZE=9999999999 BODY=8BITMIME SMTPUTF8 AUTH=<>\r\nRCPT TO:<@a,@b:c@d>\r\n"))
		f.Add(state, []byte("STARTTLS\r\nNOOP\r\nVRFY a\r\nHELP\r\nRSET\r\nQUIT\r\n"))
	}
	setUps := []string{
		"",
		"EHLO x.example\r\n",
		"EHLO x.example\r\nAUTH PLAIN " + plain(canary+"@hospital.example", "s3cret") + "\r\nMAIL FROM:<" + canary + "@hospital.example>\r\nRCPT TO:<other@hospital.example>\r\n",
		"EHLO x.example\r\nAUTH PLAIN " + plain(canary+"@hospital.example", "s3cret") + "\r\nMAIL FROM:<" + canary + "@hospital.example>\r\nRCPT TO:<other@hospital.example>\r\nDATA\r\n",
	}
	h, sub, back := configs(f, limits(Limits{MessageOctets: 4096}))
	edge, err := NewSubmission(sub)
	if err != nil {
		f.Fatal(err)
	}
	bone, err := NewBackbone(back)
	if err != nil {
		f.Fatal(err)
	}
	var listeners []chan net.Conn
	for _, srv := range []*Server{edge, bone} {
		c := make(chan net.Conn)
		listeners = append(listeners, c)
		go srv.smtp.Serve(onceListener{c})
	}
	f.Fuzz(func(t *testing.T, state byte, input []byte) {
		for i, srv := range []*Server{edge, bone} {
			setUp := setUps[state%4]
			if srv == bone {
				setUp = regexp.MustCompile(`AUTH PLAIN \S+\r\n`).ReplaceAllString(setUp, "")
			}
			c := &said{in: bytes.NewReader([]byte(setUp + string(input))), closed: make(chan struct{})}
			g := newGate(context.Background(), srv, c, startClear)
			g.tls = &tls.ConnectionState{HandshakeComplete: true}
			listeners[i] <- g
			select {
			case <-c.closed:
			case <-time.After(20 * time.Second):
				t.Fatal("the session does not end")
			}
			checkReplies(t, c)
			if free := srv.budget.free.Load(); free != srv.cfg.Limits.ContentOctets {
				t.Errorf("budget = %d, want %d", free, srv.cfg.Limits.ContentOctets)
			}
		}
		for _, m := range h.messages() {
			if l := (&lint{}); !l.ok([]byte(m.raw)) || l.cr || !strings.HasSuffix(m.raw, "\r\n") {
				t.Errorf("accepted %q", m.raw)
			}
		}
		h.mu.Lock()
		h.taken, h.records, h.logins = nil, nil, nil
		h.mu.Unlock()
		if log := h.log.String(); strings.Contains(log, "panic") {
			t.Fatalf("panic: %s", log)
		}
	})
}

func checkReplies(t *testing.T, c *said) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	out, ok := strings.CutSuffix(c.out.String(), "\r\n")
	if !ok {
		t.Fatalf("replies = %q, want whole lines", c.out.String())
	}
	for _, line := range strings.Split(out, "\r\n") {
		if isASCII(line) && !replyLine.MatchString(line) {
			t.Errorf("reply = %q", line)
		}
	}
}
