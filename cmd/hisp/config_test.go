package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hisp.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The documented file says exactly what the node does without it.
func TestConfig_defaultFileIsTheDefaults(t *testing.T) {
	raw, err := os.ReadFile("config_default.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := loadConfig(writeConfig(t, string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Hostname, want.path = got.Hostname, got.path
	want.TLS = tlsConfig{Certificate: "tls/cert.pem", Key: "tls/key.pem"}
	want.DNS = dnsConfig{Servers: []string{}, NameServers: []string{}, Addresses: []string{}}
	want.Relay.Roots = []string{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("config_default.toml gives\n%+v\nwant\n%+v", got, want)
	}
}

// Every key is in the documented file.
func TestConfig_everyKeyDocumented(t *testing.T) {
	raw, _ := os.ReadFile("config_default.toml")
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			tag := f.Tag.Get("toml")
			if tag == "" {
				continue
			}
			if !strings.Contains(string(raw), tag+" = ") && !strings.Contains(string(raw), "["+tag) {
				t.Errorf("key %s is not documented", tag)
			}
			switch {
			case f.Type.Kind() == reflect.Struct:
				check(f.Type)
			case f.Type.Kind() == reflect.Map:
				check(f.Type.Elem())
			}
		}
	}
	check(reflect.TypeFor[config]())
}

func TestLoadConfig_errors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "hostname = \"a.example\"\n\n[queue]\nretry_frist = \"1s\"\n", "hisp.toml:4: unknown key queue.retry_frist"},
		{"unknown table", "hostname = \"a.example\"\n[cloud]\nx = 1\n", "hisp.toml:2: unknown key cloud"},
		{"unknown peer key", "hostname = \"a.example\"\n[peer.\"b.example\"]\ntsl = \"verify\"\n", "hisp.toml:3: unknown key peer.\"b.example\".tsl"},
		{"syntax", "hostname = \n", "hisp.toml:1:"},
		{"wrong type", "hostname = \"a.example\"\n[limits]\nrecipients = \"many\"\n", "hisp.toml:3:"},
		{"bad duration", "hostname = \"a.example\"\n[queue]\nretry_max = \"soon\"\n", "hisp.toml:3:"},
		{"no hostname", "", "hostname"},
		{"bad policy", "hostname = \"a.example\"\n[peer.\"b.example\"]\ntls = \"maybe\"\n", `peer."b.example".tls`},
		{"bad level", "hostname = \"a.example\"\n[log]\nlevel = \"loud\"\n", `log.level: "loud" is none of debug, info, warn, error`},
		{"table twice", "hostname = \"a.example\"\n[limits]\nrecipients = 3\n[limits]\n", "hisp.toml:4:"},
		{"bad cipher", "hostname = \"a.example\"\n[agent]\ncipher = \"des\"\n", "agent.cipher"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadConfig(writeConfig(t, tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("loadConfig = %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := loadConfig("/nonexistent/hisp.toml"); err == nil || hintOf(err) == "" {
		t.Errorf("a missing file gives %v without a hint", err)
	}
}
