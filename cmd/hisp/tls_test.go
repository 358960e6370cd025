package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/agent/keystore"
)

func TestWarnTLS(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	ca, err := keystore.NewTrialCA("ca", now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueTLS(now, "mail.a.example")
	if err != nil {
		t.Fatal(err)
	}
	end := cert.Leaf.NotAfter
	tests := []struct {
		name string
		host string
		at   time.Time
		want string // in the one line, "" for none
	}{
		{"good", "mail.a.example", now, ""},
		{"another host", "mx.a.example", now, "level=WARN msg=\"the tls certificate is not for the host"},
		{"15 days left", "mail.a.example", end.Add(-15 * 24 * time.Hour), ""},
		{"13 days left", "mail.a.example", end.Add(-13 * 24 * time.Hour), "level=WARN msg=\"the tls certificate expires soon"},
		{"expired", "mail.a.example", end.Add(time.Hour), "level=ERROR msg=\"the tls certificate has expired"},
		{"not yet valid", "mail.a.example", now.Add(-30 * 24 * time.Hour), "level=WARN msg=\"the tls certificate is not valid yet"},
	}
	for _, tt := range tests {
		var log bytes.Buffer
		warnTLS(slog.New(slog.NewTextHandler(&log, nil)), cert.Leaf, tt.host, tt.at)
		if got := log.String(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: logged %q, want %q", tt.name, got, tt.want)
		}
	}
}
