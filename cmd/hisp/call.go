package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/hispnode/hisp/hisp"
)

// call is one run of a command: what it may read, write and work on.
type call struct {
	ctx            context.Context
	args           []string // without flags
	front          front    // the person or program that called
	stdout, stderr io.Writer
	dir            string // working folder of the caller
	config         config
	configPath     string
	*backend       // nil unless the command needs the store
}

// front is the side of the caller, who may sit in another process: standard
// input, files and the terminal are theirs, with their rights.
type front interface {
	io.Reader
	// Secret asks for a password without echo, or reads a line when there is
	// no terminal.
	Secret(prompt string) (string, error)
	// ReadFile reads a file of at most maxFile octets.
	ReadFile(path string) ([]byte, error)
	// WriteFile creates a file that only its owner may read; one that exists
	// is an error.
	WriteFile(path string, data []byte) error
}

// maxFile bounds the files that commands read: keys, certificates, attachments.
const maxFile = 64 << 20

// path makes the name of a file or folder absolute for the caller.
func (c *call) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, name)
}

// argN checks that the arguments are those named: the usage error says what is
// missing.
func (c *call) argN(names ...string) error {
	switch {
	case len(c.args) < len(names):
		return usagef("missing %s", strings.Join(names[len(c.args):], " and "))
	case len(c.args) > len(names):
		return usagef("unexpected argument %q", c.args[len(names)])
	}
	return nil
}

// address reads the argument i as a Direct address.
func (c *call) address(i int) (hisp.Address, error) {
	addr, err := hisp.ParseAddress(c.args[i])
	if err != nil {
		return addr, usagef("%q is not an address: %s", c.args[i], hisp.HintOf(err))
	}
	return addr, nil
}

// domain reads the argument i as a domain.
func (c *call) domain(i int) (hisp.Domain, error) {
	d, err := hisp.ParseDomain(c.args[i])
	if err != nil {
		return d, usagef("%q is not a domain", c.args[i])
	}
	return d, nil
}

// printf writes to stdout what the command was asked for.
func (c *call) printf(format string, args ...any) { fmt.Fprintf(c.stdout, format, args...) }

// notef writes to stderr what a person may want to know.
func (c *call) notef(format string, args ...any) { fmt.Fprintf(c.stderr, format, args...) }

// json prints v for a program.
func (c *call) json(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows under a heading.
func (c *call) table(heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(heading, "\t")))
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// admin runs an act of an operator that changes something, audited, one at a
// time, so that what it read is still true when it writes.
func (c *call) admin(what string, domain hisp.Domain, account hisp.Address, act func() error) error {
	return c.audited(what, domain, account, func() error {
		c.adminLock.Lock()
		defer c.adminLock.Unlock()
		return act()
	})
}

// audited is backend.audited for the caller.
func (c *call) audited(what string, domain hisp.Domain, account hisp.Address, act func() error) error {
	return c.backend.audited(c.ctx, what, domain, account, act)
}

// disclosing records that an operator is shown names of people, before they are
// shown. what is constant text and perhaps the ID of the message.
func (c *call) disclosing(what string) error {
	return c.audited(what, "", hisp.Address{}, func() error { return nil })
}
