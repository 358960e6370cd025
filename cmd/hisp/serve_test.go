package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A SIGHUP that comes while the node starts does not end it. The start waits
// for its master key, which is a pipe.
func TestServe_hangupDuringStart(t *testing.T) {
	dir := t.TempDir()
	config, key := filepath.Join(dir, configDefault), filepath.Join(dir, "master.key")
	if err := syscall.Mkfifo(key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("hostname = \"mail.a.example\"\nmaster_key_file = \"master.key\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"-config", config, "serve"}, terminal{ctx: t.Context()}, &out, &errs)
	}()
	pipe, err := os.OpenFile(key, os.O_WRONLY, 0) // when serve reads
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil { // without a handler this is the end of the test
		t.Fatal(err)
	}
	if err := pipe.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != exitFailed || !strings.Contains(errs.String(), "master") {
		t.Errorf("exit %d, stderr %s; want %d and a complaint about the key", got, errs.String(), exitFailed)
	}
}
