package bench

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/hispnode/hisp/test/load"
	"github.com/hispnode/hisp/test/postfix"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testnet"
)

const (
	hold    = "smtpd_client_restrictions = check_client_access static:HOLD\n"
	virtual = "virtual_mailbox_domains = clinic.example\nvirtual_mailbox_maps = static:x/\nvirtual_mailbox_limit = 0\n"
)

func startPostfix(b *testing.B, settings string) postfix.Postfix {
	files, err := testca.NewRoot("bench root").Issue(testca.Spec{DNS: []string{"mail.clinic.example"}}).WriteFiles(b.TempDir(), "postfix")
	if err != nil {
		b.Fatal(err)
	}
	return postfix.Start(b, files, settings)
}

// BenchmarkAccept_backbone: messages accepted and durable, nothing else. Our
// node has queued the message and its audit record with one synced commit
// before it answers; Postfix has the queue file synced and on hold.
func BenchmarkAccept_backbone(b *testing.B) {
	r := newRig(b)
	content := sealed(b, r.Hospital, from, to)
	h := startHeld(b, r.Clinic)
	pfx := startPostfix(b, virtual+hold)
	for _, p := range points {
		b.Run(fmt.Sprintf("conns=%d", p.conns), func(b *testing.B) {
			l := load.Load{From: from, To: to, Content: content}
			ours, theirs := &side{name: "hisp", load: l}, &side{name: "postfix", load: l}
			ours.load.Addr, theirs.load.Addr = h.backbone, pfx.Addr
			duel(b, p, ours, theirs)
		})
	}
}

// BenchmarkAccept_submission is the same for submission over STARTTLS. Ours
// also checks the login, the sender, the structure and the signing key; the
// Postfix asks for no login.
func BenchmarkAccept_submission(b *testing.B) {
	r := newRig(b)
	h := startHeld(b, r.Clinic)
	pfx := startPostfix(b, virtual+hold)
	for _, p := range points {
		b.Run(fmt.Sprintf("conns=%d", p.conns), func(b *testing.B) {
			l := load.Load{From: to, To: from, Content: plain(to, from, octets), TLS: &tls.Config{InsecureSkipVerify: true}}
			ours, theirs := &side{name: "hisp", load: l}, &side{name: "postfix", load: l}
			ours.load.Addr, ours.load.Login, theirs.load.Addr = h.submission, plainLogin(to, r.rcptPass), pfx.Addr
			theirs.load.To = to
			duel(b, p, ours, theirs)
		})
	}
}

// BenchmarkDeliver is the path from port 25 to the mailbox without
// cryptography: to a recipient who decrypts for themselves here, to a virtual
// maildir at Postfix.
func BenchmarkDeliver(b *testing.B) {
	r := newRig(b)
	content := sealed(b, r.Hospital, from, to)
	pfx := startPostfix(b, virtual)
	for _, p := range points {
		b.Run(fmt.Sprintf("conns=%d", p.conns), func(b *testing.B) {
			ours := &side{name: "hisp", load: load.Load{Addr: r.Clinic.Addr("backbone"), From: from, To: own, Content: content}}
			theirs := &side{name: "postfix", load: load.Load{Addr: pfx.Addr, From: from, To: to, Content: content}}
			ours.done = countInbox(b, r.Clinic, own, r.ownPass, &ours.load.Messages)
			theirs.done = countFiles(b, filepath.Join(pfx.Mail, "x", "new"), &theirs.load.Messages)
			duel(b, p, ours, theirs)
		})
	}
}

// BenchmarkReceive is the whole of receiving: our node also decrypts, verifies
// and checks trust. It is the same message again and again, so that from the
// second on it is a duplicate, opened but neither delivered nor answered.
func BenchmarkReceive(b *testing.B) {
	r := newRig(b)
	content := sealed(b, r.Hospital, from, to)
	pfx := startPostfix(b, virtual)
	for _, p := range points {
		b.Run(fmt.Sprintf("conns=%d", p.conns), func(b *testing.B) {
			ours := &side{name: "hisp", load: load.Load{Addr: r.Clinic.Addr("backbone"), From: from, To: to, Content: content}}
			theirs := &side{name: "postfix", load: load.Load{Addr: pfx.Addr, From: from, To: to, Content: content}}
			ours.done = func() { awaitEmptyQueue(b, r.Clinic) }
			theirs.done = countFiles(b, filepath.Join(pfx.Mail, "x", "new"), &theirs.load.Messages)
			duel(b, p, ours, theirs)
		})
	}
}

// await looks again every 5 ms until ok holds.
func await(b *testing.B, what string, ok func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			b.Fatal("did not happen in time: " + what)
		}
	}
}

// awaitEmptyQueue looks less often: it asks with the operator's command.
func awaitEmptyQueue(b *testing.B, s *testnet.Site) {
	testnet.Eventually(b, 2*time.Minute, "the queue is empty", func() bool {
		return strings.TrimSpace(s.CLI(b, "", "queue", "list", "-json")) == "[]"
	})
}

// countFiles waits for n files more in dir each time.
func countFiles(b *testing.B, dir string, n *int) func() {
	count := func() int {
		list, err := os.ReadDir(dir)
		if err != nil {
			return 0
		}
		return len(list)
	}
	want := count()
	return func() {
		want += *n
		await(b, "delivery by Postfix", func() bool { return count() >= want })
	}
}

// countInbox waits for n messages more in an INBOX each time.
func countInbox(b *testing.B, s *testnet.Site, user, pass string, n *int) func() {
	c, err := imapclient.DialTLS(s.Addr("imaps"), &imapclient.Options{TLSConfig: s.TLS(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Login(user, pass).Wait(); err != nil {
		b.Fatal(err)
	}
	count := func() int {
		st, err := c.Status("INBOX", &imap.StatusOptions{NumMessages: true}).Wait()
		if err != nil {
			b.Fatal(err)
		}
		return int(*st.NumMessages)
	}
	want := count()
	return func() {
		want += *n
		await(b, "delivery by the node", func() bool { return count() >= want })
	}
}
