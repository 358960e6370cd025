package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
)

// What send and the demo compose is a message the node itself takes: CRLF, no
// defects, attachments octet for octet whatever is in them.
func TestCompose(t *testing.T) {
	from, to := hisp.Address{Local: "a b", Domain: "hospital.example"}, hisp.Address{Local: "nurse", Domain: "clinic.example"}
	binary := make([]byte, 3000)
	for i := range binary {
		binary[i] = byte(i * 7)
	}
	l := letter{
		from: from, to: []hisp.Address{to, {Local: "x", Domain: "clinic.example"}}, dispatched: true,
		subject: "Überweisung\r\nBcc: evil@x.example", text: "line\nsecond = line " + strings.Repeat("lang ", 300) + "\n",
		attachments: []attachment{
			{"ccd.xml", "text/xml", demoCCD}, {"brief.pdf", "application/pdf", demoPDF},
			{"größe.bin", "application/octet-stream", binary}, {"leer.txt", "text/plain", nil},
		},
	}
	msg, err := compose(l, "mail.hospital.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	raw := msg.Bytes()
	if n := bytes.Count(raw, []byte("\n")); n != bytes.Count(raw, []byte("\r\n")) || n != bytes.Count(raw, []byte("\r")) {
		t.Error("line ends are not all CRLF")
	}
	root, err := mimetree.Parse(raw)
	if err != nil || root.Defects != 0 || len(root.Parts) != 5 {
		t.Fatalf("mimetree: %v, defects %v, %d parts", err, root.Defects, len(root.Parts))
	}
	if _, n := root.Get(raw, "Bcc"); n != 0 {
		t.Error("a subject with a line break made a Bcc field")
	}
	for _, line := range bytes.Split(raw, []byte("\r\n")) {
		if len(line) > 998 {
			t.Fatalf("a line of %d octets", len(line))
		}
	}
	found, err := attachmentsOf(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range l.attachments {
		if !bytes.Equal(found[a.name], a.content) {
			t.Errorf("%s is not what went in: %d octets of %d", a.name, len(found[a.name]), len(a.content))
		}
	}
}
