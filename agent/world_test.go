package agent

import (
	"context"
	"crypto"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/agent/smime"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
	"github.com/hispnode/hisp/test/testca"
)

// world is everything two domains publish, trust and hold, in memory. It is
// resolver, trust store and key store of the agent under test.
type world struct {
	ca     *testca.CA
	alice  *testca.Issued // address-bound, hospital.example, sends
	clinic *testca.Issued // domain-bound, clinic.example, receives

	published map[hisp.Address][]*x509.Certificate // Local "" is the domain
	incoming  map[hisp.Domain][]*x509.Certificate
	outgoing  map[hisp.Domain][]*x509.Certificate
	signing   map[hisp.Address][]*testca.Issued
	opening   map[hisp.Address][]*testca.Issued
	down      map[hisp.Domain]bool // resolver, anchors and keys of it answer Temporary
}

func newWorld() *world {
	ca := testca.NewRoot("Direct CA")
	w := &world{
		ca:        ca,
		alice:     ca.Issue(testca.Spec{Email: []string{"alice@hospital.example"}, SubjectKeyID: []byte("alice's key")}),
		clinic:    ca.Issue(testca.Spec{DNS: []string{"clinic.example"}, SubjectKeyID: []byte("clinic's key")}),
		published: map[hisp.Address][]*x509.Certificate{},
		incoming:  map[hisp.Domain][]*x509.Certificate{"hospital.example": {ca.Cert}, "clinic.example": {ca.Cert}},
		outgoing:  map[hisp.Domain][]*x509.Certificate{"hospital.example": {ca.Cert}, "clinic.example": {ca.Cert}},
		signing:   map[hisp.Address][]*testca.Issued{},
		opening:   map[hisp.Address][]*testca.Issued{},
		down:      map[hisp.Domain]bool{},
	}
	w.signing[addr("alice@hospital.example")] = []*testca.Issued{w.alice}
	w.signing[hisp.Address{Domain: "clinic.example"}] = []*testca.Issued{w.clinic}
	w.opening[addr("alice@hospital.example")] = []*testca.Issued{w.alice}
	w.opening[hisp.Address{Domain: "clinic.example"}] = []*testca.Issued{w.clinic}
	w.published[addr("alice@hospital.example")] = []*x509.Certificate{w.alice.Cert}
	w.published[hisp.Address{Domain: "clinic.example"}] = []*x509.Certificate{w.clinic.Cert}
	return w
}

func (w *world) check(d hisp.Domain) error {
	if w.down[d] {
		return &hisp.Error{Op: "world", Kind: hisp.Temporary}
	}
	return nil
}

func (w *world) LookupCerts(_ context.Context, a hisp.Address) ([]hisp.Cert, error) {
	found := w.published[a.Key()]
	if len(found) == 0 {
		found = w.published[hisp.Address{Domain: a.Domain}]
	}
	var out []hisp.Cert
	for _, c := range found {
		out = append(out, hisp.Cert{Certificate: c, Source: "dns-address"})
	}
	return out, w.check(a.Domain)
}

func (w *world) Anchors(_ context.Context, local hisp.Address, dir hisp.Direction) ([]*x509.Certificate, error) {
	if dir == hisp.Incoming {
		return w.incoming[local.Domain], w.check("anchors." + local.Domain)
	}
	return w.outgoing[local.Domain], w.check("anchors." + local.Domain)
}

func bound(m map[hisp.Address][]*testca.Issued, a hisp.Address) []*testca.Issued {
	return append(append([]*testca.Issued(nil), m[a.Key()]...), m[hisp.Address{Domain: a.Domain}]...)
}

func (w *world) SigningKeys(_ context.Context, a hisp.Address) (out []hisp.SigningKey, err error) {
	for _, i := range bound(w.signing, a) {
		out = append(out, hisp.SigningKey{Chain: i.Chain, Signer: i.Key})
	}
	return out, w.check("keys." + a.Domain)
}

func (w *world) DecryptionKeys(_ context.Context, a hisp.Address) (out []hisp.DecryptionKey, err error) {
	for _, i := range bound(w.opening, a) {
		if d, ok := i.Key.(crypto.Decrypter); ok {
			out = append(out, hisp.DecryptionKey{Cert: i.Cert, Decrypter: d})
		}
	}
	return out, w.check("keys." + a.Domain)
}

func (w *world) agent(t testing.TB, change ...func(*Config)) *Agent {
	t.Helper()
	c := Config{Resolver: w, Trust: w, Keys: w}
	for _, f := range change {
		f(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func addr(s string) hisp.Address {
	a, err := hisp.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

func addrs(list ...string) (out []hisp.Address) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

func envelope(from string, to ...string) hisp.Envelope {
	env := hisp.Envelope{To: addrs(to...)}
	if from != "" {
		env.From = addr(from)
	}
	return env
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// letter is a message from alice to bob; more fields stand before the body.
func letter(more ...string) string {
	return crlf("From: Alice <alice@hospital.example>\nTo: Bob <bob@clinic.example>\n" + strings.Join(more, "") +
		"Date: Sun, 22 Nov 2026 12:00:00 +0000\nMessage-ID: <1@hospital.example>\nSubject: canary-subject\nMIME-Version: 1.0\n" +
		"Content-Type: text/plain\n\nDear Bob,\ncanary-body\n")
}

const (
	alice = "alice@hospital.example"
	bob   = "bob@clinic.example"
)

func aliceToBob() hisp.Envelope { return envelope(alice, bob) }

// forge makes incoming messages of every right and wrong kind. The zero value
// of a field is the right one.
type forge struct {
	inner   string           // letter()
	header  string           // outer header without MIME fields; From and To of alice and bob
	entity  string           // what is signed instead of the wrapped inner message
	signers []*testca.Issued // alice
	to      []*x509.Certificate
	digest  crypto.Hash
	// sign replaces the making of the signed entity, seal that of the CMS.
	sign func(content []byte) []byte
	seal func(signed []byte) []byte
}

func (f forge) message(t testing.TB, w *world) hisp.Message {
	t.Helper()
	if f.inner == "" {
		f.inner = letter()
	}
	if f.entity == "" {
		f.entity = "Content-Type: message/rfc822\r\n\r\n" + f.inner
	}
	if f.header == "" {
		f.header = crlf("From: alice@hospital.example\nTo: bob@clinic.example\nMessage-ID: <1@hospital.example>\n")
	}
	if f.signers == nil {
		f.signers = []*testca.Issued{w.alice}
	}
	if f.to == nil {
		f.to = []*x509.Certificate{w.clinic.Cert}
	}
	if f.sign == nil {
		f.sign = func(content []byte) []byte { return clearSigned(content, f.signature(t, content)) }
	}
	if f.seal == nil {
		f.seal = func(signed []byte) []byte { return encrypt(t, signed, f.to...) }
	}
	return hisp.NewMessage(pkcs7(f.header, f.seal(f.sign([]byte(f.entity)))))
}

func (f forge) signature(t testing.TB, content []byte) []byte {
	t.Helper()
	var signers []cms.Signer
	for _, i := range f.signers {
		signers = append(signers, cms.Signer{Chain: i.Chain, Key: i.Key})
	}
	der, err := cms.Sign(content, signers, cms.SignOptions{Digest: f.digest, Time: time.Now()})
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	return der
}

func encrypt(t testing.TB, content []byte, to ...*x509.Certificate) []byte {
	t.Helper()
	var list []cms.Recipient
	for _, c := range to {
		list = append(list, cms.Recipient{Cert: c})
	}
	der, err := cms.Encrypt(content, list, "")
	if err != nil {
		t.Fatalf("encrypt: %v", err)
	}
	return der
}

// clearSigned is a multipart/signed of content and a signature.
func clearSigned(content, der []byte) []byte {
	return []byte("Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=\"b0\"\r\n\r\n--b0\r\n" +
		string(content) + "\r\n--b0\r\nContent-Type: application/pkcs7-signature; name=\"smime.p7s\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		string(smime.AppendBase64(nil, der)) + "--b0--\r\n")
}

// pkcs7 is a message of application/pkcs7-mime.
func pkcs7(header string, der []byte) []byte {
	return []byte(header + "MIME-Version: 1.0\r\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data; name=\"smime.p7m\"\r\n" +
		"Content-Transfer-Encoding: base64\r\n\r\n" + string(smime.AppendBase64(nil, der)))
}

// body returns the decoded body of a message.
func body(t testing.TB, msg hisp.Message) []byte {
	t.Helper()
	p, err := mimetree.Parse(msg.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Decode(msg.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantKind checks the kind of err and that its text carries no PHI.
func wantKind(t testing.TB, err error, want hisp.Kind) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v", want)
		return
	}
	if got := hisp.KindOf(err); got != want {
		t.Errorf("Kind = %v, want %v (%v)", got, want, err)
	}
	if hisp.HintOf(err) == "" && want != hisp.Temporary {
		t.Errorf("%v has no hint", err)
	}
	for _, phi := range []string{"alice", "bob", "canary", "mallory", "1@"} {
		if strings.Contains(err.Error(), phi) {
			t.Errorf("error text shows %q: %v", phi, err)
		}
	}
}

// tryKey returns the private key of i if it can decrypt.
func tryKey(i *testca.Issued) (cms.Key, bool) {
	d, ok := i.Key.(crypto.Decrypter)
	return cms.Key{Cert: i.Cert, Decrypter: d}, ok
}

func decryptionKey(i *testca.Issued) cms.Key {
	k, ok := tryKey(i)
	if !ok {
		panic("the key cannot decrypt")
	}
	return k
}
