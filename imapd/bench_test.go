package imapd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// fill puts n messages in a folder.
func (n *testNode) fill(count int, raw string) {
	n.t.Helper()
	msg := hisp.NewMessage([]byte(raw))
	for range count {
		if _, _, err := n.store.Append(context.Background(), testAddress, "INBOX", msg, nil, time.Now()); err != nil {
			n.t.Fatal(err)
		}
	}
}

// overStores runs a benchmark on both stores.
func overStores(b *testing.B, bench func(*testing.B, *testNode)) {
	b.Run("memory", func(b *testing.B) { bench(b, newTestNode(b, nil)) })
	b.Run("bolt", func(b *testing.B) {
		s := openBolt(b)
		bench(b, newTestNode(b, func(c *Config) { c.Store = s }))
	})
}

// BenchmarkFetch_headers: 1,000 headers of 10 KB messages, cached after the
// first time.
func BenchmarkFetch_headers(b *testing.B) {
	overStores(b, func(b *testing.B, n *testNode) {
		n.fill(1000, plainMessage+strings.Repeat("text of the body\r\n", 600))
		c := n.login()
		c.ok("SELECT INBOX")
		for b.Loop() {
			if got := c.ok("FETCH 1:* (UID FLAGS RFC822.SIZE BODY.PEEK[HEADER])"); len(got) != 1000 {
				b.Fatal(len(got))
			}
		}
		b.ReportMetric(float64(b.N*1000)/b.Elapsed().Seconds(), "headers/s")
	})
}

// BenchmarkFetch_body: one body of 1 MB.
func BenchmarkFetch_body(b *testing.B) {
	overStores(b, func(b *testing.B, n *testNode) {
		n.fill(1, plainMessage+strings.Repeat("0123456789abcdef\r\n", 1<<20/18))
		c := n.login()
		c.ok("SELECT INBOX")
		b.SetBytes(1 << 20)
		for b.Loop() {
			c.ok("FETCH 1 BODY.PEEK[]")
		}
	})
}

// BenchmarkSelect: a folder of 50,000 messages, not selected by anyone else.
func BenchmarkSelect(b *testing.B) {
	overStores(b, func(b *testing.B, n *testNode) {
		if err := n.fill50k(); err != nil {
			b.Fatal(err)
		}
		c := n.login()
		for b.Loop() {
			c.ok("SELECT INBOX")
			c.ok("UNSELECT")
		}
	})
}

// fill50k doubles a folder by COPY, which is quicker than appending.
func (n *testNode) fill50k() error {
	ctx := context.Background()
	n.fill(50, plainMessage)
	for {
		_, infos, err := n.store.ListMessages(ctx, testAddress, "INBOX")
		if err != nil || len(infos) >= 50000 {
			return err
		}
		var uids []uint32
		for _, m := range infos[:min(len(infos), 50000-len(infos))] {
			uids = append(uids, m.UID)
		}
		if _, _, err := n.store.CopyMessages(ctx, testAddress, "INBOX", uids, "INBOX", store.Copy); err != nil {
			return err
		}
	}
}

// BenchmarkAppend: messages of 20 KB, durable on bolt.
func BenchmarkAppend(b *testing.B) {
	overStores(b, func(b *testing.B, n *testNode) {
		raw := plainMessage + strings.Repeat("0123456789abcdef\r\n", 20000/18)
		c := n.login()
		command := fmt.Sprintf("APPEND INBOX {%d}\r\n%s", len(raw), raw)
		for b.Loop() {
			c.ok(command)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	})
}

const (
	idleEnv   = "IMAPD_IDLE_NODE"
	idleConns = 1000
	// maxIdle is the budget of reliability row R9.
	maxIdle = 100 << 10
)

// TestIdleMemory measures what 1,000 connections in IDLE take (row R9): the
// node is a process of its own, so that the clients do not count.
func TestIdleMemory(t *testing.T) {
	if os.Getenv(idleEnv) != "" {
		idleNode(t)
		return
	}
	if testing.Short() {
		t.Skip("opens 1,000 connections")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleMemory$")
	cmd.Env = append(os.Environ(), idleEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	r := bufio.NewReader(out)
	addr, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{t: t, full: strings.TrimSpace(addr), tls: insecureTLS()}
	n.login()
	before := rss(t, cmd.Process.Pid)
	for range idleConns {
		c := n.login()
		c.ok("SELECT INBOX")
		c.send("i IDLE\r\n")
		c.line()
	}
	each := (rss(t, cmd.Process.Pid) - before) / idleConns
	t.Logf("%d octets of RSS for each of %d idle connections", each, idleConns)
	if each > maxIdle && !raceEnabled {
		t.Errorf("an idle connection takes %d octets, want at most %d", each, maxIdle)
	}
}

// idleNode serves until its standard input ends.
func idleNode(t *testing.T) {
	n := newTestNode(t, func(c *Config) { c.Limits.PerAccount = 2 * idleConns; c.Limits.PerAddress = 2 * idleConns })
	n.fill(100, plainMessage)
	fmt.Println(n.full)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// rss is the resident memory of a process in octets.
func rss(t *testing.T, pid int) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
