package imapd

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of the gate. They stand below those of go-imap, so that its own
// handling of excess, after which it reads the rest of a line or a literal as
// commands, is never reached.
const (
	maxLinePreAuth    = 8 << 10  // octets of a command with its literals before login, RFC 2683 §3.2.1.5
	maxLine           = 48 << 10 // octets of a command line after login; go-imap stops at 50 KiB
	maxContinued      = 4000     // octets of a SASL answer; go-imap reads it into 4096
	maxTag            = 64       // octets
	maxSmallLiteral   = 4096     // octets of a literal that is not a message, and of any LITERAL- (RFC 7888 §5)
	maxCommandLiteral = 64 << 10 // octets of all literals of one command that is not APPEND
	maxFaults         = 10       // lines without tag and command before the connection ends
	commandTime       = 60 * time.Second
	flushAt           = 16 << 10 // octets of answers gathered before they are sent
	writeTime         = 30 * time.Second
	slowestPeer       = 8 << 10 // octets per second that a reader must take
)

// Names of commands that are treated apart, RFC 9051 §6 and RFC 3501 §6.3.9, in
// the form splitCommand gives them.
const (
	verbAppend       = "APPEND"
	verbAuthenticate = "AUTHENTICATE"
	verbCapability   = "CAPABILITY"
	verbClose        = "CLOSE"
	verbDelete       = "DELETE"
	verbIdle         = "IDLE"
	verbLogin        = "LOGIN"
	verbLogout       = "LOGOUT"
	verbLsub         = "LSUB"
	verbNoop         = "NOOP"
	verbRename       = "RENAME"
	verbSearch       = "SEARCH"
	verbStartTLS     = "STARTTLS"

	verbUID   = "UID"
	uidPrefix = verbUID + " " // of the UID form of a command
)

// Other wire strings the gate recognises or sends.
const (
	lineDone = "DONE"
	crlf     = "\r\n"

	textShutdown = "the server is going down, connect again later"
	textLong     = "a command line or literal is longer than this server takes"
	textNUL      = "a command must not hold NUL"
	textFaults   = "too many lines that are no commands"
	textLogins   = "too many wrong logins"
	textRest     = "a message literal must be the end of APPEND"

	// libraryBug is what go-imap answers when it could not read an argument;
	// errors of the session never have this text.
	libraryBug = " NO [SERVERBUG] Internal server error\r\n"
)

// errBye ends the parser without a line in its log.
var errBye = fmt.Errorf("imapd: connection ended by the gate: %w", net.ErrClosed)

// gate is the line discipline between the TLS connection and go-imap. It gives
// the parser one whole line at a time, so that it knows where commands start
// and end, refuses what is too long before it is parsed, and decides about
// literals: one that the parser refused is discarded here and never read as a
// command. It gathers answers until the parser waits for input.
//
// Read is called by one goroutine, Write by one or, during IDLE, by another.
type gate struct {
	net.Conn // the TLS connection
	peer     netip.Addr
	cert     *x509.Certificate // offered in the handshake, may be nil
	in       *bufio.Reader
	onClose  func()    // once, when go-imap has finished
	onLogin  func()    // once, after login
	deadline time.Time // absolute, until login

	line     []byte // being handed over
	literal  int64  // octets of a literal being handed over
	asked    int64  // octets of a literal that the parser may accept, or -1
	nonSync  bool   // the asked literal comes without waiting
	inside   bool   // the next line continues the command
	message  bool   // the literal of APPEND has been announced
	size     int64  // octets of the command's lines
	literals int64  // octets of its small literals
	faults   int
	search   smallerFix

	mu       sync.Mutex
	verb     string // of the command being handled, upper case, with "UID "
	tag      string
	out      []byte
	err      error // of the connection, sticky
	waiting  bool  // Read waits for the client between commands
	blocked  bool  // Read waits for the client
	announce bool  // a literal is announced and not settled
	accepted bool  // the parser asked for the literal
	answered bool  // the parser ended the command
	cont     bool  // the parser asked for one line: SASL or IDLE
	loggedIn bool
	closing  string // why the connection shall end
	mute     bool   // swallow the greeting, after STARTTLS
	closed   sync.Once
}

func newGate(c net.Conn, peer netip.Addr, deadline time.Time) *gate {
	return &gate{Conn: c, peer: peer, deadline: deadline, in: bufio.NewReaderSize(c, 1024), asked: -1}
}

// Read hands over the rest of a line or of a literal, or waits for more.
func (g *gate) Read(p []byte) (int, error) {
	for {
		if len(g.line) > 0 {
			n := copy(p, g.line)
			if g.line = g.line[n:]; len(g.line) == 0 {
				g.line = nil
			}
			return n, nil
		}
		if err := g.flush(); err != nil {
			return 0, err
		}
		if g.asked >= 0 {
			if err := g.settleLiteral(); err != nil {
				return 0, err
			}
			continue
		}
		if g.literal > 0 {
			return g.readLiteral(p)
		}
		if err := g.nextLine(); err != nil {
			return 0, err
		}
	}
}

// settleLiteral acts on what the parser did with an announced literal: it
// takes it, or it has ended the command and the literal is no input to it.
func (g *gate) settleLiteral() error {
	g.mu.Lock()
	accepted, answered := g.accepted, g.answered
	g.announce = false
	g.mu.Unlock()
	n := g.asked
	g.asked = -1
	switch {
	case answered && g.nonSync:
		return g.discard(n)
	case answered:
		g.inside = false
	case accepted || g.nonSync:
		g.literal, g.inside = n, true
	default:
		return g.bye(textLong) // the parser waits for more without having asked
	}
	return nil
}

// discard drops a refused literal and what is left of its command.
func (g *gate) discard(n int64) error {
	for {
		if _, err := io.CopyN(io.Discard, g.in, n); err != nil {
			return err
		}
		line, err := g.readLine(maxLine)
		if err != nil {
			return err
		}
		next, nonSync, ok := announced(line)
		if !ok || !nonSync {
			g.inside = false
			return nil
		}
		if next > maxSmallLiteral {
			return g.bye(textLong)
		}
		n = next
	}
}

func (g *gate) readLiteral(p []byte) (int, error) {
	if int64(len(p)) > g.literal {
		p = p[:g.literal]
	}
	g.setBlocked(true, false)
	n, err := g.in.Read(p)
	g.setBlocked(false, false)
	g.literal -= int64(n)
	return n, err
}

// nextLine reads one line and decides whether the parser may see it.
func (g *gate) nextLine() error {
	g.mu.Lock()
	continued := g.cont
	loggedIn := g.loggedIn
	g.cont = false
	g.mu.Unlock()
	limit := int64(maxLine)
	if !loggedIn {
		limit = maxLinePreAuth
	}
	if g.inside {
		limit -= g.size
	} else if continued {
		limit = maxContinued
	}
	line, err := g.readLine(max(limit, 2))
	if err != nil {
		return err
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return g.bye(textNUL) // RFC 9051 §4: NUL is no CHAR
	}
	if continued && !g.inside {
		g.line = canonicalDone(line, g.currentVerb())
		return nil
	}
	return g.admit(line, loggedIn)
}

// admit checks a command line or its continuation behind a literal.
func (g *gate) admit(line []byte, loggedIn bool) error {
	first := !g.inside
	if first {
		tag, verb, ok := splitCommand(line)
		if !ok {
			return g.fault()
		}
		g.size, g.literals, g.message = 0, 0, false
		g.begin(tag, verb)
	}
	if verb := g.currentVerb(); verb == verbSearch || verb == uidPrefix+verbSearch {
		line = []byte(g.search.line(string(line), first))
	}
	if g.size += int64(len(line)); g.size > maxLine {
		return g.bye(textLong)
	}
	isAppend := g.currentVerb() == verbAppend
	n, nonSync, ok := announced(line)
	if g.message && (ok || strings.Trim(string(line), ") \r\n") != "") {
		return g.bye(textRest) // MULTIAPPEND is not offered; go-imap would not answer at all
	}
	if !ok {
		g.inside = false
		g.line = line
		return nil
	}
	g.message = isAppend && loggedIn && !isMailboxLiteral(line, first)
	switch {
	case (!g.message || nonSync) && n > maxSmallLiteral:
		if nonSync || !first {
			return g.bye(textLong)
		}
		g.message = false
		return g.say(g.tag + " NO [TOOBIG] " + textLong + crlf) // RFC 7888 §3: the client waits and sends no literal
	case !g.message:
		g.literals += n
		if (!loggedIn && g.size+g.literals > maxLinePreAuth) || g.literals > maxCommandLiteral {
			return g.bye(textLong)
		}
	}
	g.mu.Lock()
	g.announce, g.accepted = true, false
	g.mu.Unlock()
	g.asked, g.nonSync, g.line = n, nonSync, line
	return nil
}

// isMailboxLiteral tells whether line ends in a literal that is the mailbox
// name of APPEND: nothing stands between the command and it.
func isMailboxLiteral(line []byte, first bool) bool {
	return first && len(bytes.Fields(line)) == 3
}

// begin notes a new command.
func (g *gate) begin(tag, verb string) {
	g.mu.Lock()
	g.tag, g.verb = tag, verb
	g.accepted, g.answered = false, false
	g.mu.Unlock()
}

func (g *gate) currentVerb() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verb
}

// fault answers a line that is no command. go-imap would drop the connection
// without a word.
func (g *gate) fault() error {
	if g.faults++; g.faults > maxFaults {
		return g.bye(textFaults)
	}
	return g.say(notCommand + crlf)
}

// readLine reads up to LF. The time for the line runs from its first octet.
func (g *gate) readLine(limit int64) ([]byte, error) {
	if reason := g.setBlocked(true, !g.inside); reason != "" {
		return nil, g.bye(reason)
	}
	defer g.setBlocked(false, false)
	if _, err := g.in.Peek(1); err != nil {
		return nil, err
	}
	g.setBlocked(true, false)
	if err := g.SetReadDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, err
	}
	var line []byte
	for {
		part, err := g.in.ReadSlice('\n')
		if int64(len(line)+len(part)) > limit {
			return nil, g.bye(textLong)
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}

// SetReadDeadline sets t, but never beyond the time for login.
func (g *gate) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	limit := g.deadline
	g.mu.Unlock()
	if !limit.IsZero() && (t.IsZero() || limit.Before(t)) {
		t = limit
	}
	return g.Conn.SetReadDeadline(t)
}

// SetWriteDeadline does nothing: the gate sets one for each write.
func (g *gate) SetWriteDeadline(time.Time) error { return nil }

// admitLogin ends the rules for strangers.
func (g *gate) admitLogin() {
	g.mu.Lock()
	g.loggedIn = true
	g.deadline = time.Time{}
	g.mu.Unlock()
	if g.onLogin != nil {
		g.onLogin()
	}
}

// setBlocked notes whether Read waits, and whether between commands. It tells
// why the connection shall end here, if it shall.
func (g *gate) setBlocked(blocked, waiting bool) (end string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blocked, g.waiting = blocked, waiting
	if waiting {
		return g.closing
	}
	return ""
}

// Write gathers one or more answers, or a piece of one.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	if g.mute {
		g.mute = false
		return len(p), nil
	}
	q := g.observe(p)
	if len(q) >= flushAt {
		if g.flushLocked() == nil {
			g.send(q)
		}
		return len(p), g.err
	}
	g.out = append(g.out, q...)
	if g.blocked || len(g.out) >= flushAt {
		return len(p), g.flushLocked()
	}
	return len(p), nil
}

// observe learns from an answer what the parser did. Every answer starts a
// write; a piece of a literal is either behind the start of its answer or
// longer than what is looked for here.
func (g *gate) observe(p []byte) []byte {
	if len(p) > maxTag+len(libraryBug)+256 || !bytes.HasSuffix(p, []byte(crlf)) {
		return p
	}
	switch {
	case bytes.HasPrefix(p, []byte("+ ")):
		if g.announce {
			g.accepted = true
		} else {
			g.cont = true
		}
	case g.tag != "" && bytes.HasPrefix(p, []byte(g.tag+" ")):
		g.answered = true
		if string(p) == g.tag+libraryBug {
			// RFC 9051 §7.1.3: arguments that cannot be read are BAD.
			return []byte(g.tag + " BAD [CLIENTBUG] an argument is not well formed" + crlf)
		}
	}
	return p
}

func (g *gate) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flushLocked()
}

func (g *gate) flushLocked() error {
	if len(g.out) == 0 || g.err != nil {
		return g.err
	}
	out := g.out
	g.out = nil
	g.send(out)
	return g.err
}

func (g *gate) send(p []byte) {
	allowed := writeTime + time.Duration(len(p)/slowestPeer)*time.Second
	if err := g.Conn.SetWriteDeadline(time.Now().Add(allowed)); err != nil {
		g.err = err
		return
	}
	_, g.err = g.Conn.Write(p)
}

// say sends an answer of the gate's own.
func (g *gate) say(text string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out = append(g.out, text...)
	return g.flushLocked()
}

// bye says why and ends the connection. It returns errBye.
func (g *gate) bye(text string) error {
	_ = g.say("* BYE " + text + crlf) // the connection ends either way
	g.mu.Lock()
	g.err = errBye
	g.mu.Unlock()
	_ = g.Conn.Close()
	return errBye
}

// shut asks the connection to end: at once between commands and in IDLE, else
// when the command has been answered.
func (g *gate) shut(reason string) {
	g.mu.Lock()
	if g.closing == "" {
		g.closing = reason
	}
	waiting := g.waiting
	g.mu.Unlock()
	if waiting {
		_ = g.bye(reason)
	}
}

// Close sends what is gathered and closes the connection.
func (g *gate) Close() error {
	_ = g.flush() // the peer may be gone
	err := g.Conn.Close()
	g.closed.Do(func() {
		if g.onClose != nil {
			g.onClose()
		}
	})
	return err
}

// splitCommand reads "tag SP command", with "UID SP command" as one name.
func splitCommand(line []byte) (tag, verb string, ok bool) {
	text := strings.TrimRight(string(line[:min(len(line), maxTag+64)]), crlf)
	tag, rest, ok := strings.Cut(text, " ")
	if !ok || tag == "" || len(tag) > maxTag || !isTag(tag) {
		return "", "", false
	}
	verb, rest, _ = strings.Cut(rest, " ")
	verb = strings.ToUpper(verb)
	if verb == verbUID {
		sub, _, _ := strings.Cut(rest, " ")
		verb = uidPrefix + strings.ToUpper(sub)
	}
	return tag, verb, verb != ""
}

// isTag follows RFC 9051 §9: any ASTRING-CHAR except "+".
func isTag(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`(){%*"\+`, c) >= 0 {
			return false
		}
	}
	return true
}

// announced reads the literal header at the end of a line: "{n}" or "{n+}".
func announced(line []byte) (n int64, nonSync, ok bool) {
	text := bytes.TrimRight(line, crlf)
	open := bytes.LastIndexByte(text, '{')
	if open < 0 || !bytes.HasSuffix(text, []byte("}")) {
		return 0, false, false
	}
	digits, nonSync := strings.CutSuffix(string(text[open+1:len(text)-1]), "+")
	v, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, false, false
	}
	return int64(v), nonSync, true
}

// canonicalDone lets DONE come in any case (RFC 9051 §6.3.13), which go-imap
// does not.
func canonicalDone(line []byte, verb string) []byte {
	if verb == verbIdle && strings.EqualFold(strings.TrimRight(string(line), crlf+" "), lineDone) {
		return []byte(lineDone + crlf)
	}
	return line
}
