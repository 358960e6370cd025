package smtpd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// smuggles are the ends of content that other software takes for CRLF.CRLF.
var smuggles = []struct{ name, end string }{
	{"lf.lf", "\n.\n"}, {"cr.cr", "\r.\r"}, {"cr.lf", "\r.\n"}, {"lf.cr", "\n.\r"},
	{"lf.crlf", "\n.\r\n"}, {"crlf.lf", "\r\n.\n"}, {"cr.crlf", "\r.\r\n"}, {"crlf.cr", "\r\n.\r"},
	{"nul before", "\r\n\x00.\r\n"}, {"nul after", "\r\n.\x00\r\n"}, {"crlf.crcrlf", "\r\n.\r\r\n"},
	{"crlf.cr x", "\r\n.\rx\r\n"},
}

// Threat T1: none of them ends the message, and the message is refused.
func TestContent_smuggling(t *testing.T) {
	second := "MAIL FROM:<evil@clinic.example>\r\nRCPT TO:<other@hospital.example>\r\nDATA\r\nFrom: e\r\n\r\nsmuggled\r\n"
	for _, open := range []func(testing.TB, ...option) *house{submission, backbone} {
		for _, s := range smuggles {
			t.Run(s.name, func(t *testing.T) {
				h := open(t)
				p := h.ready()
				p.envelope()
				p.cmd("DATA", "354")
				p.send("From: a\r\n\r\nfirst" + s.end + second + "\r\n.\r\n")
				p.want("554 5.6.0")
				p.cmd("NOOP", "250") // in step again: nothing was taken for a command
				if n := len(h.messages()); n != 0 {
					t.Errorf("messages = %d, want 0", n)
				}
				p.envelope()
				p.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len("x"+s.end+"y\r\n"), "x"+s.end+"y\r\n"))
				p.want("554 5.6.0")
				p.cmd("NOOP", "250")
				if n := len(h.messages()); n != 0 {
					t.Errorf("messages after BDAT = %d, want 0", n)
				}
			})
		}
	}
}

func TestBDAT(t *testing.T) {
	h := backbone(t, limits(Limits{MessageOctets: 1000}))
	p := h.ready()
	p.envelope()
	p.send("BDAT 9\r\nFrom: a\r\nBDAT 4\r\n\r\nx\r")
	p.want("250 2.0.0 9")
	p.want("250 2.0.0 4")
	p.cmd("DATA", "503")
	p.cmd("RCPT TO:<other@hospital.example>", "503")
	p.send("BDAT 5 LAST\r\n\n.\r\ny")
	p.want("250 2.0.0 queued")
	if got := h.messages()[0].raw; !strings.HasSuffix(got, "From: a\r\n\r\nx\r\n.\r\ny\r\n") {
		t.Errorf("message = %q, want the chunks joined and ended", got)
	}
	p.send("BDAT 3\r\nabc") // no MAIL: the chunk is not a command
	p.want("503")
	p.envelope()
	p.send("BDAT 600\r\n" + strings.Repeat("a", 600) + "BDAT 600\r\n" + strings.Repeat("a", 600))
	p.want("250")
	p.want("552 5.3.4 a message has at most 1000 octets")
	p.send("BDAT 3 LAST\r\nabc")
	p.want("503") // the transaction is over
	p.envelope()
	p.send("BDAT 3\r\nabc")
	p.want("250")
	p.cmd("RSET", "250")
	p.envelope()
	p.cmd("DATA", "354")
	p.send("z\r\n.\r\n")
	p.want("250")
	if got := h.messages()[1].raw; strings.Contains(got, "abc") {
		t.Errorf("message = %q holds a chunk from before RSET", got)
	}
	p.cmd("BDAT -1 LAST", "501")
	p.wantClosed()
}

func TestBDAT_hugeCount(t *testing.T) {
	p := backbone(t).ready()
	p.cmd("BDAT 99999999999999999999 LAST", "501")
	p.wantClosed()
}

// Row AU-01: content far over the limit ends the session, and the trail says so.
func TestContent_floodAudited(t *testing.T) {
	flood := strings.Repeat("0123456789abcd\r\n", (1000+drainExtra)/16+1)
	for _, c := range []struct {
		name  string
		begin func(p *peer)
	}{
		{"DATA", func(p *peer) { p.envelope(); p.cmd("DATA", "354"); p.send(flood) }},
		{"BDAT", func(p *peer) { p.envelope(); p.send(fmt.Sprintf("BDAT %d LAST\r\n", len(flood)) + flood) }},
		{"BDAT without MAIL", func(p *peer) { p.send(fmt.Sprintf("BDAT %d LAST\r\n", len(flood)) + flood) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := backbone(t, limits(Limits{MessageOctets: 1000}))
			p := h.ready()
			c.begin(p)
			p.want("552 5.3.4")
			if !h.audited("content far over the size limit") {
				t.Errorf("audit = %v, want the flood", h.trail(nil))
			}
		})
	}
}

func TestData_tooLarge(t *testing.T) {
	h := backbone(t, limits(Limits{MessageOctets: 10000}))
	p := h.ready()
	p.cmd("MAIL FROM:<a@clinic.example> SIZE=10", "250") // the declared size proves nothing
	p.cmd("RCPT TO:<other@hospital.example>", "250")
	p.cmd("DATA", "354")
	p.send(strings.Repeat("0123456789abcd\r\n", 700) + ".\r\n")
	p.want("552 5.3.4 a message has at most 10000 octets")
	p.envelope()
	p.cmd("DATA", "354")
	p.send(strings.Repeat("x", 9000) + "\r\n.\r\n") // one long line is fine
	p.want("250")
	if free := h.srv.budget.free.Load(); free != h.srv.cfg.Limits.ContentOctets {
		t.Errorf("budget = %d, want all %d back", free, h.srv.cfg.Limits.ContentOctets)
	}
}

func TestData_noMemory(t *testing.T) {
	h := backbone(t)
	h.srv.budget.free.Store(100000)
	p := h.ready()
	p.envelope()
	p.cmd("DATA", "354")
	p.send(strings.Repeat("x", 200000) + "\r\n.\r\n")
	p.want("452 4.3.1")
	p.envelope()
	p.cmd("DATA", "354")
	p.send("x\r\n.\r\n")
	p.want("250")
}

func TestData_loop(t *testing.T) {
	h := backbone(t)
	p := h.ready()
	for _, c := range []struct {
		hops int
		want string
	}{{50, "250"}, {51, "554 5.4.6"}} {
		p.envelope()
		p.cmd("DATA", "354")
		// Our own field counts too: one less from the peer.
		p.send(strings.Repeat("reCeived: x\r\n y\r\n", c.hops-1) + "From: a\r\n\r\nReceived: body\r\n.\r\n")
		p.want(c.want)
	}
}

func TestLint_anySplit(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{
		{"a\r\nb\r\n", true}, {"\r\n\r\n", true}, {"", true}, {"a\nb", false}, {"a\rb", false},
		{"\n", false}, {"a\r\r\n", false}, {"\x00", false}, {"\r\n\n", false}, {"a\r\n\r", true},
	} {
		for i := 0; i <= len(c.in); i++ {
			for j := i; j <= len(c.in); j++ {
				var l lint
				if got := l.ok([]byte(c.in[:i])) && l.ok([]byte(c.in[i:j])) && l.ok([]byte(c.in[j:])); got != c.ok {
					t.Errorf("%q split at %d, %d = %v, want %v", c.in, i, j, got, c.ok)
				}
			}
		}
	}
}

// Threat T3: whatever is split where, no command sent before the handshake is
// answered after it.
func TestSTARTTLS_injection(t *testing.T) {
	h := backbone(t, limits(Limits{Errors: 1e6}))
	rng := rand.New(rand.NewPCG(1, 2))
	const attack = "EHLO x.example\r\nSTARTTLS\r\nNOOP\r\nRSET\r\n"
	for i := range 1000 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		a, b := rng.IntN(len(attack)), rng.IntN(len(attack))
		a, b = min(a, b), max(a, b)
		for _, part := range []string{attack[:a], attack[a:b], attack[b:]} {
			if _, err := c.Write([]byte(part)); err != nil {
				break // closed on us already, as it should be
			}
		}
		var got strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			got.Write(buf[:n])
			if err != nil {
				break
			}
		}
		c.Close()
		_, after, _ := strings.Cut(got.String(), "LIMITS RCPTMAX=100\r\n")
		for _, line := range strings.SplitAfter(after, "\r\n") {
			if strings.HasPrefix(line, "250") || strings.HasPrefix(line, "500") {
				t.Fatalf("run %d, split %d %d: %q answers an injected command", i, a, b, after)
			}
		}
	}
}

// pipes is a listener of in-memory connections, for tests of time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// inBubble runs f with a backbone on pipes in a bubble of fake time.
func inBubble(t *testing.T, l Limits, f func(t *testing.T, h *house, dial func() *peer)) {
	synctest.Test(t, func(t *testing.T) {
		h, _, cfg := configs(t, limits(l), func(_ *SubmissionConfig, b *BackboneConfig) {
			b.AllowPlain = func(hisp.Domain) bool { return true }
		})
		srv, err := NewBackbone(cfg)
		if err != nil {
			t.Fatal(err)
		}
		h.srv = srv
		ln := make(pipes)
		done := make(chan error, 1)
		go func() { done <- srv.Serve(context.Background(), ln) }()
		f(t, h, func() *peer {
			a, b := net.Pipe()
			ln <- a
			return &peer{t: t, conn: b, r: newReader(b)}
		})
		close(ln)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // a pipe holds nothing: replies nobody reads take flushTime
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil && ctx.Err() != nil {
			t.Errorf("Shutdown: %v", err)
		}
		<-done
	})
}

// until reads the reply however long it takes and returns how long it took.
func (p *peer) until(prefix string) time.Duration {
	p.t.Helper()
	start := time.Now()
	line, err := p.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) {
		p.t.Fatalf("reply = %q and %v, want %q", line, err, prefix)
	}
	return time.Since(start)
}

func (p *peer) put(s string) error {
	_, err := p.conn.Write([]byte(s))
	return err
}

func TestTime_silentPeers(t *testing.T) {
	l := Limits{Command: 300 * time.Second, Block: 180 * time.Second, Session: time.Hour}
	for _, c := range []struct {
		name string
		say  []string
		want time.Duration
	}{
		{"after the greeting", nil, l.Command},
		{"after RCPT, SMTP 13b", []string{"EHLO x.example", "MAIL FROM:<a@b.example>", "RCPT TO:<other@hospital.example>"}, l.Command},
		{"after DATA, SMTP 13a", []string{"EHLO x.example", "MAIL FROM:<a@b.example>", "RCPT TO:<other@hospital.example>", "DATA"}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, l, func(t *testing.T, h *house, dial func() *peer) {
				p := dial()
				p.until("220")
				for _, s := range c.say {
					p.put(s + "\r\n")
					for {
						line, _ := p.r.ReadString('\n')
						if len(line) > 3 && line[3] == ' ' {
							break
						}
					}
				}
				if got := p.until("421 4.4.2"); got != c.want {
					t.Errorf("cut after %v, want %v", got, c.want)
				}
			})
		})
	}
}

// Threat T10: one octet a second is neither silence nor progress.
func TestTime_slowPeers(t *testing.T) {
	l := Limits{Command: 300 * time.Second, Block: 180 * time.Second, Grace: time.Minute, Rate: 512}
	for _, c := range []struct {
		name  string
		setUp string
		want  time.Duration
	}{
		{"in a command", "", 300 * time.Second},
		{"in content", "EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<other@hospital.example>\r\nDATA\r\n", time.Minute},
		{"in a chunk", "EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<other@hospital.example>\r\nBDAT 5000\r\n", time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, l, func(t *testing.T, h *house, dial func() *peer) {
				p := dial()
				cut := make(chan time.Time, 1)
				go func() {
					for {
						line, err := p.r.ReadString('\n')
						if err != nil || strings.HasPrefix(line, "421") {
							cut <- time.Now()
							p.conn.Close()
							return
						}
					}
				}()
				p.put(c.setUp)
				start := time.Now()
				for range 4000 {
					if p.put("x") != nil {
						break
					}
					pass(time.Second)
				}
				if got := (<-cut).Sub(start).Round(2 * time.Second); got > c.want+6*time.Second || got < c.want-2*time.Second {
					t.Errorf("cut after %v, want %v", got, c.want)
				}
			})
		})
	}
}

// The absolute end of a session: busy peers meet it too.
func TestTime_session(t *testing.T) {
	inBubble(t, Limits{Session: 10 * time.Minute, Idle: 1e6}, func(t *testing.T, h *house, dial func() *peer) {
		p := dial()
		start := time.Now()
		cut := make(chan time.Duration, 1)
		go func() {
			defer p.conn.Close()
			for {
				line, err := p.r.ReadString('\n')
				if err != nil || strings.HasPrefix(line, "421 4.4.2") {
					cut <- time.Since(start)
					return
				}
			}
		}()
		for p.put("NOOP\r\n") == nil {
			pass(7 * time.Second)
		}
		if got := <-cut; got != 10*time.Minute {
			t.Errorf("cut after %v, want 10m", got)
		}
	})
}

func TestShutdown(t *testing.T) {
	inBubble(t, Limits{}, func(t *testing.T, h *house, dial func() *peer) {
		idle, busy := dial(), dial()
		idle.until("220")
		busy.until("220")
		for _, s := range []string{"HELO x.example", "MAIL FROM:<a@b.example>", "RCPT TO:<other@hospital.example>", "DATA"} {
			busy.put(s + "\r\n")
			busy.r.ReadString('\n')
		}
		busy.put("From: a\r\n")
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- h.srv.Shutdown(context.Background()) }()
		idle.until("421 4.3.2")
		busy.put("\r\nx\r\n.\r\n")
		busy.until("250 2.0.0 queued")
		busy.until("421 4.3.2")
		if err := <-done; err != nil {
			t.Errorf("Shutdown = %v, want nil", err)
		}
		if n := len(h.messages()); n != 1 {
			t.Errorf("messages = %d, want 1", n)
		}
	})
}

func TestCap_perAddress(t *testing.T) {
	h := backbone(t, limits(Limits{ConnectionsPerIP: 2}))
	h.dial()
	b := h.dial()
	for range 3 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p := &peer{t: t, conn: c, r: newReader(c)}
		p.want("421 4.7.0")
	}
	if n := strings.Count(h.log.String(), "too many connections from one address"); n != 1 {
		t.Errorf("%d lines in the log for three refusals within a minute, want 1:\n%s", n, h.log.String())
	}
	b.cmd("QUIT", "221")
	b.wantClosed()
	h.dial()
}

// When the house is full, the one who has been silent longest gives way.
func TestCap_evictsTheSilent(t *testing.T) {
	inBubble(t, Limits{Connections: 2, ConnectionsPerIP: 100}, func(t *testing.T, h *house, dial func() *peer) {
		silent, other := dial(), dial()
		silent.until("220")
		other.until("220")
		third := dial()
		third.until("421 4.7.0") // nobody has been idle for long yet
		pass(10 * time.Second)
		other.put("NOOP\r\n")
		other.until("250")
		fourth := dial()
		silent.until("421 4.7.0")
		fourth.until("220")
	})
}
