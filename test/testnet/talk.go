package testnet

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// Reply is an SMTP reply; the zero Reply means that the server hung up.
type Reply struct {
	Code int
	Text string // lines joined by LF, without the code
}

// String returns the reply for messages of tests.
func (r Reply) String() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }

// Talk is an SMTP dialogue in which a test can say anything.
type Talk struct {
	t    testing.TB
	conn net.Conn
	text *textproto.Conn
	tls  *tls.Config
}

// talkTimeout bounds a whole dialogue.
const talkTimeout = 60 * time.Second

// Talk connects to a listener, with TLS at submission_tls, from the loopback
// address source ("" for any), and reads the greeting. config may be nil.
func (s *Site) Talk(t testing.TB, listener, source string, config *tls.Config) *Talk {
	t.Helper()
	dialer := net.Dialer{}
	if source != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	conn, err := dialer.Dial("tcp", s.Addr(listener))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(talkTimeout)); err != nil {
		t.Fatal(err)
	}
	if config == nil {
		config = s.TLS(t)
	}
	k := &Talk{t: t, conn: conn, tls: config}
	if listener == "submission_tls" {
		k.conn = tls.Client(conn, config)
	}
	k.text = textproto.NewConn(k.conn)
	t.Cleanup(k.Close)
	if r := k.read(); r.Code != 220 {
		t.Fatalf("%s: greeting = %v", listener, r)
	}
	return k
}

// Close hangs up.
func (k *Talk) Close() { k.conn.Close() }

// Do sends a line and reads the reply.
func (k *Talk) Do(format string, args ...any) Reply {
	fmt.Fprintf(k.conn, format+"\r\n", args...)
	return k.read()
}

func (k *Talk) read() Reply {
	code, text, err := k.text.ReadResponse(0)
	if code == 0 && err != nil {
		return Reply{0, err.Error()}
	}
	return Reply{code, text}
}

// Must is Do for a step that has to succeed.
func (k *Talk) Must(code int, format string, args ...any) {
	k.t.Helper()
	if r := k.Do(format, args...); r.Code != code {
		k.t.Fatalf("reply = %v, want %d", r, code)
	}
}

// StartTLS says EHLO, upgrades and says EHLO again.
func (k *Talk) StartTLS() *Talk {
	k.t.Helper()
	k.Must(250, "EHLO client.example")
	k.Must(220, "STARTTLS")
	k.conn = tls.Client(k.conn, k.tls)
	k.text = textproto.NewConn(k.conn)
	k.Must(250, "EHLO client.example")
	return k
}

// Login does AUTH PLAIN.
func (k *Talk) Login(user, password string) Reply {
	return k.Do("AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)))
}

// Data sends raw as it is, dots doubled, after DATA.
func (k *Talk) Data(raw []byte) Reply {
	if r := k.Do("DATA"); r.Code != 354 {
		return r
	}
	if bytes.HasPrefix(raw, []byte(".")) {
		raw = append([]byte("."), raw...)
	}
	raw = bytes.ReplaceAll(raw, []byte("\r\n."), []byte("\r\n.."))
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		raw = append(raw, "\r\n"...)
	}
	if _, err := k.conn.Write(append(raw, ".\r\n"...)); err != nil {
		return Reply{0, err.Error()}
	}
	return k.read()
}

// Send does one message and returns the reply to its content, or the first
// refusal before; then it resets.
func (k *Talk) Send(from string, raw []byte, to ...string) Reply {
	defer k.Do("RSET")
	if r := k.Do("MAIL FROM:<%s>", from); r.Code != 250 {
		return r
	}
	for _, rcpt := range to {
		if r := k.Do("RCPT TO:<%s>", rcpt); r.Code != 250 {
			return r
		}
	}
	return k.Data(raw)
}

// Edge returns a dialogue with 465, logged in as local@site.
func (s *Site) Edge(t testing.TB, local, password string) *Talk {
	t.Helper()
	k := s.Talk(t, "submission_tls", "", nil)
	k.Must(250, "EHLO client.example")
	if r := k.Login(local+"@"+s.Domain, password); r.Code != 235 {
		t.Fatalf("login = %v", r)
	}
	return k
}

// Backbone returns a dialogue with port 25 after STARTTLS.
func (s *Site) Backbone(t testing.TB) *Talk {
	t.Helper()
	return s.Talk(t, "backbone", "", nil).StartTLS()
}

// lines makes line ends those of the network.
func lines(b []byte) []byte {
	return []byte(strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n"))
}
