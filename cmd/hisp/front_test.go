package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// Ctrl-C ends a command that waits for its input.
func TestTerminal_interrupted(t *testing.T) {
	r, _ := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	front := terminal{ctx, r}
	if _, err := front.Secret("password: "); !errors.Is(err, errInterrupted) {
		t.Errorf("Secret: %v, want interrupted", err)
	}
	if _, err := io.ReadAll(front); !errors.Is(err, errInterrupted) {
		t.Errorf("Read: %v, want interrupted", err)
	}
}

// A password takes one line of standard input; the rest is for who reads next.
func TestTerminal_lines(t *testing.T) {
	r, w := pipe(t)
	if _, err := w.WriteString("first\r\nsecond\nthe rest\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	front := terminal{t.Context(), r}
	for _, want := range []string{"first", "second"} {
		if got, err := front.Secret(""); got != want || err != nil {
			t.Errorf("Secret = %q, %v; want %q", got, err, want)
		}
	}
	rest, err := io.ReadAll(front)
	if string(rest) != "the rest\n" || err != nil {
		t.Errorf("left is %q, %v", rest, err)
	}
	if _, err := front.Secret(""); !errors.Is(err, io.EOF) {
		t.Errorf("Secret at the end: %v, want EOF", err)
	}
	if _, err := readLine(strings.NewReader(strings.Repeat("x", maxSecret+2))); err == nil {
		t.Error("a line without end is accepted")
	}
}

func TestTerminal_files(t *testing.T) {
	front := terminal{t.Context(), os.Stdin}
	name := t.TempDir() + "/f"
	if err := front.WriteFile(name, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if err := front.WriteFile(name, []byte("y")); err == nil || hintOf(err) == "" {
		t.Errorf("overwriting: %v, want an error with a hint", err)
	}
	if got, err := front.ReadFile(name); string(got) != "x" || err != nil {
		t.Errorf("ReadFile = %q, %v", got, err)
	}
	if err := os.Truncate(name, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := front.ReadFile(name); err == nil {
		t.Error("a file beyond the limit is read")
	}
}
