package imapd

import (
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/hispnode/hisp/hisp"
)

// Response codes that go-imap has no constant for.
const (
	codeExpungeIssued imap.ResponseCode = "EXPUNGEISSUED" // RFC 5530 §3
	codeUseAttr       imap.ResponseCode = "USEATTR"       // RFC 6154 §3
)

// answer is what a client is told about one kind of error.
type answer struct {
	code imap.ResponseCode
	text string
}

// answerOf is the one table from the node's errors to IMAP response codes
// (RFC 5530, RFC 9051 §7.1). A Hint takes the place of the text.
func answerOf(k hisp.Kind) answer {
	switch k {
	case hisp.Malformed:
		return answer{imap.ResponseCodeCannot, "this cannot be stored as it is"}
	case hisp.TooLarge:
		return answer{imap.ResponseCodeTooBig, "this is larger than the server takes"}
	case hisp.Denied, hisp.Refused:
		return answer{imap.ResponseCodeNoPerm, "this is not allowed"}
	case hisp.Throttled:
		return answer{imap.ResponseCodeLimit, "too many tries, wait some minutes"}
	case hisp.Full:
		return answer{imap.ResponseCodeOverQuota, "there is no room left, delete messages first"}
	case hisp.NotFound:
		return answer{imap.ResponseCodeNonExistent, "there is no such folder"}
	case hisp.Conflict:
		return answer{imap.ResponseCodeAlreadyExists, "a folder of this name exists already"}
	case hisp.Temporary:
		return answer{imap.ResponseCodeUnavailable, "the server cannot do this now, try again later"}
	}
	return answer{imap.ResponseCodeServerBug, "the server failed and has logged why"}
}

// refuse renders err for the client and logs what is our fault.
func (s *session) refuse(op string, err error) error {
	if err == nil {
		return nil
	}
	kind := hisp.KindOf(err)
	a := answerOf(kind)
	switch a.code {
	case imap.ResponseCodeServerBug:
		s.srv.log.Error("imap command failed", "op", op, "kind", kind.Error(), "err", err)
	case imap.ResponseCodeUnavailable:
		s.srv.log.Warn("imap command put off", "op", op, "kind", kind.Error(), "err", err)
	default:
		if hint := hisp.HintOf(err); hint != "" {
			a.text = hint
		}
	}
	return no(a.code, a.text)
}

// no is a refusal with a code.
func no(code imap.ResponseCode, text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: oneLine(text)}
}

// bad is a client's mistake.
func bad(text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeBad, Code: imap.ResponseCodeClientBug, Text: oneLine(text)}
}

// oneLine keeps a text within its response line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
}
