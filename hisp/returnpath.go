package hisp

import "strings"

// fieldReturnPath is the field that final delivery adds, RFC 5321 §4.4.
const fieldReturnPath = "Return-Path"

// withReturnPath returns the mailbox copy of msg: one Return-Path line with the
// envelope sender, then msg octet for octet, so that what was signed can still
// be compared and verified. A Return-Path that msg has itself stays where it
// is: RFC 5321 §4.4 allows its removal, but here it is the author's and
// signed; ours is the first, which is the one that counts. A sender that no
// quoting can write (RFC 5321 §4.1.2) gets no line.
func withReturnPath(from Address, msg Message) Message {
	path := from.AddrSpec()
	if strings.ContainsFunc(path, isControl) {
		return msg
	}
	raw := make([]byte, 0, len(fieldReturnPath)+len(": <>\r\n")+len(path)+len(msg.raw))
	raw = append(raw, fieldReturnPath+": <"...)
	raw = append(raw, path...)
	raw = append(raw, ">\r\n"...)
	return NewMessage(append(raw, msg.raw...))
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
