package imapd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// FuzzSession sends arbitrary octets before login, after it and with a folder
// selected. Nothing may panic or hang, and no folder may get a name that a
// user could not have made.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"a CAPABILITY\r\nb NOOP\r\nc LOGOUT\r\n",
		"a LOGIN {3}\r\nabc {3+}\r\nabc\r\n",
		"a AUTHENTICATE PLAIN\r\n=\r\n",
		"a SELECT INBOX\r\nb FETCH 1:* (FLAGS UID ENVELOPE BODYSTRUCTURE BODY[] BODY.PEEK[1.2.HEADER.FIELDS (A B)]<1.2> BINARY[1])\r\n",
		"a UID SEARCH RETURN (SAVE ALL) OR (NOT SMALLER 5 SINCE 1-Jan-2026) HEADER {1+}\r\na b\r\nb UID FETCH $ ALL\r\n",
		"a APPEND INBOX (\\Seen kw) \"22-Nov-2026 10:00:00 +0000\" {5+}\r\na\r\n\r\n\r\nb STORE 1 -FLAGS.SILENT (\\Seen)\r\n",
		"a CREATE a/b (USE (\\Archive))\r\nb RENAME a c\r\nc LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (% *) RETURN (STATUS (MESSAGES SIZE DELETED-STORAGE))\r\n",
		"a MOVE 1:* Trash\r\nb COPY 1 Sent\r\nc UID EXPUNGE 1:9\r\nd CLOSE\r\n",
		"a IDLE\r\nDONE\r\nb ENABLE IMAP4rev2 UTF8=ACCEPT\r\nc EXAMINE inbox\r\nd EXPUNGE\r\ne UNSELECT\r\n",
		"a SEARCH ((((1)))) $ KEYWORD x LARGER 1 SUBJECT \"\\\"\"\r\n", "\x00\r\n", "{5+}\r\n", "a {1}\r\n\r\n", "* BAD\r\n+\r\n",
	} {
		for state := range byte(3) {
			f.Add(state, []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, state byte, input []byte) { fuzzSession(t, state%3, input) })
}

func fuzzSession(t *testing.T, state byte, input []byte) {
	mem := newMemStore()
	mem.addAccount(testAddress)
	for _, raw := range []string{plainMessage, nested} {
		if _, _, err := mem.Append(context.Background(), testAddress, "INBOX", hisp.NewMessage([]byte(raw)), nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	log := &lockedBuffer{}
	srv, err := New(Config{Auth: &testAuth{}, Store: mem, TLS: &tls.Config{}, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	feed := newFeed(near.LocalAddr())
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.parser().Serve(feed) }()
	g := newGate(far, netip.Addr{}, time.Now().Add(10*time.Second))
	done := make(chan struct{})
	g.onClose = func() { close(done) }
	feed.push(g)
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, near) }()
	prefix := []string{"", "p LOGIN " + testUser + " " + testPassword + "\r\n", "p LOGIN " + testUser + " " + testPassword + "\r\nq SELECT INBOX\r\n"}[state]
	near.SetWriteDeadline(time.Now().Add(4 * time.Second))
	if _, err := near.Write(append([]byte(prefix), input...)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the session does not read on")
	}
	near.Close()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the session does not end")
	}
	feed.close()
	<-served
	<-drained
	if bytes.Contains([]byte(log.String()), []byte("panic")) {
		t.Fatal(log.String())
	}
	folders, err := mem.ListFolders(context.Background(), testAddress)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if name, err := newName(folder.Name); err != nil || name != folder.Name {
			t.Fatalf("folder %q exists: %v", folder.Name, err)
		}
	}
	if strings.Contains(log.String(), "canary") {
		t.Fatal("the log names people")
	}
}
