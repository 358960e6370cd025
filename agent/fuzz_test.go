package agent

import (
	"bytes"
	"context"
	"testing"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/testca"
)

// Every fuzzing process has keys of its own, so a corpus cannot hold signed
// messages. What is fuzzed is the attacker's work instead: which octets of a
// good message he replaces by which.
type attack struct {
	at, cut uint16
	insert  []byte
}

func (a attack) on(good []byte) []byte {
	at := min(int(a.at), len(good))
	end := min(at+int(a.cut), len(good))
	out := append(make([]byte, 0, len(good)+len(a.insert)), good[:at]...)
	return append(append(out, a.insert...), good[end:]...)
}

// addAttacks seeds a target with attacks.
func addAttacks(f *testing.F) {
	f.Add(uint16(0), uint16(0), []byte(nil), uint16(0), uint16(0), []byte(nil))
	f.Add(uint16(0), uint16(0), []byte("Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"), uint16(65535), uint16(0), []byte("--x--\r\n"))
	f.Add(uint16(0), uint16(65535), []byte("Content-Type: message/rfc822\r\n\r\n"+letter()), uint16(0), uint16(0), []byte(nil))
	f.Add(uint16(90), uint16(20), []byte("--b0\r\n\r\nx\r\n"), uint16(300), uint16(1), []byte("\n"))
	f.Add(uint16(0), uint16(0), []byte("From: mallory@evil.example\r\n"), uint16(200), uint16(8), []byte("mallory"))
}

// Whatever arrives, what comes out is what alice signed, or nothing. The
// fuzzed octets are the decrypted entity, where an attacker who has our public
// key may write what he likes.
func FuzzOpen_entity(f *testing.F) {
	w := newWorld()
	a := w.agent(f, func(c *Config) { c.Unwrapped = RefuseUnwrapped })
	entity := []byte("Content-Type: message/rfc822\r\n\r\n" + letter())
	der := forge{signers: []*testca.Issued{w.alice}}.signature(f, entity)
	opaque, err := embedContent(der, entity)
	if err != nil {
		f.Fatal(err)
	}
	good := [][]byte{clearSigned(entity, der), pkcs7("", opaque)}
	o, err := readOuter(pkcs7("From: "+alice+"\r\nTo: "+bob+"\r\n", []byte{0x30}))
	if err != nil {
		f.Fatal(err)
	}
	addAttacks(f)
	f.Fuzz(func(t *testing.T, at, cut uint16, insert []byte, at2, cut2 uint16, insert2 []byte) {
		for _, plain := range good {
			v, err := verify(attack{at2, cut2, insert2}.on(attack{at, cut, insert}.on(plain)))
			if err != nil {
				continue
			}
			inner, err := a.unwrap(o, v.content)
			if err != nil {
				continue
			}
			p, err := checkEnvelope(aliceToBob(), o, inner)
			if err != nil {
				continue
			}
			if _, err := a.decide(context.Background(), addrs(bob), p, v); err == nil && !bytes.Equal(inner.Bytes, []byte(letter())) {
				t.Fatalf("accepted what alice did not sign: %q", inner.Bytes)
			}
		}
	})
}

// The same for the whole message, by one who sees it on the way.
func FuzzOpen(f *testing.F) {
	w := newWorld()
	a := w.agent(f, func(c *Config) { c.Unwrapped = RefuseUnwrapped })
	good := forge{}.message(f, w).Bytes()
	addAttacks(f)
	f.Fuzz(func(t *testing.T, at, cut uint16, insert []byte, at2, cut2 uint16, insert2 []byte) {
		raw := attack{at2, cut2, insert2}.on(attack{at, cut, insert}.on(good))
		o, err := a.Open(context.Background(), aliceToBob(), hisp.NewMessage(raw))
		if err == nil && !bytes.Equal(o.Message.Bytes(), []byte(letter())) {
			t.Fatalf("accepted what alice did not sign: %q", o.Message.Bytes())
		}
	})
}

// Whatever a user submits, a copy that goes out is enveloped and shows no
// Subject, and we can open it again.
func FuzzSeal(f *testing.F) {
	w := newWorld()
	a := w.agent(f)
	f.Add([]byte(letter()))
	f.Add([]byte(letter("Content-Type: multipart/mixed; boundary=b\n") + "--b\r\n\r\n\xff\r\n--b--"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := a.Seal(context.Background(), aliceToBob(), hisp.NewMessage(raw))
		if err != nil {
			return
		}
		for _, c := range s.Copies {
			o, err := readOuter(c.Message.Bytes())
			if err != nil {
				t.Fatalf("a copy is not enveloped: %v", err)
			}
			if bytes.Equal(c.Message.Bytes(), raw) {
				continue // ready-made
			}
			if _, n := o.top.Get(o.raw, "Subject"); n > 0 {
				t.Fatal("Subject is outside")
			}
			if _, err := a.Open(context.Background(), aliceToBob(), c.Message); err != nil {
				t.Fatalf("we cannot open what we sealed: %v", err)
			}
		}
	})
}
