package hisp

import (
	"net/mail"
	"strings"
	"testing"
)

// RFC 5321 §4.4: final delivery puts the envelope sender on top; what was
// signed follows octet for octet.
func TestWithReturnPath(t *testing.T) {
	const msg = "From: a@clinic.example\r\nSubject: x\r\n\r\nbody\r\n"
	cases := []struct {
		name string
		from Address
		want string // the line, "" is none
	}{
		{"plain", Address{"dr.adams", "clinic.example"}, "<dr.adams@clinic.example>"},
		{"null sender of a notice", Address{}, "<>"},
		{"with tag", Address{"dr.adams+lab", "clinic.example"}, "<dr.adams+lab@clinic.example>"},
		{"quoted", Address{`dr "A" \ adams`, "clinic.example"}, `<"dr \"A\" \\ adams"@clinic.example>`},
		{"angle brackets and @", Address{"a>b@c", "clinic.example"}, `<"a>b@c"@clinic.example>`},
		{"beyond ASCII, RFC 6532", Address{"jürgen", "clinic.example"}, "<jürgen@clinic.example>"},
		{"line ends would make fields", Address{"a\r\nBcc: x", "clinic.example"}, ""},
		{"NUL", Address{"a\x00", "clinic.example"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := NewMessage([]byte(msg))
			got := string(withReturnPath(c.from, in).Bytes())
			want := msg
			if c.want != "" {
				want = "Return-Path: " + c.want + "\r\n" + msg
			}
			if got != want {
				t.Errorf("copy = %q, want %q", got, want)
			}
			if string(in.Bytes()) != msg {
				t.Errorf("the message became %q", in.Bytes())
			}
		})
	}
}

// A Return-Path that was signed stays; ours is the first.
func TestWithReturnPath_oneIsThere(t *testing.T) {
	const msg = "Return-Path: <forged@elsewhere.example>\r\nReceived: x\r\nFrom: a@clinic.example\r\n\r\nbody\r\n"
	got := string(withReturnPath(Address{"a", "clinic.example"}, NewMessage([]byte(msg))).Bytes())
	if !strings.HasSuffix(got, msg) {
		t.Errorf("copy = %q, want the whole message at its end", got)
	}
	m, err := mail.ReadMessage(strings.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	if path := m.Header.Get(fieldReturnPath); path != "<a@clinic.example>" {
		t.Errorf("Return-Path = %q, want <a@clinic.example>", path)
	}
}
