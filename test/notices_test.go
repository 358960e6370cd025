package test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/mdn"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testnet"
)

// noticeTimeout is how long the hospital waits for a notice. The partner of
// these stories takes messages and answers nothing by itself. It must be enough
// to hand in the answers that have to come in time.
const noticeTimeout = 8 * time.Second

const (
	patient     = "canary.sender.patient" // whose messages go to the silent partner
	patientFrom = patient + "@hospital.example"
	partnerRcpt = rcpt + "@partner.example"
)

// noticeWorld has a second trusted partner, who has no say in what becomes of
// messages to the first.
type noticeWorld struct {
	*world
	rival       *testnet.Peer
	patientPass string
}

// TestNotices: who is told what about a message, and how often.
func TestNotices(t *testing.T) {
	need.Tool(t, "openssl")
	n := &noticeWorld{}
	n.world = newWorld(t, func(w *world) {
		n.rival = testnet.NewPeer(t, w.dns, "rival.example")
		w.Hospital.Knows(t, n.rival)
		w.Hospital.CLI(t, "", "anchor", "add", "hospital.example", n.rival.Anchor(t))
		w.Hospital.Set(t, "notices.timeout", fmt.Sprintf("%q", noticeTimeout))
	})
	n.patientPass = n.Hospital.Account(t, patient)
	t.Run("asked for or not", n.askedOrNot)
	t.Run("never answered", n.neverAnswered)
	t.Run("silence, forgery and lateness", n.silence)
	n.checkSilence(t)
}

// askedOrNot: rows DN-01, DN-02, DN-13 and MDN-13. The clinic's user sends; the
// clinic waits an hour for notices, so none of this can time out.
func (n *noticeWorld) askedOrNot(t *testing.T) {
	asked := testnet.Message(to, from, "CanarySubject", "CanaryBody", testnet.AskDispatched)
	plain := testnet.Message(to, from, "CanarySubject", "CanaryBody")
	for _, raw := range [][]byte{asked, plain} {
		if err := n.Clinic.Submit(t, rcpt, n.rcptPass, raw, from); err != nil {
			t.Fatal(err)
		}
	}
	testnet.Eventually(t, wait, "the clinic has three notices", func() bool {
		return strings.Count(n.Clinic.Log(), "msg=notice") == 3
	})
	composed := n.auditKinds(t, n.Hospital, "notify", "composed")
	slices.Sort(composed)
	if got := strings.Join(composed, " "); got != "dispatched processed processed" {
		t.Errorf("notices = %s, want processed for both and dispatched for one", got)
	}
	inbox := n.Clinic.Inbox(t, rcpt, n.rcptPass)
	if len(inbox) != 1 {
		t.Fatalf("%d messages in the sender's mailbox, want the dispatched notice alone", len(inbox))
	}
	report, err := mdn.Parse([]byte(inbox[0]))
	if err != nil || report.Notice == nil {
		t.Fatalf("not a notice: %v", err)
	}
	if d := report.Notice; d.Disposition != mdn.Dispatched || !d.FinalDestination || d.OriginalMessageID != messageIDOf(asked) || d.FinalRecipient != from {
		t.Errorf("notice = %+v, want dispatched with the X-DIRECT field about the message that asked", d)
	}
	receipt, err := mdn.Compose(mdn.Header{From: from, To: to, Subject: "CanarySubject", MessageID: "<receipt@client.example>", Date: time.Now()},
		mdn.Notice{FinalRecipient: from, OriginalMessageID: messageIDOf(plain), Disposition: mdn.Displayed}, "Your message was read.\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Hospital.Submit(t, sender, n.senderPass, receipt, to); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, wait, "the read receipt is in the sender's mailbox", func() bool {
		inbox = n.Clinic.Inbox(t, rcpt, n.rcptPass)
		return len(inbox) == 2
	})
	if report, err := mdn.Parse([]byte(inbox[1])); err != nil || report.Notice == nil || report.Notice.Disposition != mdn.Displayed {
		t.Errorf("the second message is no read receipt: %v", err)
	}
}

// auditKinds lists the kind of each entry with an event and a detail.
func (n *noticeWorld) auditKinds(t *testing.T, s *testnet.Site, event, detail string) (kinds []string) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(s.CLI(t, "", "audit", "export")), "\n") {
		var e struct{ Event, Kind, Detail string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Event == event && e.Detail == detail {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// neverAnswered: row MDN-10. Notices of every kind, even if they ask for an
// answer, bring none; the message after them brings one.
func (n *noticeWorld) neverAnswered(t *testing.T) {
	for _, d := range []mdn.Disposition{mdn.Displayed, mdn.Processed, mdn.Dispatched, mdn.Failed} {
		raw := with(n.notice(t, partnerRcpt, to, "<unknown@clinic.example>", mdn.Notice{Disposition: d, FinalRecipient: partnerRcpt}),
			"Disposition-Notification-To: <"+partnerRcpt+">", testnet.AskDispatched)
		n.accepted(t, "<>", n.partner.Seal(t, n.Clinic, raw, n.partner.Key, partnerRcpt, to), to)
	}
	odd := with(letter(partnerRcpt, to), "MIME-Version: 1.0", "Content-Type: multipart/report; report-type=disposition-notification; boundary=b")
	n.accepted(t, "<>", n.partner.Seal(t, n.Clinic, odd, n.partner.Key, partnerRcpt, to), to)
	good := letter(partnerRcpt, to)
	n.accepted(t, partnerRcpt, n.partner.Seal(t, n.Clinic, good, n.partner.Key, partnerRcpt, to), to)
	testnet.Eventually(t, wait, "the good message is answered", func() bool { return len(n.partner.Taken()) > 0 })
	testnet.Eventually(t, wait, "the clinic has nothing left to do", func() bool {
		return strings.TrimSpace(n.Clinic.CLI(t, "", "queue", "list", "-json")) == "[]"
	})
	if got := n.auditKinds(t, n.Clinic, "notify", "composed"); len(got) != 1 || got[0] != string(mdn.Processed) {
		t.Errorf("composed = %v, want processed for the message and nothing for the notices", got)
	}
	if got := n.partner.Taken(); len(got) != 1 {
		t.Errorf("the partner got %d messages, want one notice", len(got))
	}
}

// notice composes an MDN.
func (n *noticeWorld) notice(t *testing.T, from, to, about string, d mdn.Notice) []byte {
	t.Helper()
	if d.FinalRecipient == "" {
		d.FinalRecipient = partnerRcpt
	}
	d.OriginalMessageID = about
	raw, err := mdn.Compose(mdn.Header{From: from, To: to, Subject: "CanarySubject", Date: time.Now(),
		MessageID: fmt.Sprintf("<%d@%s>", time.Now().UnixNano(), "notices.example")}, d, "CanaryBody\r\n")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// answer is a notice about a message to the silent partner.
type answer struct {
	from    string // default: partnerRcpt
	sign    func(n *noticeWorld) (*testnet.Peer, *testca.Issued)
	notice  mdn.Notice
	outcome string // that the node records
}

// Who signs an answer.
func byPartner(n *noticeWorld) (*testnet.Peer, *testca.Issued)  { return n.partner, n.partner.Key }
func byRival(n *noticeWorld) (*testnet.Peer, *testca.Issued)    { return n.rival, n.rival.Key }
func byStranger(n *noticeWorld) (*testnet.Peer, *testca.Issued) { return n.stranger, n.stranger.Key }

// silentStory is a message to the silent partner and what is said about it in
// time.
type silentStory struct {
	name    string
	ask     []string
	answers []answer
	status  string // in the one failure notice; "" if none may come
	late    *answer
}

const timedOut = "5.4.7"

func silentStories() []silentStory {
	ask := []string{testnet.AskDispatched}
	processed := mdn.Notice{Disposition: mdn.Processed}
	dispatched := mdn.Notice{Disposition: mdn.Dispatched, FinalDestination: true}
	failed := mdn.Notice{Disposition: mdn.Failed, Failure: []string{"no such mailbox"}}
	rival := sender + "@rival.example"
	colleague := "canary.other@partner.example"
	return []silentStory{
		{name: "DN-13 processed completes what did not ask", answers: []answer{{sign: byPartner, notice: processed, outcome: "applied"}}},
		{name: "DN-12 dispatched completes what asked", ask: ask, answers: []answer{
			{sign: byPartner, notice: processed, outcome: "applied"}, {sign: byPartner, notice: dispatched, outcome: "applied"}}},
		{name: "DN-06 failure after processed", ask: ask, status: "5.5.0", answers: []answer{
			{sign: byPartner, notice: processed, outcome: "applied"}, {sign: byPartner, notice: failed, outcome: "applied"},
			{sign: byPartner, notice: failed, outcome: "late"}}},
		{name: "MDN-07 processed with an error", status: "5.5.0", answers: []answer{
			{sign: byPartner, notice: mdn.Notice{Disposition: mdn.Processed, Modifiers: []string{"error"}, Error: []string{"cannot read"}}, outcome: "applied"}}},
		{name: "MDN-07 processed with a failure", status: "5.5.0", answers: []answer{
			{sign: byPartner, notice: mdn.Notice{Disposition: mdn.Processed, Modifiers: []string{"failure"}, Failure: []string{"cannot read"}}, outcome: "applied"}}},
		{name: "DN-09 silence", status: timedOut, late: &answer{sign: byPartner, notice: processed, outcome: "late"}},
		{name: "DN-12 processed alone is not what was asked", ask: ask, status: timedOut,
			answers: []answer{{sign: byPartner, notice: processed, outcome: "applied"}},
			late:    &answer{sign: byPartner, notice: dispatched, outcome: "late"}},
		{name: "DN-03 dispatched without the X-DIRECT field", ask: ask, status: timedOut,
			answers: []answer{{sign: byPartner, notice: mdn.Notice{Disposition: mdn.Dispatched}, outcome: "applied"}},
			late:    &answer{sign: byPartner, notice: failed, outcome: "late"}},
		{name: "MDN-15 success told by another trusted domain", ask: ask, status: timedOut,
			answers: []answer{{from: rival, sign: byRival, notice: dispatched, outcome: "forged"}}},
		{name: "MDN-15 failure told by another trusted domain", status: timedOut,
			answers: []answer{{from: rival, sign: byRival, notice: failed, outcome: "forged"}}},
		{name: "MDN-15 success told by the recipient's colleague", status: timedOut,
			answers: []answer{{from: colleague, sign: byPartner, notice: processed, outcome: "forged"}}},
		{name: "E2 about another recipient", status: timedOut,
			answers: []answer{{from: colleague, sign: byPartner, notice: mdn.Notice{Disposition: mdn.Processed, FinalRecipient: colleague}, outcome: "unknown"}}},
		{name: "TR signed by a stranger", status: timedOut, answers: []answer{{sign: byStranger, notice: processed, outcome: ""}}},
		{name: "signed by the rival in the recipient's name", status: timedOut, answers: []answer{{sign: byRival, notice: processed, outcome: ""}}},
		{name: "displayed decides nothing", status: timedOut, answers: []answer{{sign: byPartner, notice: mdn.Notice{Disposition: mdn.Displayed}, outcome: "receipt"}}},
		{name: "MDN-06 deleted decides nothing", status: timedOut, answers: []answer{{sign: byPartner, notice: mdn.Notice{Disposition: mdn.Deleted}, outcome: "no effect"}}},
	}
}

// silence: the hospital's messages to a partner who does not answer. Whatever
// is said by others, its user gets exactly one failure notice about each
// message that nobody vouched for, though the node was killed in mid-wait, and
// none about the others.
func (n *noticeWorld) silence(t *testing.T) {
	stories := silentStories()
	raws := make([][]byte, len(stories))
	began := time.Now()
	for i, s := range stories {
		raws[i] = testnet.Message(patientFrom, partnerRcpt, "CanarySubject", "CanaryBody", s.ask...)
		if err := n.Hospital.Submit(t, patient, n.patientPass, raws[i], partnerRcpt); err != nil {
			t.Fatal(err)
		}
	}
	testnet.Eventually(t, wait, "the partner has all messages", func() bool { return len(n.partner.Taken()) == 1+len(stories) })
	for i, s := range stories {
		for _, a := range s.answers {
			n.say(t, s.name, a, messageIDOf(raws[i]))
		}
	}
	if took := time.Since(began); took > noticeTimeout {
		t.Logf("the machine is slow: the answers took %v", took)
	}
	n.Hospital.Kill()
	n.Hospital.Start(n.t)
	failures, silent := 0, 0
	for _, s := range stories {
		if s.status != "" {
			failures++
		}
		if s.status == timedOut {
			silent++
		}
	}
	testnet.Eventually(t, wait, "the waits have ended", func() bool {
		return strings.Count(n.Hospital.Log(), `msg="no notice in time"`) >= silent
	})
	for i, s := range stories {
		if s.late != nil {
			n.say(t, s.name, *s.late, messageIDOf(raws[i]))
		}
	}
	inbox := n.Hospital.Inbox(t, patient, n.patientPass)
	const passedOn = 3 // dispatched, the read receipt, the notice about an unknown message
	if len(inbox) != failures+passedOn {
		t.Errorf("%d messages in the sender's mailbox, want %d failures and %d notices passed on", len(inbox), failures, passedOn)
	}
	for i, s := range stories {
		if s.status == "" {
			for _, raw := range inbox {
				if r, err := mdn.Parse([]byte(raw)); err == nil && r.Status != nil && r.Status.OriginalMessageID == messageIDOf(raws[i]) {
					t.Errorf("%s: a failure notice came", s.name)
				}
			}
			continue
		}
		t.Log(s.name)
		status, _ := wantFailure(t, inbox, messageIDOf(raws[i]))
		if status[partnerRcpt] != s.status {
			t.Errorf("%s: status = %v, want %s", s.name, status, s.status)
		}
	}
}

// say sends an answer to the hospital and waits for what it makes of it.
func (n *noticeWorld) say(t *testing.T, name string, a answer, about string) {
	t.Helper()
	if a.from == "" {
		a.from = partnerRcpt
	}
	peer, key := a.sign(n)
	raw := peer.Seal(t, n.Hospital, n.notice(t, a.from, patientFrom, about, a.notice), key, a.from, patientFrom)
	r := n.Hospital.Backbone(t).Send("", raw, patientFrom)
	m := queuedAs.FindStringSubmatch(r.Text)
	if m == nil {
		t.Fatalf("%s: reply = %v", name, r)
	}
	line := "msg=notice id=" + m[1] + " domain=" + peer.Domain + " op="
	if a.outcome == "" {
		line = "msg=rejected id=" + m[1]
	}
	testnet.Eventually(t, wait, name+": the notice is read", func() bool { return strings.Contains(n.Hospital.Log(), line) })
	_, rest, _ := strings.Cut(n.Hospital.Log(), line)
	if got, _, _ := strings.Cut(rest, "\n"); a.outcome != "" && strings.Trim(got, `"`) != a.outcome {
		t.Errorf("%s: outcome = %s, want %s", name, got, a.outcome)
	}
}
