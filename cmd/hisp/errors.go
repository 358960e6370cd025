package main

import (
	"errors"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

// hinted is an error with a sentence on what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// hint adds what to do to err; the command line prints it on a line of its own.
func hint(err error, what string) error { return hinted{err, what} }

// hintRunAs is for every file that this user may not touch.
const hintRunAs = "run the command as the user the node runs as"

// hintOf returns the outermost hint in err, or "".
func hintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return hisp.HintOf(err)
}

// kindTexts say a kind in a sentence's words where its name alone would not do.
var kindTexts = map[hisp.Kind]string{
	hisp.NotFound: "not found", hisp.Conflict: "in use or there already", hisp.Denied: "not allowed", hisp.Full: "no room",
	hisp.NoCertificate: "no usable certificate", hisp.NoKey: "no usable signing key",
}

// errorText is the text of err without its hint, which stands on its own line,
// and without the names of functions.
func errorText(err error) string {
	var e *hisp.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	text, ok := kindTexts[e.Kind]
	if !ok {
		text = e.Kind.Error()
	}
	if e.Err != nil {
		text += ": " + errorText(e.Err)
	}
	// What stands before and behind the node's own error is ours.
	return strings.Replace(err.Error(), e.Error(), text, 1)
}
