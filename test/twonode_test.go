package test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/testnet"
)

const wait = 60 * time.Second

// canaries are the words of PHI that a story uses; they may be nowhere in the
// clear but in the mailboxes.
var canaries = []string{"canary.sender", "canary.rcpt", "CanarySubject", "CanaryBody"}

// TestTwoNodes is the main job with real processes: submitted, sealed, found in
// DNS, relayed over TLS, opened, delivered, processed and
// dispatched, on record, and without PHI or password in log, audit export or data
// folder.
func TestTwoNodes(t *testing.T) {
	n := testnet.New(t)
	senderPass, rcptPass := n.Hospital.Account(t, "canary.sender"), n.Clinic.Account(t, "canary.rcpt")
	from, to := "canary.sender@hospital.example", "canary.rcpt@clinic.example"
	raw := testnet.Message(from, to, "CanarySubject", "CanaryBody with ümläuts", testnet.AskDispatched,
		"MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit")
	if err := n.Hospital.Submit(t, "canary.sender", senderPass, raw, to); err != nil {
		t.Fatal(err)
	}
	var got []string
	testnet.Eventually(t, wait, "the message is in the mailbox", func() bool {
		got = n.Clinic.Inbox(t, "canary.rcpt", rcptPass)
		return len(got) == 1
	})
	if !strings.Contains(got[0], "Subject: CanarySubject\r\n") {
		t.Errorf("the inner subject is lost:\n%s", got[0])
	}
	var notices []string
	testnet.Eventually(t, wait, "the dispatched notice is in the sender's mailbox", func() bool {
		notices = n.Hospital.Inbox(t, "canary.sender", senderPass)
		return len(notices) == 1
	})
	if !strings.Contains(notices[0], "Disposition: automatic-action/MDN-sent-automatically;dispatched\r\n") {
		t.Errorf("the notice is not dispatched:\n%s", notices[0])
	}
	checkTimeline(t, n.Hospital, "accept", "seal", "send", "notify")
	for _, s := range []*testnet.Site{n.Hospital, n.Clinic} {
		s.CLI(t, "", "audit", "verify")
		s.CheckCanaries(t, append([]string{senderPass, rcptPass}, canaries...)...)
	}
}

// checkTimeline looks at the audit trail of a site through the running node.
func checkTimeline(t *testing.T, s *testnet.Site, want ...string) {
	t.Helper()
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(s.CLI(t, "", "audit", "export")), "\n") {
		var e struct{ Event string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("audit export: %v in %s", err, line)
		}
		seen[e.Event] = true
	}
	for _, event := range want {
		if !seen[event] {
			t.Errorf("%s: no audit entry %q", s.Name, event)
		}
	}
}
