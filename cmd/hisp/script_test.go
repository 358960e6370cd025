package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
)

// The programs of the stories: hisp itself, and a node reduced to its store,
// its control socket, its DNS server and a door for submissions, so that what
// waits in the queue stays there.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hisp": main, "quietnode": quietNode, "newerschema": newerSchema})
}

// TestScript runs every story twice: with commands that open the store
// themselves, and inside a node. A story that needs the one or the other says
// so by its name.
func TestScript(t *testing.T) {
	for _, mode := range []string{"alone", "node"} {
		t.Run(mode, func(t *testing.T) {
			files, err := filepath.Glob("testdata/script/*.txtar")
			if err != nil || len(files) == 0 {
				t.Fatalf("no stories: %v", err)
			}
			other := map[string]string{"alone": "_node.txtar", "node": "_alone.txtar"}[mode]
			run := files[:0]
			for _, f := range files {
				if !strings.HasSuffix(f, other) {
					run = append(run, f)
				}
			}
			testscript.Run(t, testscript.Params{
				Files:               run,
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Setup:               setupScript(mode),
				Condition:           needed,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"node": cmdNode, "stopnode": cmdStopNode, "capture": cmdCapture,
					"serve": cmdServe, "hangup": cmdHangup, "waitlog": cmdWaitLog,
				},
			})
		})
	}
}

// needed is the condition [need:PROGRAM]: false without it, and in CI, where
// nothing may be left out, an error.
func needed(cond string) (bool, error) {
	name, ok := strings.CutPrefix(cond, "need:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	if _, err := exec.LookPath(name); err == nil {
		return true, nil
	}
	if os.Getenv("CI") != "" {
		return false, fmt.Errorf("%s: not installed, and in CI no part of a story may be left out; run make tools", name)
	}
	return false, nil
}

type (
	nodesKey struct{}
	logKey   struct{}
)

// serveLog is the log of a serving process, line by line.
type serveLog struct {
	lines *bufio.Scanner
	proc  *os.Process
}

func setupScript(mode string) func(*testscript.Env) error {
	return func(env *testscript.Env) error {
		// The paths of Unix sockets are short.
		dir, err := os.MkdirTemp("", "hisp")
		if err != nil {
			return err
		}
		env.Defer(func() { os.RemoveAll(dir) })
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv("MODE", mode)
		env.Setenv("D", dir)
		env.Setenv("DNS", fmt.Sprintf("127.0.0.1:%d", port))
		env.Setenv("HISP_CONFIG", filepath.Join(dir, "hisp.toml"))
		env.Values[nodesKey{}] = map[string]*os.Process{}
		env.Values[logKey{}] = &serveLog{}
		return nil
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// cmdNode starts a node for a configuration, in mode "alone" only when the word
// always follows.
func cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	config := ts.Getenv("HISP_CONFIG")
	if len(args) > 0 {
		config = args[0]
	}
	if ts.Getenv("MODE") == "alone" && (len(args) < 2 || args[1] != "always") {
		return
	}
	ready, child, err := os.Pipe()
	ts.Check(err)
	p, err := os.StartProcess(program(ts, "quietnode"), []string{"quietnode", "-config", config}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{nil, child, os.Stderr},
	})
	ts.Check(err)
	ts.Check(child.Close())
	nodes := ts.Value(nodesKey{}).(map[string]*os.Process)
	nodes[config] = p
	ts.Defer(func() { stop(nodes, config) })
	if line, err := readLine(ready); err != nil || line != "ready" {
		ts.Fatalf("the node did not start: %q, %v", line, err)
	}
}

// program finds one of the programs that TestMain made.
func program(ts *testscript.TestScript, name string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path := filepath.Join(dir, name); isFile(path) {
			return path
		}
	}
	ts.Fatalf("no program %s", name)
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// cmdServe starts "hisp serve" and waits until it serves.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	logs, child, err := os.Pipe()
	ts.Check(err)
	p, err := os.StartProcess(program(ts, "hisp"), []string{"hisp", "-config", ts.Getenv("HISP_CONFIG"), "serve"}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{nil, child, child},
	})
	ts.Check(err)
	ts.Check(child.Close())
	log := ts.Value(logKey{}).(*serveLog)
	log.lines, log.proc = bufio.NewScanner(logs), p
	nodes := ts.Value(nodesKey{}).(map[string]*os.Process)
	nodes[ts.Getenv("HISP_CONFIG")] = p
	ts.Defer(func() { stop(nodes, ts.Getenv("HISP_CONFIG")); logs.Close() })
	cmdWaitLog(ts, false, []string{"msg=serving"})
}

// cmdWaitLog reads the log of the serving process until a line matches.
func cmdWaitLog(ts *testscript.TestScript, neg bool, args []string) {
	want := regexp.MustCompile(args[0])
	var seen []string
	for log := ts.Value(logKey{}).(*serveLog); log.lines.Scan(); {
		if seen = append(seen, log.lines.Text()); want.MatchString(log.lines.Text()) {
			return
		}
	}
	ts.Fatalf("the log ended without %s:\n%s", args[0], strings.Join(seen, "\n"))
}

func cmdHangup(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Value(logKey{}).(*serveLog).proc.Signal(syscall.SIGHUP))
}

// newerSchema makes a store look as if a later version had written it.
func newerSchema() {
	db, err := bbolt.Open(os.Args[1], 0o600, nil)
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte{0, 0, 0, 99})
		})
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func cmdStopNode(ts *testscript.TestScript, neg bool, args []string) {
	config := ts.Getenv("HISP_CONFIG")
	if len(args) > 0 {
		config = args[0]
	}
	stop(ts.Value(nodesKey{}).(map[string]*os.Process), config)
}

func stop(nodes map[string]*os.Process, config string) {
	p := nodes[config]
	if p == nil {
		return
	}
	delete(nodes, config)
	_ = p.Signal(syscall.SIGTERM)
	_, _ = p.Wait()
}

// cmdCapture sets a variable to the first line of the last output.
func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	line, _, _ := strings.Cut(ts.ReadFile("stdout"), "\n")
	ts.Setenv(args[0], line)
}

// noTransport never reaches anyone.
type noTransport struct{}

func (noTransport) Send(_ context.Context, env hisp.Envelope, _ hisp.Message) []hisp.Result {
	results := make([]hisp.Result, len(env.To))
	for i, rcpt := range env.To {
		results[i] = hisp.Result{Recipient: rcpt, Err: &hisp.Error{Op: "test", Kind: hisp.Temporary}}
	}
	return results
}

func quietNode() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runQuietNode(ctx, os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "quietnode:", errorText(err), hintOf(err))
		os.Exit(1)
	}
}

func runQuietNode(ctx context.Context, path string) error {
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	b, err := openBackend(cfg, log, time.Now)
	if err != nil {
		return err
	}
	defer b.Close()
	b.node, err = hisp.New(hisp.Config{
		Hostname: cfg.Hostname, Log: log, Agent: b.agent, Queue: b.store, Tracker: b.store, Auditor: b.store,
		Directory: b.store, Keys: b.keys, Transport: noTransport{},
	})
	if err != nil {
		return err
	}
	inForce := func() *config { return &cfg }
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	if cfg.Listen.DNS != "" {
		dns, err := dnscert.NewServer(ctx, dnscert.ServerConfig{Addr: cfg.Listen.DNS, Source: zones{inForce, b.clock, b.store}, Log: log})
		if err != nil {
			cancel()
			return err
		}
		go func() { done <- dns.Run(ctx) }()
	} else {
		done <- nil
	}
	defer func() { cancel(); <-done }()
	l, err := listenControl(cfg.resolve(cfg.Data))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return (&controlServer{config: inForce, backend: b, log: log}).serve(ctx, l)
}
