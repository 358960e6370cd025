package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/smtpd/relay"
)

// config is the one configuration file. Every key is optional except hostname;
// hisp.toml (config_default.toml) documents each with its default. What an
// operator changes while the node runs (domains, accounts, anchors, keys) is
// not here but in the store.
type config struct {
	Hostname      string `toml:"hostname"`
	Data          string `toml:"data"`
	MasterKeyFile string `toml:"master_key_file"`

	TLS     tlsConfig             `toml:"tls"`
	Listen  listenConfig          `toml:"listen"`
	DNS     dnsConfig             `toml:"dns"`
	Limits  limitsConfig          `toml:"limits"`
	Queue   queueConfig           `toml:"queue"`
	Notices noticesConfig         `toml:"notices"`
	Agent   agentConfig           `toml:"agent"`
	Relay   relayConfig           `toml:"relay"`
	Log     logConfig             `toml:"log"`
	Peer    map[string]peerConfig `toml:"peer"`

	path string // of the file, to resolve the relative paths in it
}

type tlsConfig struct {
	Certificate string `toml:"certificate"` // PEM file, leaf first
	Key         string `toml:"key"`         // PEM file
}

// Keys of [listen], which also name the listeners inside the process.
const (
	listenerSubmissionTLS = "submission_tls"
	listenerSubmission    = "submission"
	listenerBackbone      = "backbone"
	listenerIMAPS         = "imaps"
	listenerIMAP          = "imap"
	listenerDNS           = "dns"
)

// listenConfig are addresses "host:port"; "" turns a listener off.
type listenConfig struct {
	SubmissionTLS string `toml:"submission_tls"`
	Submission    string `toml:"submission"`
	Backbone      string `toml:"backbone"`
	IMAPS         string `toml:"imaps"`
	IMAP          string `toml:"imap"`
	DNS           string `toml:"dns"`
}

type dnsConfig struct {
	Servers     []string `toml:"servers"`      // resolvers; none means /etc/resolv.conf
	NameServers []string `toml:"name_servers"` // NS of our zones
	Addresses   []string `toml:"addresses"`    // public addresses of hostname
}

type limitsConfig struct {
	MessageSize int64 `toml:"message_size"` // octets
	Recipients  int   `toml:"recipients"`   // of one message
}

type queueConfig struct {
	RetryFirst duration `toml:"retry_first"`
	RetryMax   duration `toml:"retry_max"`
	RetryAge   duration `toml:"retry_age"`
	PerDomain  int      `toml:"per_domain"` // relays under way to one domain
}

type noticesConfig struct {
	Timeout          duration `toml:"timeout"`
	Keep             duration `toml:"keep"`
	ForwardProcessed bool     `toml:"forward_processed"`
}

type agentConfig struct {
	Cipher          string `toml:"cipher"`
	KeyTransport    string `toml:"key_transport"`
	RefuseUnwrapped bool   `toml:"refuse_unwrapped"`
}

type relayConfig struct {
	Roots []string `toml:"roots"` // PEM files trusted beside the system's
	Port  int      `toml:"port"`  // of other HISPs
}

type logConfig struct {
	Level  string `toml:"level"`  // debug, info, warn, error
	Format string `toml:"format"` // text, json
}

// peerConfig is the exception for one partner domain.
type peerConfig struct {
	TLS          string `toml:"tls"`           // verify, encrypt, opportunistic: when we send
	AcceptPlain  bool   `toml:"accept_plain"`  // they may send without TLS
	Host         string `toml:"host"`          // "host" or "host:port" instead of MX
	Port         int    `toml:"port"`          //
	KeyTransport string `toml:"key_transport"` // as in [agent]
	Cipher       string `toml:"cipher"`        //
}

// duration is a time.Duration written "90s" or "1h30m".
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 15m or 1h", text)
	}
	*d = duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// defaults is the configuration of an empty file.
func defaults() config {
	return config{
		Data: "data", MasterKeyFile: "master.key",
		Listen: listenConfig{
			SubmissionTLS: ":465", Submission: ":587", Backbone: ":25", IMAPS: ":993", IMAP: ":143",
		},
		Limits:  limitsConfig{MessageSize: 36 << 20, Recipients: 100},
		Queue:   queueConfig{RetryFirst: duration(30 * time.Second), RetryMax: duration(time.Hour), RetryAge: duration(24 * time.Hour), PerDomain: 4},
		Notices: noticesConfig{Timeout: duration(time.Hour), Keep: duration(7 * 24 * time.Hour)},
		Agent:   agentConfig{Cipher: string(cms.AES256CBC), KeyTransport: string(cms.RSAPKCS1v15)},
		Relay:   relayConfig{Port: 25},
		Log:     logConfig{Level: "info", Format: "text"},
		Peer:    map[string]peerConfig{},
	}
}

// loadConfig reads and checks a configuration file. Errors name the file and,
// where there is one, the line.
func loadConfig(path string) (config, error) {
	c := defaults()
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, hint(fmt.Errorf("%s: no such configuration file", path), "hisp init makes one; -config or HISP_CONFIG names another")
	}
	if err != nil {
		return c, err
	}
	md, err := toml.Decode(string(raw), &c)
	if err != nil {
		return c, tomlError(path, err)
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		key := unknown[0]
		return c, hint(fmt.Errorf("%s:%d: unknown key %s", path, keyLine(string(raw), key), key), "hisp init -print shows every key")
	}
	c.path = path
	if err := c.check(); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// tomlLine is how the library writes the place of an error.
var tomlLine = regexp.MustCompile(`^toml: line (\d+)[^:]*: (.*)`)

func tomlError(path string, err error) error {
	if m := tomlLine.FindStringSubmatch(err.Error()); m != nil {
		err = fmt.Errorf("%s:%s: %s", path, m[1], m[2])
		if strings.Contains(m[2], "already") { // a key or a [table] twice
			err = hint(err, "each key and each [table] may stand once: bring the two together")
		}
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// keyLine finds the line on which a key stands, or that of its table.
func keyLine(text string, key toml.Key) int {
	want, table := strings.Join(key, "."), ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			table = strings.ReplaceAll(strings.Trim(line, "[] "), `"`, "") + "."
			if strings.TrimSuffix(table, ".") == want {
				return i + 1
			}
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if ok && table+strings.ReplaceAll(strings.TrimSpace(name), `"`, "") == want {
			return i + 1
		}
	}
	return 1
}

// check holds every value to what the node can do with it.
func (c *config) check() error {
	if _, err := hisp.ParseDomain(c.Hostname); err != nil {
		return hint(fmt.Errorf("hostname: %q is not a host name", c.Hostname), "set hostname to the name in this host's TLS certificate and MX record")
	}
	for _, s := range c.DNS.Servers {
		if _, err := parseServer(s); err != nil {
			return fmt.Errorf("dns.servers: %q is neither an IP address nor address:port", s)
		}
	}
	for _, a := range c.DNS.Addresses {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("dns.addresses: %q is not an IP address", a)
		}
	}
	if c.Limits.MessageSize < 1<<16 || c.Limits.Recipients < 1 {
		return errors.New("limits: message_size is at least 65536 and recipients at least 1")
	}
	if err := checkCipher("agent.cipher", c.Agent.Cipher); err != nil {
		return err
	}
	if err := checkKeyTransport("agent.key_transport", c.Agent.KeyTransport); err != nil {
		return err
	}
	for name, p := range c.Peer {
		if err := p.check(`peer."` + name + `"`); err != nil {
			return err
		}
		if d, err := hisp.ParseDomain(name); err != nil || string(d) != name {
			return fmt.Errorf("peer.%q: write the domain in lower case", name)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	}
	switch c.Log.Format {
	case "text", "json":
		return nil
	}
	return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
}

func (p peerConfig) check(name string) error {
	if _, ok := tlsPolicies[p.TLS]; !ok {
		return fmt.Errorf("%s.tls: %q is not verify, encrypt or opportunistic", name, p.TLS)
	}
	if p.Port < 0 || p.Port > 65535 {
		return fmt.Errorf("%s.port: %d is not a port", name, p.Port)
	}
	if p.Cipher != "" {
		if err := checkCipher(name+".cipher", p.Cipher); err != nil {
			return err
		}
	}
	if p.KeyTransport != "" {
		return checkKeyTransport(name+".key_transport", p.KeyTransport)
	}
	return nil
}

var tlsPolicies = map[string]relay.TLSPolicy{
	"": relay.Verify, "verify": relay.Verify, "encrypt": relay.Encrypt, "opportunistic": relay.Opportunistic,
}

func checkCipher(key, value string) error {
	switch cms.Cipher(value) {
	case cms.AES128CBC, cms.AES256CBC:
		return nil
	}
	return fmt.Errorf("%s: %q is neither %s nor %s", key, value, cms.AES256CBC, cms.AES128CBC)
}

func checkKeyTransport(key, value string) error {
	known := []cms.KeyTransport{cms.RSAPKCS1v15, cms.RSAOAEPSHA1, cms.RSAOAEPSHA256, cms.RSAOAEPSHA384, cms.RSAOAEPSHA512}
	for _, k := range known {
		if cms.KeyTransport(value) == k {
			return nil
		}
	}
	return fmt.Errorf("%s: %q is none of %v", key, value, known)
}

// parseServer reads "192.0.2.1" or "192.0.2.1:5353".
func parseServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	return netip.ParseAddrPort(s)
}

// resolve makes a path of the file absolute: relative ones start where the
// file is.
func (c *config) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(c.path), path)
}
