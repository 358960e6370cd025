package imapd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of the clear-text phase.
const (
	maxClearLine     = 1000 // octets
	maxClearCommands = 50
	maxClearFaults   = 5
)

// Answers of the clear-text phase.
const (
	clearCaps = "IMAP4rev2 IMAP4rev1 LITERAL- STARTTLS LOGINDISABLED" // RFC 9051 §6.1.1, §6.2.1

	clearGreeting   = "* OK [CAPABILITY " + clearCaps + "] ready for STARTTLS"
	clearBye        = "* BYE logging out"
	clearByeTooMany = "* BYE too many commands before STARTTLS"
	notCommand      = "* BAD [CLIENTBUG] a command is a tag, a space and a name"

	clearUnknown   = "BAD [CLIENTBUG] before TLS there are CAPABILITY, NOOP, LOGOUT and STARTTLS"
	clearPrivate   = "NO [PRIVACYREQUIRED] use STARTTLS before you log in, or connect to the port for IMAP over TLS"
	clearArguments = "BAD [CLIENTBUG] this command has no arguments"
)

var (
	errNoTLS    = errors.New("imapd: ended before TLS")
	errInjected = errors.New("imapd: octets behind STARTTLS")
)

// upgrade speaks the clear-text phase and starts TLS. No password is looked
// at, whatever the client sends (security row T6), and what stands behind
// STARTTLS in clear text ends the connection (row T3, CVE-2011-0411).
func (s *Server) upgrade(c *conn) (*tls.Conn, bool, error) {
	if err := c.SetDeadline(c.deadline); err != nil {
		return nil, false, err
	}
	in := bufio.NewReaderSize(c, maxClearLine)
	if err := say(c, clearGreeting); err != nil {
		return nil, false, err
	}
	for commands, faults := 0, 0; ; commands++ {
		if commands == maxClearCommands || faults == maxClearFaults {
			_ = say(c, clearByeTooMany) // it ends either way
			return nil, false, errNoTLS
		}
		line, err := in.ReadSlice('\n')
		if err != nil { // a line beyond the limit too
			return nil, false, err
		}
		start, fault, err := clearCommand(c, line)
		if err != nil {
			return nil, false, err
		}
		if fault {
			faults++
		}
		if !start {
			continue
		}
		if in.Buffered() > 0 {
			return nil, false, errInjected
		}
		tc, err := s.startTLS(c)
		return tc, true, err
	}
}

// clearCommand answers one line. start tells that TLS begins now.
func clearCommand(w io.Writer, line []byte) (start, fault bool, err error) {
	tag, verb, ok := splitCommand(line)
	if !ok {
		return false, true, say(w, notCommand)
	}
	_, rest, _ := strings.Cut(strings.TrimRight(string(line), crlf+" "), " ")
	bare := strings.EqualFold(rest, verb)
	switch verb {
	case verbLogin, verbAuthenticate:
		err = say(w, tag+" "+clearPrivate)
		if _, nonSync, ok := announced(line); err == nil && ok && nonSync {
			err = errNoTLS // the literal behind it is no command
		}
		return false, true, err
	case verbCapability, verbNoop, verbLogout, verbStartTLS:
		if !bare {
			return false, true, say(w, tag+" "+clearArguments)
		}
	default:
		return false, true, say(w, tag+" "+clearUnknown)
	}
	switch verb {
	case verbCapability:
		err = say(w, "* CAPABILITY "+clearCaps)
	case verbLogout:
		err = say(w, clearBye)
	}
	if err == nil {
		err = say(w, fmt.Sprintf("%s OK %s completed", tag, verb))
	}
	if err == nil && verb == verbLogout {
		err = errNoTLS
	}
	return verb == verbStartTLS, false, err
}

func say(w io.Writer, line string) error {
	_, err := io.WriteString(w, line+crlf)
	return err
}
