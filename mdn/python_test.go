package mdn

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/hispnode/hisp/test/need"
)

// pythonReader reads a notice with the email package, which knows both kinds of
// report, and prints what it found and every defect.
const pythonReader = `
import email, email.policy, json, sys
m = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)
parts = list(m.iter_parts())
def group(g): return {k.lower(): str(v) for k, v in g.items()}
p = parts[1]
groups = [group(g) for g in p.get_payload()]
json.dump({"type": m.get_content_type(), "report": m.get_param("report-type"), "subject": m["subject"], "from": m["from"].addresses[0].addr_spec,
  "auto": m["auto-submitted"], "text": parts[0].get_content(), "part": p.get_content_type(),
  "third": parts[2].get_content_type() if len(parts) > 2 else "",
  "groups": groups, "defects": [repr(d) for q in m.walk() for d in q.defects] + [repr(d) for v in m.values() for d in v.defects]}, sys.stdout)
`

type pythonReport struct {
	Type, Report, Subject, From, Auto, Text, Part, Third string
	Groups                                               []map[string]string
	Defects                                              []string
}

func readWithPython(t *testing.T, msg []byte) pythonReport {
	t.Helper()
	cmd := exec.Command(need.Tool(t, "python3"), "-c", pythonReader)
	cmd.Stdin = bytes.NewReader(msg)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v\n%s", err, stderr.Bytes())
	}
	var r pythonReport
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Defects) > 0 {
		t.Errorf("python finds defects: %v", r.Defects)
	}
	return r
}

func TestPythonReadsNotice(t *testing.T) {
	h, n := header(), notice(Dispatched)
	h.Subject = "Überweisung " + strings.Repeat("sehr lang ", 30)
	n.FinalDestination = true
	r := readWithPython(t, mustCompose(t, h, n, "grüße"))
	if r.Type != "multipart/report" || r.Report != "disposition-notification" || r.Auto != "auto-replied" ||
		r.Part != "message/disposition-notification" || r.From != h.From || strings.TrimSpace(r.Text) != "grüße" {
		t.Errorf("python reads %+v", r)
	}
	if want := "Dispatched: " + strings.TrimSpace(h.Subject); r.Subject != want {
		t.Errorf("Subject = %q, want %q", r.Subject, want)
	}
	want := map[string]string{
		"reporting-ua": n.ReportingUA, "original-recipient": "rfc822; " + n.OriginalRecipient, "final-recipient": "rfc822; " + n.FinalRecipient,
		"original-message-id": n.OriginalMessageID, "x-direct-final-destination-delivery": "",
		"disposition": "automatic-action/MDN-sent-automatically;dispatched",
	}
	for name, value := range want {
		if got, ok := r.Groups[0][name]; !ok || got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
}

func TestPythonReadsStatus(t *testing.T) {
	s := Status{ReportingMTA: "hospital.example", OriginalMessageID: "<m1@hospital.example>", Recipients: []RecipientStatus{
		{FinalRecipient: "a@clinic.example", Status: "5.1.1", Diagnostic: "550 no"}, {FinalRecipient: "b@clinic.example"},
	}}
	r := readWithPython(t, mustComposeStatus(t, header(), s, "Not delivered:", []byte("Subject: Befund f\xfcr\r\nTo: a@clinic.example\r\n\r\nbody")))
	if r.Type != "multipart/report" || r.Report != "delivery-status" || r.Part != "message/delivery-status" || r.Third != "text/rfc822-headers" {
		t.Errorf("python reads %+v", r)
	}
	if len(r.Groups) != 3 || r.Groups[0]["x-original-message-id"] != s.OriginalMessageID || r.Groups[1]["status"] != "5.1.1" ||
		r.Groups[2]["final-recipient"] != "rfc822; b@clinic.example" || r.Groups[2]["action"] != "failed" {
		t.Errorf("python reads the groups %v", r.Groups)
	}
	for _, rcpt := range s.Recipients { // row DN-19
		if !strings.Contains(r.Text, rcpt.FinalRecipient) {
			t.Errorf("the text does not name a recipient: %s", r.Text)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	msg := mustCompose(b, header(), notice(Processed), "")
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := Parse(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompose(b *testing.B) {
	for b.Loop() {
		mustCompose(b, header(), notice(Processed), "")
	}
}
