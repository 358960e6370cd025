package main

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// The folder of a demo can be used again: both nodes go on with their stores.
func TestDemo_sameFolderAgain(t *testing.T) {
	dir := shortFile(t) // sockets are in it
	demo := func() (int, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"demo", "-once", "-dir", dir}, terminal{ctx: t.Context()}, &out, &errs)
		return code, out.String() + errs.String()
	}
	for _, begin := range []string{"Setting up two HISPs", "Going on with the two HISPs"} {
		code, said := demo()
		if code != exitOK || !strings.HasPrefix(said, begin) || !strings.Contains(said, "the exchange is complete") {
			t.Fatalf("exit %d, want 0 and %q:\n%s", code, begin, said)
		}
	}
	// A demo that is still running is not disturbed.
	l, err := net.Listen("unix", filepath.Join(dir, "clinic", "data", controlSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if code, said := demo(); code != exitFailed || !strings.Contains(said, "is running") {
		t.Errorf("beside a running one: exit %d\n%s", code, said)
	}
}
