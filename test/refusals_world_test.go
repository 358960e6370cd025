package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/mdn"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testdns"
	"github.com/hispnode/hisp/test/testnet"
)

const (
	sender = "canary.sender"
	rcpt   = "canary.rcpt"
	from   = sender + "@hospital.example"
	to     = rcpt + "@clinic.example"

	messageLimit = 200_000 // octets, limits.message_size of the world
)

// world is two nodes and two partners that a test plays: one that both nodes
// trust and one that nobody trusts, though everybody can reach it.
type world struct {
	*testnet.Net
	t                 *testing.T // of the whole story: nodes live as long
	dns               *testdns.Server
	partner, stranger *testnet.Peer
	senderPass        string
	rcptPass          string
}

func newWorld(t *testing.T, prepare func(w *world)) *world {
	t.Helper()
	w := &world{Net: testnet.Prepare(t), t: t, dns: testdns.New(t)}
	w.partner = testnet.NewPeer(t, w.dns, "partner.example")
	w.stranger = testnet.NewPeer(t, w.dns, "stranger.example")
	w.Resolve(t, w.dns)
	for _, s := range w.sites() {
		s.Knows(t, w.partner, w.stranger)
		s.CLI(t, "", "anchor", "add", s.Domain, w.partner.Anchor(t))
	}
	if prepare != nil {
		prepare(w)
	}
	w.senderPass, w.rcptPass = w.Hospital.Account(t, sender), w.Clinic.Account(t, rcpt)
	for _, s := range w.sites() {
		s.Start(t)
	}
	return w
}

func (w *world) sites() []*testnet.Site { return []*testnet.Site{w.Hospital, w.Clinic} }

// checkSilence ends a story: the audit chains hold and no word of PHI is where
// it may not be.
func (w *world) checkSilence(t *testing.T) {
	t.Helper()
	for _, s := range w.sites() {
		s.CLI(t, "", "audit", "verify")
		s.CheckCanaries(t, canaries...)
	}
}

// user adds an account of another domain to a site.
func user(t *testing.T, s *testnet.Site, address string) (password string) {
	t.Helper()
	_, domain, _ := strings.Cut(address, "@")
	if !strings.Contains(s.CLI(t, "", "domain", "list"), domain) {
		s.CLI(t, "", "domain", "add", domain)
	}
	return strings.TrimSpace(s.CLI(t, "", "account", "add", "-generate", address))
}

// importKey imports a key for its domain.
func importKey(t *testing.T, s *testnet.Site, key *testca.Issued) (id string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, append(key.KeyPEM(), testca.PEM(key.Chain...)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s.CLI(t, "", "key", "import", "-no-password", path))
}

// wantReply checks the code and that the text says each of words.
func wantReply(t *testing.T, got testnet.Reply, code int, words ...string) {
	t.Helper()
	if got.Code != code {
		t.Errorf("reply = %v, want %d", got, code)
	}
	for _, word := range words {
		if !strings.Contains(got.Text, word) {
			t.Errorf("reply = %v, want in it %q", got, word)
		}
	}
	for _, word := range canaries { // the greeting of a command may name what it was given
		if code >= 400 && strings.Contains(got.Text, word) {
			t.Errorf("reply = %v, which repeats %q", got, word)
		}
	}
}

// wantFailure finds the one failure notice about the message and returns the
// status of each recipient and the text.
func wantFailure(t *testing.T, inbox []string, messageID string) (status map[string]string, text string) {
	t.Helper()
	n := 0
	status = map[string]string{}
	for _, raw := range inbox {
		report, err := mdn.Parse([]byte(raw))
		if err != nil || report.Status == nil || report.Status.OriginalMessageID != messageID {
			continue
		}
		n++
		text = raw
		for _, r := range report.Status.Recipients {
			if r.Action != mdn.ActionFailed {
				t.Errorf("action = %q, want failed", r.Action)
			}
			status[r.FinalRecipient] = r.Status
		}
	}
	if n != 1 {
		t.Errorf("%d failure notices about the message, want 1", n)
	}
	return status, text
}

// messageIDOf returns the Message-ID with its brackets.
func messageIDOf(raw []byte) string {
	for _, line := range strings.Split(string(raw), "\r\n") {
		if id, ok := strings.CutPrefix(line, "Message-ID: "); ok {
			return id
		}
	}
	return ""
}

// letter is a message with canary words, to one or more recipients in To.
func letter(from string, to ...string) []byte {
	return testnet.Message(from, strings.Join(to, ">, <"), "CanarySubject", "CanaryBody")
}

// with adds header lines to a message.
func with(raw []byte, lines ...string) []byte {
	return []byte(strings.Join(lines, "\r\n") + "\r\n" + string(raw))
}

// expired is a validity that has ended.
func expired(s testca.Spec) testca.Spec {
	s.NotBefore, s.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().Add(-time.Hour)
	return s
}
