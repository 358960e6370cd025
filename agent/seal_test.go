package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
	"github.com/hispnode/hisp/test/testca"
)

func seal(t testing.TB, a *Agent, env hisp.Envelope, msg string) hisp.Sealed {
	t.Helper()
	s, err := a.Seal(context.Background(), env, hisp.NewMessage([]byte(msg)))
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	return s
}

// What one agent seals another opens, octet for octet, for every option.
func TestSealOpen_roundTrip(t *testing.T) {
	w := newWorld()
	messages := map[string]string{
		"plain":      letter(),
		"no newline": strings.TrimSuffix(letter(), "\r\n"),
		"empty body": letter()[:strings.Index(letter(), "\r\n\r\n")+4],
		"dots":       letter() + ".\r\n..\r\n--b0\r\nFrom x\r\n",
		"large":      letter() + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 20000),
		"signed":     letter() + string(clearSigned([]byte("A: b\r\n\r\nx"), []byte("der"))),
	}
	for name, msg := range messages {
		t.Run(name, func(t *testing.T) {
			a := w.agent(t)
			s := seal(t, a, aliceToBob(), msg)
			if len(s.Copies) != 1 || len(s.Rejected) != 0 {
				t.Fatalf("%d copies, %d rejected", len(s.Copies), len(s.Rejected))
			}
			o, err := a.Open(context.Background(), aliceToBob(), s.Copies[0].Message)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(o.Message.Bytes(), []byte(msg)) {
				t.Errorf("message changed: %q", o.Message.Bytes())
			}
			if !o.From.Equal(addr(alice)) || !o.Signer.Equal(w.alice.Cert) || len(o.Trusted) != 1 || len(o.Rejected) != 0 {
				t.Errorf("opened from %s signer %v trusted %d rejected %d", o.From.AddrSpec(), o.Signer.Subject, len(o.Trusted), len(o.Rejected))
			}
		})
	}
	for _, kt := range []cms.KeyTransport{cms.RSAPKCS1v15, cms.RSAOAEPSHA1, cms.RSAOAEPSHA256, cms.RSAOAEPSHA384, cms.RSAOAEPSHA512} {
		for _, cipher := range []cms.Cipher{cms.AES128CBC, cms.AES256CBC} {
			a := w.agent(t, func(c *Config) {
				c.Peer = func(d hisp.Domain) PeerOptions {
					if d != "clinic.example" {
						t.Errorf("asked for options of %s", d)
					}
					return PeerOptions{KeyTransport: kt, Cipher: cipher}
				}
			})
			s := seal(t, a, aliceToBob(), letter())
			if _, err := a.Open(context.Background(), aliceToBob(), s.Copies[0].Message); err != nil {
				t.Errorf("%s %s: %v", kt, cipher, err)
			}
		}
	}
}

// Rows SM-01, SM-04, SM-06, SM-07, SM-09, SM-11: what leaves, seen from outside
// and inside.
func TestSeal_wireForm(t *testing.T) {
	w := newWorld()
	s := seal(t, w.agent(t), aliceToBob(), letter("Cc: carol@clinic.example\n", "X-Secret: canary\n", "In-Reply-To: <0@clinic.example>\n"))
	raw := s.Copies[0].Message.Bytes()
	for _, phi := range []string{"canary", "Subject", "X-Secret"} {
		if bytes.Contains(raw, []byte(phi)) {
			t.Errorf("%q is visible outside", phi)
		}
	}
	top, err := mimetree.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range top.Fields {
		names = append(names, f.Name)
	}
	if got, want := strings.Join(names, " "), "MIME-Version From To Cc Date Message-ID In-Reply-To Content-Type Content-Transfer-Encoding Content-Disposition"; got != want {
		t.Errorf("outer fields %s, want %s", got, want)
	}
	if id, _ := top.Get(raw, "Message-ID"); id != "<1@hospital.example>" {
		t.Errorf("outer Message-ID = %s", id)
	}
	for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n") {
			t.Errorf("line of %d octets", len(line))
		}
	}
	plain, err := cms.Decrypt(body(t, s.Copies[0].Message), []cms.Key{decryptionKey(w.clinic)})
	if err != nil {
		t.Fatal(err)
	}
	inner, err := mimetree.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	if inner.MediaType != "multipart/signed" || inner.Params["micalg"] != "sha-256" || inner.Parts[0].MediaType != "message/rfc822" {
		t.Errorf("inside: %s micalg %s of %s", inner.MediaType, inner.Params["micalg"], inner.Parts[0].MediaType)
	}
}

// Row SM-16: one encryption per destination domain, each certificate once;
// rows BB-13, DN-08: the others are still served.
func TestSeal_groupsByDomain(t *testing.T) {
	w := newWorld()
	lab := w.ca.Issue(testca.Spec{Email: []string{"x@lab.example"}})
	w.published[addr("x@lab.example")] = []*x509.Certificate{lab.Cert}
	w.down["slow.example"] = true
	env := envelope(alice, bob, "x@lab.example", "carol@clinic.example", "nobody@none.example", "y@slow.example", "BOB@clinic.example")
	s := seal(t, w.agent(t), env, letter("Cc: x@lab.example, carol@clinic.example,\n nobody@none.example, y@slow.example\n"))

	var got []string
	for _, c := range s.Copies {
		line := string(c.Domain) + ":"
		for _, rcpt := range c.To {
			line += " " + rcpt.Local
		}
		got = append(got, line)
	}
	if want := []string{"clinic.example: bob carol", "lab.example: x"}; !slices.Equal(got, want) {
		t.Errorf("copies %q, want %q", got, want)
	}
	if len(s.Rejected) != 2 {
		t.Fatalf("%d rejected, want 2", len(s.Rejected))
	}
	wantKind(t, s.Rejected[0].Err, hisp.NoCertificate)
	wantKind(t, s.Rejected[1].Err, hisp.Temporary)

	key := func(i *testca.Issued) []cms.Key { return []cms.Key{decryptionKey(i)} }
	if _, err := cms.Decrypt(body(t, s.Copies[0].Message), key(w.clinic)); err != nil {
		t.Errorf("clinic cannot decrypt its copy: %v", err)
	}
	if _, err := cms.Decrypt(body(t, s.Copies[0].Message), key(lab)); err == nil {
		t.Error("lab can decrypt the clinic's copy")
	}
	if _, err := cms.Decrypt(body(t, s.Copies[1].Message), key(lab)); err != nil {
		t.Errorf("lab cannot decrypt its copy: %v", err)
	}
}

// panickingResolver cannot stand one domain.
type panickingResolver struct {
	hisp.CertResolver
	bad hisp.Domain
}

func (r panickingResolver) LookupCerts(ctx context.Context, a hisp.Address) ([]hisp.Cert, error) {
	if a.Domain == r.bad {
		panic("CANARY in a certificate of " + a.AddrSpec())
	}
	return r.CertResolver.LookupCerts(ctx, a)
}

// A panic over what one recipient's domain publishes concerns that recipient
// and neither the others nor the process.
func TestSeal_resolverPanics(t *testing.T) {
	w := newWorld()
	a := w.agent(t, func(c *Config) { c.Resolver = panickingResolver{w, "bad.example"} })
	s := seal(t, a, envelope(alice, "x@bad.example", bob), letter("Cc: x@bad.example\n"))
	if len(s.Copies) != 1 || len(s.Rejected) != 1 {
		t.Fatalf("%d copies and %d rejected, want 1 and 1", len(s.Copies), len(s.Rejected))
	}
	wantKind(t, s.Rejected[0].Err, hisp.Temporary)
	if text := s.Rejected[0].Err.Error(); strings.Contains(text, "CANARY") || !strings.Contains(text, "panic of type string") {
		t.Errorf("error = %q, want the panic without its value", text)
	}
}

// A domain with more certificates than one copy takes gets several copies,
// and recipients who share one do not count twice.
func TestSeal_manyRecipients(t *testing.T) {
	w := newWorld()
	key := testca.NewKey(testca.RSA2048)
	var rcpts, to []string
	for i := range maxCopyCerts + 10 {
		rcpt := fmt.Sprintf("u%d@lab.example", i)
		rcpts = append(rcpts, rcpt)
		w.published[addr(rcpt)] = []*x509.Certificate{w.ca.Issue(testca.Spec{Email: []string{rcpt}, Key: key}).Cert}
	}
	for i := range 500 {
		rcpts = append(rcpts, fmt.Sprintf("u%d@clinic.example", i))
	}
	for _, rcpt := range rcpts {
		to = append(to, "\n "+rcpt)
	}
	s := seal(t, w.agent(t), envelope(alice, rcpts...), letter("Cc: "+strings.Join(to, ",")+"\n"))
	var got []int
	for _, c := range s.Copies {
		got = append(got, len(c.To))
	}
	if want := []int{maxCopyCerts, 10, 500}; !slices.Equal(got, want) || len(s.Rejected) != 0 {
		t.Errorf("copies for %v recipients, want %v; %d rejected", got, want, len(s.Rejected))
	}
	if n := s.Copies[2].Message.Size(); n > 60<<10 {
		t.Errorf("the copy for one shared certificate has %d octets", n)
	}
}

// deadToken is a key whose token does not answer.
type deadToken struct{ crypto.Signer }

func (deadToken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("token removed")
}

func TestSeal_tokenDoesNotAnswer(t *testing.T) {
	w := newWorld()
	dead := *w.alice
	dead.Key = deadToken{w.alice.Key}
	w.signing[addr(alice)] = []*testca.Issued{&dead}
	_, err := w.agent(t).Seal(context.Background(), aliceToBob(), hisp.NewMessage([]byte(letter())))
	wantKind(t, err, hisp.Temporary)
}

// Row BB-04: ready-made S/MIME goes out octet for octet, to each domain.
func TestSeal_passesReadyMade(t *testing.T) {
	w := newWorld()
	a := w.agent(t)
	ready := seal(t, a, aliceToBob(), letter()).Copies[0].Message
	s, err := a.Seal(context.Background(), envelope(alice, bob, "x@lab.example", "carol@clinic.example"), ready)
	if err != nil || len(s.Copies) != 2 || len(s.Rejected) != 0 {
		t.Fatalf("%d copies, %v", len(s.Copies), err)
	}
	for _, c := range s.Copies {
		if !bytes.Equal(c.Message.Bytes(), ready.Bytes()) {
			t.Errorf("copy for %s differs", c.Domain)
		}
	}
	if len(s.Copies[0].To) != 2 || len(s.Copies[1].To) != 1 {
		t.Errorf("recipients %d and %d", len(s.Copies[0].To), len(s.Copies[1].To))
	}
	// Signed only is content like any other: it is wrapped, signed, encrypted.
	signed := strings.SplitAfterN(letter(), "\r\n", 2)[0] + "To: bob@clinic.example\r\n" + string(clearSigned([]byte("\r\nx"), []byte("der")))
	s = seal(t, a, aliceToBob(), signed)
	if p, _ := mimetree.Parse(s.Copies[0].Message.Bytes()); p.Protection(s.Copies[0].Message.Bytes()) != mimetree.Enveloped {
		t.Error("a signed message left in the clear")
	}
}

func TestSeal_refused(t *testing.T) {
	day := 24 * time.Hour
	tests := []struct {
		name  string
		msg   string
		env   hisp.Envelope
		setup func(*world)
		want  hisp.Kind
	}{
		{name: "two From", msg: letter("From: mallory@evil.example\n"), want: hisp.Malformed},
		{name: "From with two mailboxes", msg: strings.Replace(letter(), "<alice@hospital.example>", "<alice@hospital.example>, mallory@evil.example", 1), want: hisp.Malformed},
		{name: "From is a group", msg: strings.Replace(letter(), "Alice <alice@hospital.example>", "Team: alice@hospital.example;", 1), want: hisp.Malformed},
		{name: "no From", msg: strings.Replace(letter(), "From:", "X-From:", 1), want: hisp.Malformed},
		{name: "bare LF", msg: letter() + "x\ny", want: hisp.Malformed},
		{name: "bare CR", msg: letter() + "x\ry\r\n", want: hisp.Malformed},
		{name: "no field", msg: "junk\r\n" + letter(), want: hisp.Malformed},
		{name: "too deep", msg: strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 50) + letter(), want: hisp.Malformed},
		{name: "BB-11 MAIL FROM is another", env: envelope("mallory@hospital.example", bob), want: hisp.Malformed},
		{name: "BB-12 Bcc", env: envelope(alice, bob, "carol@clinic.example"), want: hisp.Malformed},
		{name: "null sender", env: envelope("", bob), want: hisp.Malformed},
		{name: "no key", setup: func(w *world) { clear(w.signing) }, want: hisp.NoKey},
		{name: "expired key", setup: func(w *world) {
			w.signing[addr(alice)] = []*testca.Issued{w.ca.Issue(testca.Spec{Email: []string{alice}, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)})}
		}, want: hisp.NoKey},
		{name: "CRT-14 key of another address", setup: func(w *world) {
			w.signing[addr(alice)] = []*testca.Issued{w.ca.Issue(testca.Spec{Email: []string{"x@hospital.example"}})}
		}, want: hisp.NoKey},
		{name: "CRT-07 encryption key only", setup: func(w *world) {
			w.signing[addr(alice)] = []*testca.Issued{w.ca.Issue(testca.Spec{Email: []string{alice}, Usage: x509.KeyUsageKeyEncipherment})}
		}, want: hisp.NoKey},
		{name: "SM-15 RSA 1024", setup: func(w *world) {
			w.signing[addr(alice)] = []*testca.Issued{w.ca.Issue(testca.Spec{Email: []string{alice}, KeyKind: testca.RSA1024})}
		}, want: hisp.NoKey},
		{name: "key store down", setup: func(w *world) { w.down["keys.hospital.example"] = true }, want: hisp.Temporary},
		{name: "anchors down", setup: func(w *world) { w.down["anchors.hospital.example"] = true }, want: hisp.Temporary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			if tt.setup != nil {
				tt.setup(w)
			}
			if tt.msg == "" {
				tt.msg = letter()
			}
			if tt.env.To == nil {
				tt.env = aliceToBob()
			}
			s, err := w.agent(t).Seal(context.Background(), tt.env, hisp.NewMessage([]byte(tt.msg)))
			wantKind(t, err, tt.want)
			if len(s.Copies) != 0 {
				t.Error("there is a copy")
			}
		})
	}
}

// Which of the published certificates are used: rows CRT-02..CRT-09, CRT-12,
// DISC-05, DISC-06, TR-01, TR-04, TR-14, SM-15, BB-18.
func TestSeal_recipientCertificates(t *testing.T) {
	day := 24 * time.Hour
	type spec = testca.Spec
	tests := []struct {
		name string
		rcpt string
		make func(w *world) []*testca.Issued
		want hisp.Kind // Internal (0): sealed
		uses []int     // which of them
	}{
		{name: "domain-bound", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}})}
		}, uses: []int{0}},
		{name: "address-bound, other case", rcpt: "Lab.User@LAB.example", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{Email: []string{"lab.user@lab.example"}})}
		}, uses: []int{0}},
		{name: "BB-18 plus address", rcpt: "x+tag@lab.example", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{Email: []string{"x@lab.example"}})}
		}, uses: []int{0}},
		{name: "two good ones", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}}), w.ca.Issue(spec{DNS: []string{"lab.example"}})}
		}, uses: []int{0, 1}},
		{name: "DISC-06 the good one among bad ones", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{
				w.ca.Issue(spec{DNS: []string{"lab.example"}, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)}),
				w.ca.Issue(spec{DNS: []string{"other.example"}}),
				testca.SelfSigned(spec{DNS: []string{"lab.example"}}),
				w.ca.Issue(spec{DNS: []string{"lab.example"}}),
				w.ca.Issue(spec{DNS: []string{"lab.example"}, Usage: x509.KeyUsageDigitalSignature}),
			}
		}, uses: []int{3}},
		{name: "CRT-08 intermediate among the published", make: func(w *world) []*testca.Issued {
			mid := w.ca.Intermediate(spec{Name: "mid"})
			return []*testca.Issued{mid.Issue(spec{DNS: []string{"lab.example"}}), &mid.Issued}
		}, uses: []int{0}},
		{name: "TR-14 self-signed", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{testca.SelfSigned(spec{DNS: []string{"lab.example"}})}
		}, want: hisp.Untrusted},
		{name: "other CA", make: func(*world) []*testca.Issued {
			return []*testca.Issued{testca.NewRoot("other").Issue(spec{DNS: []string{"lab.example"}})}
		}, want: hisp.Untrusted},
		{name: "missing intermediate", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Intermediate(spec{Name: "mid"}).Issue(spec{DNS: []string{"lab.example"}})}
		}, want: hisp.Untrusted},
		{name: "none", make: func(*world) []*testca.Issued { return nil }, want: hisp.NoCertificate},
		{name: "expired", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)})}
		}, want: hisp.NoCertificate},
		{name: "not yet valid", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}, NotBefore: time.Now().Add(day)})}
		}, want: hisp.NoCertificate},
		{name: "CRT-05 parent domain", rcpt: "x@sub.lab.example", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}})}
		}, want: hisp.NoCertificate},
		{name: "CRT-05 wildcard", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"*.example"}})}
		}, want: hisp.NoCertificate},
		{name: "CRT-03 bound by DN only", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{Name: "lab.example", DNEmail: "x@lab.example"})}
		}, want: hisp.NoCertificate},
		{name: "other address", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{Email: []string{"y@lab.example"}})}
		}, want: hisp.NoCertificate},
		{name: "CRT-07 signing only", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}, Usage: x509.KeyUsageDigitalSignature})}
		}, want: hisp.NoCertificate},
		{name: "SM-15 RSA 1024", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}, KeyKind: testca.RSA1024})}
		}, want: hisp.NoCertificate},
		{name: "EC key (a panic in the library)", make: func(w *world) []*testca.Issued {
			return []*testca.Issued{w.ca.Issue(spec{DNS: []string{"lab.example"}, KeyKind: testca.P256})}
		}, want: hisp.NoCertificate},
		{name: "CRT-12 critical extension", make: func(w *world) []*testca.Issued {
			s := spec{DNS: []string{"lab.example"}}
			s.Extra = append(s.Extra, testca.CriticalUnknown())
			return []*testca.Issued{w.ca.Issue(s)}
		}, want: hisp.Untrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			if tt.rcpt == "" {
				tt.rcpt = "x@lab.example"
			}
			issued := tt.make(w)
			for _, i := range issued {
				w.published[addr(tt.rcpt).Base().Key()] = append(w.published[addr(tt.rcpt).Base().Key()], i.Cert)
			}
			s := seal(t, w.agent(t), envelope(alice, tt.rcpt), letter("Cc: "+tt.rcpt+"\n"))
			if tt.want != hisp.Internal {
				if len(s.Copies) != 0 || len(s.Rejected) != 1 {
					t.Fatalf("%d copies, %d rejected", len(s.Copies), len(s.Rejected))
				}
				wantKind(t, s.Rejected[0].Err, tt.want)
				return
			}
			if len(s.Copies) != 1 {
				t.Fatalf("not sealed: %v", s.Rejected[0].Err)
			}
			for n, i := range issued {
				key, ok := tryKey(i)
				if !ok {
					continue
				}
				_, err := cms.Decrypt(body(t, s.Copies[0].Message), []cms.Key{key})
				if got, want := err == nil, slices.Contains(tt.uses, n); got != want {
					t.Errorf("certificate %d used: %v, want %v", n, got, want)
				}
			}
		})
	}
}

// Row SM-17: every active key of the sender signs, single-use keys as they may.
func TestSeal_severalSigningKeys(t *testing.T) {
	w := newWorld()
	domain := w.ca.Issue(testca.Spec{DNS: []string{"hospital.example"}, KeyKind: testca.P256})
	mid := w.ca.Intermediate(testca.Spec{Name: "mid"})
	single := mid.Issue(testca.Spec{Email: []string{alice}, Usage: x509.KeyUsageDigitalSignature})
	cipher := w.ca.Issue(testca.Spec{Email: []string{alice}, Usage: x509.KeyUsageKeyEncipherment})
	w.signing[addr(alice)] = []*testca.Issued{single, cipher, w.alice}
	w.signing[hisp.Address{Domain: "hospital.example"}] = []*testca.Issued{domain}
	s := seal(t, w.agent(t), aliceToBob(), letter())

	plain, err := cms.Decrypt(body(t, s.Copies[0].Message), []cms.Key{decryptionKey(w.clinic)})
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify(plain)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range v.signers {
		got = append(got, fmt.Sprint(c.Equal(single.Cert), c.Equal(w.alice.Cert), c.Equal(domain.Cert)))
	}
	slices.Sort(got)
	if want := []string{"false false true", "false true false", "true false false"}; !slices.Equal(got, want) {
		t.Errorf("signers %v", got)
	}
	// Row SM-19: the intermediate travels along.
	if !slices.ContainsFunc(v.pool, mid.Cert.Equal) {
		t.Error("the intermediate is not in the message")
	}
}

// Row SM-08: an 8-bit message is signed in 7-bit form and reads the same.
func TestSeal_eightBit(t *testing.T) {
	w := newWorld()
	a := w.agent(t)
	msg := letter() + "Grüße\r\n"
	s := seal(t, a, aliceToBob(), msg)
	o, err := a.Open(context.Background(), aliceToBob(), s.Copies[0].Message)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(o.Message.Bytes(), func(c byte) bool { return c >= 0x80 }) {
		t.Error("the signed message has 8-bit octets")
	}
	if got, want := string(body(t, o.Message)), "Dear Bob,\r\ncanary-body\r\nGrüße\r\n"; got != want {
		t.Errorf("body = %q, want %q", got, want)
	}
}
