package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
)

const (
	maxReplyLine  = 2048 // octets; RFC 5321 §4.5.3.1.5 says 512
	maxReplyLines = 128  // an EHLO reply has some 20 (threat M2)
	pipelineRcpts = 50   // RCPT commands in flight, so that neither side fills its buffers
	dataBlock     = 64 << 10
	quitTime      = time.Second
)

// Commands and extensions, RFC 5321 §4.1.1, RFC 3207, RFC 1870, RFC 6152,
// RFC 6531 and RFC 2920.
const (
	verbEHLO  = "EHLO"
	verbHELO  = "HELO"
	verbData  = "DATA"
	verbReset = "RSET"
	verbQuit  = "QUIT"

	extStartTLS   = "STARTTLS" // the command too
	extSize       = "SIZE"     // the parameters of MAIL too
	extEightBit   = "8BITMIME"
	extUTF8       = "SMTPUTF8"
	extPipelining = "PIPELINING"
)

// errBroken is a connection that ended or a peer that does not speak SMTP.
var errBroken = errors.New("connection broken")

// errGoodbye is a 421 whose results are noted already.
var errGoodbye = errors.New("exchanger said 421")

// client is one SMTP connection.
type client struct {
	raw    net.Conn // under TLS, for interrupt
	conn   net.Conn
	r      *bufio.Reader
	w      *bufio.Writer // of content, made with the first message
	host   string
	ext    map[string]string // of the last EHLO, keywords in upper case
	limits Limits
	until  time.Time // of the Send that uses it
	uses   int
}

// connect opens a connection and brings it to where MAIL may be sent.
func (r *Relay) connect(ctx context.Context, t target, addr string, policy TLSPolicy) (*client, error) {
	dialCtx, cancel := context.WithTimeout(ctx, r.cfg.Limits.Connect)
	defer cancel()
	conn, err := r.cfg.Dial(dialCtx, "tcp", addr)
	if err != nil {
		return nil, temporary("the exchanger "+t.host+" cannot be reached", err)
	}
	c := &client{raw: conn, conn: conn, r: bufio.NewReaderSize(conn, 4096), host: t.host, limits: r.cfg.Limits}
	c.until, _ = ctx.Deadline()
	stop := context.AfterFunc(ctx, c.interrupt)
	err = c.open(r, policy)
	if !stop() && err == nil {
		err = temporary("the attempt took too long", ctx.Err())
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) open(r *Relay, policy TLSPolicy) error {
	// A 5xx greeting or EHLO is this host's word about us today, not about the
	// recipient: all of them are temporary and the next exchanger is asked.
	step := func(what string, a answer, err error) error {
		if err != nil {
			return temporary("the exchanger "+c.host+" broke off at "+what, err)
		}
		if a.code/100 != 2 {
			return temporary("the exchanger "+c.host+" answered "+strconv.Itoa(a.code)+" at "+what, nil)
		}
		return nil
	}
	a, err := c.read(c.limits.Command)
	if err := step("the greeting", a, err); err != nil {
		return err
	}
	if err := step(c.ehlo(r.cfg.Hostname, policy)); err != nil {
		return err
	}
	if _, offered := c.ext[extStartTLS]; !offered {
		if policy == Opportunistic {
			return nil
		}
		return temporary("the exchanger "+c.host+" does not offer STARTTLS, which is required for this domain", nil)
	}
	a, err = c.cmd(c.limits.Command, extStartTLS)
	if err := step(extStartTLS, a, err); err != nil {
		return err
	}
	if err := c.startTLS(r, policy); err != nil {
		return err
	}
	return step(c.ehlo(r.cfg.Hostname, policy))
}

// ehlo greets. HELO is for peers from which nothing is demanded.
func (c *client) ehlo(name string, policy TLSPolicy) (string, answer, error) {
	c.ext = map[string]string{}
	a, err := c.cmd(c.limits.Command, verbEHLO+" "+name)
	if err == nil && a.code/100 == 5 && policy == Opportunistic {
		a, err = c.cmd(c.limits.Command, verbHELO+" "+name)
		return verbHELO, a, err
	}
	if err == nil && a.code/100 == 2 && len(a.lines) > 1 {
		for _, line := range a.lines[1:] {
			key, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
			c.ext[strings.ToUpper(key)] = arg
		}
	}
	return verbEHLO, a, err
}

// startTLS does the handshake. Octets that came behind the 220 were not
// protected and end the attempt (threat T4).
func (c *client) startTLS(r *Relay, policy TLSPolicy) error {
	if c.r.Buffered() > 0 {
		return temporary("the exchanger "+c.host+" sent data between STARTTLS and TLS; someone may be tampering", nil)
	}
	cfg := &tls.Config{
		ServerName: c.host, RootCAs: r.cfg.Roots, Certificates: r.cfg.Certificates,
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: policy != Verify, // the operator said so for this domain
	}
	conn := tls.Client(c.conn, cfg)
	if err := c.arm(c.limits.Handshake); err != nil {
		return err
	}
	if err := conn.Handshake(); err != nil {
		var bad *tls.CertificateVerificationError
		if errors.As(err, &bad) {
			return temporary("the certificate of the exchanger "+c.host+
				" does not verify; ask the peer to fix it, or change the TLS policy for this domain", err)
		}
		return temporary("the TLS handshake with the exchanger "+c.host+" failed", err)
	}
	c.conn, c.r = conn, bufio.NewReaderSize(conn, 4096)
	return nil
}

// transact sends the message to the recipients that are open. An error means
// that the connection is of no further use; results are in d either way.
func (c *client) transact(ctx context.Context, d *delivery) error {
	c.until, _ = ctx.Deadline()
	c.uses++
	d.touched = false
	rcpts := d.open()
	params, ok := c.params(d)
	if !ok {
		return c.reset()
	}
	took, err := c.envelope(d, rcpts, params)
	if errors.Is(err, errGoodbye) {
		return errBroken
	}
	if err != nil {
		return c.broken(d, err)
	}
	if len(took) == 0 {
		return c.reset()
	}
	a, err := c.cmd(c.limits.Command, verbData)
	if err != nil {
		return c.broken(d, err)
	}
	if a.code != 354 {
		if a.code/100 == 2 {
			a = answer{code: 451} // nothing was sent yet: no success can be meant
		}
		for _, i := range took {
			d.set(i, c.host, a.orTemporary())
		}
		return c.reset()
	}
	a, err = c.data(d.msg)
	if err != nil {
		// The peer may have it or not; asking another now could double it.
		d.fail(c.host, temporary("the exchanger "+c.host+" broke off after the message; it may have it", err))
		for _, i := range took {
			d.final[i] = true
		}
		return errBroken
	}
	for _, i := range took {
		d.set(i, c.host, a.orTemporary())
		d.final[i] = true // it has had the message: no second exchanger in this attempt
	}
	if a.code == 421 {
		return errBroken
	}
	return nil
}

// orTemporary makes replies that are neither 2xx, 4xx nor 5xx temporary.
func (a answer) orTemporary() answer {
	if a.code/100 == 3 || a.code < 200 {
		return answer{code: 451}
	}
	return a
}

func (c *client) broken(d *delivery, err error) error {
	d.fail(c.host, temporary("the exchanger "+c.host+" broke off", err))
	return err
}

// params are those of MAIL. Not ok means that this peer cannot take the message.
func (c *client) params(d *delivery) (string, bool) {
	var b strings.Builder
	if limit, ok := c.ext[extSize]; ok { // RFC 1870 §6.1
		if n, err := strconv.ParseInt(limit, 10, 64); err == nil && n > 0 && int64(len(d.msg)) > n {
			d.refuse(c.host, hisp.TooLarge, "5.3.4", fmt.Sprintf("the exchanger %s takes at most %d octets", c.host, n))
			return "", false
		}
		fmt.Fprintf(&b, " %s=%d", extSize, len(d.msg))
	}
	if d.eight {
		if _, ok := c.ext[extEightBit]; !ok {
			d.refuse(c.host, hisp.Refused, "5.6.3", "the exchanger "+c.host+" takes 7-bit messages only")
			return "", false
		}
		b.WriteString(" BODY=" + extEightBit)
	}
	if d.utf8 {
		if _, ok := c.ext[extUTF8]; !ok {
			d.refuse(c.host, hisp.Refused, "5.6.7", "the exchanger "+c.host+" does not take addresses or headers beyond ASCII")
			return "", false
		}
		b.WriteString(" " + extUTF8)
	}
	return b.String(), true
}

// envelope sends MAIL and RCPT, in groups when the peer pipelines, and returns
// the recipients it took.
func (c *client) envelope(d *delivery, rcpts []int, params string) ([]int, error) {
	cmds := []string{"MAIL FROM:<" + d.env.From.AddrSpec() + ">" + params}
	for _, i := range rcpts {
		cmds = append(cmds, "RCPT TO:<"+d.env.To[i].AddrSpec()+">")
	}
	group := 1
	if _, ok := c.ext[extPipelining]; ok {
		group = pipelineRcpts
	}
	var took []int
	refused := false // MAIL was
	for n := 0; n < len(cmds); {
		end := min(n+group, len(cmds))
		if err := c.write(strings.Join(cmds[n:end], "\r\n") + "\r\n"); err != nil {
			return nil, err
		}
		for ; n < end; n++ {
			a, err := c.read(c.limits.Command)
			if err != nil {
				return nil, err
			}
			d.touched = d.touched || a.code != 421
			switch {
			case a.code == 421: // it closes: on an idle connection that says nothing about this message
				d.fail(c.host, a.err(c.host))
				return nil, errGoodbye
			case n == 0 && a.code/100 != 2:
				refused = true
				for _, i := range rcpts {
					d.set(i, c.host, a.orTemporary())
				}
			case n == 0 || refused:
			case a.code/100 == 2:
				took = append(took, rcpts[n-1])
			default:
				d.set(rcpts[n-1], c.host, a.orTemporary())
			}
		}
		if refused {
			return nil, nil
		}
	}
	return took, nil
}

// data sends the content with dots doubled (RFC 5321 §4.5.2) and reads the
// answer to it. A peer that answers early and stops reading is heard too.
func (c *client) data(msg []byte) (answer, error) {
	if c.w == nil {
		c.w = bufio.NewWriterSize(nil, dataBlock)
	}
	w := c.w
	w.Reset(deadlineWriter{c})
	var err error
	for rest := msg; len(rest) > 0 && err == nil; {
		if rest[0] == '.' {
			err = w.WriteByte('.')
		}
		n := len(rest)
		if i := bytes.Index(rest, []byte("\r\n.")); i >= 0 {
			n = i + 2
		}
		if err == nil {
			_, err = w.Write(rest[:n])
		}
		rest = rest[n:]
	}
	end := ".\r\n"
	if !bytes.HasSuffix(msg, []byte("\r\n")) && len(msg) > 0 {
		end = "\r\n.\r\n"
	}
	if err == nil {
		_, err = w.WriteString(end)
	}
	if err == nil {
		err = w.Flush()
	}
	wait := c.limits.Final
	if err != nil {
		wait = quitTime
	}
	a, readErr := c.read(wait)
	if err != nil && (readErr != nil || a.code < 400) {
		return answer{}, fmt.Errorf("%w: %v", errBroken, err)
	}
	return a, readErr
}

// deadlineWriter gives each block its own deadline.
type deadlineWriter struct{ c *client }

func (w deadlineWriter) Write(p []byte) (int, error) {
	if err := w.c.arm(w.c.limits.Data); err != nil {
		return 0, err
	}
	return w.c.conn.Write(p)
}

// reset clears the transaction so that the connection can be used again.
func (c *client) reset() error {
	a, err := c.cmd(c.limits.Command, verbReset)
	if err == nil && a.code/100 != 2 {
		err = errBroken
	}
	return err
}

func (c *client) cmd(wait time.Duration, line string) (answer, error) {
	if err := c.write(line + "\r\n"); err != nil {
		return answer{}, err
	}
	return c.read(wait)
}

func (c *client) write(s string) error {
	if err := c.arm(c.limits.Command); err != nil {
		return err
	}
	if _, err := c.conn.Write([]byte(s)); err != nil {
		return fmt.Errorf("%w: %v", errBroken, err)
	}
	return nil
}

// read reads one reply, of bounded length and within wait as a whole.
func (c *client) read(wait time.Duration) (answer, error) {
	if err := c.arm(wait); err != nil {
		return answer{}, err
	}
	var a answer
	for n := 0; n < maxReplyLines; n++ {
		line, err := c.readLine()
		if err != nil {
			return answer{}, fmt.Errorf("%w: %v", errBroken, err)
		}
		code, more, text, ok := parseReplyLine(line)
		if !ok || n > 0 && code != a.code {
			return answer{}, fmt.Errorf("%w: not an SMTP reply", errBroken)
		}
		a.code = code
		a.lines = append(a.lines, text)
		if !more {
			a.enhanced = enhancedCode(code, text)
			return a, nil
		}
	}
	return answer{}, fmt.Errorf("%w: reply of too many lines", errBroken)
}

func (c *client) readLine() (string, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
		if line = append(line, part...); len(line) > maxReplyLine {
			return "", errors.New("reply line too long")
		}
		if err == nil {
			return strings.TrimRight(string(line), "\r\n"), nil
		}
	}
}

// parseReplyLine reads "250-text", "250 text" or "250".
func parseReplyLine(line string) (code int, more bool, text string, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || line[1] < '0' || line[1] > '9' || line[2] < '0' || line[2] > '9' {
		return 0, false, "", false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, false, "", true
	}
	return code, line[3] == '-', line[4:], line[3] == '-' || line[3] == ' '
}

// enhancedCode finds "x.y.z" at the start of text if its class fits the code
// (RFC 2034 §4).
func enhancedCode(code int, text string) string {
	word, _, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || parts[0] != strconv.Itoa(code/100) {
		return ""
	}
	for _, p := range parts[1:] {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return ""
		}
	}
	return word
}

// arm sets the deadline for the next step, never after the end of the Send.
func (c *client) arm(wait time.Duration) error {
	t := time.Now().Add(wait)
	if !c.until.IsZero() && c.until.Before(t) {
		t = c.until
	}
	return c.conn.SetDeadline(t)
}

// interrupt makes whatever waits return; the context of the Send has ended.
func (c *client) interrupt() {
	_ = c.raw.Close()
}

// close ends the connection, politely if that takes no time.
func (c *client) close() {
	if c.conn.SetDeadline(time.Now().Add(quitTime)) == nil {
		_, _ = c.conn.Write([]byte(verbQuit + "\r\n")) // nobody waits for the 221
	}
	_ = c.conn.Close()
}
