package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
)

// errNoNode means that no node serves from the data folder.
var errNoNode = errors.New("no node is running")

// askNode runs a command in the serving process and returns its exit code. The
// error is errNoNode when there is none.
func askNode(ctx context.Context, c *call, argv []string) (int, error) {
	path, err := socketPath(c.config.resolve(c.config.Data))
	if err != nil {
		return 0, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return 0, errNoNode
	case errors.Is(err, fs.ErrPermission):
		return 0, hint(errors.New("control socket: permission denied"), hintRunAs)
	case err != nil:
		return 0, fmt.Errorf("control socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	f := &frames{conn: conn}
	code, err := converse(f, c, controlRequest{controlProtocol, version(), argv, c.dir})
	if ctx.Err() != nil {
		return 0, errors.New("interrupted; the node ends the command")
	}
	if err != nil {
		return 0, hint(fmt.Errorf("control socket: the node closed the connection: %w", err), "it is stopping, or too many commands run at once")
	}
	return code, nil
}

// converse sends the request and serves the command until it ends.
func converse(f *frames, c *call, req controlRequest) (int, error) {
	if err := f.sendJSON(frameRequest, req); err != nil {
		return 0, err
	}
	for {
		kind, payload, err := f.receive()
		if err != nil {
			return 0, err
		}
		switch kind {
		case frameStdout:
			_, err = c.stdout.Write(payload)
		case frameStderr:
			_, err = c.stderr.Write(payload)
		case frameExit:
			var code int
			return code, json.Unmarshal(payload, &code)
		default:
			err = answerNode(f, c.front, req.Argv, kind, payload)
		}
		if err != nil {
			return 0, err
		}
	}
}

// mentioned refuses a file that the command line does not name: the caller may
// be root and the node is not, so the node must not choose.
func mentioned(argv []string, path string) error {
	for _, arg := range argv {
		_, value, _ := strings.Cut(arg, "=") // -attach=FILE
		if path != "" && (arg == path || strings.HasPrefix(arg, "-") && value == path) {
			return nil
		}
	}
	return errors.New("the node asked for a file that is not in the command line")
}

// answerNode answers one question of the command.
func answerNode(f *frames, front front, argv []string, kind frameKind, payload []byte) error {
	var data []byte
	var err error
	switch kind {
	case frameStdin:
		buf := make([]byte, 64<<10)
		n, err := front.Read(buf)
		if n == 0 && errors.Is(err, io.EOF) {
			return f.send(frameEnd, nil)
		}
		if n == 0 && err != nil {
			return f.sendJSON(frameError, controlError{Text: err.Error()})
		}
		return f.send(frameAnswer, buf[:n])
	case frameSecret:
		var secret string
		secret, err = front.Secret(string(payload))
		data = []byte(secret)
	case frameRead:
		if err = mentioned(argv, string(payload)); err == nil {
			data, err = front.ReadFile(string(payload))
		}
	case frameWrite:
		var file controlFile
		err = json.Unmarshal(payload, &file)
		if err == nil {
			err = mentioned(argv, file.Path)
		}
		if err == nil {
			err = front.WriteFile(file.Path, file.Data)
		}
	default:
		return fmt.Errorf("unknown frame %q", byte(kind))
	}
	if err != nil {
		return f.sendJSON(frameError, controlError{errorText(err), hintOf(err)})
	}
	return f.send(frameAnswer, data)
}
