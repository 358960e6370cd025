package main

import (
	"errors"

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

// hintOf returns the outermost hint in err, or "".
func hintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return hisp.HintOf(err)
}
