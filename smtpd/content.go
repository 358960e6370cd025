package smtpd

import (
	"bufio"
	"bytes"
	"errors"
	"strconv"
	"time"

	"github.com/hispnode/hisp/hisp"
)

const (
	firstBuffer = 32 << 10 // octets held for content before any has come
	drainExtra  = 8 << 20  // octets over the limit that are read to be able to answer
)

// verdict is why content cannot be accepted.
type verdict uint8

const (
	verdictOK verdict = iota
	verdictTooLarge
	verdictBadOctet // bare CR, bare LF or NUL
	verdictNoRoom
)

// content is one message as it arrives: our Received field, then octet for
// octet what the peer sends. Content that cannot be accepted is read to its
// end and not kept.
type content struct {
	buf     []byte
	octets  int64 // from the peer, kept or not
	held    int64 // of the server's budget
	lint    lint
	verdict verdict
	began   time.Time
	chunked bool // by BDAT
	reading bool // a chunk is being read
	whole   bool
}

// begin starts the content of the session's message.
func (c *content) begin(g *gate) {
	*c = content{began: time.Now()}
	trace := g.sess.trace()
	if !g.srv.budget.take(firstBuffer) {
		c.verdict = verdictNoRoom
		return
	}
	c.held = firstBuffer
	c.buf = append(make([]byte, 0, firstBuffer), trace...)
}

// discard starts content that nobody wants.
func (c *content) discard(g *gate) {
	c.drop(g)
	c.began, c.verdict = time.Now(), verdictTooLarge
}

// drop forgets the content and gives its memory back.
func (c *content) drop(g *gate) {
	g.srv.budget.give(c.held)
	*c = content{}
}

func (c *content) refuse(g *gate, v verdict) {
	if c.verdict == verdictOK {
		c.verdict = v
	}
	g.srv.budget.give(c.held)
	c.held, c.buf = 0, nil
}

// add takes the next octets, without dots of the protocol.
func (c *content) add(g *gate, b []byte) error {
	c.octets += int64(len(b))
	limit := g.srv.cfg.Limits.MessageOctets
	switch {
	case c.octets > limit+drainExtra:
		return errFlood
	case c.verdict != verdictOK:
		return nil
	case c.octets > limit:
		c.refuse(g, verdictTooLarge)
		return nil
	case !c.lint.ok(b):
		c.refuse(g, verdictBadOctet)
		return nil
	}
	if need := int64(len(c.buf) + len(b)); need > c.held {
		more := max(need, 2*c.held) - c.held
		if !g.srv.budget.take(more) {
			c.refuse(g, verdictNoRoom)
			return nil
		}
		c.held += more
		c.buf = append(make([]byte, 0, c.held), c.buf...)
	}
	c.buf = append(c.buf, b...)
	return nil
}

// finish marks the content complete. BDAT content may lack the last line end,
// which a message has.
func (c *content) finish() {
	c.whole = true
	if c.verdict != verdictOK {
		return
	}
	if c.lint.cr {
		c.verdict = verdictBadOctet
		return
	}
	if !bytes.HasSuffix(c.buf, []byte("\r\n")) {
		c.buf = append(c.buf, "\r\n"...)
	}
}

// readDotted reads up to CRLF.CRLF and removes the dots of RFC 5321 §4.5.2. A
// line begins after CRLF and nothing else.
func (c *content) readDotted(g *gate) error {
	atStart, cr := true, false
	for {
		part, err := g.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		n := len(part)
		if atStart && n == 3 && part[0] == '.' && part[1] == '\r' && part[2] == '\n' {
			return nil
		}
		ended := err == nil && (n > 1 && part[n-2] == '\r' || n == 1 && cr)
		cr = part[n-1] == '\r'
		if atStart && part[0] == '.' {
			part = part[1:]
		}
		if err := c.add(g, part); err != nil {
			return err
		}
		atStart = ended
	}
}

// readN reads a chunk of n octets.
func (c *content) readN(g *gate, n int64) error {
	for n > 0 {
		want := int(min(n, int64(g.r.Size())))
		if got := g.r.Buffered(); got > 0 {
			want = min(want, got)
		} else {
			want = 1
		}
		part, err := g.r.Peek(want)
		if err != nil {
			return err
		}
		if b := int64(g.r.Buffered()); want == 1 && b > 1 {
			part, _ = g.r.Peek(int(min(n, b))) // it is there
		}
		if err := c.add(g, part); err != nil {
			return err
		}
		if _, err := g.r.Discard(len(part)); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

// lint looks for CR without LF, LF without CR and NUL, over any split. RFC 5321
// §2.3.8 forbids the first two, RFC 5322 §4 the third; all of them mean
// different things to different next hops (threat T1).
type lint struct{ cr bool }

func (l *lint) ok(b []byte) bool {
	if bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	for len(b) > 0 {
		if l.cr {
			if b[0] != '\n' {
				return false
			}
			l.cr, b = false, b[1:]
			continue
		}
		lf := bytes.IndexByte(b, '\n')
		line := b
		if lf >= 0 {
			line = b[:lf]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case lf < 0 && cr < 0:
			return true
		case cr < 0 || cr != len(line)-1:
			return false
		case lf < 0:
			l.cr = true
			return true
		}
		b = b[lf+1:]
	}
	return true
}

// maxHops is how many Received fields mean a loop (RFC 5321 §6.3 wants at
// least 100 before a rejection; threat E1 asks for 50, and no Direct path is
// longer than a few).
const maxHops = 50

// hops counts the Received fields of a header.
func hops(msg []byte) int {
	field := []byte("received:")
	n := 0
	for len(msg) > 0 && !bytes.HasPrefix(msg, []byte("\r\n")) {
		if len(msg) >= len(field) && bytes.EqualFold(msg[:len(field)], field) {
			n++
		}
		next := bytes.IndexByte(msg, '\n')
		if next < 0 {
			break
		}
		msg = msg[next+1:]
	}
	return n
}

func (s *Server) replyTooLarge() string {
	return codes(hisp.TooLarge).line("a message has at most " + strconv.FormatInt(s.cfg.Limits.MessageOctets, 10) + " octets here")
}

// verdictReply is the answer to content that the gate refused.
func (s *Server) verdictReply(g *gate, v verdict) string {
	kind, detail := hisp.Malformed, "bare CR, bare LF or NUL in content"
	reply := codes(kind).line("the message has a bare CR, a bare LF or a NUL; lines end with CRLF only")
	switch v {
	case verdictTooLarge:
		kind, detail, reply = hisp.TooLarge, "content over the size limit", s.replyTooLarge()
	case verdictNoRoom:
		kind, detail = hisp.Full, "no memory for content"
		reply = codes(kind).line("no room for this message now, try again later")
	}
	if err := g.sess.auditMessage(kind, detail); err != nil {
		return codes(hisp.Internal).line(textInternal)
	}
	return reply
}
