package test

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testnet"
)

// Addresses of the partners that a test plays.
const (
	partnerFrom  = sender + "@partner.example"
	strangerFrom = sender + "@stranger.example"
)

// TestRefusals_backbone: what other hosts send wrongly to port 25 reaches no
// mailbox and is answered by nothing but SMTP: no notice ever leaves, neither
// to the trusted partner nor to the stranger.
func TestRefusals_backbone(t *testing.T) {
	need.Tool(t, "openssl")
	w := newWorld(t, func(w *world) {
		w.Clinic.Set(t, "limits.message_size", fmt.Sprint(messageLimit))
	})
	t.Run("at the door", w.refusedAtTheDoor)
	for _, tt := range w.silentCases(t) {
		t.Run(tt.name, func(t *testing.T) { w.rejectedInSilence(t, tt) })
	}
	t.Run("decryption failures look alike", w.decryptionFailures)
	w.onlyTheGoodOneArrives(t)
	w.checkSilence(t)
}

func (w *world) refusedAtTheDoor(t *testing.T) {
	raw := letter(partnerFrom, to)
	plain := w.Clinic.Talk(t, "backbone", "", nil)
	plain.Must(250, "EHLO mail.partner.example")
	wantReply(t, plain.Do("MAIL FROM:<%s>", partnerFrom), 530, "5.7.0", "STARTTLS")
	wantReply(t, plain.Do("MAIL FROM:<>"), 530, "5.7.0", "STARTTLS")

	k := w.Clinic.Backbone(t)
	direct := []string{"5.7.4", "only Direct messages", "signed and then encrypted"}
	wantReply(t, k.Send(partnerFrom, raw, to), 554, direct...)
	signed := with(w.partner.Sign(t, raw, w.partner.Key), "From: <"+partnerFrom+">", "To: <"+to+">", "Subject: CanarySubject")
	wantReply(t, k.Send(partnerFrom, signed, to), 554, direct...)
	unknown := "canary.nobody@clinic.example"
	wantReply(t, k.Send(partnerFrom, raw, unknown), 550, "5.1.1", "check the address")
	wantReply(t, k.Send(partnerFrom, raw, from), 550, "5.7.1", "relay denied")
	wantReply(t, k.Send(partnerFrom, raw, "canary@elsewhere.example"), 550, "5.7.1", "relay denied")
	limit := hisp.MaxSealed(messageLimit)
	wantReply(t, k.Do("MAIL FROM:<%s> SIZE=%d", partnerFrom, limit+1), 552, "5.3.4", fmt.Sprint(limit))
	large := append(bytes.Clone(raw), strings.Repeat("CanaryBody\r\n", int(limit)/10)...)
	wantReply(t, k.Send(partnerFrom, large, to), 552, "5.3.4", fmt.Sprint(limit))
	for _, bad := range []string{"\r", "\n", "\x00", "\n.\r\nRSET\r\n"} {
		wantReply(t, k.Send(partnerFrom, bytes.Replace(raw, []byte("CanaryBody"), []byte("Canary"+bad+"Body"), 1), to), 554, "5.6.0", "CRLF only")
	}
	wantReply(t, k.Login(to, w.rcptPass), 502, "no AUTH here", "submission port")
}

// silentCase is a message that looks right from outside, so that the peer is
// told 250 and learns nothing.
type silentCase struct {
	name string
	kind string // in the operator's log
	from string // MAIL FROM
	raw  []byte
	to   []string
}

func (w *world) silentCases(t *testing.T) []silentCase {
	p := w.partner
	raw := letter(partnerFrom, to)
	cert := w.Clinic.Cert(t)
	seal := func(raw []byte, signer *testca.Issued) []byte {
		return p.Seal(t, w.Clinic, raw, signer, partnerFrom, to)
	}
	other := p.CA.Issue(testca.Spec{Email: []string{"canary.other@partner.example"}})
	domain := p.CA.Issue(testca.Spec{DNS: []string{"elsewhere.example"}})
	old := p.CA.Issue(expired(testca.Spec{DNS: []string{"partner.example"}}))
	imposter := w.stranger.CA.Issue(testca.Spec{DNS: []string{"partner.example"}})
	altered := bytes.Replace(p.Sign(t, raw, p.Key), []byte("CanaryBody"), []byte("CanaryBodY"), 1)
	mine := letter(strangerFrom, to)
	second := []string{to, "postmaster@clinic.example"}
	user(t, w.Clinic, second[1])
	return []silentCase{
		{name: "S1 encrypted only", kind: "unprotected", raw: testnet.Enveloped(partnerFrom, to, testnet.EncryptDER(t, raw, cert))},
		{name: "TR-01 signer of an unknown CA", kind: "untrusted", from: strangerFrom,
			raw: w.stranger.Seal(t, w.Clinic, mine, w.stranger.Key, strangerFrom, to)},
		{name: "an unknown CA says it is the partner", kind: "untrusted", raw: seal(raw, imposter)},
		{name: "signer bound to another address", kind: "untrusted", raw: seal(raw, other)},
		{name: "signer bound to another domain", kind: "untrusted", raw: seal(raw, domain)},
		{name: "signer expired", kind: "untrusted", raw: seal(raw, old)},
		{name: "From of a stranger, signed by the partner", kind: "untrusted", from: strangerFrom,
			raw: p.Seal(t, w.Clinic, mine, p.Key, strangerFrom, to)},
		{name: "altered after signing", kind: "bad signature", raw: testnet.Enveloped(partnerFrom, to, testnet.EncryptDER(t, altered, cert))},
		{name: "BB-12 RCPT not in To", kind: "tampered", raw: seal(raw, p.Key), to: second},
		{name: "BB-11 MAIL FROM is not From", kind: "tampered", from: "canary.other@partner.example", raw: seal(raw, p.Key)},
		{name: "null MAIL FROM", kind: "tampered", from: "<>", raw: seal(raw, p.Key)},
		{name: "outer From differs", kind: "tampered", from: partnerFrom,
			raw: p.Seal(t, w.Clinic, raw, p.Key, "canary.other@partner.example", to)},
		{name: "two From inside", kind: "malformed", raw: seal(with(raw, "From: <canary.other@partner.example>"), p.Key)},
	}
}

var queuedAs = regexp.MustCompile(`queued as (\w+)`)

// accepted sends a message and returns the ID the clinic gave it.
func (w *world) accepted(t *testing.T, from string, raw []byte, to ...string) (id string, reply testnet.Reply) {
	t.Helper()
	reply = w.Clinic.Backbone(t).Send(strings.Trim(from, "<>"), raw, to...)
	m := queuedAs.FindStringSubmatch(reply.Text)
	if m == nil {
		t.Fatalf("reply = %v, want queued as ID", reply)
	}
	return m[1], reply
}

func (w *world) rejectedInSilence(t *testing.T, tt silentCase) {
	if tt.from == "" {
		tt.from = partnerFrom
	}
	if tt.to == nil {
		tt.to = []string{to}
	}
	id, _ := w.accepted(t, tt.from, tt.raw, tt.to...)
	if got := w.rejection(t, id); got != tt.kind {
		t.Errorf("rejected as %q, want %q", got, tt.kind)
	}
}

// rejection waits for the log line about a message and returns its kind.
func (w *world) rejection(t *testing.T, id string) (kind string) {
	t.Helper()
	line := regexp.MustCompile(`msg=(rejected|delivered|notice) id=` + id + `.* kind="?([^"=]*?)"? err=`)
	testnet.Eventually(t, wait, "the message is rejected", func() bool {
		m := line.FindStringSubmatch(w.Clinic.Log())
		if m == nil {
			return strings.Contains(w.Clinic.Log(), "msg=delivered id="+id)
		}
		kind = m[2]
		return true
	})
	return kind
}

// decryptionFailures: whatever keeps a message from being decrypted, the peer
// and the log see the same (row S3): no padding oracle.
func (w *world) decryptionFailures(t *testing.T) {
	p := w.partner
	signed := p.Sign(t, letter(partnerFrom, to), p.Key)
	good := testnet.EncryptDER(t, signed, w.Clinic.Cert(t))
	flip := func(at int) []byte {
		der := bytes.Clone(good)
		der[at] ^= 1
		return der
	}
	key := bytes.Index(good, w.Clinic.Cert(t).SerialNumber.Bytes())
	var first testnet.Reply
	for name, der := range map[string][]byte{
		"padding":         flip(len(good) - 17),
		"last block":      flip(len(good) - 1),
		"encrypted key":   flip(key + 100),
		"another's key":   testnet.EncryptDER(t, signed, p.Key.Cert),
		"cut short":       good[:len(good)-40],
		"no CMS":          []byte("CanaryBody"),
		"deeply nested":   bytes.Repeat([]byte{0x30, 0x80}, 20_000),
		"nothing at all":  {0x30, 0x00},
		"unknown content": {0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04},
	} {
		t.Run(name, func(t *testing.T) {
			id, reply := w.accepted(t, partnerFrom, testnet.Enveloped(partnerFrom, to, der), to)
			reply.Text = strings.Replace(reply.Text, id, "ID", 1)
			if first.Code == 0 {
				first = reply
			}
			if reply != first {
				t.Errorf("reply = %v, for another failure %v", reply, first)
			}
			if got := w.rejection(t, id); got != "cannot decrypt" {
				t.Errorf("rejected as %q, want %q", got, "cannot decrypt")
			}
		})
	}
}

// onlyTheGoodOneArrives proves that silence was not for want of a way: a right
// message of the partner is delivered and answered.
func (w *world) onlyTheGoodOneArrives(t *testing.T) {
	t.Helper()
	raw := letter(partnerFrom, to)
	w.accepted(t, partnerFrom, w.partner.Seal(t, w.Clinic, raw, w.partner.Key, partnerFrom, to), to)
	testnet.Eventually(t, wait, "the partner has its notice", func() bool { return len(w.partner.Taken()) > 0 })
	inbox := w.Clinic.Inbox(t, rcpt, w.rcptPass)
	if len(inbox) != 1 || !strings.Contains(inbox[0], messageIDOf(raw)) {
		t.Errorf("%d messages in the mailbox, want only the good one", len(inbox))
	}
	if got := w.partner.Taken(); len(got) != 1 || got[0].From != "" || len(got[0].To) != 1 || got[0].To[0] != partnerFrom {
		t.Errorf("the partner got %d messages, want one notice", len(got))
	}
	if got := w.stranger.Taken(); len(got) > 0 {
		t.Errorf("the stranger got %d messages", len(got))
	}
	if out := strings.TrimSpace(w.Clinic.CLI(t, "", "queue", "list", "-json")); out != "[]" {
		t.Errorf("the queue is not empty:\n%s", out)
	}
}
