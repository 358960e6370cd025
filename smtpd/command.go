package smtpd

import (
	"bufio"
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// readLine reads a line of at most limit octets with its line end. The error
// errLongLine leaves the rest of the line unread.
func (g *gate) readLine(limit int) ([]byte, error) {
	g.lineStart = time.Now()
	var line []byte
	for {
		part, err := g.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line)+len(part) > limit {
			return nil, errLongLine
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
	}
}

var errLongLine = errors.New("line too long")

// readCommand reads one line and either answers it or lets go-smtp have it.
func (g *gate) readCommand() error {
	if g.expect == expectAuth {
		return g.readAuthLine()
	}
	line, err := g.readLine(maxCommand)
	if errors.Is(err, errLongLine) {
		g.finish("500 5.5.2 a command line has at most " + strconv.Itoa(maxCommand) + " octets, closing")
		return nil
	}
	if err != nil {
		return err
	}
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || hasControl(text) {
		g.verb = ""
		g.say("500 5.5.2 a command line ends with CRLF and has no control characters")
		return nil
	}
	verb, arg, _ := strings.Cut(string(text), " ")
	return g.dispatch(strings.ToUpper(verb), strings.Trim(arg, " "))
}

// readAuthLine passes on an answer to a SASL challenge. One that is no line
// cancels the exchange.
func (g *gate) readAuthLine() error {
	line, err := g.readLine(maxAuthLine)
	if errors.Is(err, errLongLine) {
		g.finish("500 5.5.6 the authentication exchange line is too long, closing")
		return nil
	}
	if err != nil {
		return err
	}
	g.expect = expectCommand
	if text, ok := bytes.CutSuffix(line, []byte("\r\n")); !ok || hasControl(text) {
		line = []byte("*\r\n") // RFC 4954 §4: go-smtp answers 501
	}
	g.line = line
	return nil
}

func hasControl(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return true
		}
	}
	return false
}

// Commands, RFC 5321 §4.1.1, RFC 3207 §4, RFC 4954 §4 and RFC 3030 §2.
const (
	verbEHLO     = "EHLO"
	verbHELO     = "HELO"
	verbStartTLS = "STARTTLS"
	verbAuth     = "AUTH"
	verbMail     = "MAIL"
	verbRcpt     = "RCPT"
	verbData     = "DATA"
	verbBDAT     = "BDAT"
	verbReset    = "RSET"
	verbNoop     = "NOOP"
	verbVerify   = "VRFY"
	verbExpand   = "EXPN"
	verbHelp     = "HELP"
	verbQuit     = "QUIT"

	lastChunk = "LAST" // of BDAT
	paramSize = "SIZE" // of MAIL, RFC 1870 §3
)

// Reply codes the gate looks for in what go-smtp says, RFC 5321 §4.2.3 and
// RFC 4954 §4 and §6.
const (
	codeOK        = "250"
	codeContinue  = "334" // of AUTH
	codeStartMail = "354"
	codeClosing   = "421"
	codeBadLogin  = "535"
)

const textInternal = "internal error, try again later"

const (
	replyNeedTLS   = "530 5.7.0 Must issue a STARTTLS command first"
	replyNeedHelo  = "503 5.5.1 say EHLO first"
	replyInChunks  = "503 5.5.1 not between BDAT chunks; send the last one or RSET"
	replyNoAuth    = "502 5.5.1 no AUTH here; use the submission port"
	replyNeedRcpt  = "503 5.5.1 send MAIL and RCPT first"
	replyNoCommand = "500 5.5.2 command not recognised"
)

// dispatch checks what go-smtp does not and passes the command on.
func (g *gate) dispatch(verb, arg string) error {
	g.verb = verb
	switch verb {
	case verbMail, verbRcpt, verbData, verbBDAT, verbQuit:
	default:
		if g.idle++; g.idle > g.srv.cfg.Limits.Idle {
			g.finish(codeClosing + " 4.7.0 " + g.srv.cfg.Hostname + " too many commands without a message, closing")
			return nil
		}
	}
	switch verb {
	case verbEHLO, verbHELO:
		return g.hello(arg)
	case verbStartTLS:
		return g.startTLS(arg)
	case verbAuth:
		return g.auth(arg)
	case verbBDAT:
		return g.readChunk(arg)
	case verbMail, verbRcpt, verbData:
		switch {
		case g.helo == "":
			g.say(replyNeedHelo)
		case g.body.chunked:
			g.say(replyInChunks)
		case verb == verbMail && tooLarge(arg, g.srv.cfg.Limits.MessageOctets):
			g.say(g.refuseSize("declared size over the limit", senderIn(arg)))
		default:
			g.forward(arg)
		}
	case verbReset, verbNoop, verbVerify, verbExpand, verbHelp, verbQuit:
		g.forward("") // their arguments change nothing
	default:
		g.verb = ""
		g.say(replyNoCommand)
	}
	return nil
}

// forward lets go-smtp read the command in its canonical spelling.
func (g *gate) forward(arg string) {
	if arg != "" {
		arg = " " + arg
	}
	g.line = []byte(g.verb + arg + "\r\n")
}

func (g *gate) hello(arg string) error {
	name, _, _ := strings.Cut(arg, " ")
	if name == "" || len(name) > 255 {
		g.say("501 5.5.4 EHLO and HELO need your host name")
		return nil
	}
	g.offered = name
	g.forward(name)
	return nil
}

func (g *gate) startTLS(arg string) error {
	switch {
	case arg != "":
		g.say("501 5.5.4 STARTTLS takes no argument")
	case g.tls != nil:
		g.say("503 5.5.1 TLS is active")
	case g.r.Buffered() > 0:
		// Threat T3: whatever came with STARTTLS was not protected.
		g.srv.audit(g, hisp.Tampered, "", "commands before the TLS handshake", hisp.AuditPrivate{})
		g.finish("554 5.5.1 nothing may follow STARTTLS before the handshake, closing")
	default:
		g.say("220 2.0.0 ready to start TLS")
		if err := g.flush(); err != nil {
			return err
		}
		return g.handshake()
	}
	return nil
}

func (g *gate) auth(arg string) error {
	switch {
	case g.srv.sub == nil:
		g.say(replyNoAuth)
	case g.tls == nil:
		// Threat T6: refused without looking at the password.
		g.srv.audit(g, hisp.Denied, "", "AUTH before TLS", hisp.AuditPrivate{})
		g.say(replyNeedTLS)
	case g.helo == "":
		g.say(replyNeedHelo)
	case g.body.chunked || g.sess.open:
		g.say("503 5.5.1 not within a message") // RFC 4954 §4
	default:
		g.forward(arg)
	}
	return nil
}

// tooLarge finds a declared SIZE over the limit, of any number of digits
// (RFC 1870 §6.1). What is no number is left to go-smtp.
func tooLarge(arg string, limit int64) bool {
	fields := strings.Fields(arg)
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		if !strings.EqualFold(key, paramSize) || value == "" || strings.Trim(value, "0123456789") != "" {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		return err != nil || n > limit
	}
	return false
}

// senderIn reads the sender from the argument of a MAIL that go-smtp does not
// get to see, for the audit; zero if there is none to be read.
func senderIn(arg string) hisp.Address {
	_, path, _ := strings.Cut(arg, "<")
	path, _, _ = strings.Cut(path, ">")
	from, err := hisp.ParseAddress(path)
	if err != nil {
		return hisp.Address{}
	}
	return from
}

// refuseSize records a message over the size limit (row AU-01) and returns the
// reply. The sender is that of the message under way unless from names another.
func (g *gate) refuseSize(detail string, from hisp.Address) string {
	var p hisp.AuditPrivate
	if g.sess != nil {
		p = g.sess.private()
	}
	if !from.IsZero() {
		p.From = from
	}
	if err := g.srv.audit(g, hisp.TooLarge, g.srv.otherSide(p), detail, p); err != nil {
		return codes(hisp.Internal).line(textInternal)
	}
	return g.srv.replyTooLarge()
}

// readChunk takes one BDAT chunk (RFC 3030 §2). The octets follow whatever the
// answer is, so a count that cannot be read ends the session.
func (g *gate) readChunk(arg string) error {
	size, last, ok := parseChunk(arg)
	if !ok {
		g.finish("501 5.5.4 BDAT needs an octet count and perhaps LAST, closing")
		return nil
	}
	ready := g.helo != "" && g.sess != nil && g.sess.ready()
	if ready && !g.body.chunked {
		g.body.begin(g)
		g.body.chunked = true
	}
	if !ready {
		g.body.discard(g)
	}
	g.body.reading = true
	err := g.body.readN(g, size)
	g.body.reading = false
	switch {
	case errors.Is(err, errFlood):
		g.finish(g.refuseSize("content far over the size limit", hisp.Address{}) + ", closing")
		return nil
	case err != nil:
		return err
	case !ready:
		g.body.drop(g)
		g.say(replyNeedRcpt)
	case last:
		g.body.finish()
		g.verb, g.muted = verbData, codeStartMail // go-smtp ends both kinds the same way
		g.forward("")
	case g.body.verdict != verdictOK:
		g.say(g.srv.verdictReply(g, g.body.verdict))
		g.body.drop(g)
		g.verb, g.muted = verbReset, codeOK // RFC 3030 §2: the transaction is over
		g.forward("")
	default:
		g.say("250 2.0.0 " + strconv.FormatInt(size, 10) + " octets received")
	}
	return nil
}

func parseChunk(arg string) (size int64, last, ok bool) {
	count, rest, more := strings.Cut(arg, " ")
	if count == "" || len(count) > 18 || strings.Trim(count, "0123456789") != "" {
		return 0, false, false
	}
	if more && !strings.EqualFold(strings.TrimLeft(rest, " "), lastChunk) {
		return 0, false, false
	}
	size, err := strconv.ParseInt(count, 10, 64)
	return size, more, err == nil
}

// readData reads what follows a 354 up to CRLF.CRLF, which alone ends content
// (threat T1), and gives go-smtp an empty message in its place.
func (g *gate) readData() error {
	if !g.body.chunked {
		g.body.begin(g)
		err := g.body.readDotted(g)
		if errors.Is(err, errFlood) {
			g.finish(g.refuseSize("content far over the size limit", hisp.Address{}) + ", closing")
			return nil
		}
		if err != nil {
			return err
		}
		g.body.finish()
	}
	g.expect = expectCommand
	g.line = []byte(".\r\n")
	return nil
}

// errFlood ends a session whose content goes far beyond the limit.
var errFlood = errors.New("content far over the limit")
