package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/agent/smime"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

// accepted is the wanted kind of a message that is opened.
const accepted = hisp.Internal

type openTest struct {
	name  string
	setup func(*world)
	forge func(*world) forge
	raw   func(t *testing.T, w *world) []byte // instead of forge
	env   hisp.Envelope                       // alice to bob
	cfg   func(*Config)
	want  hisp.Kind

	noticeOnly bool // accepted with anchors for sending
}

func (tt openTest) run(t *testing.T) {
	w := newWorld()
	if tt.setup != nil {
		tt.setup(w)
	}
	var f forge
	if tt.forge != nil {
		f = tt.forge(w)
	}
	msg := f.message(t, w)
	if tt.raw != nil {
		msg = hisp.NewMessage(tt.raw(t, w))
	}
	before := bytes.Clone(msg.Bytes())
	if tt.env.To == nil {
		tt.env = aliceToBob()
	}
	if tt.cfg == nil {
		tt.cfg = func(*Config) {}
	}
	o, err := w.agent(t, tt.cfg).Open(context.Background(), tt.env, msg)
	if !bytes.Equal(before, msg.Bytes()) {
		t.Error("Open changed the message it was given")
	}
	if tt.want != accepted {
		wantKind(t, err, tt.want)
		if o.Message.Size() != 0 || len(o.Trusted) != 0 {
			t.Error("a refused message came out")
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	trusted, other := o.Trusted, o.NoticeOnly
	if tt.noticeOnly {
		trusted, other = other, trusted
	}
	if want := len(unique(tt.env.To)); len(trusted) != want || len(other) != 0 || o.Signer == nil {
		t.Errorf("trusted %d, for notices only %d, of %d, signer %v", len(o.Trusted), len(o.NoticeOnly), want, o.Signer != nil)
	}
}

func run(t *testing.T, tests []openTest) {
	for _, tt := range tests {
		t.Run(tt.name, tt.run)
	}
}

func signedBy(makeSigner func(*world) *testca.Issued) func(*world) forge {
	return func(w *world) forge { return forge{signers: []*testca.Issued{makeSigner(w)}} }
}

// The receive matrix of the certification tool, rows
// CRT-02..CRT-09, CRT-12, TR-01, TR-04, security S12, S13, S15, and the defects
// of the reference implementation.
func TestOpen_signerCertificate(t *testing.T) {
	day := 24 * time.Hour
	type spec = testca.Spec
	issue := func(s spec) func(*world) forge {
		return signedBy(func(w *world) *testca.Issued { return w.ca.Issue(s) })
	}
	email := []string{alice}
	run(t, []openTest{
		{name: "GOOD_CERT wrapped", want: accepted},
		{name: "domain-bound", forge: issue(spec{DNS: []string{"hospital.example"}}), want: accepted},
		{name: "other case", forge: issue(spec{Email: []string{"ALICE@Hospital.Example"}}), want: accepted},
		{name: "several names", forge: issue(spec{Email: []string{"x@other.example", alice}}), want: accepted},
		{name: "ECDSA P-256", forge: issue(spec{Email: email, KeyKind: testca.P256}), want: accepted},
		{name: "ECDSA P-384", forge: issue(spec{Email: email, KeyKind: testca.P384}), want: accepted},
		{name: "no key usage", forge: issue(spec{Email: email, Usage: testca.NoUsage}), want: accepted},
		{name: "intermediate in the message", forge: signedBy(func(w *world) *testca.Issued {
			return w.ca.Intermediate(spec{Name: "mid"}).Issue(spec{Email: email})
		}), want: accepted},
		{name: "CRT-08 intermediate is the anchor", setup: func(w *world) {
			mid := w.ca.Intermediate(spec{Name: "mid"})
			w.alice = mid.Issue(spec{Email: email})
			w.incoming["clinic.example"] = []*x509.Certificate{mid.Cert}
		}, want: accepted},

		{name: "INVALID_CERT other domain", forge: issue(spec{DNS: []string{"other.example"}}), want: hisp.Untrusted},
		{name: "INVALID_CERT other address", forge: issue(spec{Email: []string{"x@hospital.example"}}), want: hisp.Untrusted},
		{name: "CRT-03 DN e-mail only", forge: issue(spec{Name: "x", DNEmail: alice}), want: hisp.Untrusted},
		{name: "CRT-05 parent domain", forge: issue(spec{DNS: []string{"example"}}), want: hisp.Untrusted},
		{name: "CRT-05 wildcard", forge: issue(spec{DNS: []string{"*.example"}}), want: hisp.Untrusted},
		{name: "CRT-05 sub-domain", forge: issue(spec{DNS: []string{"x.hospital.example"}}), want: hisp.Untrusted},
		{name: "no name at all", forge: issue(spec{Name: alice}), want: hisp.Untrusted},
		{name: "EXPIRED_CERT", forge: issue(spec{Email: email, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)}), want: hisp.Untrusted},
		{name: "not yet valid", forge: issue(spec{Email: email, NotBefore: time.Now().Add(day)}), want: hisp.Untrusted},
		{name: "CRT-07 encryption only", forge: issue(spec{Email: email, Usage: x509.KeyUsageKeyEncipherment}), want: hisp.Untrusted},
		{name: "critical extension", forge: issue(spec{Email: email, Modify: func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, testca.CriticalUnknown())
		}}), want: hisp.Untrusted},
		{name: "CA as signer", forge: issue(spec{Email: email, Modify: func(c *x509.Certificate) { c.IsCA = true }}), want: hisp.Untrusted},
		{name: "DIFFERENT_TRUST_ANCHOR", forge: signedBy(func(*world) *testca.Issued {
			return testca.NewRoot("other").Issue(spec{Email: email})
		}), want: hisp.Untrusted},
		{name: "anchor removed", setup: func(w *world) { delete(w.incoming, "clinic.example") }, want: hisp.Untrusted},
		{name: "TR-02 anchor for sending only", setup: func(w *world) { w.incoming["clinic.example"] = nil }, want: hisp.Untrusted},
		{name: "BAD_AIA missing intermediate", forge: signedBy(func(w *world) *testca.Issued {
			i := w.ca.Intermediate(spec{Name: "mid"}).Issue(spec{Email: email})
			i.Chain = i.Chain[:1]
			return i
		}), want: hisp.Untrusted},
		{name: "self-signed", forge: signedBy(func(*world) *testca.Issued { return testca.SelfSigned(spec{Email: email}) }), want: hisp.Untrusted},
		{name: "RI: self-signed with the anchor's key identifier", forge: signedBy(func(w *world) *testca.Issued {
			return testca.SelfSigned(spec{DNS: []string{"hospital.example"}, SubjectKeyID: w.ca.Cert.SubjectKeyId})
		}), want: hisp.Untrusted},
		{name: "S15 CA with the anchor's name and key identifier", forge: signedBy(func(w *world) *testca.Issued {
			fake := testca.NewRootFrom(spec{Subject: &w.ca.Cert.Subject, SubjectKeyID: w.ca.Cert.SubjectKeyId})
			i := fake.Issue(spec{Email: email})
			i.Chain = append(i.Chain, fake.Cert)
			return i
		}), want: hisp.Untrusted},
		{name: "CRT-09 leaf as issuer", forge: signedBy(func(w *world) *testca.Issued {
			leaf := w.ca.Issue(spec{Email: []string{"mallory@evil.example"}})
			ca := testca.CA{Issued: *leaf}
			return ca.Issue(spec{Email: email})
		}), want: hisp.Untrusted},
		{name: "clock before the certificate", cfg: func(c *Config) { c.Clock = func() time.Time { return time.Now().Add(-30 * day) } }, want: hisp.Untrusted},
		{name: "clock after the certificate", cfg: func(c *Config) { c.Clock = func() time.Time { return time.Now().Add(400 * day) } }, want: hisp.Untrusted},
		{name: "anchors not readable", setup: func(w *world) { w.down["anchors.clinic.example"] = true }, want: hisp.Temporary},
		{name: "keys not readable", setup: func(w *world) { w.down["keys.clinic.example"] = true }, want: hisp.Temporary},
	})
}

// Rows SM-03, SM-04, SM-10 and the interoperation list of the reference
// implementation: what must be accepted.
func TestOpen_forms(t *testing.T) {
	inner := letter()
	entity := func(s string) func(*world) forge { return func(*world) forge { return forge{entity: s} } }
	opaque := func(w *world) forge {
		return forge{sign: func(content []byte) []byte {
			return []byte("Content-Type: application/x-pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
				string(smime.AppendBase64(nil, embed(t, forge{signers: []*testca.Issued{w.alice}}.signature(t, content), content))))
		}}
	}
	outer := func(change func(raw string) string) func(t *testing.T, w *world) []byte {
		return func(t *testing.T, w *world) []byte { return []byte(change(string(forge{}.message(t, w).Bytes()))) }
	}
	unwrapped := "Content-Type: text/plain\r\n\r\ncanary-body\r\n"
	run(t, []openTest{
		{name: "unwrapped", forge: entity(unwrapped), want: accepted},
		{name: "unwrapped, refused by setting", forge: entity(unwrapped), cfg: func(c *Config) { c.Unwrapped = RefuseUnwrapped }, want: hisp.Unprotected},
		{name: "wrapped, unwrapped refused", cfg: func(c *Config) { c.Unwrapped = RefuseUnwrapped }, want: accepted},
		{name: "opaque", forge: opaque, want: accepted},
		{name: "wrapper with parameters", forge: entity("content-type:Message/RFC822; charset=utf-8; name=\"x\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + inner), want: accepted},
		{name: "wrapper in base64", forge: entity("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString([]byte(inner)) + "\r\n"), want: accepted},
		{name: "wrapper in quoted-printable", forge: entity("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.ReplaceAll(inner, "=", "=3D")), want: accepted},
		{name: "BOM", forge: entity("Content-Type: message/rfc822\r\n\r\n\ufeff" + inner), want: accepted},
		{name: "SHA-384", forge: func(*world) forge { return forge{digest: crypto.SHA384} }, want: accepted},
		{name: "SHA-512", forge: func(*world) forge { return forge{digest: crypto.SHA512} }, want: accepted},
		{name: "odd header case of the inner message", forge: func(*world) forge {
			return forge{inner: strings.NewReplacer("From:", "fRoM :", "To:", "TO:").Replace(inner)}
		}, want: accepted},
		{name: "x-pkcs7-mime, lower case, no space, no smime-type", raw: outer(func(s string) string {
			return strings.Replace(s, "Content-Type: application/pkcs7-mime; smime-type=enveloped-data;", "content-type:application/x-pkcs7-mime;", 1)
		}), want: accepted},
		{name: "base64 on one line", raw: outer(func(s string) string {
			head, b, _ := strings.Cut(s, "\r\n\r\n")
			return head + "\r\n\r\n" + strings.ReplaceAll(b, "\r\n", "") + "\r\n\r\n"
		}), want: accepted},
		{name: "base64 in odd lines", raw: outer(func(s string) string {
			head, b, _ := strings.Cut(s, "\r\n\r\n")
			return head + "\r\n\r\n" + strings.ReplaceAll(strings.ReplaceAll(b, "\r\n", ""), "A", "A\r\n") + " \r\n"
		}), want: accepted},
		{name: "binary encoding", raw: func(t *testing.T, w *world) []byte {
			msg := forge{}.message(t, w)
			return []byte("From: " + alice + "\r\nTo: " + bob + "\r\nContent-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: binary\r\n\r\n" + string(body(t, msg)))
		}, want: accepted},
		{name: "no To outside", forge: func(*world) forge { return forge{header: "From: " + alice + "\r\n"} }, want: accepted},
		{name: "no From outside", forge: func(*world) forge { return forge{header: "Subject: x\r\n"} }, want: accepted},
		{name: "different_msgid", forge: func(*world) forge {
			return forge{header: "From: " + alice + "\r\nTo: " + bob + "\r\nMessage-ID: <other@x>\r\nSubject: outer\r\n"}
		}, want: accepted},
		{name: "encrypted to several, we are the last", forge: func(w *world) forge {
			return forge{to: []*x509.Certificate{w.alice.Cert, w.ca.Issue(testca.Spec{DNS: []string{"x.example"}}).Cert, w.clinic.Cert}}
		}, want: accepted},
		{name: "retired key", setup: func(w *world) {
			old := w.clinic
			w.opening[hisp.Address{Domain: "clinic.example"}] = []*testca.Issued{w.ca.Issue(testca.Spec{DNS: []string{"clinic.example"}}), old}
		}, want: accepted},
	})
}

// embed makes an opaque SignedData of a detached one.
func embed(t testing.TB, der, content []byte) []byte {
	t.Helper()
	out, err := embedContent(der, content)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The inner message is the authority, whatever stands outside (row SM-05).
func TestOpen_innerHeaderWins(t *testing.T) {
	w := newWorld()
	f := forge{header: "From: " + alice + "\r\nTo: " + bob + "\r\nSubject: outer\r\nDisposition-Notification-To: mallory@evil.example\r\n"}
	o, err := w.agent(t).Open(context.Background(), aliceToBob(), f.message(t, w))
	if err != nil {
		t.Fatal(err)
	}
	if string(o.Message.Bytes()) != letter() {
		t.Errorf("message = %q", o.Message.Bytes())
	}
	f.entity = "Content-Type: text/plain\r\nSubject: signed\r\n\r\nx\r\n"
	if o, err = w.agent(t).Open(context.Background(), aliceToBob(), f.message(t, w)); err != nil {
		t.Fatal(err)
	}
	want := crlf("From: alice@hospital.example\nTo: bob@clinic.example\nDisposition-Notification-To: mallory@evil.example\n" +
		"MIME-Version: 1.0\nContent-Type: text/plain\nSubject: signed\n\nx\n")
	if string(o.Message.Bytes()) != want {
		t.Errorf("unwrapped message = %q, want %q", o.Message.Bytes(), want)
	}
}

const mdnBody = "Content-Type: multipart/report; report-type=disposition-notification; boundary=r\nMIME-Version: 1.0\n\n--r\n\nprocessed\n--r--\n"

func notice() string {
	return crlf("From: " + alice + "\nTo: " + bob + "\nDate: Sun, 22 Nov 2026 12:00:00 +0000\n" + mdnBody)
}

// Rows BB-11, BB-12, BB-17, security S8.
func TestOpen_envelopeAndHeader(t *testing.T) {
	inner := func(s string) func(*world) forge { return func(*world) forge { return forge{inner: s} } }
	header := func(s string) func(*world) forge { return func(*world) forge { return forge{header: crlf(s)} } }
	bare := func(inner string) func(*world) forge { // nothing outside that could disagree
		return func(*world) forge { return forge{inner: inner, header: "Subject: x\r\n"} }
	}
	cc := letter("Cc: \"Carol, MD\" <carol@clinic.example>, Team: dave@clinic.example;\n")
	run(t, []openTest{
		{name: "BB-11 MAIL FROM is another", env: envelope("mallory@hospital.example", bob), want: hisp.Tampered},
		{name: "BB-11 MAIL FROM is Sender", forge: inner(letter("Sender: desk@hospital.example\n")), env: envelope("desk@hospital.example", bob), want: accepted},
		{name: "BB-11 MAIL FROM is neither", forge: inner(letter("Sender: desk@hospital.example\n")), env: envelope("x@hospital.example", bob), want: hisp.Tampered},
		{name: "BB-19 case", env: envelope("ALICE@hospital.example", "BOB@clinic.example"), want: accepted},
		{name: "null sender, message", env: envelope("", bob), want: hisp.Tampered},
		{name: "BB-17 null sender, MDN", forge: inner(notice()), env: envelope("", bob), want: accepted},
		{name: "BB-17 null sender, DSN", forge: inner(strings.Replace(notice(), "disposition-notification", "delivery-status", 1)), env: envelope("", bob), want: accepted},
		{name: "BB-12 recipient in To, named twice", env: envelope(alice, bob, bob), want: accepted},
		{name: "BB-12 recipients in Cc and a group", forge: bare(cc),
			env: envelope(alice, bob, "carol@clinic.example", "dave@clinic.example"), want: accepted},
		{name: "BB-12 recipient in neither", forge: bare(letter()), env: envelope(alice, bob, "carol@clinic.example"), want: hisp.Tampered},
		{name: "BB-12 recipient in Bcc", forge: bare(letter("Bcc: carol@clinic.example\n")), env: envelope(alice, "carol@clinic.example"), want: hisp.Tampered},
		{name: "BB-12 recipient in a display name", forge: bare(strings.Replace(letter(), "To: Bob", "To: \"carol@clinic.example\"", 1)), env: envelope(alice, "carol@clinic.example"), want: hisp.Tampered},
		{name: "BB-12 recipient in a comment", forge: bare(letter("Cc: (carol@clinic.example) x@clinic.example\n")), env: envelope(alice, "carol@clinic.example"), want: hisp.Tampered},
		{name: "S8 outer From differs", forge: header("From: mallory@evil.example\nTo: bob@clinic.example\n"), want: hisp.Tampered},
		{name: "S8 two outer From", forge: header("From: alice@hospital.example\nFrom: mallory@evil.example\nTo: bob@clinic.example\n"), want: hisp.Malformed},
		{name: "S8 outer From unreadable", forge: header("From: alice@hospital.example, mallory@evil.example\nTo: bob@clinic.example\n"), want: hisp.Tampered},
		{name: "S8 recipient not in outer To", forge: header("From: alice@hospital.example\nTo: carol@clinic.example\n"), want: hisp.Tampered},
		{name: "S8 outer To unreadable", forge: header("From: alice@hospital.example\nTo: <bob@clinic.example\n"), want: hisp.Tampered},
	})
}

// Security rows S6, M3: who it is from, told in every way but the right one.
// The signer is mallory, whom the clinic trusts; alice is impersonated.
func TestOpen_spoofedFrom(t *testing.T) {
	const evil = "mallory@evil.example"
	from := func(field string) string {
		return strings.Replace(letter(), "From: Alice <alice@hospital.example>\r\n", crlf(field), 1)
	}
	tests := []struct {
		name, inner string
		want        hisp.Kind
	}{
		{"plain spoof", letter(), hisp.Untrusted},
		{"Sender is the signer", from("From: alice@hospital.example\nSender: mallory@evil.example\n"), hisp.Untrusted},
		{"own address, other display name", from("From: \"alice@hospital.example\" <mallory@evil.example>\n"), accepted},
		{"own address, alice in a comment", from("From: mallory@evil.example (alice@hospital.example)\n"), accepted},
		{"address before angle address", from("From: alice@hospital.example <mallory@evil.example>\n"), hisp.Malformed},
		{"two angle addresses", from("From: <alice@hospital.example> <mallory@evil.example>\n"), hisp.Malformed},
		{"two From", from("From: alice@hospital.example\nFrom: mallory@evil.example\n"), hisp.Malformed},
		{"two From, other order and case", from("From: mallory@evil.example\nfROM : alice@hospital.example\n"), hisp.Malformed},
		{"two mailboxes", from("From: alice@hospital.example, mallory@evil.example\n"), hisp.Malformed},
		{"two mailboxes, Sender", from("From: mallory@evil.example, alice@hospital.example\nSender: mallory@evil.example\n"), hisp.Malformed},
		{"group", from("From: Team: mallory@evil.example;\n"), hisp.Malformed},
		{"group that looks like alice", from("From: \"alice@hospital.example\": mallory@evil.example;\n"), hisp.Malformed},
		{"empty group", from("From: Team:;\nSender: mallory@evil.example\n"), hisp.Malformed},
		{"empty", from("From: \nSender: mallory@evil.example\n"), hisp.Malformed},
		{"null address", from("From: Alice <>\nSender: mallory@evil.example\n"), hisp.Malformed},
		{"none", from("Sender: mallory@evil.example\n"), hisp.Malformed},
		{"NUL", from("From: alice@hospital.example\x00mallory@evil.example\n"), hisp.Malformed},
		{"bare CR", from("From: mallory@evil.example\r \n"), hisp.Malformed},
		{"quoted local part", from("From: \"alice@hospital.example\"@evil.example\n"), hisp.Untrusted},
		{"sub-domain trick", from("From: alice@hospital.example.evil.example\n"), hisp.Untrusted},
		{"route", from("From: <@evil.example:alice@hospital.example>\n"), hisp.Malformed},
		{"encoded word as address", from("From: =?utf-8?q?alice=40hospital.example?=\nSender: mallory@evil.example\n"), hisp.Malformed},
		{"line without colon before it", from("From\nFrom: mallory@evil.example\n"), hisp.Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			mallory := w.ca.Issue(testca.Spec{Email: []string{evil}})
			f := forge{inner: tt.inner, signers: []*testca.Issued{mallory}, header: "To: " + bob + "\r\n"}
			o, err := w.agent(t).Open(context.Background(), envelope(evil, bob), f.message(t, w))
			if err == nil && o.From.AddrSpec() != evil {
				t.Errorf("accepted as %s", o.From.AddrSpec())
			}
			if tt.want == accepted {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			// The envelope is mallory's, so what spoofs with alice in From may
			// already be refused as tampered.
			if k := hisp.KindOf(err); k != tt.want && k != hisp.Tampered {
				t.Errorf("Kind = %v, want %v", k, tt.want)
			}
		})
	}
}

// Security rows S1, S2, S4, S5, S7, M3, row BB-05: structure.
func TestOpen_structure(t *testing.T) {
	inner := letter()
	signed := func(w *world, content string) []byte {
		return clearSigned([]byte(content), forge{signers: []*testca.Issued{w.alice}}.signature(t, []byte(content)))
	}
	wrapper := "Content-Type: message/rfc822\r\n\r\n" + inner
	// instead replaces the whole entity that is encrypted.
	instead := func(f func(w *world) string) func(*world) forge {
		return func(w *world) forge { return forge{sign: func([]byte) []byte { return []byte(f(w)) }} }
	}
	head := "From: " + alice + "\r\nTo: " + bob + "\r\nMIME-Version: 1.0\r\n"
	mixed := func(before, after string) func(t *testing.T, w *world) []byte {
		return func(t *testing.T, w *world) []byte {
			return []byte(head + "Content-Type: multipart/mixed; boundary=x\r\n\r\n" + before + "--x\r\n" +
				string(pkcs7("", body(t, forge{}.message(t, w)))[len("MIME-Version: 1.0\r\n"):]) + after + "--x--\r\n")
		}
	}
	const html = "--x\r\nContent-Type: text/html\r\n\r\n<img src=\"http://evil.example/\r\n"
	run(t, []openTest{
		{name: "BB-05 plain", raw: func(*testing.T, *world) []byte { return []byte(inner) }, want: hisp.Unprotected},
		{name: "BB-05 signed only", raw: func(_ *testing.T, w *world) []byte { return append([]byte(head), signed(w, wrapper)...) }, want: hisp.Unprotected},
		{name: "BB-05 opaque signed only", raw: func(t *testing.T, w *world) []byte {
			return pkcs7(head, embed(t, forge{signers: []*testca.Issued{w.alice}}.signature(t, []byte(wrapper)), []byte(wrapper)))
		}, want: hisp.Unprotected},
		{name: "BB-05 encrypted only", forge: instead(func(*world) string { return wrapper }), want: hisp.Unprotected},
		{name: "BB-05 encrypted only, plain text", forge: instead(func(*world) string { return "Content-Type: text/plain\r\n\r\nx\r\n" }), want: hisp.Unprotected},
		{name: "encrypted nothing", forge: instead(func(*world) string { return "" }), want: hisp.Unprotected},
		{name: "encrypted twice", forge: instead(func(w *world) string {
			return string(pkcs7("", encrypt(t, signed(w, wrapper), w.clinic.Cert)))
		}), want: hisp.Unprotected},
		{name: "S2 encrypted part of a multipart", raw: mixed("", ""), want: hisp.Unprotected},
		{name: "S2 encrypted part between HTML", raw: mixed(html, "\r\n--x\r\nContent-Type: text/html\r\n\r\n\">\r\n"), want: hisp.Unprotected},
		{name: "S2 encrypted message attached", raw: func(t *testing.T, w *world) []byte {
			return []byte(head + "Content-Type: message/rfc822\r\n\r\n" + string(forge{}.message(t, w).Bytes()))
		}, want: hisp.Unprotected},
		{name: "M3 two outer Content-Type", raw: func(t *testing.T, w *world) []byte {
			return []byte(strings.Replace(string(forge{}.message(t, w).Bytes()), "Content-Transfer-Encoding:", "Content-Type: text/plain\r\nContent-Transfer-Encoding:", 1))
		}, want: hisp.Malformed},
		{name: "S7 signature covers a part of a multipart", forge: instead(func(w *world) string {
			return "Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\nContent-Type: text/plain\r\n\r\nunsigned\r\n--y\r\n" + string(signed(w, wrapper)) + "\r\n--y--\r\n"
		}), want: hisp.Unprotected},
		{name: "S7 signed message inside message/rfc822", forge: instead(func(w *world) string {
			return "Content-Type: message/rfc822\r\n\r\n" + head + string(signed(w, wrapper))
		}), want: hisp.Unprotected},
		{name: "S7 third part", forge: instead(func(w *world) string {
			return strings.Replace(string(signed(w, wrapper)), "--b0--", "--b0\r\nContent-Type: text/html\r\n\r\nx\r\n--b0--", 1)
		}), want: hisp.BadSignature},
		{name: "S7 part before", forge: instead(func(w *world) string {
			return strings.Replace(string(signed(w, wrapper)), "--b0\r\n", "--b0\r\n\r\nunsigned\r\n--b0\r\n", 1)
		}), want: hisp.BadSignature},
		{name: "preamble and epilogue are not part of the message", forge: instead(func(w *world) string {
			return strings.Replace(string(signed(w, wrapper)), "--b0\r\n", "preamble\r\n--b0\r\n", 1) + "epilogue\r\n"
		}), want: accepted},
		{name: "M3 two boundaries", forge: instead(func(w *world) string {
			return strings.Replace(string(signed(w, wrapper)), `boundary="b0"`, `boundary="b0"; boundary="b1"`, 1)
		}), want: hisp.BadSignature},
		{name: "no end", forge: instead(func(w *world) string { return strings.TrimSuffix(string(signed(w, wrapper)), "--b0--\r\n") }), want: hisp.BadSignature},
		{name: "S4 detached signature with embedded content", forge: instead(func(w *world) string {
			der := forge{signers: []*testca.Issued{w.alice}}.signature(t, []byte(wrapper))
			return string(clearSigned([]byte(wrapper), embed(t, der, []byte(wrapper))))
		}), want: hisp.BadSignature},
		{name: "S4 embedded content differs from what is shown", forge: instead(func(w *world) string {
			der := forge{signers: []*testca.Issued{w.alice}}.signature(t, []byte(wrapper))
			return string(clearSigned([]byte("Content-Type: text/plain\r\n\r\nevil"), embed(t, der, []byte(wrapper))))
		}), want: hisp.BadSignature},
		{name: "opaque without content", forge: instead(func(w *world) string {
			return "Content-Type: application/pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
				string(smime.AppendBase64(nil, forge{signers: []*testca.Issued{w.alice}}.signature(t, []byte(wrapper))))
		}), want: hisp.BadSignature},
		{name: "signature is garbage", forge: instead(func(*world) string { return string(clearSigned([]byte(wrapper), []byte("garbage"))) }), want: hisp.BadSignature},
		{name: "INVALID_DIGEST altered", forge: instead(func(w *world) string {
			return strings.Replace(string(signed(w, wrapper)), "canary-body", "canary-Body", 1)
		}), want: hisp.BadSignature},
		{name: "line added", forge: instead(func(w *world) string {
			return strings.Replace(string(signed(w, wrapper)), "canary-body\r\n", "canary-body\r\n\r\n", 1)
		}), want: hisp.BadSignature},
		{name: "RI: LF only", forge: instead(func(w *world) string {
			return string(signed(w, strings.ReplaceAll(wrapper, "\r\n", "\n")))
		}), want: hisp.BadSignature},
		{name: "bare LF in the message", forge: func(*world) forge { return forge{inner: inner + "x\ny\r\n"} }, want: hisp.Malformed},
		{name: "two Content-Type in the signed part", forge: func(*world) forge {
			return forge{entity: "Content-Type: text/plain\r\n" + wrapper}
		}, want: hisp.BadSignature},
		{name: "message without end of header", forge: func(*world) forge { return forge{inner: "From: " + alice + "\r\nTo: " + bob + "\r\n"} }, want: hisp.Malformed},
		{name: "too deep", forge: func(*world) forge {
			return forge{inner: strings.Replace(inner, "Content-Type: text/plain\r\n\r\n", strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 50), 1)}
		}, want: hisp.BadSignature},
		{name: "nested signature is content", forge: func(w *world) forge {
			return forge{inner: head + strings.ReplaceAll(string(clearSigned([]byte("\r\nx"), []byte("der of somebody"))), "b0", "b9")}
		}, want: accepted},
	})
}

// Rows SM-20, SM-21, security S5: several signers.
func TestOpen_severalSigners(t *testing.T) {
	stranger := func(*world) *testca.Issued {
		return testca.NewRoot("other").Issue(testca.Spec{Email: []string{alice}})
	}
	mallory := func(w *world) *testca.Issued {
		return w.ca.Issue(testca.Spec{Email: []string{"mallory@evil.example"}})
	}
	many := func(list ...func(*world) *testca.Issued) func(*world) forge {
		return func(w *world) forge {
			var f forge
			for _, s := range list {
				f.signers = append(f.signers, s(w))
			}
			return f
		}
	}
	good := func(w *world) *testca.Issued { return w.alice }
	run(t, []openTest{
		{name: "good, then unbound", forge: many(good, mallory), want: accepted},
		{name: "untrusted, unbound, good", forge: many(stranger, mallory, good), want: accepted},
		{name: "no single one is both bound and trusted", forge: many(stranger, mallory), want: hisp.Untrusted},
		{name: "none", forge: func(w *world) forge {
			return forge{sign: func(content []byte) []byte { return clearSigned(content, noSigners(t, w.alice.Cert)) }}
		}, want: hisp.BadSignature},
	})
	w := newWorld()
	f := many(stranger, mallory, good)(w)
	o, err := w.agent(t).Open(context.Background(), aliceToBob(), f.message(t, w))
	if err != nil || !o.Signer.Equal(w.alice.Cert) {
		t.Errorf("Signer is not the one verified, trusted and bound (%v)", err)
	}
}

// Row TR-03: trust is decided for each recipient.
func TestOpen_trustPerRecipient(t *testing.T) {
	w := newWorld()
	w.opening[addr("x@lab.example")] = []*testca.Issued{w.clinic}
	w.incoming["lab.example"] = []*x509.Certificate{testca.NewRoot("other").Cert}
	f := forge{inner: letter("Cc: x@lab.example\n"), header: "From: " + alice + "\r\n"}
	o, err := w.agent(t).Open(context.Background(), envelope(alice, "x@lab.example", bob), f.message(t, w))
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Trusted) != 1 || !o.Trusted[0].Equal(addr(bob)) {
		t.Errorf("trusted %d", len(o.Trusted))
	}
	if len(o.Rejected) != 1 || !o.Rejected[0].Recipient.Equal(addr("x@lab.example")) {
		t.Fatalf("rejected %d", len(o.Rejected))
	}
	wantKind(t, o.Rejected[0].Err, hisp.Untrusted)
}

// Security row S3: one outcome for every failure to decrypt, to the letter.
func TestOpen_cannotDecryptIsUniform(t *testing.T) {
	w := newWorld()
	good := forge{}.message(t, w)
	der := body(t, good)
	foreign := w.ca.Issue(testca.Spec{DNS: []string{"clinic.example"}})
	change := func(at int) []byte {
		b := bytes.Clone(der)
		b[at] ^= 1
		return b
	}
	wrappedKey := bytes.Index(der, []byte{0x04, 0x82, 0x01, 0x00}) + 4
	messages := map[string][]byte{
		"other key":           forge{to: []*x509.Certificate{foreign.Cert}}.message(t, w).Bytes(),
		"wrapped key altered": pkcs7("", change(wrappedKey+100)),
		"last block altered":  pkcs7("", change(len(der)-1)),
		"cut short":           pkcs7("", der[:len(der)-1]),
		"cut to the start":    pkcs7("", der[:30]),
		"nothing":             pkcs7("", nil),
		"one more octet":      pkcs7("", append(bytes.Clone(der), 0)),
		"not base64":          []byte(strings.Replace(string(good.Bytes()), "\r\n\r\n", "\r\n\r\n!!!!", 1)),
		"unknown encoding":    []byte(strings.Replace(string(good.Bytes()), "Encoding: base64", "Encoding: uuencode", 1)),
		"deep nesting":        pkcs7("", bytes.Repeat([]byte{0x30, 0x80}, 1<<20)),
		"many elements":       pkcs7("", append([]byte{0x30, 0x83, 0x10, 0, 0}, bytes.Repeat([]byte{5, 0}, 1<<19)...)),
	}
	want := cannotDecrypt().Error()
	for name, raw := range messages {
		need.CPU(t, 2*time.Second, func() {
			_, err := w.agent(t).Open(context.Background(), aliceToBob(), hisp.NewMessage(raw))
			wantKind(t, err, hisp.CannotDecrypt)
			if err.Error() != want {
				t.Errorf("%s: %q", name, err)
			}
		})
	}
	clear(w.opening)
	_, err := w.agent(t).Open(context.Background(), aliceToBob(), good)
	if err == nil || err.Error() != want {
		t.Errorf("no key at all: %v", err)
	}
}

// Security rows S1, SM-22: no altered block of ciphertext gets through.
func TestOpen_everyBlockAltered(t *testing.T) {
	w := newWorld()
	msg := forge{}.message(t, w)
	der := body(t, msg)
	a := w.agent(t)
	first := len(der) - 16*(len(der)/16-40) // somewhere inside the ciphertext
	blocks := 0
	for at := len(der) - 16; at >= max(first, 0) && at > 600; at -= 16 {
		altered := bytes.Clone(der)
		altered[at] ^= 0x20
		o, err := a.Open(context.Background(), aliceToBob(), hisp.NewMessage(pkcs7("From: "+alice+"\r\nTo: "+bob+"\r\n", altered)))
		blocks++
		if err == nil || o.Message.Size() != 0 {
			t.Fatalf("block at %d altered and accepted", at)
		}
	}
	if blocks < 100 {
		t.Errorf("only %d blocks tried", blocks)
	}
}

// A node that is told to stop does not seal half a message.
func TestSeal_contextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s, err := newWorld().agent(t).Seal(ctx, aliceToBob(), hisp.NewMessage([]byte(letter())))
	if len(s.Copies) != 0 {
		t.Error("there is a copy")
	}
	wantKind(t, err, hisp.Temporary)
}

func TestNew_incomplete(t *testing.T) {
	w := newWorld()
	for _, c := range []Config{{}, {Resolver: w, Trust: w}, {Resolver: w, Keys: w}, {Trust: w, Keys: w}} {
		if _, err := New(c); err == nil {
			t.Error("accepted")
		}
	}
	if !slices.Contains([]cms.Cipher{"", cms.AES256CBC}, (PeerOptions{}).Cipher) {
		t.Error("the default cipher is not AES-256")
	}
}
