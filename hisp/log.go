package hisp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// NewLogHandler wraps h so that PHI cannot reach it by accident: a value that
// is not a plain kind, an error, a time, an IP address or one of the node's own
// redacting types is printed as its type. slog itself does not look inside
// slices and structs, so []Address would print its names.
func NewLogHandler(h slog.Handler) slog.Handler { return logHandler{h} }

type logHandler struct{ next slog.Handler }

func (l logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

func (l logHandler) Handle(ctx context.Context, r slog.Record) error {
	closed := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		closed.AddAttrs(closeAttr(a))
		return true
	})
	return l.next.Handle(ctx, closed)
}

func (l logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	closed := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		closed[i] = closeAttr(a)
	}
	return logHandler{l.next.WithAttrs(closed)}
}

func (l logHandler) WithGroup(name string) slog.Handler { return logHandler{l.next.WithGroup(name)} }

func closeAttr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindGroup:
		group := v.Group()
		closed := make([]slog.Attr, len(group))
		for i, g := range group {
			closed[i] = closeAttr(g)
		}
		v = slog.GroupValue(closed...)
	case slog.KindAny:
		v = closeAny(v.Any())
	}
	return slog.Attr{Key: a.Key, Value: v}
}

func closeAny(v any) slog.Value {
	switch v := v.(type) {
	case nil:
		return slog.StringValue("nil")
	case error:
		return slog.StringValue(v.Error())
	case ID:
		return slog.StringValue(string(v))
	case Domain:
		return slog.StringValue(string(v))
	case netip.Addr:
		return slog.StringValue(v.String())
	case time.Time:
		return slog.TimeValue(v)
	}
	return slog.StringValue(fmt.Sprintf("(%T)", v))
}
