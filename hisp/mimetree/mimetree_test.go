package mimetree

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
)

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

// shape writes the tree as type[children] with each leaf's body.
func shape(msg []byte, p *Part) string {
	if len(p.Parts) == 0 {
		return fmt.Sprintf("%s%q", p.MediaType, p.Body.Of(msg))
	}
	var kids []string
	for _, c := range p.Parts {
		kids = append(kids, shape(msg, c))
	}
	return p.MediaType + "[" + strings.Join(kids, " ") + "]"
}

func TestParse_structure(t *testing.T) {
	tests := []struct {
		name, msg, want string
		defects         Defects
	}{
		{"no header", "\nhello", `text/plain"hello"`, 0},
		{"empty", "", `text/plain""`, 0},
		{"plain", "Subject: x\n\nhello\n", `text/plain"hello\r\n"`, 0},
		{"header only", "Subject: x\n", `text/plain""`, NoBody},
		{"no blank after colon, blank before", "content-type :TEXT/Html;CHARSET=utf-8\n\nx", `text/html"x"`, 0},
		{"comments", "Content-Type: (a(b)\\)) text (c) / (d) html (e); charset=x\n\nx", `text/html"x"`, 0},
		{"multipart", "Content-Type: multipart/mixed; boundary=b\n\npre\n--b\n\none\n--b \t\nContent-Type: text/html\n\ntwo\n\n--b--\nepilogue",
			`multipart/mixed[text/plain"one" text/html"two\r\n"]`, 0},
		{"empty part", "Content-Type: multipart/mixed; boundary=b\n\n--b\n--b\n\n--b--", `multipart/mixed[text/plain"" text/plain""]`, 0},
		{"boundary is a prefix", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n--bb\nx\n--b--", `multipart/mixed[text/plain"--bb\r\nx"]`, 0},
		{"delimiter not at line start", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx--b\n--b--", `multipart/mixed[text/plain"x--b"]`, 0},
		{"unclosed", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n", `multipart/mixed[text/plain"x\r\n"]`, Unclosed},
		{"no delimiter", "Content-Type: multipart/mixed; boundary=b\n\nx", `multipart/mixed"x"`, NoBoundary | Unclosed},
		{"no boundary", "Content-Type: multipart/mixed\n\nx", `multipart/mixed"x"`, NoBoundary},
		{"two boundaries", "Content-Type: multipart/mixed; boundary=a; boundary=b\n\n--a\n\nx\n--a--", `multipart/mixed[text/plain"x"]`, DuplicateParam},
		{"two content types", "Content-Type: text/html\nContent-Type: text/plain\n\nx", `text/html"x"`, DuplicateField},
		{"two From", "From: a@x\nfrom : b@x\n\nx", `text/plain"x"`, DuplicateField},
		{"bad type", "Content-Type: text\n\nx", `application/octet-stream"x"`, BadType},
		{"bad parameter", "Content-Type: text/plain; a=\"b\n\nx", `text/plain"x"`, BadType},
		{"no field", "Subject: x\nno field here\n\nx", `text/plain"x"`, BadField},
		{"NUL", "Subject: x\x00\n\nx", `text/plain"x"`, BadField},
		{"bare CR", "Subject: x\ry: z\n\nx", `text/plain"x"`, BadField},
		{"rfc822", "Content-Type: message/rfc822\n\nContent-Type: text/html\n\nx", `message/rfc822[text/html"x"]`, 0},
		{"rfc822 in base64", "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nx", `message/rfc822"x"`, BadEncoding},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nContent-Type: text/html\n\nx\n--b--", `multipart/digest[message/rfc822[text/html"x"]]`, 0},
		{"outer boundary wins", "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\nx\n--o\n\ny\n--i--\n--o--",
			`multipart/mixed[multipart/mixed[text/plain"x"] text/plain"y\r\n--i--"]`, 0},
		{"RFC 2231 boundary", "Content-Type: multipart/mixed; boundary*0=\"a b\";\n boundary*1=c\n\n--a bc\n\nx\n--a bc--", `multipart/mixed[text/plain"x"]`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			msg := crlf(tt.msg)
			p, err := Parse(msg)
			if err != nil {
				t.Fatal(err)
			}
			if got := shape(msg, p); got != tt.want {
				t.Errorf("shape = %s, want %s", got, tt.want)
			}
			if p.Defects != tt.defects {
				t.Errorf("Defects = %b, want %b", p.Defects, tt.defects)
			}
		})
	}
}

func TestParse_LFOnly(t *testing.T) {
	msg := []byte("Content-Type: multipart/mixed; boundary=b\nSubject: a\n b\n\n--b\n\none\n--b--\n")
	p, err := Parse(msg)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shape(msg, p), `multipart/mixed[text/plain"one"]`; got != want {
		t.Errorf("shape = %s, want %s", got, want)
	}
	if p.Defects != BareLF {
		t.Errorf("Defects = %b, want BareLF", p.Defects)
	}
	if text, n := p.Get(msg, "subject"); text != "a b" || n != 1 {
		t.Errorf("Get = %q, %d", text, n)
	}
}

func TestParseHeader_spansCoverTheHeader(t *testing.T) {
	msg := crlf("A: 1\nB : 2\n\t3\njunk\n C\nD:\n\nbody")
	fields, body, err := ParseHeader(msg)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	at := 0
	for _, f := range fields {
		names = append(names, f.Name+"="+f.Text(msg))
		if f.Raw.Start != at {
			t.Errorf("%s starts at %d, want %d", f.Name, f.Raw.Start, at)
		}
		at = f.Raw.End
	}
	if got, want := strings.Join(names, "|"), "A=1|B=2\t3|=junk C|D="; got != want {
		t.Errorf("fields = %q, want %q", got, want)
	}
	if string(msg[body:]) != "body" || at+2 != body {
		t.Errorf("body = %q at %d behind %d", msg[body:], body, at)
	}
}

// Security row M1: bombs end in ErrLimit or a small tree, and soon.
func TestParse_bombs(t *testing.T) {
	nested := strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10_000)
	parts := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n", 1_000_000)
	deep := strings.Builder{}
	for i := range 10_000 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	tests := []struct {
		name, msg string
		want      error
	}{
		{"nested rfc822", nested, ErrLimit},
		{"nested multipart", deep.String(), ErrLimit},
		{"a million parts", parts, ErrLimit},
		{"1 MB header", "Subject: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", ErrLimit},
		{"folded 1 MB header", "Subject: x" + strings.Repeat("\r\n x", 1<<18) + "\r\n\r\n", ErrLimit},
		{"100k fields", strings.Repeat("A: b\r\n", 100_000) + "\r\n", ErrLimit},
		{"many parameters", "Content-Type: text/plain" + strings.Repeat("; a*1=b", 2000) + "\r\n\r\n", nil},
		{"deep comment", "Content-Type: " + strings.Repeat("(", 10_000) + "\r\n\r\n", nil},
		{"near delimiters", "Content-Type: multipart/mixed; boundary=" + strings.Repeat("-", 70) + "\r\n\r\n" + strings.Repeat("-", 8<<20), nil},
		{"near delimiter lines", "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--bb\r\n", 200_000), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			need.CPU(t, time.Second, func() {
				if _, err := Parse([]byte(tt.msg)); !errors.Is(err, tt.want) {
					t.Errorf("Parse error = %v, want %v", err, tt.want)
				}
			})
		})
	}
}

func TestDecode(t *testing.T) {
	one := strings.Repeat("QUJD", 1<<18)
	tests := []struct {
		name, enc, body, want string
		ok                    bool
	}{
		{"none", "", "a=3D", "a=3D", true},
		{"binary, comment", "(x) BINARY (y)", "\x00\xff", "\x00\xff", true},
		{"quoted-printable", "Quoted-Printable", "a=3D=\r\nb", "a=b", true},
		{"base64", "base64", "QUJD\r\nREU=\r\n\r\n", "ABCDE", true},
		{"base64 without padding", "base64", "QUJDREU", "ABCDE", true},
		{"base64 with blanks", "base64", " QU JD \r\n\tREU= \r\n", "ABCDE", true},
		{"base64 odd lines", "base64", "Q\r\nUJD\nRE\r\nU=", "ABCDE", true},
		{"base64 one line of 1 MB", "base64", one, strings.Repeat("ABC", 1<<18), true},
		{"base64 foreign octet", "base64", "QU!D", "", false},
		{"base64 single character", "base64", "Q", "", false},
		{"base64 data behind padding", "base64", "QQ==QQ==", "", false},
		{"unknown", "x-uuencode", "x", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			msg := []byte("Content-Transfer-Encoding: " + tt.enc + "\r\n\r\n" + tt.body)
			p, err := Parse(msg)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Decode(msg)
			if (err == nil) != tt.ok || string(got) != tt.want {
				t.Errorf("Decode = %.20q, %v; want %.20q, ok %v", got, err, tt.want, tt.ok)
			}
		})
	}
}

func TestProtection(t *testing.T) {
	const (
		enveloped = "MIAGCSqGSIb3DQEHA6CAMIACAQAxggFb"
		signed    = "MIIFzwYJKoZIhvcNAQcCoIIFwDCCBbwC"
		authEnv   = "MIIBywYLKoZIhvcNAQkQARegggG6MIIB"
		data      = "MIAGCSqGSIb3DQEHAaCAMIACAQAxggFb"
	)
	tests := []struct {
		name, ct, body string
		want           Protection
	}{
		{"plain", "text/plain", "x", Plain},
		{"multipart/signed", "multipart/signed; boundary=b", "x", Signed},
		{"enveloped", "application/pkcs7-mime; smime-type=enveloped-data", enveloped, Enveloped},
		{"x-pkcs7-mime without smime-type", "application/x-pkcs7-mime", enveloped, Enveloped},
		{"authEnveloped without smime-type", "application/pkcs7-mime", authEnv, Enveloped},
		{"opaque signed without smime-type", "application/pkcs7-mime", signed, Signed},
		{"smime-type lies", "application/pkcs7-mime; smime-type=enveloped-data", signed, Signed},
		{"octets unreadable", "application/pkcs7-mime; smime-type=Enveloped-Data", "!!!!", Enveloped},
		{"nothing readable", "application/pkcs7-mime", "!!!!", OtherCMS},
		{"other content", "application/pkcs7-mime", data, OtherCMS},
		{"octet-stream, name p7m", "application/octet-stream; name=SMIME.P7M", enveloped, Enveloped},
		{"octet-stream, other", "application/octet-stream; name=a.bin", enveloped, Plain},
		{"part of a multipart only", "multipart/mixed; boundary=b", "--b\nContent-Type: application/pkcs7-mime\n\n" + enveloped + "\n--b--", Plain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			msg := crlf("Content-Type: " + tt.ct + "\nContent-Transfer-Encoding: base64\n\n" + tt.body)
			p, err := Parse(msg)
			if err != nil {
				t.Fatal(err)
			}
			if p.Encoding = "base64"; p.MediaType == "multipart/mixed" {
				p.Encoding = "7bit"
			}
			if got := p.Protection(msg); got != tt.want {
				t.Errorf("Protection = %d, want %d", got, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b--\r\n"))
	f.Add([]byte("Content-Type: message/rfc822\n\nA: b\n c\n\nx"))
	f.Add([]byte("Content-Type: multipart/mixed; boundary*0=\"a\"; boundary*1*=%62\r\n\r\n--ab\r\nContent-Transfer-Encoding: base64\r\n\r\nQUI=\r\n--ab--"))
	f.Add([]byte("Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\nMIAGCSqGSIb3DQEHA6CA"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		p, err := Parse(msg)
		if err != nil {
			return
		}
		parts := 0
		p.Walk(func(q *Part) bool {
			parts++
			if q.Start != q.Header.Start || q.Header.End != q.Body.Start || q.Body.End != q.End ||
				q.Start > q.Body.Start || q.Body.Start > q.End || q.End > len(msg) {
				t.Fatalf("spans do not fit: %+v", *q)
			}
			for _, c := range q.Parts {
				if c.Start < q.Body.Start || c.End > q.Body.End {
					t.Fatalf("child %v outside of %v", c.Span, q.Body)
				}
			}
			var raw []byte
			for _, fd := range q.Fields {
				raw = append(raw, fd.Raw.Of(msg)...)
				fd.Text(msg)
			}
			if !bytes.HasPrefix(q.Header.Of(msg), raw) {
				t.Fatal("fields are not the header")
			}
			_, _ = q.Decode(msg)
			q.Protection(msg)
			return true
		})
		if parts > maxParts {
			t.Fatalf("%d parts", parts)
		}
	})
}
