package mdn

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

var date = time.Date(2026, 11, 22, 12, 29, 14, 0, time.FixedZone("", 3600))

func header() Header {
	return Header{
		From: "records@clinic.example", To: "dr.berg@hospital.example", Subject: "Referral",
		MessageID: "<n1@clinic.example>", Date: date,
	}
}

func notice(d Disposition) Notice {
	return Notice{
		ReportingUA: "clinic.example; hisp", OriginalRecipient: "Records@clinic.example",
		FinalRecipient: "records@clinic.example", OriginalMessageID: "<m1@hospital.example>", Disposition: d,
	}
}

func crlf(s string) string { return strings.ReplaceAll(strings.TrimPrefix(s, "\n"), "\n", "\r\n") }

// boundaryOf cuts the boundary from a composed notice and replaces it by B.
func withoutBoundary(msg []byte) string {
	b := regexp.MustCompile(`hisp[0-9a-f]{32}`).Find(msg)
	return strings.ReplaceAll(string(msg), string(b), "B")
}

func mustCompose(t testing.TB, h Header, n Notice, text string) []byte {
	t.Helper()
	msg, err := Compose(h, n, text)
	if err != nil {
		t.Fatalf("Compose: %v", err)
	}
	return msg
}

func mustComposeStatus(t testing.TB, h Header, s Status, text string, original []byte) []byte {
	t.Helper()
	msg, err := ComposeStatus(h, s, text, original)
	if err != nil {
		t.Fatalf("ComposeStatus: %v", err)
	}
	return msg
}

// Rows MDN-01, MDN-04, MDN-08, DN-03, MDN-10 (no Disposition-Notification-To).
func TestCompose_wireForm(t *testing.T) {
	n := notice(Dispatched)
	n.FinalDestination = true
	n.Gateway = "gw.clinic.example"
	n.Warning = []string{"opened late"}
	want := crlf(`
Date: Sun, 22 Nov 2026 11:29:14 +0000
From: records@clinic.example
To: dr.berg@hospital.example
Subject: Dispatched: Referral
Message-ID: <n1@clinic.example>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=disposition-notification;
 boundary="B"

--B
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

Your message was successfully dispatched.

--B
Content-Type: message/disposition-notification
Content-Transfer-Encoding: 7bit

Reporting-UA: clinic.example; hisp
MDN-Gateway: dns; gw.clinic.example
Original-Recipient: rfc822; Records@clinic.example
Final-Recipient: rfc822; records@clinic.example
Original-Message-ID: <m1@hospital.example>
Warning: opened late
X-DIRECT-FINAL-DESTINATION-DELIVERY: ` + `
Disposition: automatic-action/MDN-sent-automatically;dispatched

--B--
`)
	if got := withoutBoundary(mustCompose(t, header(), n, "")); got != want {
		t.Errorf("Compose =\n%s\nwant\n%s", got, want)
	}
}

// Rows DN-04 and DN-19.
func TestComposeStatus_wireForm(t *testing.T) {
	h := header()
	h.InReplyTo = "<m1@hospital.example>"
	s := Status{ReportingMTA: "hospital.example", OriginalMessageID: "<m1@hospital.example>", Recipients: []RecipientStatus{
		{FinalRecipient: "a@clinic.example", Status: "5.1.1", Diagnostic: "550 5.1.1 no such user"},
		{FinalRecipient: "b@other.example", OriginalRecipient: "B@other.example", Diagnostic: "no certificate"},
	}}
	original := []byte("From: dr.berg@hospital.example\nSubject: Referral\n\nthe body is never returned")
	want := crlf(`
Date: Sun, 22 Nov 2026 11:29:14 +0000
From: records@clinic.example
To: dr.berg@hospital.example
Subject: Undeliverable: Referral
Message-ID: <n1@clinic.example>
In-Reply-To: <m1@hospital.example>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B"

--B
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

Not delivered to:

  a@clinic.example: failed (5.1.1)
    550 5.1.1 no such user
  b@other.example: failed (5.0.0)
    no certificate

--B
Content-Type: message/delivery-status
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; hospital.example
X-Original-Message-ID: <m1@hospital.example>

Final-Recipient: rfc822; a@clinic.example
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 no such user

Original-Recipient: rfc822; B@other.example
Final-Recipient: rfc822; b@other.example
Action: failed
Status: 5.0.0
Diagnostic-Code: x-hisp; no certificate

--B
Content-Type: text/rfc822-headers
Content-Transfer-Encoding: 7bit

From: dr.berg@hospital.example
Subject: Referral

--B--
`)
	got := withoutBoundary(mustComposeStatus(t, h, s, "Not delivered to:\n", original))
	got = strings.Replace(got, "delivery-status;\r\n boundary", "delivery-status; boundary", 1)
	if got != want {
		t.Errorf("ComposeStatus =\n%s\nwant\n%s", got, want)
	}
}

// ettRules are the checks of ETT's validator on MDNs and its
// recognition of failures and successes, on whole field values.
var ettRules = map[string]*regexp.Regexp{
	"454 Original-Recipient":  regexp.MustCompile(`^rfc822; ?[^ @]+@[^ @]+$`),
	"457 Reporting-UA":        regexp.MustCompile(`^[^;]+(; .+)?$`),
	"460 Final-Recipient":     regexp.MustCompile(`^rfc822; [^ @]+@[^ @]+$`),
	"461 Original-Message-ID": regexp.MustCompile(`^<[^<>@]+@[^<>@]+>$`),
	"462 Disposition": regexp.MustCompile(`(?i)^(manual-action|automatic-action)/(MDN-sent-manually|MDN-sent-automatically); ?` +
		`(displayed|processed|deleted|dispatched|denied|failed)(/[a-z,]+)?$`),
}

func TestCompose_passesETTRules(t *testing.T) {
	for _, d := range []Disposition{Processed, Dispatched, Failed, Displayed, Denied, Deleted} {
		t.Run(string(d), func(t *testing.T) {
			msg := mustCompose(t, header(), notice(d), "")
			for rule, re := range ettRules {
				name := strings.Fields(rule)[1]
				value, ok := lineValue(msg, name)
				if !ok || !re.MatchString(value) {
					t.Errorf("rule %s: value %q does not match %v", rule, value, re)
				}
			}
			// MT recognition compares the whole value.
			if v, _ := lineValue(msg, "Disposition"); v != "automatic-action/MDN-sent-automatically;"+string(d) {
				t.Errorf("Disposition = %q", v)
			}
			// Rule 452, row MDN-10: an MDN asks for none itself.
			if bytes.Contains(bytes.ToLower(msg), []byte("disposition-notification-")) {
				t.Error("the notice asks for a notice")
			}
		})
	}
}

// lineValue finds an unfolded field anywhere, as a naive receiver would.
func lineValue(msg []byte, name string) (string, bool) {
	for line := range strings.SplitSeq(string(msg), "\r\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return v, true
		}
	}
	return "", false
}

// ETT takes a part for a failure when it has both the literal and the id.
func TestComposeStatus_recognisedByETT(t *testing.T) {
	s := Status{ReportingMTA: "h.example", OriginalMessageID: "<m1@hospital.example>",
		Recipients: []RecipientStatus{{FinalRecipient: "a@clinic.example"}}}
	msg := mustComposeStatus(t, header(), s, "", nil)
	if v, _ := lineValue(msg, "X-Original-Message-ID"); v != s.OriginalMessageID {
		t.Errorf("X-Original-Message-ID = %q, want the id of the original", v)
	}
}

// Row MDN-07: the modifier error needs the Error field.
func TestCompose_errorModifierHasErrorField(t *testing.T) {
	n := notice(Processed)
	n.Modifiers = []string{"error"}
	msg := mustCompose(t, header(), n, "")
	if v, ok := lineValue(msg, "Error"); !ok || v == "" {
		t.Errorf("Error = %q, %v", v, ok)
	}
	if v, _ := lineValue(msg, "Disposition"); !strings.HasSuffix(v, ";processed/error") {
		t.Errorf("Disposition = %q", v)
	}
	n.Error = []string{"MSA|AE|77"}
	if v, _ := lineValue(mustCompose(t, header(), n, ""), "Error"); v != "MSA|AE|77" {
		t.Errorf("Error = %q, want the text given", v)
	}
}

// Threat T9. The values come from strangers: whatever they hold, the notice has
// no header field that an innocent one has not.
func TestCompose_headerInjection(t *testing.T) {
	for _, evil := range []string{
		"x\r\nBcc: mallory@evil.example", "x\nBcc: mallory@evil.example", "x\rBcc: mallory@evil.example",
		"x\x00\r\nBcc: mallory@evil.example\r\n\r\nbody", "x\u0085Bcc: m@evil.example", "x\u2028Bcc: m@evil.example",
		"x\vBcc: m@evil.example", "x\r\n\r\n--B--\r\nBcc: m@evil.example", "\xff\xfe\r\nBcc: m@evil.example",
		strings.Repeat("y", 4090) + "\r\nBcc: m@evil.example",
	} {
		h, n := header(), notice(Failed)
		h.Subject, h.InReplyTo = evil, evil
		n.ReportingUA, n.Gateway, n.OriginalMessageID = evil, evil, evil
		n.Error, n.Failure, n.Warning = []string{evil}, []string{evil}, []string{evil}
		checkClean(t, mustCompose(t, h, n, evil))

		s := Status{ReportingMTA: evil, OriginalMessageID: evil,
			Recipients: []RecipientStatus{{FinalRecipient: "a@b.example", Status: evil, Diagnostic: evil}}}
		checkClean(t, mustComposeStatus(t, h, s, evil, []byte("Subject: a\r\rb\x00\r\n\r\nBcc: in the body")))
	}
}

// checkClean wants CRLF line ends of at most 998 octets, no control character,
// and no field Bcc in the header or in a report part.
func checkClean(t *testing.T, msg []byte) {
	t.Helper()
	head, _, _ := bytes.Cut(msg, []byte("\r\n\r\n"))
	for _, part := range [][]byte{head, reportPart(msg)} {
		for line := range bytes.SplitSeq(part, []byte("\r\n")) {
			if bytes.HasPrefix(bytes.ToLower(line), []byte("bcc")) {
				t.Errorf("injected line %q", line)
			}
		}
	}
	for line := range bytes.SplitSeq(msg, []byte("\r\n")) {
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00\v\u0085\u2028") {
			t.Errorf("bad line of %d octets: %.60q", len(line), line)
		}
	}
}

func reportPart(msg []byte) []byte {
	_, part, _ := bytes.Cut(msg, []byte("Content-Type: message/"))
	part, _, _ = bytes.Cut(part, []byte("\r\n--"))
	return part
}

func TestCompose_refused(t *testing.T) {
	evilAddresses := []string{
		"", "a", "@b", "a@", "a@b\r\nBcc: c@d", "a@b, c@d", "<a@b>", "a@b>", "A <a@b>", "a b@c", "a@b c", "a@b@c",
		`"a"b"@c`, `"a\"@c`, `"x"<m@evil>,"@d`, "a@b\x00", "a(c)@b", "a@[1.2.3.4", "a@b;c", "a\u2028@b", "a\u00a0@b", "a\xff@b",
		strings.Repeat("a", 400) + "@b",
	}
	for _, evil := range evilAddresses {
		h := header()
		h.From = evil
		refused(t, "From "+evil, h, notice(Processed))
		h = header()
		h.To = evil
		refused(t, "To "+evil, h, notice(Processed))
		n := notice(Processed)
		n.FinalRecipient = evil
		refused(t, "FinalRecipient "+evil, header(), n)
		if n = notice(Processed); evil != "" {
			n.OriginalRecipient = evil
			refused(t, "OriginalRecipient "+evil, header(), n)
		}
	}
	for _, evil := range []string{"", "<>", "a@b", "<a@b", "<a b@c>", "<a@b>\r\nBcc: c@d", "<a@b><c@d>", "<a\x00@b>"} {
		h := header()
		h.MessageID = evil
		refused(t, "MessageID "+evil, h, notice(Processed))
	}
	for _, d := range []Disposition{"", "Processed", "processed\r\nBcc: a@b", "error", "other"} {
		refused(t, "Disposition "+string(d), header(), notice(d))
	}
	n := notice(Failed)
	n.Modifiers = []string{"error\r\nBcc: a@b"}
	refused(t, "modifier", header(), n)
	h := header()
	h.Date = time.Time{}
	refused(t, "no date", h, notice(Processed))
}

func refused(t *testing.T, what string, h Header, n Notice) {
	t.Helper()
	if msg, err := Compose(h, n, ""); !errors.Is(err, ErrUnsafe) || msg != nil {
		t.Errorf("%q: Compose = %d octets, %v; want ErrUnsafe", what, len(msg), err)
	}
	s := Status{Recipients: []RecipientStatus{{FinalRecipient: n.FinalRecipient, OriginalRecipient: n.OriginalRecipient,
		Action: Action(strings.Join(n.Modifiers, ""))}}}
	_, err := ComposeStatus(h, s, "", nil)
	if bad := checkHeader(h) != nil || !isAddrSpec(n.FinalRecipient); bad && !errors.Is(err, ErrUnsafe) {
		t.Errorf("%q: ComposeStatus = %v, want ErrUnsafe", what, err)
	}
}

func TestComposeStatus_needsRecipient(t *testing.T) {
	if _, err := ComposeStatus(header(), Status{}, "", nil); !errors.Is(err, ErrUnsafe) {
		t.Errorf("no recipient: %v, want ErrUnsafe", err)
	}
	s := Status{Recipients: []RecipientStatus{{FinalRecipient: "a@b.example", Action: "failed\r\nX: y"}}}
	if _, err := ComposeStatus(header(), s, "", nil); !errors.Is(err, ErrUnsafe) {
		t.Errorf("action with CRLF: %v, want ErrUnsafe", err)
	}
}

// A long Message-ID of a stranger is kept whole up to a line, and cut beyond.
func TestCompose_longMessageID(t *testing.T) {
	n := notice(Processed)
	n.OriginalMessageID = "<" + strings.Repeat("x", 960) + "@hospital.example>"
	report, err := Parse(mustCompose(t, header(), n, ""))
	if err != nil || report.Notice.OriginalMessageID != n.OriginalMessageID {
		t.Errorf("id of %d octets came back with %d, %v", len(n.OriginalMessageID), len(report.Notice.OriginalMessageID), err)
	}
	n.OriginalMessageID = "<" + strings.Repeat("x", 4000) + "@hospital.example>"
	checkClean(t, mustCompose(t, header(), n, ""))
}

// A text that holds boundary-like lines cannot end its part.
func TestCompose_textCannotEndPart(t *testing.T) {
	first := mustCompose(t, header(), notice(Processed), "a")
	boundary := regexp.MustCompile(`hisp[0-9a-f]{32}`).FindString(string(first))
	msg := mustCompose(t, header(), notice(Processed), "a\n--"+boundary+"--\n--"+boundary+"\nb")
	r, err := Parse(msg)
	if err != nil || r.Notice == nil || r.Notice.Disposition != Processed {
		t.Errorf("Parse = %+v, %v", r, err)
	}
}

// The same arguments give the same bytes: a notice may be composed again after a crash.
func TestCompose_deterministic(t *testing.T) {
	if !bytes.Equal(mustCompose(t, header(), notice(Failed), "x"), mustCompose(t, header(), notice(Failed), "x")) {
		t.Error("two notices from the same values differ")
	}
}
