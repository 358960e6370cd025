package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// reloadable is a node with everything that SIGHUP reads, and its log.
func reloadable(t *testing.T) (n *node, config string, logged *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	config = filepath.Join(dir, configDefault)
	var said bytes.Buffer
	if code := run(t.Context(), []string{"-config", config, "init", "-hostname", "mail.a.example", "-domain", "a.example", "-trial"},
		terminal{ctx: t.Context()}, &said, &said); code != exitOK {
		t.Fatalf("init: %s", said.String())
	}
	cfg, err := loadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	logged = &bytes.Buffer{}
	log, level, err := newLog(cfg.Log, logged)
	if err != nil {
		t.Fatal(err)
	}
	b, err := openBackend(cfg, log, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	n = &node{backend: b, log: log, level: level}
	if err := n.loadTLS(); err != nil {
		t.Fatal(err)
	}
	return n, config, logged
}

// trailOf returns "outcome detail" of the operator's acts.
func trailOf(t *testing.T, b *backend) []string {
	t.Helper()
	var acts []string
	err := b.store.ReadAudit(t.Context(), 1, func(e store.AuditEntry) bool {
		if e.Record.Event == hisp.AuditAdmin {
			acts = append(acts, string(e.Record.Outcome)+" "+e.Record.Detail)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return acts
}

func edit(t *testing.T, file, old, replacement string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(raw, []byte(old)) {
		t.Fatalf("no %q in the file: %v", old, err)
	}
	if err := os.WriteFile(file, bytes.Replace(raw, []byte(old), []byte(replacement), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Row AU-03: what SIGHUP changes is an act of the operator.
func TestReload_audited(t *testing.T) {
	n, config, _ := reloadable(t)
	n.reload(t.Context())
	edit(t, config, "hostname", "nonsense = 1\nhostname")
	n.reload(t.Context())
	acts := strings.Join(trailOf(t, n.backend), ", ")
	if want := "begun reload, ok reload, begun reload, failed reload"; !strings.HasSuffix(acts, want) {
		t.Errorf("audit = %s, want %s at its end", acts, want)
	}
}

// One thing that is wrong leaves everything as it was.
func TestReload_allOrNothing(t *testing.T) {
	n, config, logged := reloadable(t)
	before, cert, sta := n.live.Load(), n.cert.Load(), n.agent.now.Load()
	edit(t, config, `level = "info"`, `level = "debug"`)
	if err := os.Rename(filepath.Join(filepath.Dir(config), "tls"), filepath.Join(filepath.Dir(config), "gone")); err != nil {
		t.Fatal(err)
	}
	n.reload(t.Context())
	if n.live.Load() != before || n.cert.Load() != cert || n.agent.now.Load() != sta || n.level.Level() != slog.LevelInfo {
		t.Error("a reload that failed changed something")
	}
	if !strings.Contains(logged.String(), "the old configuration stays") {
		t.Errorf("logged %s", logged.String())
	}
}

// The node and hisp open refuse the same messages.
func TestReload_agent(t *testing.T) {
	n, config, _ := reloadable(t)
	before := n.agent.now.Load()
	edit(t, config, "refuse_unwrapped = false", "refuse_unwrapped = true")
	n.reload(t.Context())
	if !n.live.Load().Agent.RefuseUnwrapped || n.agent.now.Load() == before {
		t.Error("the node's agent is still that of the old configuration")
	}
}

// sickZones cannot be read after the start.
type sickZones struct{ sick bool }

func (s *sickZones) Zones(context.Context) ([]dnscert.Zone, error) {
	if s.sick {
		return nil, errors.New("sick")
	}
	return nil, nil
}

// When only the zones cannot be read again, the new configuration is in force
// and the log does not say that the old one stays.
func TestReload_zonesNotRead(t *testing.T) {
	n, config, logged := reloadable(t)
	source := &sickZones{}
	var err error
	ctx, cancel := context.WithCancel(t.Context())
	if n.dns, err = dnscert.NewServer(ctx, dnscert.ServerConfig{Addr: "127.0.0.1:0", Source: source}); err != nil {
		t.Fatal(err)
	}
	source.sick = true
	edit(t, config, `level = "info"`, `level = "debug"`)
	n.reload(ctx)
	if n.level.Level() != slog.LevelDebug {
		t.Error("the new configuration is not in force")
	}
	text := logged.String()
	if strings.Contains(text, "stays") || !strings.Contains(text, "zones not refreshed") || !strings.Contains(text, "configuration read again") {
		t.Errorf("logged %s", text)
	}
	cancel()
	if err := n.dns.Run(ctx); err != nil {
		t.Error(err)
	}
}
