package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/hispnode/hisp/test/testnet"
)

const (
	diskSize = 96 << 20 // octets of the hospital's disk
	nearFull = 8 << 20  // octets left: less than the node's reserve
)

// TestDiskFull: a node whose disk is full takes no new mail, from nobody, and
// says so; its users read and delete as before; with room again everything goes
// on by itself, and what a partner could not hand over comes late.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a small disk is a tmpfs, which only root can mount; run this test as root")
	}
	w := newWorld(t, func(w *world) { mountSmall(t, filepath.Join(w.Hospital.Dir, "data")) })
	h := w.Hospital
	arrived := func(n int) {
		t.Helper()
		testnet.Eventually(t, wait, fmt.Sprintf("%d messages in the mailbox", n), func() bool {
			return len(h.Inbox(t, sender, w.senderPass)) == n
		})
	}
	for range 2 {
		if err := w.Clinic.Submit(t, rcpt, w.rcptPass, letter(to, from), from); err != nil {
			t.Fatal(err)
		}
	}
	arrived(2)

	for _, left := range []int64{nearFull, 0} {
		t.Run(fmt.Sprintf("%d MiB left", left>>20), func(t *testing.T) {
			fill(t, h, left)
			wantReply(t, h.Edge(t, sender, w.senderPass).Send(from, letter(from, to), to), 452, "4.3.1", "try again later")
			sealed := w.partner.Seal(t, h, letter(partnerFrom, from), w.partner.Key, partnerFrom, from)
			wantReply(t, h.Backbone(t).Send(partnerFrom, sealed, from), 452, "4.3.1", "try again later")
			w.appendRefused(t)
			if got := h.Inbox(t, sender, w.senderPass); len(got) != 2 || !strings.Contains(got[0], "CanaryBody") {
				t.Errorf("%d messages can be read, want 2", len(got))
			}
		})
	}
	if err := w.Clinic.Submit(t, rcpt, w.rcptPass, letter(to, from), from); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, wait, "the clinic tries later", func() bool {
		return strings.Contains(w.Clinic.Log(), "later=1")
	})
	w.deleteOne(t)
	arrived(1)

	pid := h.Pid()
	if err := os.Remove(ballast(h)); err != nil {
		t.Fatal(err)
	}
	arrived(2)
	wantReply(t, h.Edge(t, sender, w.senderPass).Send(from, letter(from, to), to), 250)
	testnet.Eventually(t, wait, "mail leaves again", func() bool {
		return len(w.Clinic.Inbox(t, rcpt, w.rcptPass)) == 1
	})
	if h.Dead() || h.Pid() != pid {
		t.Error("the node was started anew")
	}
	w.checkSilence(t)
}

// mountSmall puts what is in dir onto a disk of its own.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	away := dir + ".away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", diskSize)); err != nil {
		t.Skipf("no tmpfs can be mounted here (%v); run this test as root outside a container", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	if err := os.CopyFS(dir, os.DirFS(away)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(away); err != nil {
		t.Fatal(err)
	}
}

func ballast(s *testnet.Site) string { return filepath.Join(s.Dir, "data", "ballast") }

// fill takes all of the site's disk but left octets.
func fill(t *testing.T, s *testnet.Site, left int64) {
	t.Helper()
	f, err := os.OpenFile(ballast(s), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.Dir+"/data", &st); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	more := int64(st.Bavail)*st.Bsize - left
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, info.Size()+more); err != nil {
		t.Fatal(err)
	}
}

// imapSession logs in at the hospital and selects INBOX.
func (w *world) imapSession(t *testing.T) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialTLS(w.Hospital.Addr("imaps"), &imapclient.Options{TLSConfig: w.Hospital.TLS(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login(from, w.senderPass).Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) appendRefused(t *testing.T) {
	t.Helper()
	raw := letter(from, to)
	cmd := w.imapSession(t).Append("INBOX", int64(len(raw)), nil)
	if _, err := cmd.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := cmd.Wait()
	if err == nil || !strings.Contains(err.Error(), "NO") && !strings.Contains(err.Error(), "room") {
		t.Errorf("APPEND: %v, want NO and that there is no room", err)
	}
}

// deleteOne expunges the first message.
func (w *world) deleteOne(t *testing.T) {
	t.Helper()
	c := w.imapSession(t)
	store := c.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Expunge().Close(); err != nil {
		t.Fatal(err)
	}
}
