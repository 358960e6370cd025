package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"
)

// The control socket carries one command per connection. The caller sends a
// request; then the node sends what the command writes and asks for what it
// wants to read, which the caller answers. Because the caller speaks only when
// asked, the node always notices when it goes away, and ends the command.

const (
	controlSocket   = "control.sock" // in the data folder, for the owner only
	controlProtocol = 1              // counts changes that old callers cannot follow
	maxCallers      = 16             // commands at one time
	maxFrame        = maxFile + 1<<20
	frameTimeout    = 30 * time.Second // to write one frame, or to send the request
	acceptPause     = 100 * time.Millisecond
	maxSocketPath   = 100 // octets; the kernel takes 107
)

// frameKind is the first octet of a frame; a length of four octets and the
// payload follow.
type frameKind byte

const (
	frameRequest frameKind = 'R' // caller: request as JSON
	frameAnswer  frameKind = 'A' // caller: what was asked for
	frameEnd     frameKind = 'F' // caller: end of standard input
	frameError   frameKind = 'E' // caller: why not, as JSON
	frameStdout  frameKind = 'O' // node
	frameStderr  frameKind = 'X' // node
	frameStdin   frameKind = 'I' // node asks for some standard input
	frameSecret  frameKind = 'S' // node asks for a secret, payload is the prompt
	frameRead    frameKind = 'G' // node asks for the file named
	frameWrite   frameKind = 'W' // node asks to write a file, JSON
	frameExit    frameKind = 'Q' // node: exit code as JSON
)

type controlRequest struct {
	Protocol int
	Version  string
	Argv     []string
	Dir      string
}

type controlError struct{ Text, Hint string }

type controlFile struct {
	Path string
	Data []byte
}

// frames sends and receives frames over one connection.
type frames struct {
	conn net.Conn
	mu   sync.Mutex // of writing
}

func (f *frames) send(kind frameKind, payload []byte) error {
	head := [5]byte{byte(kind)}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.conn.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	buffers := net.Buffers{head[:], payload}
	_, err := buffers.WriteTo(f.conn)
	return err
}

func (f *frames) sendJSON(kind frameKind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.send(kind, payload)
}

func (f *frames) receive() (frameKind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.conn, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, errors.New("control socket: frame too large")
	}
	payload := make([]byte, size)
	_, err := io.ReadFull(f.conn, payload)
	return frameKind(head[0]), payload, err
}

// output is a stream of the command towards the caller.
type output struct {
	*frames
	kind frameKind
}

func (o output) Write(p []byte) (int, error) {
	const chunk = 1 << 20
	for n := 0; n < len(p); n += chunk {
		if err := o.send(o.kind, p[n:min(len(p), n+chunk)]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// listenControl makes the control socket of a data folder. The store in it is
// open and locked, so a socket that is there is left over from a crash.
func listenControl(data string) (net.Listener, error) {
	path, err := socketPath(data)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fileError(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func socketPath(data string) (string, error) {
	path, err := filepath.Abs(filepath.Join(data, controlSocket))
	if err == nil && len(path) > maxSocketPath {
		return "", hint(fmt.Errorf("control socket: the path of the data folder is longer than %d octets", maxSocketPath-len(controlSocket)-1), "set data to a folder with a shorter path")
	}
	return path, err
}

// controlServer runs commands for callers on the control socket.
type controlServer struct {
	config  func() *config // the one in force
	backend *backend
	log     *slog.Logger
}

// serve accepts callers until ctx ends, ends their commands and waits for them.
func (s *controlServer) serve(ctx context.Context, l net.Listener) error {
	var callers sync.WaitGroup
	defer callers.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	room := make(chan struct{}, maxCallers)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("control socket: %w", err)
			}
			// Out of file descriptors or memory: messages are what must go on.
			s.log.Warn("cannot accept", "op", "control", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		callers.Go(func() {
			defer func() { <-room }()
			s.answer(ctx, conn)
		})
	}
}

// answer runs one command for the caller behind conn.
func (s *controlServer) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	f := &frames{conn: conn}
	_ = conn.SetReadDeadline(time.Now().Add(frameTimeout))
	kind, payload, err := f.receive()
	var req controlRequest
	if err != nil || kind != frameRequest || json.Unmarshal(payload, &req) != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{}) // a person may think; the connection's end is noticed
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A command that is ended waits for nobody's answer.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	caller := &caller{frames: f, answers: make(chan answer, 1)}
	var reader sync.WaitGroup
	reader.Go(func() { caller.listen(cancel) })
	code := s.command(ctx, req, caller)
	_ = f.sendJSON(frameExit, code)
	cancel()
	reader.Wait()
}

// command runs a request and returns its exit code.
func (s *controlServer) command(ctx context.Context, req controlRequest, front *caller) (code int) {
	stdout, stderr := output{front.frames, frameStdout}, output{front.frames, frameStderr}
	defer func() {
		if r := recover(); r != nil {
			// The value of a panic may quote input; its type and the stack do not.
			s.log.Error("command panicked", "op", "control", "err", fmt.Sprintf("panic of type %T", r), "stack", string(debug.Stack()))
			fmt.Fprintln(stderr, "hisp: the command failed inside the node; its log says more")
			code = exitFailed
		}
	}()
	if req.Protocol != controlProtocol {
		return report(stderr, invocation{}, hint(fmt.Errorf("the running node (%s) does not understand this program (%s)", version(), req.Version),
			"restart the node, or use the program it runs"))
	}
	if req.Version != version() {
		fmt.Fprintf(stderr, "hisp: note: the running node is %s, this program %s; restart the node to have it run this one\n", version(), req.Version)
	}
	inv, err := parseInvocation(req.Argv, stdout)
	if err == nil && (inv.cmd == nil || inv.cmd.need < needStore) {
		err = usagef("not a command for the node")
	}
	if err == nil {
		err = inv.run(&call{
			ctx: ctx, args: inv.rest, front: front, stdout: stdout, stderr: stderr, dir: req.Dir,
			config: *s.config(), configPath: s.config().path, backend: s.backend,
		})
	}
	return report(stderr, inv, err)
}

// caller is the front of a command whose caller is behind a connection.
type caller struct {
	*frames
	asking  sync.Mutex
	answers chan answer
	left    []byte // standard input received and not yet read
	ended   bool   // standard input
}

type answer struct {
	kind    frameKind
	payload []byte
}

var errCallerGone = errors.New("the caller has gone")

// listen passes on answers until the connection ends, which ends the command.
func (c *caller) listen(cancel context.CancelFunc) {
	defer cancel()
	defer close(c.answers)
	for {
		kind, payload, err := c.receive()
		if err != nil {
			return
		}
		select {
		case c.answers <- answer{kind, payload}:
		default:
			return // an answer nobody asked for
		}
	}
}

// ask sends a question and waits for its answer.
func (c *caller) ask(kind frameKind, payload []byte) (answer, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	if err := c.send(kind, payload); err != nil {
		return answer{}, errCallerGone
	}
	a, ok := <-c.answers
	switch {
	case !ok:
		return answer{}, errCallerGone
	case a.kind == frameError:
		var e controlError
		if json.Unmarshal(a.payload, &e) != nil {
			return answer{}, errCallerGone
		}
		if e.Hint != "" {
			return answer{}, hint(errors.New(e.Text), e.Hint)
		}
		return answer{}, errors.New(e.Text)
	}
	return a, nil
}

// Read implements front.
func (c *caller) Read(p []byte) (int, error) {
	if len(c.left) == 0 && !c.ended {
		a, err := c.ask(frameStdin, nil)
		if err != nil {
			return 0, err
		}
		c.left, c.ended = a.payload, a.kind == frameEnd
	}
	if len(c.left) == 0 && c.ended {
		return 0, io.EOF
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

// Secret implements front.
func (c *caller) Secret(prompt string) (string, error) {
	a, err := c.ask(frameSecret, []byte(prompt))
	return string(a.payload), err
}

// ReadFile implements front.
func (c *caller) ReadFile(path string) ([]byte, error) {
	a, err := c.ask(frameRead, []byte(path))
	return a.payload, err
}

// WriteFile implements front.
func (c *caller) WriteFile(path string, data []byte) error {
	payload, err := json.Marshal(controlFile{path, data})
	if err == nil {
		_, err = c.ask(frameWrite, payload)
	}
	return err
}
