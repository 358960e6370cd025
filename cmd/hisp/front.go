package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal is the front of this process.
type terminal struct{ *os.File }

const maxSecret = 1024 // octets of a password

// Secret implements front. The prompt goes to the terminal and not to stdout.
func (t terminal) Secret(prompt string) (string, error) {
	fd := int(t.Fd())
	if !term.IsTerminal(fd) {
		return readLine(t.File)
	}
	fmt.Fprint(os.Stderr, prompt)
	secret, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr)
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
		return hint(fmt.Errorf("%s: permission denied", p.Path), "run the command as the user the node runs as")
	}
	return fmt.Errorf("%s: %w", p.Path, p.Err)
}
