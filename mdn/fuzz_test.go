package mdn

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// fuzzBounds keeps one input small enough for the fuzzer to be fast.
const fuzzBounds = 256 << 10

// FuzzParse feeds the parser of disposition notifications. Whatever comes in,
// values come out as clean lines, IsReport agrees, and a notice that can be
// composed again reads back as itself.
func FuzzParse(f *testing.F) {
	f.Add(noticeOf(ettFinal + ettID + ettMode + "processed\n"))
	f.Add(noticeOf("Final-Recipient : rfc822;\n white@tester.example\n" + ettMode + " failed/error\nFailure: x\n\x00"))
	f.Add(noticeOf("Final-Recipient: utf-8; \\x{DF}@x.example\nX-DIRECT-FINAL-DESTINATION-DELIVERY:\n" + ettMode + "dispatched\n"))
	f.Add([]byte("Content-Type: message/disposition-notification\n\n" + ettFinal + "Disposition: a(b)c;processed\n"))
	f.Add(mustCompose(f, header(), notice(Dispatched), "grüße"))
	f.Add([]byte("Disposition-Notification-To: \"x\" <a@b>, c@d\nDisposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\n\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > fuzzBounds {
			return
		}
		for _, addr := range Requested(msg).To {
			checkValue(t, addr)
		}
		report, err := Parse(msg)
		if got := IsReport(msg); got == errors.Is(err, ErrNotReport) {
			t.Fatalf("IsReport = %v, Parse: %v", got, err)
		}
		if err != nil || report.Notice == nil {
			return
		}
		n := *report.Notice
		checkValue(t, n.ReportingUA, n.Gateway, n.OriginalRecipient, n.FinalRecipient, n.OriginalMessageID, string(n.Disposition))
		checkValue(t, n.Error...)
		checkValue(t, n.Failure...)
		checkValue(t, n.Warning...)
		again, err := Compose(header(), n, "text")
		if err != nil || len(n.OriginalMessageID) > 900 {
			return
		}
		back, err := Parse(again)
		if err != nil || back.Notice == nil {
			t.Fatalf("composed again: %v\n%s", err, again)
		}
		if g, w := back.Notice, n; g.FinalRecipient != w.FinalRecipient || g.OriginalMessageID != w.OriginalMessageID ||
			g.Disposition != w.Disposition || !reflect.DeepEqual(g.Modifiers, w.Modifiers) || g.FinalDestination != w.FinalDestination {
			t.Errorf("composed again it reads\n%+v, want\n%+v", *g, w)
		}
	})
}

// FuzzParseStatus does the same for delivery status notifications.
func FuzzParseStatus(f *testing.F) {
	const a = "\nFinal-Recipient: rfc822; a@tester.example\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 no\n user\n"
	f.Add(report("delivery-status", "message/delivery-status", dsnHead+a+a))
	f.Add(report("delivery-status", "message/delivery-status", a, "--b\nContent-Type: text/rfc822-headers\n\nMessage-ID: <x@y>\n"))
	f.Add(report("delivery-status", "message/delivery-status", a, "--b\nContent-Type: message/rfc822\n\nMessage-ID: <x@y>\n\nbody\n"))
	f.Add(report("delivery-status", "message/global-delivery-status", "Original-Recipient: utf-8; \\x{DF}@x.example\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > fuzzBounds {
			return
		}
		report, err := Parse(msg)
		if err != nil || report.Status == nil {
			return
		}
		s := *report.Status
		checkValue(t, s.ReportingMTA, s.OriginalMessageID)
		for _, r := range s.Recipients {
			checkValue(t, r.OriginalRecipient, r.FinalRecipient, string(r.Action), r.Status, r.Diagnostic)
		}
		again, err := ComposeStatus(header(), s, "text", msg)
		if err != nil || len(s.OriginalMessageID) > 900 {
			return
		}
		back, err := Parse(again)
		if err != nil || back.Status == nil || len(back.Status.Recipients) != len(s.Recipients) {
			t.Fatalf("composed again: %v\n%s", err, again)
		}
		for i, r := range back.Status.Recipients {
			if r.FinalRecipient != s.Recipients[i].FinalRecipient || r.Action != actionOf(s.Recipients[i]) {
				t.Errorf("composed again it reads %+v, want %+v", r, s.Recipients[i])
			}
		}
	})
}

// checkValue wants one line of valid UTF-8 without control characters.
func checkValue(t *testing.T, values ...string) {
	t.Helper()
	for _, v := range values {
		if !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) || len(v) > maxFieldSize {
			t.Errorf("value %.100q is not one clean line", v)
		}
	}
}
