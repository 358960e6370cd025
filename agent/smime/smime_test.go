package smime

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp/mimetree"
)

func crlfs(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

func parse(t *testing.T, msg []byte) *mimetree.Part {
	t.Helper()
	p, err := mimetree.Parse(msg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const sample = "From: a@x.example\nTo: b@y.example\nDate: Sun, 22 Nov 2026 12:00:00 +0000\nMessage-ID: <1@x.example>\n" +
	"Subject: canary\n folded\nX-Mine: 1\nReferences: <0@x.example>\n\t<00@x.example>\nMIME-Version: 1.0\nContent-Type: text/plain\n\nhello\n"

// ETT validator rules 133b, 205, 206, 160, 207, 155, 161.
func TestSign_structure(t *testing.T) {
	msg := crlfs(sample)
	var signed []byte
	entity, err := Sign(msg, func(content []byte) ([]byte, error) {
		signed = bytes.Clone(content)
		return []byte("DER"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !canonical(entity) {
		t.Error("the signed entity is not canonical")
	}
	top := parse(t, entity)
	if top.MediaType != "multipart/signed" || top.Params["micalg"] != "sha-256" || len(top.Parts) != 2 || top.Defects != 0 {
		t.Fatalf("top = %s %v, %d parts, defects %b", top.MediaType, top.Params, len(top.Parts), top.Defects)
	}
	if !bytes.Contains(entity, []byte(`protocol="application/pkcs7-signature"`)) {
		t.Error("protocol is not quoted")
	}
	p7s := top.Parts[1]
	if disposition, _ := p7s.Get(entity, "Content-Disposition"); p7s.MediaType != "application/pkcs7-signature" ||
		p7s.Encoding != "base64" || p7s.Params["name"] != "smime.p7s" || disposition != `attachment; filename="smime.p7s"` {
		t.Errorf("signature part = %s %v %s %s", p7s.MediaType, p7s.Params, p7s.Encoding, disposition)
	}
	got, err := ParseSigned(entity)
	if err != nil || string(got.CMS) != "DER" || !bytes.Equal(got.Content, signed) {
		t.Fatalf("ParseSigned = %q, %v", got.CMS, err)
	}
	m, err := Unwrap(nil, nil, got.Content)
	if err != nil || !m.Wrapped || !bytes.Equal(m.Bytes, msg) {
		t.Errorf("Unwrap = %q, wrapped %v, %v", m.Bytes, m.Wrapped, err)
	}
	want := errors.New("no key")
	if _, err := Sign(msg, func([]byte) ([]byte, error) { return nil, want }); !errors.Is(err, want) {
		t.Errorf("error of sign = %v", err)
	}
}

// Rows SM-01, SM-06, SM-07; ETT rules 133a, 201, 202, 203, 136.
func TestEnvelope_structure(t *testing.T) {
	msg := crlfs(strings.Replace(sample, "From:", "from :", 1))
	header := OuterHeader(msg, parse(t, msg).Fields)
	der := bytes.Repeat([]byte{0x30, 1, 2}, 100)
	out, err := Envelope(header, 200, 1, func(dst []byte) ([]byte, error) { return append(dst, der...), nil })
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte("canary")) || bytes.Contains(out, []byte("X-Mine")) {
		t.Error("Subject or another field got out")
	}
	top := parse(t, out)
	var names []string
	for _, f := range top.Fields {
		names = append(names, f.Name)
	}
	want := "MIME-Version from To Date Message-ID References Content-Type Content-Transfer-Encoding Content-Disposition"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("fields = %s, want %s", got, want)
	}
	if ct, _ := top.Get(out, "Content-Type"); ct != `application/pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"` {
		t.Errorf("Content-Type = %s", ct)
	}
	if cd, _ := top.Get(out, "Content-Disposition"); cd != `attachment; filename="smime.p7m"` {
		t.Errorf("Content-Disposition = %s", cd)
	}
	if id, _ := top.Get(out, "message-id"); id != "<1@x.example>" {
		t.Errorf("Message-ID = %s", id)
	}
	if got, err := top.Decode(out); err != nil || !bytes.Equal(got, der) || !canonical(out) {
		t.Errorf("body = %x, %v", got, err)
	}
}

func TestAppendBase64(t *testing.T) {
	for n := range 400 {
		src := bytes.Repeat([]byte{byte(n), 0xfb}, n)[:n]
		out := AppendBase64([]byte("x"), src)
		if len(out) != 1+base64Len(n) {
			t.Fatalf("%d octets: length %d, base64Len %d", n, len(out)-1, base64Len(n))
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(string(out[1:]), "\r\n"), "\r\n") {
			if len(line) > 76 || n > 0 && line == "" {
				t.Fatalf("%d octets: line of %d", n, len(line))
			}
		}
		if got, err := mimetree.DecodeBase64(out[1:]); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d octets: %x, %v", n, got, err)
		}
		if got, err := base64.StdEncoding.DecodeString(string(out[1:])); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d octets: standard decoder %x, %v", n, got, err)
		}
	}
}

// The DER is encoded within its own memory; every length must survive.
func TestEnvelope_everyLength(t *testing.T) {
	const size = 600
	room := size + 1<<10 + 2<<10
	der := make([]byte, room+300)
	for i := range der {
		der[i] = byte(i*7 + i>>8)
	}
	for n := range der {
		out, err := Envelope([]byte("A: b\r\n"), size, 1, func(dst []byte) ([]byte, error) { return append(dst, der[:n]...), nil })
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parse(t, out).Decode(out); err != nil || !bytes.Equal(got, der[:n]) {
			t.Fatalf("%d octets: %d back, %v", n, len(got), err)
		}
	}
	want := errors.New("no key")
	if _, err := Envelope(nil, 0, 0, func([]byte) ([]byte, error) { return nil, want }); !errors.Is(err, want) {
		t.Errorf("error of encrypt = %v", err)
	}
}

func TestParseSigned_refused(t *testing.T) {
	const (
		p7s   = "Content-Type: application/pkcs7-signature\nContent-Transfer-Encoding: base64\n\nQUI=\n"
		text  = "Content-Type: text/plain\n\nx\n"
		multi = "Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; boundary=b\n\n"
	)
	tests := []struct {
		name, entity string
		want         error
	}{
		{"good", multi + "--b\n" + text + "--b\n" + p7s + "--b--\n", nil},
		{"x-pkcs7, no protocol, no micalg", "content-type:multipart/signed;boundary=b\n\n--b\n" + text + "--b\n" + strings.Replace(p7s, "pkcs7", "x-pkcs7", 1) + "--b--\n", nil},
		{"plain", text, ErrNotSigned},
		{"empty", "", ErrNotSigned},
		{"PGP", strings.Replace(multi, "pkcs7", "pgp", 1) + "--b\n" + text + "--b\n" + p7s + "--b--\n", ErrNotSigned},
		{"S7 signed part of a multipart/mixed", "Content-Type: multipart/mixed; boundary=o\n\n--o\n" + multi + "--b\n" + text + "--b\n" + p7s + "--b--\n--o--\n", ErrNotSigned},
		{"one part", multi + "--b\n" + p7s + "--b--\n", ErrStructure},
		{"three parts", multi + "--b\n" + text + "--b\n" + text + "--b\n" + p7s + "--b--\n", ErrStructure},
		{"signature first", multi + "--b\n" + p7s + "--b\n" + text + "--b--\n", ErrStructure},
		{"two signatures", multi + "--b\n" + text + "--b\n" + p7s + "--b\n" + p7s + "--b--\n", ErrStructure},
		{"unclosed", multi + "--b\n" + text + "--b\n" + p7s, ErrStructure},
		{"two Content-Type", "Content-Type: text/html\n" + multi + "--b\n" + text + "--b\n" + p7s + "--b--\n", ErrNotSigned},
		{"two Content-Type, other order", strings.TrimSuffix(multi, "\n") + "Content-Type: text/html\n\n--b\n" + text + "--b\n" + p7s + "--b--\n", ErrStructure},
		{"two boundaries", strings.Replace(multi, "boundary=b", "boundary=b; boundary=c", 1) + "--b\n" + text + "--b\n" + p7s + "--b--\n", ErrStructure},
		{"two Content-Type in the signed part", multi + "--b\nContent-Type: text/html\n" + text + "--b\n" + p7s + "--b--\n", ErrStructure},
		{"broken base64", multi + "--b\n" + text + "--b\n" + strings.Replace(p7s, "QUI=", "Q!", 1) + "--b--\n", ErrStructure},
		{"empty signature", multi + "--b\n" + text + "--b\n" + strings.Replace(p7s, "QUI=", "", 1) + "--b--\n", ErrStructure},
		{"enveloped inside", "Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\nMIAGCSqGSIb3DQEHA6CA\n", ErrNotSigned},
		{"opaque", "Content-Type: application/x-pkcs7-mime; smime-type=signed-data\nContent-Transfer-Encoding: base64\n\nMIAGCSqGSIb3DQEHAqCA\n", nil},
		{"too deep", strings.Repeat("Content-Type: message/rfc822\n\n", 100), ErrStructure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseSigned(crlfs(tt.entity)); !errors.Is(err, tt.want) {
				t.Errorf("error = %v, want %v", err, tt.want)
			}
		})
	}
}

// The forms that partners send, row SM-05.
func TestUnwrap(t *testing.T) {
	const outer = "Received: x\nFrom: a@x\nSubject: outer\nContent-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\nMIME-Version: 1.0\n\nQUI=\n"
	inner := "From: a@x\nSubject: =3D\n\nbody=20\n"
	tests := []struct {
		name, content, want string
		wrapped             bool
	}{
		{"wrapped", "Content-Type: message/rfc822\n\n" + inner, inner, true},
		{"parameters, 8bit", "content-type:message/RFC822; charset=utf-8; name=\"x\"\nContent-Transfer-Encoding: 8bit\n\n" + inner, inner, true},
		{"BOM", "Content-Type: message/rfc822\n\n\ufeff" + inner, inner, true},
		{"quoted-printable", "Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\n" + strings.ReplaceAll(inner, "=", "=3D"), inner, true},
		{"base64", "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" +
			base64.StdEncoding.EncodeToString(crlfs(inner)) + "\n", inner, true},
		{"unwrapped", "Content-Type: text/plain\n\nbody\n",
			"Received: x\nFrom: a@x\nSubject: outer\nMIME-Version: 1.0\nContent-Type: text/plain\n\nbody\n", false},
		{"unwrapped, signed field wins", "Content-Type: text/plain\nsubject: signed\n\nbody\n",
			"Received: x\nFrom: a@x\nMIME-Version: 1.0\nContent-Type: text/plain\nsubject: signed\n\nbody\n", false},
		{"ambiguous wrapper", "Content-Type: message/rfc822\nContent-Type: text/plain\n\n" + inner, "!", false},
		{"unknown encoding", "Content-Type: message/rfc822\nContent-Transfer-Encoding: uu\n\n" + inner, "!", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := crlfs(outer)
			m, err := Unwrap(out, parse(t, out).Fields, crlfs(tt.content))
			got := strings.ReplaceAll(string(m.Bytes), "\r\n", "\n")
			if err != nil {
				got = "!"
			}
			if got != tt.want || m.Wrapped != tt.wrapped {
				t.Errorf("got %q wrapped %v, %v; want %q wrapped %v", got, m.Wrapped, err, tt.want, tt.wrapped)
			}
		})
	}
}

func TestParseMessage_refused(t *testing.T) {
	for name, msg := range map[string]string{
		"two From": "From: a\r\nFROM: b\r\n\r\n", "no empty line": "From: a\r\n", "LF only": "From: a\n\nx\n", "bare LF in the body": "From: a\r\n\r\nx\ny",
		"bare CR in the body": "From: a\r\n\r\nx\ry", "CR last": "From: a\r\n\r\nx\r", "NUL in the header": "From: a\x00\r\n\r\n", "line that is no field": "From: a\r\nx\r\n\r\n",
	} {
		if _, err := ParseMessage([]byte(msg)); !errors.Is(err, ErrStructure) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
	if _, err := ParseMessage(crlfs(sample)); err != nil {
		t.Error(err)
	}
}

// Row SM-08.
func TestSevenBit(t *testing.T) {
	const mixed = "Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 8bit\nMIME-Version: 1.0\n\n--b\n"
	tests := []struct{ name, in, want string }{
		{"nothing to do", sample, sample},
		{"text", "A: b\n\nJürgen = \n.\n", "A: b\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\nJ=C3=BCrgen =3D=20\n.\n"},
		{"leaf of a multipart", mixed + "Content-Transfer-Encoding : 8BIT\nContent-Type: text/html\n\nü\n--b\n\nplain ü-\n--b--\n",
			strings.Replace(mixed, "8bit", "7bit", 1) + "Content-Transfer-Encoding: quoted-printable\nContent-Type: text/html\n\n=C3=BC\n--b\nContent-Transfer-Encoding: quoted-printable\n\nplain =C3=BC-\n--b--\n"},
		{"binary", mixed + "Content-Type: application/pdf\n\n\x00\xff\n--b--\n",
			strings.Replace(mixed, "8bit", "7bit", 1) + "Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\nAP8=\n\n--b--\n"},
		{"long line", "MIME-Version: 1.0\n\n" + strings.Repeat("x", 1000) + "\n",
			"MIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat(strings.Repeat("x", 75)+"=\n", 13) + strings.Repeat("x", 25) + "\n"},
		{"line that would become a delimiter", mixed + "\n" + strings.Repeat("ü", 12) + "xxx--b\n--b--\n",
			strings.Replace(mixed, "8bit", "7bit", 1) + "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("=C3=BC", 12) + "xxx=\n=2D-b\n--b--\n"},
		{"8-bit header only", "Subject: ü\n\nx\n", "Subject: ü\n\nx\n"},
		{"signed stays", "Content-Type: multipart/signed; boundary=b\n\n--b\n\nü\n--b--\n", "Content-Type: multipart/signed; boundary=b\n\n--b\n\nü\n--b--\n"},
		{"encoded stays", "Content-Transfer-Encoding: quoted-printable\n\nü\n", "Content-Transfer-Encoding: quoted-printable\n\nü\n"},
		{"forwarded message", "Content-Type: message/rfc822\nMIME-Version: 1.0\n\nA: b\n\nü", "Content-Type: message/rfc822\nMIME-Version: 1.0\n\nA: b\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := crlfs(tt.in)
			got, err := SevenBit(in)
			if err != nil || string(got) != string(crlfs(tt.want)) {
				t.Errorf("SevenBit = %q, %v\nwant %q", got, err, crlfs(tt.want))
			}
		})
	}
}

// bodies returns the decoded leaves.
func bodies(t *testing.T, msg []byte) (out []string) {
	parse(t, msg).Walk(func(p *mimetree.Part) bool {
		if len(p.Parts) == 0 {
			b, err := p.Decode(msg)
			if err != nil {
				b = p.Body.Of(msg)
			}
			out = append(out, p.MediaType+"|"+string(b))
		}
		return true
	})
	return out
}

// Decoded content never changes, and what is canonical afterwards stays so.
func FuzzSevenBit(f *testing.F) {
	f.Add([]byte("A: b\r\n\r\nJ\xc3\xbcrgen\r\n"))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\xff \r\n--b\r\nContent-Type: application/x\r\n\r\n\x00\n\r\n--b--"))
	f.Add([]byte("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\nA: b\r\n\r\n\xff\r"))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + strings.Repeat("\xff", 25) + "--b\r\n--b--"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if _, err := mimetree.Parse(msg); err != nil {
			return
		}
		out, err := SevenBit(msg)
		if err != nil {
			t.Fatal(err)
		}
		before, after := bodies(t, msg), bodies(t, out)
		if strings.Join(before, "\x01") != strings.Join(after, "\x01") {
			t.Fatalf("decoded content changed\nfrom %q\nto   %q", before, after)
		}
	})
}

func FuzzParseSigned(f *testing.F) {
	f.Add(crlfs("Content-Type: multipart/signed; boundary=b\n\n--b\n\nx\n--b\nContent-Type: application/pkcs7-signature\nContent-Transfer-Encoding: base64\n\nQUI=\n--b--\n"))
	f.Add(crlfs("Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\nMIAGCSqGSIb3DQEHAqCA\n"))
	f.Fuzz(func(t *testing.T, entity []byte) {
		s, err := ParseSigned(entity)
		if err != nil {
			return
		}
		if s.Content != nil && !bytes.Contains(entity, s.Content) {
			t.Fatal("content is not part of the entity")
		}
		m, err := Unwrap(entity, nil, s.Content)
		if err == nil {
			_, _ = ParseMessage(m.Bytes)
		}
	})
}
