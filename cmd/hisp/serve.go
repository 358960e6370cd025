package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// serveCommand runs the node until SIGTERM or an interrupt. SIGHUP reads the
// configuration again.
func serveCommand(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		log, level, err := newLog(c.config.Log, c.stderr)
		if err != nil {
			return err
		}
		hangup := make(chan os.Signal, 1) // before anything takes time: unhandled it ends the process
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		b, err := openBackend(c.config, log, time.Now)
		if err != nil {
			return err
		}
		return errors.Join(serve(c.ctx, b, log, level, hangup), b.Close())
	}
}

// heapFloor is address space that is never touched and so takes no memory. It
// keeps the garbage collector, which runs when the heap has doubled, from
// running every few messages while the heap is small; at most so many octets
// more are in use between two runs.
const heapFloor = 48 << 20

func serve(ctx context.Context, b *backend, log *slog.Logger, level *slog.LevelVar, hangup <-chan os.Signal) error {
	n, err := newNode(ctx, b, log, level)
	if err != nil {
		return err
	}
	ballast := make([]byte, heapFloor)
	defer runtime.KeepAlive(ballast)
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-hangup:
			n.reload(ctx)
		}
	}
}

// newLog makes the log, closed against PHI, with a level that SIGHUP can
// change.
func newLog(c logConfig, w io.Writer) (*slog.Logger, *slog.LevelVar, error) {
	level := &slog.LevelVar{}
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, options)
	if c.Format == "json" {
		h = slog.NewJSONHandler(w, options)
	}
	return slog.New(hisp.NewLogHandler(h)), level, nil
}
