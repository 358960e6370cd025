// Package load is an SMTP client that sends many messages over many
// connections and measures how they are taken. Tests and benchmarks put the
// same load on the node and on other servers.
package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load describes a load of SMTP messages for one server.
type Load struct {
	Addr     string      // host:port
	TLS      *tls.Config // STARTTLS with it; nil sends in the clear
	Login    string      // AUTH PLAIN initial response in base64, "" for none
	From, To string      // addr-specs
	Conns    int         // connections at the same time
	Messages int         // in all
	PerConn  int         // messages over one connection before QUIT, 0 is no limit
	Octets   int         // of one message, about
	Content  []byte      // sent instead of a made message; no line begins with a dot
	// Next makes each message anew and may wait; it is called by all
	// connections and not part of the measured time.
	Next func() []byte
}

// Result is what a load came to. A message counts when its 250 was read.
type Result struct {
	Accepted int
	Refused  int // replies other than 2xx to the content
	Took     time.Duration
	PerSec   float64
	P50, P99 time.Duration // from MAIL to the 250
}

// String is one line for a report.
func (r Result) String() string {
	return fmt.Sprintf("%d accepted, %d refused, %.0f/s, p50 %v, p99 %v", r.Accepted, r.Refused, r.PerSec,
		r.P50.Round(10*time.Microsecond), r.P99.Round(10*time.Microsecond))
}

// Run sends the load and measures it. The error is the first of any
// connection; what was accepted until then is in the result.
func (l Load) Run(ctx context.Context) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		left  atomic.Int64
		mu    sync.Mutex
		times []time.Duration
		res   Result
		errs  []error
		wg    sync.WaitGroup
	)
	left.Store(int64(l.Messages))
	body := l.body()
	start := time.Now()
	for range l.Conns {
		wg.Go(func() {
			mine, refused, err := l.worker(ctx, &left, body)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			res.Refused += refused
			if err != nil {
				errs = append(errs, err)
				cancel()
			}
		})
	}
	wg.Wait()
	res.Took = time.Since(start)
	res.Accepted = len(times)
	res.PerSec = float64(len(times)) / res.Took.Seconds()
	if slices.Sort(times); len(times) > 0 {
		res.P50, res.P99 = times[len(times)/2], times[len(times)*99/100]
	}
	return res, errors.Join(errs...)
}

func (l Load) body() []byte {
	if l.Content != nil {
		return append(bytes.Clone(l.Content), ".\r\n"...)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: load\r\n\r\n", l.From, l.To)
	for b.Len() < l.Octets {
		b.WriteString(strings.Repeat("0123456789", 7) + "\r\n")
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}

// worker sends messages over one connection after the other until none is left.
func (l Load) worker(ctx context.Context, left *atomic.Int64, body []byte) (times []time.Duration, refused int, err error) {
	for ctx.Err() == nil && left.Load() > 0 {
		c, err := l.connect(ctx)
		if err != nil {
			return times, refused, err
		}
		for n := 0; (l.PerConn == 0 || n < l.PerConn) && ctx.Err() == nil && left.Add(-1) >= 0; n++ {
			if l.Next != nil {
				body = append(l.Next(), ".\r\n"...)
			}
			start := time.Now()
			ok, err := c.send(l, body)
			if err != nil {
				c.conn.Close()
				return times, refused, err
			}
			if ok {
				times = append(times, time.Since(start))
			} else {
				refused++
			}
		}
		_, err = c.cmd("QUIT")
		c.conn.Close()
		if err != nil {
			return times, refused, err
		}
	}
	return times, refused, nil
}

type loadConn struct {
	conn net.Conn
	r    *bufio.Reader
}

func (l Load) connect(ctx context.Context) (*loadConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr)
	if err != nil {
		return nil, err
	}
	c := &loadConn{conn, bufio.NewReader(conn)}
	steps := []string{"", "EHLO load.example"}
	if l.TLS != nil {
		steps = append(steps, "STARTTLS", "EHLO load.example")
	}
	if l.Login != "" {
		steps = append(steps, "AUTH PLAIN "+l.Login)
	}
	for _, s := range steps {
		code, err := c.cmd(s)
		if err == nil && code/100 != 2 {
			err = fmt.Errorf("%q was answered %d", strings.SplitN(s, " ", 2)[0], code)
		}
		if err == nil && s == "STARTTLS" {
			tc := tls.Client(conn, l.TLS)
			c.conn, c.r = tc, bufio.NewReader(tc)
			err = tc.HandshakeContext(ctx)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
	}
	return c, nil
}

// send pipelines the envelope, then sends the content.
func (c *loadConn) send(l Load, body []byte) (bool, error) {
	if _, err := fmt.Fprintf(c.conn, "MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n", l.From, l.To); err != nil {
		return false, err
	}
	for _, want := range []int{250, 250, 354} {
		if code, err := c.reply(); err != nil || code != want {
			return false, errors.Join(err, fmt.Errorf("code %d, want %d", code, want))
		}
	}
	if _, err := c.conn.Write(body); err != nil {
		return false, err
	}
	code, err := c.reply()
	return code/100 == 2, err
}

// cmd sends a line, if any, and returns the code of the reply.
func (c *loadConn) cmd(line string) (int, error) {
	if line != "" {
		if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
			return 0, err
		}
	}
	return c.reply()
}

func (c *loadConn) reply() (int, error) {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		var code int
		if _, err := fmt.Sscanf(line, "%3d", &code); err != nil || len(line) < 4 {
			return 0, fmt.Errorf("not a reply: %d octets", len(line))
		}
		if line[3] != '-' {
			return code, nil
		}
	}
}
