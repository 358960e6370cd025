package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal is the front of this process: its standard input, with or without a
// terminal behind it. Waiting for a person ends when ctx does.
type terminal struct {
	ctx context.Context // of the process
	in  *os.File
}

const maxSecret = 1024 // octets of a password

// Read implements front. The reading that an interrupt leaves behind ends with
// the process.
func (t terminal) Read(p []byte) (int, error) {
	buf := make([]byte, len(p))
	n, err := interruptible(t.ctx, func() (int, error) { return t.in.Read(buf) })
	return copy(p, buf[:n]), err
}

// interruptible runs a call that cannot be cancelled and waits for it or for
// the end of ctx.
func interruptible[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := call()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, errInterrupted
	}
}

var errInterrupted = errors.New("interrupted")

// Secret implements front. The prompt goes to the terminal and not to stdout.
func (t terminal) Secret(prompt string) (string, error) {
	fd := int(t.in.Fd())
	state, err := term.GetState(fd)
	if err != nil { // no terminal
		return readLine(t)
	}
	fmt.Fprint(os.Stderr, prompt)
	secret, err := interruptible(t.ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(os.Stderr)
	if err != nil { // the echo is still off
		err = errors.Join(err, term.Restore(fd, state))
	}
	return string(secret), err
}

// readLine reads one line without reading beyond it, so that what follows is
// left for the next reader.
func readLine(r io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for len(line) <= maxSecret {
		n, err := r.Read(one)
		if n == 1 && one[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, one[:n]...)
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return string(line), nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("a line longer than %d octets", maxSecret)
}

// ReadFile implements front.
func (t terminal) ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(bufio.NewReader(f), maxFile+1))
	if err != nil {
		return nil, fileError(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d octets", path, maxFile)
	}
	return data, nil
}

// WriteFile implements front.
func (t terminal) WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fileError(err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// fileError says what is wrong with a file in the operator's words.
func fileError(err error) error {
	var p *fs.PathError
	if !errors.As(err, &p) {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: no such file", p.Path)
	case errors.Is(err, fs.ErrExist):
		return hint(fmt.Errorf("%s: exists already", p.Path), "nothing is overwritten; move it away or choose another name")
	case errors.Is(err, fs.ErrPermission):
		return hint(fmt.Errorf("%s: permission denied", p.Path), hintRunAs)
	}
	return fmt.Errorf("%s: %w", p.Path, p.Err)
}
