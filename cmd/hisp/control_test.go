package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// serveBackend runs a control server over b in dir until the returned function
// is called, which waits for all commands.
func serveBackend(t *testing.T, dir string, b *backend) (stop func()) {
	t.Helper()
	l, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cfg := &config{path: filepath.Join(dir, "hisp.toml"), Data: dir}
	s := &controlServer{config: func() *config { return cfg }, backend: b, log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.serve(ctx, l) }()
	stop = func() {
		t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("serve did not end")
		}
		done <- nil
	}
	t.Cleanup(stop)
	return stop
}

// testNode is an initialised node's folder and backend with the domain a.example.
func testNode(t *testing.T) (dir string, b *backend) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hisp") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, store.NewMasterKey().Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "d")
	cfg := defaults()
	cfg.Data, cfg.MasterKeyFile, cfg.Hostname = data, key, "h.example"
	if b, err = makeBackend(cfg, slog.New(slog.DiscardHandler), time.Now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.store.AddDomain(t.Context(), store.Domain{Name: "a.example"}); err != nil {
		t.Fatal(err)
	}
	return data, b
}

func dialControl(t *testing.T, dir string, req controlRequest) *frames {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(dir, controlSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &frames{conn: conn}
	if err := f.sendJSON(frameRequest, req); err != nil {
		t.Fatal(err)
	}
	return f
}

func request(argv ...string) controlRequest {
	return controlRequest{controlProtocol, version(), argv, "/"}
}

// expect reads frames until one of the kind comes and returns its payload and
// what was written to stderr before.
func expect(t *testing.T, f *frames, kind frameKind) (payload []byte, stderr string) {
	t.Helper()
	var said bytes.Buffer
	for {
		got, payload, err := f.receive()
		if err != nil {
			t.Fatalf("no frame %c: %v; stderr %s", kind, err, said.String())
		}
		if got == frameStderr {
			said.Write(payload)
		}
		if got == kind {
			return payload, said.String()
		}
	}
}

// A caller that goes away while the command waits for it ends the command and
// leaves nothing locked.
func TestControl_callerGoesAway(t *testing.T) {
	dir, b := testNode(t)
	stop := serveBackend(t, dir, b)
	f := dialControl(t, dir, request("account", "add", "bob@a.example"))
	expect(t, f, frameSecret)
	f.conn.Close()

	f = dialControl(t, dir, request("account", "add", "eve@a.example", "-generate"))
	if code, said := expect(t, f, frameExit); string(code) != "0" {
		t.Errorf("the next command ended with %s: %s", code, said)
	}
	stop()
	accounts, err := b.store.ListAccounts(t.Context(), "")
	if err != nil || len(accounts) != 1 {
		t.Errorf("%d accounts, %v; want eve's only", len(accounts), err)
	}
}

// A node that stops does not wait for a person who types.
func TestControl_nodeStopsWhileAsking(t *testing.T) {
	dir, b := testNode(t)
	stop := serveBackend(t, dir, b)
	f := dialControl(t, dir, request("account", "add", "bob@a.example"))
	expect(t, f, frameSecret)
	stop()
}

// A bug in a command must not end the node.
func TestControl_panic(t *testing.T) {
	dir := filepath.Dir(shortFile(t))
	serveBackend(t, dir, &backend{clock: time.Now})
	for range 2 {
		f := dialControl(t, dir, request("domain", "list"))
		code, said := expect(t, f, frameExit)
		if string(code) != "1" || !strings.Contains(said, "its log says more") {
			t.Errorf("exit %s, stderr %q", code, said)
		}
	}
}

// tiredListener has nothing left to accept with, as often as errs says, before
// it goes on.
type tiredListener struct {
	net.Listener
	errs []error
}

func (l *tiredListener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return l.Listener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", err)}
}

// A node without a file descriptor to spare goes on, and so does its control
// socket when there is one again.
func TestControl_acceptErrorsPass(t *testing.T) {
	dir, b := testNode(t)
	inner, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &tiredListener{inner, []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOBUFS, syscall.ENOMEM}}
	cfg := &config{path: filepath.Join(dir, "hisp.toml"), Data: dir}
	var logged bytes.Buffer
	s := &controlServer{config: func() *config { return cfg }, backend: b, log: slog.New(slog.NewTextHandler(&logged, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, l) }()
	if code, said := expect(t, dialControl(t, dir, request("domain", "list")), frameExit); string(code) != "0" {
		t.Errorf("exit %s, stderr %q", code, said)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if !strings.Contains(logged.String(), "cannot accept") {
		t.Errorf("logged %q, want that it cannot accept", logged.String())
	}
}

// A listener that was closed by somebody else accepts nothing ever again.
func TestControl_closedListenerEndsIt(t *testing.T) {
	dir, b := testNode(t)
	l, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := &controlServer{backend: b, log: slog.New(slog.DiscardHandler)}
	if err := s.serve(t.Context(), l); err == nil {
		t.Error("serve on a closed listener = nil, want an error")
	}
}

func shortFile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hisp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "file")
}

func TestControl_versions(t *testing.T) {
	dir, b := testNode(t)
	serveBackend(t, dir, b)
	req := request("domain", "list")
	req.Protocol++
	code, said := expect(t, dialControl(t, dir, req), frameExit)
	if string(code) != "1" || !strings.Contains(said, "restart the node") {
		t.Errorf("other protocol: exit %s, stderr %q", code, said)
	}
	req = request("domain", "list")
	req.Version = "v9"
	code, said = expect(t, dialControl(t, dir, req), frameExit)
	if string(code) != "0" || !strings.Contains(said, "this program v9") {
		t.Errorf("other version: exit %s, stderr %q", code, said)
	}
}

// Commands that are not for the node do not run in it, whatever a caller sends.
func TestControl_refused(t *testing.T) {
	dir, b := testNode(t)
	serveBackend(t, dir, b)
	for _, argv := range [][]string{{"restore", "/x"}, {"init"}, {"help"}, {}, {"-config", "x"}, {"nonsense"}} {
		code, said := expect(t, dialControl(t, dir, request(argv...)), frameExit)
		if string(code) != "2" {
			t.Errorf("%q: exit %s, stderr %q", argv, code, said)
		}
	}
}

// What is not a request is dropped without an answer.
func TestControl_garbage(t *testing.T) {
	dir, b := testNode(t)
	serveBackend(t, dir, b)
	for _, garbage := range []string{"Q\x00\x00\x00\x00", "R\x00\x00\x00\x01x", "R\xff\xff\xff\xff", "GET / HTTP/1.0\r\n\r\n"} {
		conn, err := net.Dial("unix", filepath.Join(dir, controlSocket))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, garbage); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); len(answer) > 0 {
			t.Errorf("%q is answered by %q, %v", garbage, answer, err)
		}
		conn.Close()
	}
}

func TestControl_socketIsPrivate(t *testing.T) {
	dir, b := testNode(t)
	serveBackend(t, dir, b)
	info, err := os.Stat(filepath.Join(dir, controlSocket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if info, err = os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: mode %v, %v; want 0700", info.Mode(), err)
	}
	if _, err := socketPath("/" + strings.Repeat("x", 120)); hintOf(err) == "" {
		t.Errorf("a path too long for a socket: %v, want an error with a hint", err)
	}
}

// deadFront fails the test when it is asked for anything.
type deadFront struct{ t *testing.T }

func (d deadFront) Read([]byte) (int, error)      { d.t.Error("Read"); return 0, io.EOF }
func (d deadFront) Secret(string) (string, error) { d.t.Error("Secret"); return "", io.EOF }
func (d deadFront) ReadFile(name string) ([]byte, error) {
	d.t.Error("ReadFile", name)
	return nil, io.EOF
}
func (d deadFront) WriteFile(name string, _ []byte) error {
	d.t.Error("WriteFile", name)
	return io.EOF
}

// A node gets no file that the command line does not name, so that a broken
// one gains nothing from a caller with more rights.
func TestAnswerNode_filesOfTheCommandLineOnly(t *testing.T) {
	argv := []string{"key", "import", "k.p12", "-owner=a.example"}
	write, err := json.Marshal(controlFile{"/etc/cron.d/x", []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for _, ask := range []struct {
		kind    frameKind
		payload string
	}{{frameRead, "/etc/shadow"}, {frameRead, "k.p1"}, {frameRead, ""}, {frameWrite, string(write)}} {
		ours, theirs := net.Pipe()
		go func() {
			defer ours.Close()
			if err := answerNode(&frames{conn: ours}, deadFront{t}, argv, ask.kind, []byte(ask.payload)); err != nil {
				t.Error(err)
			}
		}()
		kind, _, err := (&frames{conn: theirs}).receive()
		if kind != frameError || err != nil {
			t.Errorf("asked for %q the caller answers %c, %v; want an error", ask.payload, kind, err)
		}
		theirs.Close()
	}
	for _, ok := range []string{"k.p12", "a.example"} {
		if err := mentioned(argv, ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
}

// Output that is larger than a frame arrives whole, and files too.
func TestControl_largeTransfers(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	big := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	go func() {
		defer theirs.Close()
		if n, err := (output{&frames{conn: theirs}, frameStdout}).Write(big); n != len(big) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}()
	var got []byte
	for f := (&frames{conn: ours}); ; {
		kind, payload, err := f.receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if kind != frameStdout || err != nil {
			t.Fatalf("frame %c, %v", kind, err)
		}
		got = append(got, payload...)
	}
	if !bytes.Equal(got, big) {
		t.Errorf("%d octets arrived, want %d", len(got), len(big))
	}
}

func TestControl_panicValueIsNotLogged(t *testing.T) {
	const canary = "CANARY-dr.adams"
	var logged bytes.Buffer
	s := &controlServer{
		config: func() *config { panic(canary) },
		log:    slog.New(hisp.NewLogHandler(slog.NewTextHandler(&logged, nil))),
	}
	node, person := net.Pipe()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, person)
	}()
	code := s.command(t.Context(), controlRequest{Protocol: controlProtocol, Version: version(), Argv: []string{"domain", "list"}},
		&caller{frames: &frames{conn: node}})
	_ = node.Close()
	<-read
	if code != exitFailed {
		t.Errorf("code = %d, want %d", code, exitFailed)
	}
	if text := logged.String(); strings.Contains(text, canary) || !strings.Contains(text, "panic of type string") {
		t.Errorf("logged %s", text)
	}
}
