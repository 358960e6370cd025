package imapd

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// TestETT holds the rows of the Edge Test Tool for an IMAP server.
func TestETT(t *testing.T) {
	ccda := "From: a@x.example\r\nTo: b@y.example\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n" +
		"--b\r\nContent-Type: text/xml; name=\"ccda.xml\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString([]byte("<ClinicalDocument/>")) + "\r\n--b--\r\n"
	n := newTestNode(t, nil)
	n.deliver("INBOX", ccda)
	for _, tt := range []struct{ row, command string }{
		{"IMAP 1", "CAPABILITY"}, {"IMAP 2", "NOOP"}, {"IMAP 3", "LOGOUT"},
	} {
		t.Run(tt.row, func(t *testing.T) {
			c := n.dial(n.clear, false)
			got := c.ok(tt.command)
			hasNot(t, got, "BAD")
			if tt.command == "CAPABILITY" {
				has(t, got, "STARTTLS")
				has(t, got, "LOGINDISABLED")
				hasNot(t, got, "AUTH=")
			}
		})
	}
	t.Run("IMAP 8, 11, 15", func(t *testing.T) {
		c := n.startTLS()
		c.ok("LOGIN " + testUser + " " + testPassword)
		has(t, c.ok("SELECT Inbox"), "* 1 EXISTS")
		got := c.ok("FETCH 1 (BODY[] BODY.PEEK[1] BODY.PEEK[2] BODY.PEEK[2.MIME])")
		has(t, got, "BODY[] {"+fmt.Sprint(len(ccda))+"}\r\n"+ccda)
		has(t, got, "BODY[1] {5}\r\nhello")
		has(t, got, "BODY[2.MIME] {78}\r\nContent-Type: text/xml")
		plain := n.startTLS()
		plain.ok("AUTHENTICATE PLAIN " + plainResponse())
		plain.ok("SELECT INBOX")
	})
	t.Run("IMAP 9", func(t *testing.T) {
		for _, c := range []*client{n.dial(n.clear, false), n.startTLS()} {
			c.want("CAPABILITYBAD", "BAD")
		}
		for _, c := range []*client{n.dial(n.clear, false), n.startTLS()} {
			c.send("CAPABILITYBAD\r\n")
			if got := c.line(); !strings.HasPrefix(got, "* BAD") {
				t.Errorf("without tag: %q", got)
			}
		}
	})
	t.Run("IMAP 10", func(t *testing.T) {
		n.dial(n.clear, false).want("FETCH 1 BODY[]", "BAD")
		n.startTLS().want("FETCH 1 BODY[]", "BAD")
	})
	t.Run("IMAP 17", func(t *testing.T) {
		n.startTLS().want("LOGIN "+testUser+" wrong", "NO [AUTHENTICATIONFAILED]")
	})
	t.Run("IMAP 32", func(t *testing.T) {
		c := n.login()
		c.ok("SELECT INBOX")
		has(t, c.ok("FETCH 1 BINARY.PEEK[2]"), "<ClinicalDocument/>")
	})
}

func plainResponse() string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + testUser + "\x00" + testPassword))
}

// startTLS connects to the clear port and upgrades.
func (n *testNode) startTLS() *client {
	n.t.Helper()
	c := n.dial(n.clear, false)
	c.ok("STARTTLS")
	tc := tls.Client(c.nc, n.tls)
	if err := tc.Handshake(); err != nil {
		n.t.Fatal(err)
	}
	c.nc = tc
	c.r.Reset(tc)
	return c
}

// TestClearText: before TLS no password is looked at (row T6).
func TestClearText(t *testing.T) {
	n := newTestNode(t, nil)
	c := n.dial(n.clear, false)
	c.want("LOGIN "+testUser+" "+testPassword, "NO [PRIVACYREQUIRED]")
	c.want("AUTHENTICATE PLAIN "+plainResponse(), "NO [PRIVACYREQUIRED]")
	c.want("SELECT INBOX", "BAD")
	if n.auth.asked != 0 {
		t.Errorf("the authenticator was asked %d times", n.auth.asked)
	}
	c = n.dial(n.clear, false)
	c.send("a LOGIN {5+}\r\nx NOOP\r\n")
	got := c.ended()
	hasNot(t, got, "x ")
	has(t, got, "a NO [PRIVACYREQUIRED]")
}

// TestStartTLS_injection: what stands behind STARTTLS in clear text is never
// answered inside TLS (row T3, CVE-2011-0411).
func TestStartTLS_injection(t *testing.T) {
	n := newTestNode(t, nil)
	const attack = "a STARTTLS\r\nb NOOP\r\n"
	for split := 1; split <= len(attack); split++ {
		c := n.dial(n.clear, false)
		c.send(attack[:split])
		c.send(attack[split:])
		c.nc.SetDeadline(time.Now().Add(testPatience))
		if l, err := c.tryLine(); err == nil && !strings.HasPrefix(l, "a OK") {
			t.Fatalf("STARTTLS: %q", l)
		}
		tc := tls.Client(c.nc, n.tls)
		tc.SetDeadline(time.Now().Add(testPatience))
		err := tc.Handshake()
		if err == nil {
			t.Fatalf("split at %d: TLS began over an injected command", split)
		}
		c.nc.Close()
	}
}

func TestLogin(t *testing.T) {
	n := newTestNode(t, func(c *Config) { c.Limits.PerAccount = 2 })
	c := n.dial(n.full, true)
	has(t, c.ok("CAPABILITY"), "AUTH=PLAIN")
	hasNot(t, c.ok("CAPABILITY"), "AUTH=EXTERNAL")
	hasNot(t, c.ok("CAPABILITY"), "STARTTLS")
	c.want("AUTHENTICATE EXTERNAL =", "NO")
	c.want("AUTHENTICATE PLAIN "+base64.StdEncoding.EncodeToString([]byte("other@x.example\x00"+testUser+"\x00"+testPassword)), "NO [AUTHORIZATIONFAILED]")
	c.ok("LOGIN {27}\r\n" + testUser + " {15+}\r\n" + testPassword)
	n.login()
	n.dial(n.full, true).want("LOGIN "+testUser+" "+testPassword, "NO [LIMIT]")
	n.auth.fail = &hisp.Error{Op: "test", Kind: hisp.Throttled}
	n.dial(n.full, true).want("LOGIN x y", "NO [LIMIT]")
	n.auth.fail = &hisp.Error{Op: "test", Kind: hisp.Temporary}
	n.dial(n.full, true).want("LOGIN x y", "NO [UNAVAILABLE]")
	n.auth.fail = nil
	c = n.dial(n.full, true)
	for range maxLogins {
		c.want("LOGIN x y", "NO [AUTHENTICATIONFAILED]")
	}
	has(t, c.ended(), "* BYE")
}

// TestLogin_certificate: AUTH=EXTERNAL with a certificate of the account.
func TestLogin_certificate(t *testing.T) {
	n := newTestNode(t, nil)
	cert := newTestCert(t, "client")
	n.tls.Certificates = []tls.Certificate{cert}
	c := n.dial(n.full, true)
	has(t, c.ok("CAPABILITY"), "AUTH=EXTERNAL")
	c.want("AUTHENTICATE EXTERNAL =", "NO [AUTHENTICATIONFAILED]")
	n.auth.certs[sha256.Sum256(cert.Leaf.Raw)] = true
	c.ok("AUTHENTICATE EXTERNAL =")
	c.ok("SELECT INBOX")
	c = n.startTLS()
	c.ok("AUTHENTICATE EXTERNAL =")
}

// TestGate_limits: strangers and users cannot make the parser hold or misread
// what they send (row T12).
func TestGate_limits(t *testing.T) {
	n := newTestNode(t, nil)
	parens := strings.Repeat("(", 1e6)
	tests := []struct {
		name   string
		login  bool
		send   string
		answer string // "" if the connection just ends
	}{
		{"line before login", false, "a LOGIN " + strings.Repeat("x", 9000) + "\r\n", "* BYE"},
		{"literal before login", false, "a LOGIN {5000}\r\n", "a NO [TOOBIG]"},
		{"non-synchronizing literal before login", false, "a LOGIN {5000+}\r\n", "* BYE"},
		{"many literals before login", false, "a LOGIN {4000+}\r\n" + strings.Repeat("x", 4000) + " {4096+}\r\n" + strings.Repeat("x", 4096) + " {100+}\r\n", "* BYE"},
		{"APPEND before login", false, "a APPEND INBOX {4294967295+}\r\n", "* BYE"},
		{"SASL answer", false, "a AUTHENTICATE PLAIN\r\n" + strings.Repeat("A", 5000) + "\r\n", "* BYE"},
		{"parentheses before login", false, "a SEARCH " + parens + "\r\n", "* BYE"},
		{"NUL", false, "a NOOP\x00\r\n", "* BYE"},
		{"no command", false, strings.Repeat("x\r\n", maxFaults+1), "* BYE"},
		{"APPEND of 4 GiB, non-synchronizing", true, "a APPEND INBOX {4294967295+}\r\n", "* BYE"},
		{"APPEND of 4 GiB", true, "a APPEND INBOX {4294967295}\r\n", "a NO [TOOBIG]"},
		{"parentheses", true, "a SELECT INBOX\r\nb SEARCH " + parens + "\r\n", "* BYE"},
		{"nested", true, "a SELECT INBOX\r\nb SEARCH " + strings.Repeat("(", 40000) + "\r\nc LOGOUT\r\n", "b BAD"},
		{"NOT NOT NOT", true, "a SELECT INBOX\r\nb SEARCH " + strings.Repeat("NOT ", 1000) + "ALL\r\nc LOGOUT\r\n", "b NO [LIMIT]"},
		{"MULTIAPPEND", true, "a APPEND INBOX {3+}\r\nabc {3+}\r\nabc\r\n", "* BYE"},
		{"literal of a search", true, "a SEARCH TEXT {4097+}\r\n", "* BYE"},
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := n.dial(n.full, true)
			if tt.login {
				c.ok("LOGIN " + testUser + " " + testPassword)
			}
			c.nc.SetDeadline(time.Now().Add(testPatience))
			_, _ = io.WriteString(c.nc, tt.send) // the server may close while we send
			for {
				l, err := c.tryLine()
				if err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(tt.answer, "* BYE") {
						t.Fatalf("no %q: %v", tt.answer, err)
					}
					return // closed while we were sending
				}
				if strings.HasPrefix(l, tt.answer) {
					return
				}
			}
		})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 20<<20 {
		t.Errorf("the heap grew by %d octets, want less than 20 MiB", grown)
	}
}

// TestGate_refusedLiteral: a literal whose command was refused is not read as
// commands. go-imap alone answers "x" here.
func TestGate_refusedLiteral(t *testing.T) {
	n := newTestNode(t, nil)
	c := n.login()
	c.ok("SELECT INBOX")
	c.send("a SEARCH CHARSET KOI8-R SUBJECT {18+}\r\nx CREATE evil\r\nyy {2+}\r\nzz\r\nb NOOP\r\n")
	got, tagged := c.until("b")
	has(t, got, "a NO [BADCHARSET]")
	hasNot(t, got, "x ")
	if !strings.HasPrefix(tagged, "OK") {
		t.Errorf("NOOP: %q", tagged)
	}
	c.want("FETCH abc FLAGS", "BAD [CLIENTBUG]")
	c.want("APPEND INBOX {3}\r\na\x00b", "NO [CANNOT]")
	if got, _ := c.do("STATUS evil (MESSAGES)"); len(got) > 0 {
		t.Errorf("the literal was read as a command: %q", got)
	}
}

// TestAppend_limits: size, quota, folder.
func TestAppend_limits(t *testing.T) {
	n := newTestNode(t, func(c *Config) { c.Limits.MessageSize = 1000 })
	n.mem.quota = 500
	c := n.login()
	has(t, c.ok("CAPABILITY"), "APPENDLIMIT=1000")
	c.want("APPEND INBOX {1001}\r\n", "NO [TOOBIG]")
	c.want("APPEND INBOX {501}\r\n"+strings.Repeat("x", 501), "NO [OVERQUOTA]")
	c.want("APPEND Nowhere {1}\r\nx", "NO [TRYCREATE]")
	c.want("APPEND INBOX (\\Bogus) {1}\r\nx", "BAD")
	bare := "a\nb\rc\r\n"
	c.want(fmt.Sprintf("APPEND INBOX (\\Seen kw) {%d}\r\n%s", len(bare), bare), "OK [APPENDUID")
	c.ok("SELECT INBOX")
	has(t, c.ok("FETCH 1 (FLAGS BODY.PEEK[])"), `FLAGS (\Seen kw) BODY[] {7}`+"\r\n"+bare)
	c.ok("STORE 1 +FLAGS (KW)")
	has(t, c.ok("FETCH 1 FLAGS"), `(\Seen kw)`)
}

// TestMessageMemory: messages in progress are bounded for all connections.
func TestMessageMemory(t *testing.T) {
	n := newTestNode(t, func(c *Config) { c.Limits.MessageMemory = 1 << 20 })
	c := n.login()
	big := strings.Repeat("x", 1<<20+1)
	c.want(fmt.Sprintf("APPEND INBOX {%d}\r\n%s", len(big), big), "NO [UNAVAILABLE]")
	n.deliver("INBOX", "\r\n"+big)
	c.ok("SELECT INBOX")
	c.want("FETCH 1 BODY[]", "NO [UNAVAILABLE]")
	c.ok(fmt.Sprintf("APPEND INBOX {%d}\r\n%s", 1<<20, big[:1<<20]))
	n.srv.messages.mu.Lock()
	defer n.srv.messages.mu.Unlock()
	if left := n.srv.messages.left; left != 1<<20 {
		t.Errorf("%d octets are left, want all %d", left, 1<<20)
	}
}

// TestSlowStrangers: who only holds connections cannot keep out who logs in
// (row T10).
func TestSlowStrangers(t *testing.T) {
	n := newTestNode(t, func(c *Config) { c.Limits.PreAuthPer = 5; c.Limits.PerAddress = 8 })
	var slow []net.Conn
	for range 20 {
		nc, err := net.Dial("tcp", n.full)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		slow = append(slow, nc)
	}
	for range 4 {
		n.login() // fails by itself when it is kept waiting
	}
	slow[0].SetReadDeadline(time.Now().Add(testPatience))
	if _, err := slow[0].Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the oldest stranger was not dropped")
	}
}

// TestPreAuthTime: the time for login is absolute, however busy the stranger.
func TestPreAuthTime(t *testing.T) {
	n := newTestNode(t, func(c *Config) { c.Limits.PreAuthTime = 300 * time.Millisecond })
	for _, addr := range []string{n.clear, n.full} {
		c := n.dial(addr, addr == n.full)
		start := time.Now()
		for i := 0; time.Since(start) < testPatience; i++ {
			c.nc.SetDeadline(time.Now().Add(testPatience))
			if _, err := fmt.Fprintf(c.nc, "a%d NOOP\r\n", i); err != nil {
				break
			}
			if _, err := c.tryLine(); err != nil {
				break
			}
			if i > 40 && addr == n.clear {
				break // ended by the number of commands
			}
		}
		if took := time.Since(start); took >= testPatience {
			t.Errorf("a stranger stayed for %v", took)
		}
	}
}

// TestShutdown: idle sessions hear BYE at once.
func TestShutdown(t *testing.T) {
	n := newTestNode(t, nil)
	a, b := n.login(), n.login()
	a.ok("SELECT INBOX")
	a.send("i IDLE\r\n")
	a.line()
	n.stop()
	has(t, a.ended(), "* BYE the server is going down")
	has(t, b.ended(), "* BYE the server is going down")
	n.start()
	n.login().ok("SELECT INBOX")
}
