// Package testnet gives a test two complete HISPs on loopback: the real binary
// in processes of its own, set up with its own commands, with their own CAs,
// DNS and mail ports. A test can talk to them with any client, kill them and
// start them again.
//
// Every site gets canary words for PHI; CheckCanaries greps what it logged.
package testnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Site is one HISP.
type Site struct {
	Name   string
	Domain string
	Dir    string
	Config string         // file
	Ports  map[string]int // by the key in [listen]

	// Wrap is put before the command line of the node, such as strace with its
	// options.
	Wrap []string

	binary string
	roots  []string // files in relay.roots
	log    *log
	cmd    *exec.Cmd
	exited chan error
}

// log collects what the process writes.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Net is the two sites.
type Net struct {
	Hospital, Clinic *Site
}

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary builds cmd/hisp once per test process and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "hisp-test-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "hisp")
		out, err := exec.Command("go", "build", "-o", build.path, "github.com/hispnode/hisp/cmd/hisp").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// New is Prepare and the start of both sites.
func New(t testing.TB, settings ...string) *Net {
	t.Helper()
	n := Prepare(t, settings...)
	n.Hospital.Start(t)
	n.Clinic.Start(t)
	return n
}

// Prepare sets up two sites that trust each other, hospital.example and
// clinic.example. settings are "table.key = value" for both configurations.
func Prepare(t testing.TB, settings ...string) *Net {
	t.Helper()
	root := t.TempDir()
	n := &Net{newSite(t, root, "hospital"), newSite(t, root, "clinic")}
	for _, pair := range [][2]*Site{{n.Hospital, n.Clinic}, {n.Clinic, n.Hospital}} {
		pair[0].configure(t, pair[1], settings)
		pair[0].CLI(t, "", "anchor", "add", pair[0].Domain, filepath.Join(pair[1].Dir, "trial-ca.crt"))
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range []*Site{n.Hospital, n.Clinic} {
				t.Logf("log of %s:\n%s", s.Name, s.Log())
			}
		}
	})
	return n
}

func newSite(t testing.TB, root, name string) *Site {
	s := &Site{Name: name, Domain: name + ".example", Dir: filepath.Join(root, name), Ports: map[string]int{}, binary: Binary(t), log: &log{}}
	s.Config = filepath.Join(s.Dir, "hisp.toml")
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.CLI(t, "", "init", "-domain", s.Domain, "-trial")
	for _, p := range []string{"submission_tls", "submission", "backbone", "imaps", "imap", "dns"} {
		s.Ports[p] = FreePort(t)
	}
	return s
}

// Ports below the range that the kernel gives to outgoing connections (32768
// on Linux), so that none of those takes one between here and the start.
const firstPort, lastPort = 11000, 31000

// FreePort returns a port of 127.0.0.1 that nobody listens on, TCP or UDP. The
// choice is random, so that test binaries that run at once do not meet.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		pc, err := net.ListenPacket("udp", addr)
		ln.Close()
		if err != nil {
			continue
		}
		pc.Close()
		return port
	}
	t.Fatal("no free port")
	return 0
}

// configure changes the configuration that init wrote.
func (s *Site) configure(t testing.TB, peer *Site, settings []string) {
	for name, port := range s.Ports {
		s.Set(t, "listen."+name, fmt.Sprintf(`"127.0.0.1:%d"`, port))
	}
	s.Set(t, "dns.servers", fmt.Sprintf(`["127.0.0.1:%d", "127.0.0.1:%d"]`, s.Ports["dns"], peer.Ports["dns"]))
	s.Set(t, "dns.addresses", `["127.0.0.1"]`)
	s.roots = []string{filepath.Join(peer.Dir, "trial-ca.crt")}
	s.Set(t, "relay.roots", fmt.Sprintf("%q", s.roots))
	s.Set(t, "queue.retry_first", `"200ms"`)
	s.Set(t, "queue.retry_max", `"1s"`)
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, " = ")
		s.Set(t, key, value)
	}
	s.Append(t, fmt.Sprintf("[peer.%q]\nport = %d\n", peer.Domain, peer.Ports["backbone"]))
}

// Set changes one documented key of the configuration, "table.key".
func (s *Site) Set(t testing.TB, key, value string) {
	t.Helper()
	raw, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	want, name, _ := strings.Cut(key, ".")
	table, found := "", false
	lines := strings.Split(string(raw), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[]")
		} else if table == want && strings.HasPrefix(line, name+" = ") {
			lines[i], found = name+" = "+value, true
		}
	}
	if !found {
		t.Fatalf("no key %s in the configuration", key)
	}
	s.write(t, strings.Join(lines, "\n"))
}

// Append adds text at the end of the configuration.
func (s *Site) Append(t testing.TB, text string) {
	t.Helper()
	raw, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, string(raw)+"\n"+text)
}

func (s *Site) write(t testing.TB, text string) {
	if err := os.WriteFile(s.Config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Try runs a command line of the site and returns what it printed.
func (s *Site) Try(stdin string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(s.binary, append([]string{"-config", s.Config}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TryServe is Try for a node that must refuse to start; it is ended, with a nil
// error, if it starts all the same.
func (s *Site) TryServe(t testing.TB) (stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary, "-config", s.Config, "serve")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err = cmd.Run(); ctx.Err() != nil {
		err = nil
	}
	return errs.String(), err
}

// CLI is Try for a command that must succeed.
func (s *Site) CLI(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, errs, err := s.Try(stdin, args...)
	if err != nil {
		t.Fatalf("%s: hisp %s: %v\n%s%s", s.Name, strings.Join(args, " "), err, out, errs)
	}
	return out
}

// Account adds an account and returns its password.
func (s *Site) Account(t testing.TB, local string) string {
	t.Helper()
	return strings.TrimSpace(s.CLI(t, "", "account", "add", "-generate", local+"@"+s.Domain))
}

// startTimeout is generous: the race detector and a loaded machine are slow.
const startTimeout = 30 * time.Second

// Start runs the node and returns when its ports answer.
func (s *Site) Start(t testing.TB) {
	t.Helper()
	if !s.Launch(t) {
		t.Fatalf("%s ended at start:\n%s", s.Name, s.Log())
	}
}

// Launch is Start for a node that may die on the way; it tells whether it
// lives.
func (s *Site) Launch(t testing.TB) bool {
	t.Helper()
	line := append(append([]string{}, s.Wrap...), s.binary, "-config", s.Config, "serve")
	s.cmd = exec.Command(line[0], line[1:]...)
	// A group of its own, so that signals reach the node behind a wrapper.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(s.cmd, s.exited)
	t.Cleanup(func() { s.Kill() })
	deadline := time.Now().Add(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if conn, err := net.Dial("tcp", s.Addr("imap")); err == nil {
			conn.Close()
			return true
		}
		if s.Dead() {
			return false
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen:\n%s", s.Name, s.Log())
		}
	}
	return false
}

// Kill ends the process with SIGKILL and waits for it.
func (s *Site) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and returns its error.
func (s *Site) Stop() error { return s.end(syscall.SIGTERM) }

// Signal sends a signal and goes on.
func (s *Site) Signal(sig syscall.Signal) error { return syscall.Kill(-s.cmd.Process.Pid, sig) }

func (s *Site) end(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	s.Signal(sig)
	err := <-s.exited
	s.cmd = nil
	return err
}

// Dead tells whether the process has ended by itself.
func (s *Site) Dead() bool {
	select {
	case err := <-s.exited:
		s.exited <- err
		return true
	default:
		return s.cmd == nil
	}
}

// Pid is the process ID of the running node.
func (s *Site) Pid() int { return s.cmd.Process.Pid }

// Addr is "127.0.0.1:port" of a listener.
func (s *Site) Addr(name string) string { return fmt.Sprintf("127.0.0.1:%d", s.Ports[name]) }

// Log returns what the node has written to its log.
func (s *Site) Log() string { return s.log.String() }

// TLS is the client side for the site's mail ports.
func (s *Site) TLS(t testing.TB) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.Dir, "trial-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: roots, ServerName: "mail." + s.Domain, MinVersion: tls.VersionTLS12}
}

// CheckCanaries fails the test if one of the words is in the log, in the
// exported audit trail, or in the clear in the data folder.
func (s *Site) CheckCanaries(t testing.TB, words ...string) {
	t.Helper()
	places := map[string]string{"log": s.Log()}
	if out, errs, err := s.Try("", "audit", "export"); err == nil {
		places["audit trail"] = out + errs
	} else {
		t.Errorf("%s: audit export: %v\n%s", s.Name, err, errs)
	}
	err := filepath.WalkDir(filepath.Join(s.Dir, "data"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		raw, err := io.ReadAll(f)
		places[path] = string(raw)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for place, text := range places {
		for _, word := range words {
			if strings.Contains(text, word) {
				t.Errorf("%s: %q is in the clear in %s", s.Name, word, place)
			}
		}
	}
}
