package hisp

import (
	"errors"
	"strings"
)

// Kind is the one error vocabulary of the node. A Kind is itself an error, so
// errors.Is(err, hisp.Untrusted) works. Each edge renders kinds to its own
// codes in exactly one table.
type Kind uint8

const (
	Internal         Kind = iota // our fault; the zero value
	Malformed                    // the bytes break their format
	TooLarge                     // a limit was exceeded
	UnknownRecipient             // no such address or domain
	NoCertificate                // no certificate was found, or none is usable
	Untrusted                    // no path to an anchor, or not bound to the name
	CannotDecrypt                // any reason at all: one outcome, no oracle
	BadSignature                 // unsigned, altered or signed in a way we refuse
	Tampered                     // envelope and inner header disagree
	Unprotected                  // not packaged as the security model demands
	NoKey                        // the sender has no usable signing key
	Denied                       // not allowed, or wrong credentials
	Throttled                    // too many tries
	Full                         // no room in a mailbox or on the disk
	NotFound                     // no such record
	Conflict                     // changed by another, or locked
	Temporary                    // try again later
	Refused                      // a peer said no for good
)

var kindNames = [...]string{
	"internal", "malformed", "too large", "unknown recipient", "no certificate", "untrusted",
	"cannot decrypt", "bad signature", "tampered", "unprotected", "no key", "denied", "throttled",
	"full", "not found", "conflict", "temporary", "refused",
}

// Error returns the kind's name.
func (k Kind) Error() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown kind"
}

// Error is what every part of the node returns across its boundary.
type Error struct {
	Op   string // "package.Function"
	Kind Kind
	Hint string // what is wrong and what to do; safe to show to the peer, never PHI
	Err  error  // cause, for our log only; may be nil
}

// Error returns "op: kind: hint: cause" without the empty parts.
func (e *Error) Error() string {
	parts := make([]string, 0, 4)
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	parts = append(parts, e.Kind.Error())
	if e.Hint != "" {
		parts = append(parts, e.Hint)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// KindOf returns the Kind of the outermost *Error or Kind in err; Internal if
// there is none. KindOf(nil) is Internal too: do not ask.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}

// HintOf returns the Hint of the outermost *Error in err that has one, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
