package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/test/need"
)

// The test binary is its own child: with these set it commits instead.
const (
	envCrashDir   = "HISP_BOLT_CRASH_DIR"
	envCrashSteps = "HISP_BOLT_CRASH_STEPS" // per worker, 0 is without end
)

const crashWorkers = 4

var (
	crashKey = store.MasterKey{1, 2, 3}
	crashBob = hisp.Address{Local: "bob", Domain: "hospital.example"}
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envCrashDir); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashChild queues, leases, retries and delivers until it is killed, and says
// on stdout what was acknowledged: "Q id" and "D id".
func crashChild(dir string) error {
	ctx := context.Background()
	steps, err := strconv.Atoi(os.Getenv(envCrashSteps))
	if err != nil {
		return err
	}
	s, err := Open(Options{Dir: dir, Create: true, MasterKey: crashKey, Reserve: 1 << 20})
	if err != nil {
		return err
	}
	if err := s.AddDomain(ctx, store.Domain{Name: crashBob.Domain}); err != nil && !errors.Is(err, hisp.Conflict) {
		return err
	}
	if _, err := s.GetAccount(ctx, crashBob); errors.Is(err, hisp.NotFound) {
		if err := s.PutAccount(ctx, store.AccountRecord{Account: hisp.Account{Address: crashBob}}); err != nil {
			return err
		}
	}
	fmt.Println("R ready")
	var wg sync.WaitGroup
	errs := make(chan error, crashWorkers)
	for w := range crashWorkers {
		wg.Go(func() {
			for n := 0; steps == 0 || n < steps; n++ {
				if err := crashStep(ctx, s, w, n); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return s.Close()
	}
}

func crashStep(ctx context.Context, s *Store, w, n int) error {
	id := hisp.NewID(time.Now())
	size := 500 + 37*n%20000
	if n%4 == 1 {
		size += inlineMax // a file
	}
	err := s.Commit(ctx, hisp.Step{
		Queue: []hisp.Item{{ID: id, Work: hisp.WorkOpen, Message: crashMessage(id, size)}},
		Audit: []hisp.AuditRecord{{Event: hisp.AuditReceive, Message: id}}})
	if err != nil {
		return err
	}
	fmt.Printf("Q %s\n", id)
	it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkOpen})
	if err != nil {
		return err
	}
	if n%5 == 4 {
		return s.Retry(ctx, it.ID, time.Now(), "later", nil)
	}
	err = s.Commit(ctx, hisp.Step{Finish: it.ID,
		Deliver: []hisp.Delivery{{ID: it.ID, Recipient: crashBob, Message: it.Message}},
		Track:   []hisp.Track{{Message: it.ID, MessageID: string(it.ID), Recipient: crashBob}},
		Audit:   []hisp.AuditRecord{{Event: hisp.AuditDeliver, Message: it.ID}}})
	if err != nil {
		return err
	}
	fmt.Printf("D %s\n", it.ID)
	if n%3 == 2 { // bodies are removed too
		return crashExpunge(ctx, s)
	}
	return nil
}

// crashExpunge stores large messages, copies them and removes them again.
func crashExpunge(ctx context.Context, s *Store) error {
	_, _, err := s.Append(ctx, crashBob, "Trash", crashMessage("TRASHTRASHTRASHTRASHTRASHX", 2*inlineMax), []string{flagDeleted}, time.Time{})
	if err != nil {
		return err
	}
	f, infos, err := s.ListMessages(ctx, crashBob, "Trash")
	if err != nil {
		return err
	}
	if len(infos) > 0 {
		if _, _, err = s.CopyMessages(ctx, crashBob, f.Name, []uint32{infos[0].UID}, "Trash", store.Copy); err != nil {
			return err
		}
	}
	_, err = s.Expunge(ctx, crashBob, "Trash", nil)
	return err
}

// crashMessage is the ID again and again.
func crashMessage(id hisp.ID, size int) hisp.Message {
	return hisp.NewMessage(bytes.Repeat([]byte(id), size/len(id)+1))
}

// ledger is what a child acknowledged.
type ledger struct{ queued, delivered map[hisp.ID]bool }

func newLedger() *ledger { return &ledger{map[hisp.ID]bool{}, map[hisp.ID]bool{}} }

func (l *ledger) read(r io.Reader) {
	for sc := bufio.NewScanner(r); sc.Scan(); {
		what, id, _ := strings.Cut(sc.Text(), " ")
		switch what {
		case "Q":
			l.queued[hisp.ID(id)] = true
		case "D":
			l.delivered[hisp.ID(id)] = true
		}
	}
}

func childCommand(dir string, steps int, before ...string) *exec.Cmd {
	args := append(before, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), envCrashDir+"="+dir, fmt.Sprintf("%s=%d", envCrashSteps, steps))
	return cmd
}

// checkCrashed opens the store as the next start does and compares it with the
// ledger: invariants I1, I3 and I4 of docs/security.md.
func checkCrashed(t *testing.T, dir string, l *ledger) {
	t.Helper()
	start := time.Now()
	s, err := Open(Options{Dir: dir, Create: true, MasterKey: crashKey, Reserve: 1 << 20})
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("open took %v, want less than 2 s", d)
	}
	defer s.Close()
	report, err := s.Verify(t.Context())
	if err != nil || !report.OK() || report.Orphans > 0 {
		t.Fatalf("verify = %+v, %v, want nothing found and no orphan", report, err)
	}
	at := map[hisp.ID]string{}
	note := func(place string, raw []byte) {
		id := hisp.ID(raw[:min(26, len(raw))])
		if !bytes.Equal(raw, crashMessage(id, len(raw)-1).Bytes()) {
			t.Errorf("a message in the %s was changed", place)
		}
		if was, twice := at[id]; twice {
			t.Errorf("item %s is in the %s and in the %s", id, was, place)
		}
		at[id] = place
	}
	if _, infos, err := s.ListMessages(t.Context(), crashBob, "INBOX"); err == nil {
		for _, m := range infos {
			msg, err := s.ReadMessage(t.Context(), crashBob, "INBOX", m.UID)
			if err != nil {
				t.Fatal(err)
			}
			note("mailbox", msg.Bytes())
		}
	} else if len(l.delivered) > 0 {
		t.Fatal(err)
	}
	items, err := s.ListItems(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range items {
		it, err := s.Lease(t.Context(), hisp.LeaseRequest{Work: hisp.WorkOpen})
		if err != nil {
			t.Fatal(err)
		}
		note("queue", it.Message.Bytes())
	}
	for id := range l.queued {
		if at[id] == "" {
			t.Errorf("item %s was acknowledged and is lost", id)
		}
		if es, err := s.MessageAudit(t.Context(), id); err != nil || len(es) == 0 {
			t.Errorf("item %s was acknowledged without audit record (%v)", id, err)
		}
	}
	for id := range l.delivered {
		if at[id] != "mailbox" {
			t.Errorf("message %s was delivered and is in the %q", id, at[id])
		}
	}
}

// The store is killed at random times.
func TestCrash_killAtRandomTimes(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 4
	}
	dir, l := t.TempDir(), newLedger()
	for range rounds {
		cmd := childCommand(dir, 0)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(out)
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatalf("the child did not start: %v %s", err, complaint.String())
		}
		timer := time.AfterFunc(time.Duration(rand.IntN(200_000))*time.Microsecond, func() { cmd.Process.Kill() })
		l.read(in)
		timer.Stop()
		if err := cmd.Wait(); err == nil || complaint.Len() > 0 {
			t.Fatalf("the child ended by itself: %v %s", err, complaint.String())
		}
		checkCrashed(t, dir, l)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d accepted, %d delivered, none lost", rounds, len(l.queued), len(l.delivered))
}

// A kill at each kind of disk operation,
// from the first creation of the store on.
func TestCrash_killAtEachDiskOperation(t *testing.T) {
	strace := need.Tool(t, "strace")
	points := []int{1, 2, 3, 4, 6, 9, 14, 22}
	if testing.Short() {
		points = []int{1, 5}
	}
	for _, call := range []string{"fdatasync", "fsync", "pwrite64", "renameat", "ftruncate", "unlinkat", "write"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			for _, n := range points {
				dir, l := filepath.Join(t.TempDir(), "store"), newLedger()
				cmd := childCommand(dir, 12, strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call,
					"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, n))
				out, err := cmd.Output()
				l.read(bytes.NewReader(out))
				checkCrashed(t, dir, l)
				if t.Failed() {
					t.Fatalf("at %s number %d (the child: %v)", call, n, err)
				}
				if err == nil {
					return // the flow ended by itself: no more points
				}
			}
		})
	}
}

// A failed sync ends the process, and what was acknowledged
// before is there.
func TestCrash_failedSync(t *testing.T) {
	strace := need.Tool(t, "strace")
	for _, inject := range []string{"fdatasync:error=EIO:when=25", "fsync:error=EIO:when=12", "pwrite64:error=EIO:when=40"} {
		t.Run(inject, func(t *testing.T) {
			call, _, _ := strings.Cut(inject, ":")
			dir, l := t.TempDir(), newLedger()
			cmd := childCommand(dir, 200, strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call, "-e", "inject="+inject)
			out, err := cmd.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("the child ended with %v, want exit status 1", err)
			}
			l.read(bytes.NewReader(out))
			if len(l.queued) == 0 {
				t.Error("nothing was acknowledged before: the test tests nothing")
			}
			checkCrashed(t, dir, l)
		})
	}
}

// A full disk is Full, not the end: the next commit works.
func TestCrash_noSpaceInjected(t *testing.T) {
	strace := need.Tool(t, "strace")
	dir, l := t.TempDir(), newLedger()
	cmd := childCommand(dir, 50, strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace=pwrite64",
		"-e", "inject=pwrite64:error=ENOSPC:when=20+")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(complaint.String(), hintFull) {
		t.Errorf("the child ended with %v (%s), want a commit refused as Full", err, complaint.String())
	}
	l.read(bytes.NewReader(out))
	checkCrashed(t, dir, l)
}
