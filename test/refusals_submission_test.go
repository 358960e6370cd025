package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testnet"
)

// TestRefusals_submission: what a user's program hands in wrongly is refused
// with the right code, in words that say what to do, and goes nowhere.
func TestRefusals_submission(t *testing.T) {
	passwords := map[string]string{}
	w := newWorld(t, func(w *world) {
		h := w.Hospital
		for _, s := range w.sites() {
			s.Set(t, "limits.message_size", fmt.Sprint(messageLimit))
		}
		for _, domain := range []string{"nokey.example", "retired.example", "expired.example"} {
			passwords[domain] = user(t, h, sender+"@"+domain)
		}
		ca := testca.NewRoot("trial")
		importKey(t, h, ca.Issue(expired(testca.Spec{DNS: []string{"expired.example"}})))
		h.CLI(t, "", "key", "retire", "-force", importKey(t, h, ca.Issue(testca.Spec{DNS: []string{"retired.example"}})))
		w.dns.Add(t, "bare.example. 60 IN MX 10 mail.partner.example.")
	})
	w.stillPasses(t)
	for _, listener := range []string{"submission_tls", "submission"} {
		t.Run(listener, func(t *testing.T) {
			for _, tt := range submissionCases() {
				t.Run(tt.name, func(t *testing.T) { w.submitRefused(t, listener, tt) })
			}
		})
	}
	for domain, password := range passwords {
		t.Run("no usable key, "+domain, func(t *testing.T) { w.noKey(t, sender+"@"+domain, password) })
	}
	t.Run("before TLS and login", w.beforeLogin)
	t.Run("wrong password, then throttled", w.throttled)
	t.Run("recipients that cannot be reached safely", w.unreachable)

	if got := w.Clinic.Inbox(t, rcpt, w.rcptPass); len(got) != 2 { // stillPasses, unreachable
		t.Errorf("%d messages in the recipient's mailbox, want the two good ones", len(got))
	}
	if got := w.stranger.Taken(); len(got) > 0 {
		t.Errorf("%d messages left for the untrusted domain", len(got))
	}
	w.checkSilence(t)
}

// stillPasses proves that the refusals do not come from a broken set-up.
func (w *world) stillPasses(t *testing.T) {
	t.Helper()
	if err := w.Hospital.Submit(t, sender, w.senderPass, letter(from, to), to); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, wait, "a good message arrives and is answered", func() bool {
		return len(w.Clinic.Inbox(t, rcpt, w.rcptPass)) == 1
	})
}

// submissionCase is one message that must be refused.
type submissionCase struct {
	name     string
	mailFrom string // default: from
	params   string // of MAIL
	raw      []byte
	to       []string // default: to
	code     int
	says     []string
}

func submissionCases() []submissionCase {
	other := "canary.other@hospital.example"
	good := string(letter(from, to))
	broken := func(header, body string) []byte {
		return []byte(strings.Replace(good, "\r\n\r\nCanaryBody", "\r\nMIME-Version: 1.0\r\n"+header+"\r\n\r\n"+body, 1))
	}
	inBody := func(s string) []byte { return []byte(strings.Replace(good, "CanaryBody", "Canary"+s+"Body", 1)) }
	return []submissionCase{
		{name: "T8 MAIL FROM of another", mailFrom: other, code: 550, says: []string{"5.7.1", "only as the address you logged in with"}},
		{name: "T8 MAIL FROM of a partner", mailFrom: to, code: 550, says: []string{"5.7.1", "only as the address you logged in with"}},
		{name: "null MAIL FROM", mailFrom: "<>", code: 550, says: []string{"5.7.1", "send with your own address"}},
		{name: "ED-08 From of another", raw: letter(other, to), code: 550, says: []string{"5.7.1", "From", "send with your own address"}},
		{name: "two From", raw: with([]byte(good), "From: <"+other+">"), code: 554, says: []string{"5.6.0", "occurs twice"}},
		{name: "Sender of another", raw: with([]byte(good), "Sender: <"+other+">"), code: 550, says: []string{"5.7.1", "Sender", "send with your own address"}},
		{name: "BB-12 Bcc", raw: with([]byte(good), "Bcc: <canary.other@clinic.example>"), code: 550, says: []string{"5.7.1", "Bcc", "send a message of its own"}},
		{name: "BB-12 hidden recipient", to: []string{to, "canary.other@partner.example"}, code: 550, says: []string{"5.7.1", "recipient 2", "message of its own"}},
		{name: "declared size", params: fmt.Sprintf(" SIZE=%d", messageLimit+1), code: 552, says: []string{"5.3.4", fmt.Sprint(messageLimit)}},
		{name: "size", raw: []byte(good + strings.Repeat("CanaryBody\r\n", messageLimit/10)), code: 552, says: []string{"5.3.4", fmt.Sprint(messageLimit)}},
		{name: "T1 bare CR", raw: inBody("\r"), code: 554, says: []string{"5.6.0", "lines end with CRLF only"}},
		{name: "T1 bare LF", raw: inBody("\n"), code: 554, says: []string{"5.6.0", "lines end with CRLF only"}},
		{name: "T1 smuggling", raw: inBody("\n.\r\nMAIL FROM:<" + other + ">\r\n"), code: 554, says: []string{"5.6.0", "lines end with CRLF only"}},
		{name: "T2 NUL", raw: inBody("\x00"), code: 554, says: []string{"5.6.0", "NUL"}},
		{name: "M3 multipart without end", raw: broken("Content-Type: multipart/mixed; boundary=b", "--b\r\n\r\nCanaryBody"), code: 554, says: []string{"5.6.0", "closing boundary is missing"}},
		{name: "M3 multipart without boundary", raw: broken("Content-Type: multipart/mixed", "CanaryBody"), code: 554, says: []string{"5.6.0", "no boundary"}},
		{name: "M3 Content-Type", raw: broken("Content-Type: text", "CanaryBody"), code: 554, says: []string{"5.6.0", "Content-Type"}},
		{name: "no header field", raw: with([]byte(good), "CanarySubject without colon"), code: 554, says: []string{"5.6.0", "not a field"}},
		{name: "Date", raw: []byte(strings.Replace(good, "\r\nDate: ", "\r\nDate: CanarySubject", 1)), code: 554, says: []string{"5.6.0", "Date"}},
		{name: "unknown local recipient", to: []string{"canary.nobody@hospital.example"}, code: 550, says: []string{"5.1.1", "check the address"}},
		{name: "no recipient domain", to: []string{rcpt + "@clinic_example"}, code: 553, says: []string{"5.1.3", "not a domain"}},
	}
}

func (w *world) submitRefused(t *testing.T, listener string, tt submissionCase) {
	k := w.Hospital.Talk(t, listener, "", nil)
	if listener == "submission" {
		k.StartTLS()
	} else {
		k.Must(250, "EHLO client.example")
	}
	if r := k.Login(from, w.senderPass); r.Code != 235 {
		t.Fatalf("login = %v", r)
	}
	if tt.raw == nil {
		tt.raw = letter(from, to)
	}
	if tt.to == nil {
		tt.to = []string{to}
	}
	mailFrom := from
	if tt.mailFrom != "" {
		mailFrom = strings.Trim(tt.mailFrom, "<>")
	}
	if tt.params != "" {
		wantReply(t, k.Do("MAIL FROM:<%s>%s", mailFrom, tt.params), tt.code, tt.says...)
		return
	}
	wantReply(t, k.Send(mailFrom, tt.raw, tt.to...), tt.code, tt.says...)
}

func (w *world) noKey(t *testing.T, address, password string) {
	k := w.Hospital.Talk(t, "submission_tls", "", nil)
	k.Must(250, "EHLO client.example")
	if r := k.Login(address, password); r.Code != 235 {
		t.Fatalf("login = %v", r)
	}
	_, domain, _ := strings.Cut(address, "@")
	wantReply(t, k.Send(address, letter(address, to), to), 554, "5.7.5", "no valid signing key", domain, "hisp key list", "renew the expired one")
}

func (w *world) beforeLogin(t *testing.T) {
	k := w.Hospital.Talk(t, "submission", "", nil)
	k.Must(250, "EHLO client.example")
	wantReply(t, k.Login(from, w.senderPass), 530, "5.7.0", "STARTTLS")
	wantReply(t, k.Do("MAIL FROM:<%s>", from), 530, "5.7.0", "STARTTLS")
	k.StartTLS()
	wantReply(t, k.Do("MAIL FROM:<%s>", from), 530, "5.7.0", "log in first")
}

// throttled: row T7; who guesses is slowed down, and the account's owner, at
// another address, is not locked out.
func (w *world) throttled(t *testing.T) {
	const attacker, owner = "127.0.0.3", "127.0.0.2"
	seen := map[int]int{}
	for range 12 {
		k := w.Hospital.Talk(t, "submission_tls", attacker, nil)
		k.Must(250, "EHLO client.example")
		r := k.Login(from, "CanaryBody")
		seen[r.Code]++
		switch r.Code {
		case 535:
			wantReply(t, r, 535, "5.7.8", "check")
		case 454:
			wantReply(t, r, 454, "4.7.0", "wait")
		default:
			t.Errorf("reply = %v, want 535 or 454", r)
		}
		k.Close()
	}
	if seen[535] > 11 { // one more may be forgiven within the time of this loop
		t.Errorf("replies = %v, want 10 times 535, then 454", seen)
	}
	k := w.Hospital.Talk(t, "submission_tls", attacker, nil)
	k.Must(250, "EHLO client.example")
	wantReply(t, k.Login(from, w.senderPass), 454, "4.7.0", "wait")
	k = w.Hospital.Talk(t, "submission_tls", owner, nil)
	k.Must(250, "EHLO client.example")
	wantReply(t, k.Login(from, w.senderPass), 235)
}

// unreachable: what only the network can tell is answered by one notice that
// names every failed recipient; the others get the message (rows DN-08, BB-13).
func (w *world) unreachable(t *testing.T) {
	const unknown, untrusted, bare = "canary.a@nowhere.example", "canary.b@stranger.example", "canary.c@bare.example"
	all := letter(from, unknown, untrusted, bare)
	some := letter(from, to, unknown, untrusted)
	k := w.Hospital.Edge(t, sender, w.senderPass)
	wantReply(t, k.Send(from, all, unknown, untrusted, bare), 250)
	wantReply(t, k.Send(from, some, to, unknown, untrusted), 250)
	var inbox []string
	testnet.Eventually(t, wait, "both notices are in the sender's mailbox", func() bool {
		inbox = w.Hospital.Inbox(t, sender, w.senderPass)
		return len(inbox) >= 2
	})
	testnet.Eventually(t, wait, "the good recipient has the message", func() bool {
		return len(w.Clinic.Inbox(t, rcpt, w.rcptPass)) == 2
	})
	want := []map[string]string{ // a domain that is not in DNS has no certificate either
		{unknown: "5.7.5", untrusted: "5.7.1", bare: "5.7.5"},
		{unknown: "5.7.5", untrusted: "5.7.1"},
	}
	for i, raw := range [][]byte{all, some} {
		status, text := wantFailure(t, inbox, messageIDOf(raw))
		if fmt.Sprint(status) != fmt.Sprint(want[i]) {
			t.Errorf("status = %v, want %v", status, want[i])
		}
		for _, advice := range []string{"Check the address", "Ask your HISP operator to add"} {
			if !strings.Contains(text, advice) {
				t.Errorf("the notice does not say %q:\n%s", advice, text)
			}
		}
	}
}
