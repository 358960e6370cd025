package mdn

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// report builds a multipart/report by hand around the fields of its second part.
func report(reportType, partType, fields string, more ...string) []byte {
	return []byte(crlf("Subject: x\nIn-Reply-To: <reply@hospital.example>\nMIME-Version: 1.0\n" +
		"Content-Type: multipart/report; report-type=" + reportType + "; boundary=b\n\n--b\n\ntext\n--b\nContent-Type: " +
		partType + "\n\n" + fields + "\n" + strings.Join(more, "") + "--b--\n"))
}

func noticeOf(fields string) []byte {
	return report("disposition-notification", "message/disposition-notification", fields)
}

const (
	ettFinal = "Final-Recipient: rfc822; white@tester.example\n"
	ettID    = "Original-Message-ID: <m1@hospital.example>\n"
	ettMode  = "Disposition: automatic-action/MDN-sent-automatically;"
)

// The answers of ETT's odd addresses and of senders seen in
// the field. Rows MDN-06, MDN-14, DN-03.
func TestParse_notice(t *testing.T) {
	want := func(d Disposition) Notice {
		return Notice{FinalRecipient: "white@tester.example", OriginalMessageID: "<m1@hospital.example>", Disposition: d}
	}
	with := func(d Disposition, change func(*Notice)) Notice {
		n := want(d)
		change(&n)
		return n
	}
	for _, tt := range []struct {
		name, fields string
		want         Notice
	}{
		{"processedonly5", ettFinal + ettID + ettMode + "processed\n", want(Processed)},
		{"processeddispatched6", ettFinal + ettID + "X-DIRECT-FINAL-DESTINATION-DELIVERY: \n" + ettMode + "dispatched\n",
			with(Dispatched, func(n *Notice) { n.FinalDestination = true })},
		{"empty field without blank", ettFinal + ettID + "X-DIRECT-FINAL-DESTINATION-DELIVERY:\n" + ettMode + "dispatched\n",
			with(Dispatched, func(n *Notice) { n.FinalDestination = true })},
		{"dispatched without field", ettFinal + ettID + ettMode + "dispatched\n", want(Dispatched)},
		{"dispatched, field as modifier only", ettFinal + ettID + ettMode + "dispatched/X-DIRECT-FINAL-DESTINATION-DELIVERY\n",
			with(Dispatched, func(n *Notice) { n.Modifiers = []string{"x-direct-final-destination-delivery"} })},
		{"noaddressfailure9", ettFinal + ettID + "Failure: Failure MDN\n" + ettMode + "failed\n",
			with(Failed, func(n *Notice) { n.Failure = []string{"Failure MDN"} })},
		{"processedfailuretest, blank before type", ettFinal + ettID + ettMode + " failed\n", want(Failed)},
		{"failure as type", ettFinal + ettID + ettMode + " failure\n", want(Failed)},
		{"white_space_mdn", "Final-Recipient : rfc822; white@tester.example\nOriginal-Message-ID\t : <m1@hospital.example>\n" +
			"Disposition : automatic-action/MDN-sent-automatically;processed\n", want(Processed)},
		{"extra_line_break_mdn", "Final-Recipient: rfc822;\n white@tester.example\nOriginal-Message-ID:\n\t<m1@hospital.example>\n" +
			"Disposition: automatic-action/MDN-sent-automatically;\n processed\n", want(Processed)},
		{"fold before the value and blank-only line", "Final-Recipient:\n  rfc822; white@tester.example\n \n" + ettID + ettMode + "processed\n", want(Processed)},
		{"extra_space_disposition", ettFinal + ettID + "Disposition: automatic-action / MDN-sent-automatically ; processed \n", want(Processed)},
		{"odd case", "FINAL-recipient: RFC822;white@Tester.EXAMPLE\noriginal-message-id: <m1@hospital.example>\n" +
			"dISPOSITION: Automatic-Action/MDN-Sent-Automatically;Processed\n", want(Processed)},
		{"missing_disposition", ettFinal + ettID, want("")},
		{"disposition without mode", ettFinal + ettID + "Disposition: processed\n", want("")},
		{"disposition empty", ettFinal + ettID + "Disposition:\n", want("")},
		{"disposition type not a token", ettFinal + ettID + ettMode + "pro(x)cessed now\n", want("")},
		{"deleted is tolerated", ettFinal + ettID + ettMode + "deleted\n", want(Deleted)},
		{"denied", ettFinal + ettID + ettMode + "denied\n", want(Denied)},
		{"error as type", ettFinal + ettID + ettMode + "error\n", want(Error)},
		{"unknown type", ettFinal + ettID + ettMode + "Recalled\n", want("recalled")},
		{"error modifier", ettFinal + ettID + "Error: MSA|AE\n" + ettMode + "processed/Error, warning\n",
			with(Processed, func(n *Notice) { n.Modifiers, n.Error = []string{"error", "warning"}, []string{"MSA|AE"} })},
		{"recipient in brackets", "Final-Recipient: <white@tester.example>\n" + ettID + ettMode + "processed\n", want(Processed)},
		{"recipient bare", "Final-Recipient: white@tester.example\n" + ettID + ettMode + "processed\n", want(Processed)},
		{"recipient with friendly name", "Final-Recipient: rfc822; White, Jo <white@tester.example>\n" + ettID + ettMode + "processed\n", want(Processed)},
		{"recipient with quoted name", `Final-Recipient: "White; <x@y>" <white@tester.example>` + "\n" + ettID + ettMode + "processed\n", want(Processed)},
		{"recipient with comment", "Final-Recipient: rfc822; white@tester.example (mailbox; 1)\n" + ettID + ettMode + "processed\n", want(Processed)},
		{"recipient beyond ASCII", "Final-Recipient: utf-8; wei\\x{DF}@tester.example\n" + ettID + ettMode + "processed\n",
			with(Processed, func(n *Notice) { n.FinalRecipient = "weiß@tester.example" })},
		{"recipient with quoted local part", `Final-Recipient: rfc822; "a b;c@d"@tester.example` + "\n" + ettID + ettMode + "processed\n",
			with(Processed, func(n *Notice) { n.FinalRecipient = `"a b;c@d"@tester.example` })},
		{"recipient unreadable", "Final-Recipient: rfc822; nobody\n" + ettID + ettMode + "processed\n",
			with(Processed, func(n *Notice) { n.FinalRecipient = "" })},
		{"recipient bracket never closed", "Final-Recipient: rfc822; <a@b\n" + ettID + ettMode + "processed\n",
			with(Processed, func(n *Notice) { n.FinalRecipient = "" })},
		{"In-Reply-To when the id is missing", ettFinal + ettMode + "processed\n",
			with(Processed, func(n *Notice) { n.OriginalMessageID = "<reply@hospital.example>" })},
		{"In-Reply-To when the id is unreadable", ettFinal + "Original-Message-ID: <>\n" + ettMode + "processed\n",
			with(Processed, func(n *Notice) { n.OriginalMessageID = "<reply@hospital.example>" })},
		{"id without brackets", ettFinal + "Original-Message-ID: m1@hospital.example\n" + ettMode + "processed\n", want(Processed)},
		{"id folded inside", ettFinal + "Original-Message-ID: <m1@\n hospital.example>\n" + ettMode + "processed\n", want(Processed)},
		{"NUL bytes", "Final-Recipient: rfc822; white@tester.example\x00\n\x00" + ettID + ettMode + "proc\x00essed\n", want(Processed)},
		{"lines that are no field", "garbage\n: x\n" + ettFinal + "-- \n" + ettID + ettMode + "processed\n", want(Processed)},
		{"empty lines between fields", "\n" + ettFinal + "\n" + ettID + "\n\n" + ettMode + "processed\n", want(Processed)},
		{"same field twice, same value", ettFinal + ettFinal + ettID + ettMode + "processed\n", want(Processed)},
		{"the rest of the fields", "Reporting-UA: tester.example;\n NIST\nMDN-Gateway: dns; gw.example\nOriginal-Recipient: rfc822;White@tester.example\n" +
			ettFinal + ettID + "Warning: w\n" + ettMode + "displayed\n",
			with(Displayed, func(n *Notice) {
				n.ReportingUA, n.Gateway = "tester.example; NIST", "gw.example"
				n.OriginalRecipient, n.Warning = "White@tester.example", []string{"w"}
			})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, msg := range [][]byte{noticeOf(tt.fields), []byte(strings.ReplaceAll(string(noticeOf(tt.fields)), "\r\n", "\n"))} {
				got, err := Parse(msg)
				if err != nil || got.Notice == nil || got.Status != nil {
					t.Fatalf("Parse = %+v, %v; want a notice", got, err)
				}
				if !reflect.DeepEqual(*got.Notice, tt.want) {
					t.Errorf("Parse =\n%+v, want\n%+v", *got.Notice, tt.want)
				}
			}
		})
	}
}

const dsnHead = "Reporting-MTA: dns; mx.tester.example\nX-Original-Message-ID: <m1@hospital.example>\n"

func TestParse_status(t *testing.T) {
	const a = "\nOriginal-Recipient: rfc822;A@tester.example\nFinal-Recipient: rfc822; a@tester.example\nAction: failed\nStatus: 5.1.1 (no such user)\n" +
		"Diagnostic-Code: smtp; 550 5.1.1 no\n such user\n"
	const b = "\n\nFinal-Recipient : <b@Tester.example>\nAction: Delayed\nStatus:4.4.1\n"
	wantA := RecipientStatus{OriginalRecipient: "A@tester.example", FinalRecipient: "a@tester.example", Action: ActionFailed,
		Status: "5.1.1", Diagnostic: "550 5.1.1 no such user"}
	wantB := RecipientStatus{FinalRecipient: "b@tester.example", Action: ActionDelayed, Status: "4.4.1"}
	returned := "--b\nContent-Type: text/rfc822-headers\n\nTo: x\nMessage-ID: <returned@hospital.example>\n"
	whole := "--b\nContent-Type: message/rfc822\n\nMessage-Id: <whole@hospital.example>\n\nbody\n"
	for _, tt := range []struct {
		name, fields, more, id string
		noReply                bool
		want                   []RecipientStatus
	}{
		{name: "one recipient", fields: dsnHead + a, id: "<m1@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "several recipients", fields: dsnHead + a + b, id: "<m1@hospital.example>", want: []RecipientStatus{wantA, wantB}},
		{name: "no empty line after the message group", fields: dsnHead + a[1:], id: "<m1@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "id in the recipient group", fields: "Reporting-MTA: dns; mx.tester.example\n" + a + "x-original-message-id : <m1@hospital.example>\n", id: "<m1@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "In-Reply-To", fields: "Reporting-MTA: mx.tester.example\n" + a, more: returned, id: "<reply@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "returned header", fields: "Reporting-MTA: dns;mx.tester.example\n" + a, more: returned, noReply: true, id: "<returned@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "returned message", fields: "Reporting-MTA: dns;mx.tester.example\n" + a, more: whole, noReply: true, id: "<whole@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "no id at all", fields: "Reporting-MTA: dns;mx.tester.example\n" + a, noReply: true, want: []RecipientStatus{wantA}},
		{name: "original recipient only", fields: dsnHead + "\nOriginal-Recipient: rfc822;b@tester.example\nAction: failed\nStatus: 5.0.0\n", id: "<m1@hospital.example>",
			want: []RecipientStatus{{OriginalRecipient: "b@tester.example", FinalRecipient: "b@tester.example", Action: ActionFailed, Status: "5.0.0"}}},
		{name: "unreadable group is left out", fields: dsnHead + "\nFinal-Recipient: rfc822; nobody\nAction: failed\n" + a, id: "<m1@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "contradicting group is left out", fields: dsnHead + "\nFinal-Recipient: rfc822; b@x.example\nAction: failed\nAction: delivered\n" + a, id: "<m1@hospital.example>", want: []RecipientStatus{wantA}},
		{name: "NUL bytes", fields: strings.ReplaceAll(dsnHead+a, "Recipient: ", "Recipient:\x00 "), id: "<m1@hospital.example>", want: []RecipientStatus{wantA}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			msg := string(report("delivery-status", "message/delivery-status", tt.fields, tt.more))
			if tt.noReply {
				msg = strings.Replace(msg, "In-Reply-To", "X-None", 1)
			}
			got, err := Parse([]byte(msg))
			if err != nil || got.Status == nil || got.Notice != nil {
				t.Fatalf("Parse = %+v, %v; want a status", got, err)
			}
			want := Status{ReportingMTA: "mx.tester.example", OriginalMessageID: tt.id, Recipients: tt.want}
			if !reflect.DeepEqual(*got.Status, want) {
				t.Errorf("Parse =\n%+v, want\n%+v", *got.Status, want)
			}
		})
	}
}

func TestParse_packaging(t *testing.T) {
	plain := string(noticeOf(ettFinal + ettID + ettMode + "processed\n"))
	replace := func(old, new string) string { return strings.Replace(plain, old, crlf(new), 1) }
	const ct = "Content-Type: multipart/report; report-type=disposition-notification; boundary=b"
	for _, tt := range []struct {
		name, msg string
		want      error
	}{
		{"as usual", plain, nil},
		{"report-type quoted, odd case", replace(ct, "content-type : Multipart/Report;\n\tboundary=\"b\"; REPORT-TYPE=\"Disposition-Notification\""), nil},
		{"report-type missing", replace(" report-type=disposition-notification;", ""), nil},
		{"part itself is the message", crlf("Content-Type: message/disposition-notification\n\n" + ettFinal + ettID + ettMode + "processed\n"), nil},
		{"base64 part", replace("message/disposition-notification\r\n\r\n"+crlf(ettFinal+ettID+ettMode+"processed\n"),
			"message/disposition-notification\nContent-Transfer-Encoding: base64\n\nRmluYWwtUmVjaXBpZW50OiByZmM4MjI7IHdoaXRlQHRlc3Rlci5leGFtcGxlDQpPcmlnaW5hbC1N\nZXNzYWdlLUlEOiA8bTFAaG9zcGl0YWwuZXhhbXBsZT4NCkRpc3Bvc2l0aW9uOiBhL2I7cHJvY2Vz\nc2VkDQo=\n"), nil},
		{"closing boundary missing", strings.TrimSuffix(plain, "--b--\r\n"), nil},
		{"plain message", crlf("Subject: x\n\nDisposition: a/b;processed\n"), ErrNotReport},
		{"empty", "", ErrNotReport},
		{"other report", replace("report-type=disposition-notification", "report-type=feedback-report"), ErrNotReport},
		{"notice as attachment", replace("multipart/report; report-type=disposition-notification", "multipart/mixed"), ErrNotReport},
		{"no report part", replace("message/disposition-notification", "text/plain"), ErrMalformed},
		{"two report parts", replace("--b--", "--b\nContent-Type: message/disposition-notification\n\n"+ettFinal+ettID+ettMode+"failed\n\n--b--"), ErrMalformed},
		{"report part of the other kind", replace("message/disposition-notification", "message/delivery-status"), ErrMalformed},
		{"two content types", replace("MIME-Version", "Content-Type: text/plain\nMIME-Version"), ErrMalformed},
		{"two boundaries", replace("boundary=b", "boundary=b; boundary=c"), ErrMalformed},
		{"no boundary", replace("; boundary=b", ""), ErrMalformed},
		{"bad base64", replace("message/disposition-notification", "message/disposition-notification\nContent-Transfer-Encoding: base64"), ErrMalformed},
		{"two dispositions", replace("Disposition:", "Disposition: a/b;failed\nDisposition:"), ErrMalformed},
		{"two recipients", replace("Final-Recipient:", "Final-Recipient: rfc822; x@y.example\nFinal-Recipient:"), ErrMalformed},
		{"two ids, in a second group", replace("Disposition:", "\nOriginal-Message-ID: <m2@hospital.example>\nDisposition:"), ErrMalformed},
		{"report part too large", replace("Disposition:", strings.Repeat("X: "+strings.Repeat("y", 997)+"\n", 1100)+"Disposition:"), ErrMalformed},
		{"status without recipient", string(report("delivery-status", "message/delivery-status", dsnHead)), ErrMalformed},
		{"status with too many recipients", string(report("delivery-status", "message/delivery-status",
			dsnHead+strings.Repeat("\nFinal-Recipient: rfc822;a@b.example\nAction: failed\n", maxRecipients+1))), ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.msg))
			if !errors.Is(err, tt.want) || err == nil && got.Notice == nil {
				t.Fatalf("Parse = %+v, %v; want %v", got, err, tt.want)
			}
			if err == nil && (got.Notice.Disposition != Processed || got.Notice.OriginalMessageID != "<m1@hospital.example>") {
				t.Errorf("Parse = %+v", *got.Notice)
			}
			if want := !errors.Is(tt.want, ErrNotReport); IsReport([]byte(tt.msg)) != want {
				t.Errorf("IsReport = %v, want %v", !want, want)
			}
			if err != nil && strings.Contains(err.Error(), "example") {
				t.Errorf("the error repeats a value: %v", err)
			}
		})
	}
}

// What we write we read back, addresses beyond ASCII included.
func TestParse_roundTrip(t *testing.T) {
	n := notice(Failed)
	n.Gateway, n.FinalRecipient = "gw.clinic.example", "jürgen@clinic.example"
	n.Modifiers = []string{"error", "warning"}
	n.Error, n.Failure, n.Warning = []string{"a b"}, []string{"c", "d"}, []string{"e"}
	n.FinalDestination = true
	got, err := Parse(mustCompose(t, header(), n, "grüße"))
	if err != nil || !reflect.DeepEqual(*got.Notice, n) {
		t.Errorf("Parse = %+v, %v; want\n%+v", got.Notice, err, n)
	}
	s := Status{ReportingMTA: "hospital.example", OriginalMessageID: "<m1@hospital.example>", Recipients: []RecipientStatus{
		{OriginalRecipient: "A@clinic.example", FinalRecipient: "a@clinic.example", Action: ActionFailed, Status: "5.7.1", Diagnostic: "550 no"},
		{FinalRecipient: `"x y"@other.example`, Action: ActionDelayed, Status: "4.4.7"},
	}}
	got, err = Parse(mustComposeStatus(t, header(), s, "", []byte("Message-ID: <other@x.example>\r\n")))
	if err != nil || !reflect.DeepEqual(*got.Status, s) {
		t.Errorf("Parse = %+v, %v; want\n%+v", got.Status, err, s)
	}
}

func TestNotice_isFailure(t *testing.T) {
	for _, tt := range []struct {
		n    Notice
		want bool
	}{
		{Notice{Disposition: Processed}, false}, {Notice{Disposition: Dispatched}, false}, {Notice{Disposition: Displayed}, false},
		{Notice{Disposition: Deleted}, false}, {Notice{}, false}, {Notice{Disposition: "recalled"}, false},
		{Notice{Disposition: Failed}, true}, {Notice{Disposition: Denied}, true}, {Notice{Disposition: Error}, true},
		{Notice{Disposition: Processed, Modifiers: []string{"error"}}, true},
		{Notice{Disposition: Processed, Modifiers: []string{"warning"}}, false},
	} {
		if got := tt.n.IsFailure(); got != tt.want {
			t.Errorf("%+v: IsFailure = %v, want %v", tt.n, got, tt.want)
		}
	}
}
