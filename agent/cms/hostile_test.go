//lint:file-ignore SA1019 PKCS #1 v1.5 is what peers send (row SM-13)

package cms

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
)

// bounded runs f and fails when it uses more than a second of processor time
// or allocates more than limit octets (row S10).
func bounded(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	need.CPU(t, time.Second, f)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > limit {
		t.Errorf("allocated %d octets, limit %d", got, limit)
	}
}

// indefinite wraps parts in an element of indefinite length.
func indefinite(tag byte, parts ...[]byte) []byte {
	out := []byte{tag, 0x80}
	for _, p := range parts {
		out = append(out, p...)
	}
	return append(out, 0, 0)
}

// streamed is an EnvelopedData as a streaming writer makes it, its ciphertext
// in chunks of n octets.
func streamed(key, content []byte, n int) []byte {
	iv := make([]byte, 16)
	content = append(bytes.Clone(content), bytes.Repeat([]byte{byte(16 - len(content)%16)}, 16-len(content)%16)...)
	cipher.NewCBCEncrypter(must(aes.NewCipher(key)), iv).CryptBlocks(content, content)
	var chunks []byte
	for ; len(content) > n; content = content[n:] {
		chunks = appendElement(chunks, tagOctetString, content[:n])
	}
	chunks = appendElement(chunks, tagOctetString, content)
	return indefinite(tagSequence, oidEnvelopedData.der(), indefinite(tagContext|constructed, indefinite(tagSequence,
		element(tagInteger, []byte{0}), element(tagSet, ktri(rsaPair(), wrapFor(rsaPair(), key))),
		indefinite(tagSequence, oidData.der(), algorithmDER(oidAES256CBC, element(tagOctetString, iv)),
			indefinite(tagContext|constructed, chunks)))))
}

// Inputs that kill, stall or bloat the library.
func TestHostile_encodings(t *testing.T) {
	key := make([]byte, 32)
	nested := func(n int) []byte {
		return append(bytes.Repeat([]byte{0x30, 0x80}, n), make([]byte, 2*n)...)
	}
	deepString := append(bytes.Repeat([]byte{0x24, 0x80}, 200_000), make([]byte, 400_000)...)
	tests := []struct {
		name  string
		in    []byte
		limit uint64
		want  error
	}{
		{"30 80 for 4 MB", bytes.Repeat([]byte{0x30, 0x80}, 2<<20), 64 << 10, ErrTooComplex},
		{"24 80 for 4 MB", bytes.Repeat([]byte{0x24, 0x80}, 2<<20), 64 << 10, ErrTooComplex},
		{"nested and closed, 400 KB", nested(100_000), 64 << 10, ErrTooComplex},
		{"nested strings", deepString, 64 << 10, ErrTooComplex},
		{"65 levels", nested(65), 64 << 10, ErrTooComplex},
		{"64 levels", nested(64), 64 << 10, ErrMalformed}, // normal form, but no ContentInfo
		{"26 MB of NULL", element(tagSequence, bytes.Repeat([]byte{tagNull, 0}, 13<<20)), 64 << 10, ErrTooComplex},
		{"26 MB of NULL, indefinite", indefinite(tagSequence, bytes.Repeat([]byte{tagNull, 0}, 13<<20)), 32 << 20, ErrTooComplex},
		{"1-octet chunks, 0.7 MB", streamed(key, text(700_000/3), 1), 32 << 20, nil},
		{"1-octet chunks, 1.6 MB", streamed(key, text(1_600_000/3), 1), 32 << 20, ErrTooComplex},
		{"1000-octet chunks, 26 MB", streamed(key, text(26<<20), 1000), 40 << 20, nil},
		{"one block chunks, 3 MB", streamed(key, text(3<<20), 16), 40 << 20, nil},
		{"1-octet chunks, 26 MB", streamed(key, text(26<<20), 1), 32 << 20, ErrTooComplex},
		{"above the size limit", make([]byte, maxOctets+1), 64 << 10, ErrTooComplex},
		{"length of 8 octets", []byte{0x30, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 64 << 10, ErrMalformed},
		{"length of 127 octets", append([]byte{0x30, 0xff}, make([]byte, 127)...), 64 << 10, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			keys := []Key{rsaPair().decryption()}
			var err error
			bounded(t, tt.limit, func() { _, err = Decrypt(tt.in, keys) })
			if err != tt.want {
				t.Errorf("Decrypt = %v, want %v", err, tt.want)
			}
			bounded(t, tt.limit, func() { _, err = ParseSignedData(tt.in) })
			if err == nil || tt.want != nil && err != tt.want {
				t.Errorf("ParseSignedData = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestHostile_manyRecipients(t *testing.T) {
	key := make([]byte, 32)
	wrapped := func(n int) [][]byte {
		out := make([][]byte, n)
		for i := range out {
			out[i] = make([]byte, 256)
		}
		return out
	}
	bounded(t, 8<<20, func() { // 1,000 wraps for our key: at most maxUnwraps private key operations
		m := parts{wrapped: wrapped(1000), key: key, content: bytes.Repeat([]byte{16}, 16)}.build()
		if _, err := Decrypt(m, []Key{rsaPair().decryption()}); err != ErrDecrypt {
			t.Errorf("1000: %v, want ErrDecrypt", err)
		}
	})
	m := parts{wrapped: wrapped(maxRecipients + 1), key: key, content: bytes.Repeat([]byte{16}, 16)}.build()
	if _, err := Decrypt(m, []Key{rsaPair().decryption()}); err != ErrTooComplex {
		t.Errorf("%d: %v, want ErrTooComplex", maxRecipients+1, err)
	}
}

func TestNormalise_forms(t *testing.T) {
	octets := func(parts ...[]byte) []byte { return indefinite(0x24, parts...) }
	abc := element(tagOctetString, []byte("abc"))
	long := element(tagOctetString, make([]byte, 200))
	oidAlg := append(oidData.der(), algorithmDER(oidAES256CBC, nil)...)
	eci := func(last []byte) []byte { // where the ciphertext stands
		return element(0x30, element(0xa0, element(0x30, element(0x30, oidAlg, last))))
	}
	tests := []struct {
		name     string
		in, want []byte // want nil: refused
	}{
		{"DER stays", element(0x30, abc, long), element(0x30, abc, long)},
		{"indefinite", indefinite(0x30, abc), element(0x30, abc)},
		{"nested indefinite", indefinite(0x30, indefinite(0x31, long), abc), element(0x30, element(0x31, long), abc)},
		{"long form of a short length", []byte{0x30, 0x81, 2, 5, 0}, []byte{0x30, 2, 5, 0}},
		{"length with zeros in front", []byte{0x30, 0x84, 0, 0, 0, 2, 5, 0}, []byte{0x30, 2, 5, 0}},
		{"long form inside", []byte{0x30, 0x03, 5, 0x81, 0}, []byte{0x30, 2, 5, 0}},
		{"constructed string", element(0x30, octets(abc, abc)), element(0x30, element(4, []byte("abcabc")))},
		{"definite constructed string", element(0x30, element(0x24, abc, abc)), element(0x30, element(4, []byte("abcabc")))},
		{"string of strings", octets(abc, octets(octets(abc), abc), element(0x24)), element(4, []byte("abcabcabc"))},
		{"empty constructed string", octets(), element(4)},
		{"explicit string", indefinite(0xa0, octets(abc, abc)), element(0xa0, element(4, []byte("abcabc")))},
		{"ciphertext", eci(indefinite(0xa0, abc, octets(abc))), eci(element(0x80, []byte("abcabc")))},
		{"definite ciphertext", eci(element(0xa0, abc, abc)), eci(element(0x80, []byte("abcabc")))},
		{"primitive ciphertext", eci(element(0x80, []byte("abc"))), eci(element(0x80, []byte("abc")))},
		{"integer in ciphertext", eci(element(0xa0, element(2, []byte{1}))), nil},
		{"sequence in ciphertext", eci(element(0xa0, element(0x30, abc))), nil},
		{"integer in string", octets(element(2, []byte{1})), nil},
		{"sequence in string", octets(element(0x30, abc)), nil},
		{"constructed integer", element(0x22, abc), nil},
		{"constructed bit string", element(0x23, abc), nil},
		{"trailing octet", append(element(0x30, abc), 0), nil},
		{"trailing element", append(element(0x30), element(0x30)...), nil},
		{"end of contents too early", []byte{0, 0}, nil},
		{"end of contents in definite", []byte{0x30, 2, 0, 0}, nil},
		{"end of contents with length", []byte{0x30, 0x80, 0, 1, 0}, nil},
		{"end of contents in long form", []byte{0x30, 0x80, 0, 0x81, 0}, nil},
		{"not closed", []byte{0x30, 0x80, 5, 0}, nil},
		{"primitive of indefinite length", []byte{4, 0x80, 0, 0}, nil},
		{"child longer than parent", []byte{0x30, 2, 4, 1}, nil},
		{"indefinite child beyond parent", []byte{0x30, 4, 0x30, 0x80, 4, 1, 'a', 0, 0}, nil},
		{"high tag", []byte{0x1f, 0x81, 0, 0}, nil},
		{"nothing", nil, nil},
		{"one octet", []byte{0x30}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, owned, err := normalise(tt.in)
			if tt.want == nil {
				if err == nil {
					t.Errorf("normalise = %x, want an error", got)
				}
				return
			}
			if err != nil || !bytes.Equal(got, tt.want) {
				t.Fatalf("normalise = %x, %v; want %x", got, err, tt.want)
			}
			if owned == bytes.Equal(tt.in, tt.want) {
				t.Errorf("owned = %v", owned)
			}
			if again, owned, err := normalise(got); owned || err != nil || !bytes.Equal(again, got) {
				t.Errorf("second pass changed the output: %v", err)
			}
		})
	}
}

func TestHostile_truncatedAndFlipped(t *testing.T) {
	p := rsaPair()
	content := text(300)
	signed := must(Sign(content, []Signer{p256Pair().signer()}, SignOptions{Time: testTime}))
	sealed := must(Encrypt(content, []Recipient{p.recipient("")}, ""))
	stream := streamed(make([]byte, 32), content, 50)
	for name, m := range map[string][]byte{"signed": signed, "sealed": sealed, "stream": stream} {
		for i := range m {
			if _, err := ParseSignedData(m[:i]); err == nil {
				t.Fatalf("%s cut at %d: parsed", name, i)
			}
			if _, err := Decrypt(m[:i], []Key{p.decryption()}); err == nil {
				t.Fatalf("%s cut at %d: decrypted", name, i)
			}
		}
	}
	for i := range signed {
		flipped := bytes.Clone(signed)
		flipped[i] ^= 1 << (i % 8)
		if s, err := ParseSignedData(flipped); err == nil {
			got, err := s.Verify(content)
			if err == nil && len(got) == 1 && got[0].Err == nil && !got[0].Cert.Equal(p256Pair().cert) &&
				!bytes.Equal(got[0].Cert.RawSubjectPublicKeyInfo, p256Pair().cert.RawSubjectPublicKeyInfo) {
				t.Errorf("flip at %d: verified by another certificate", i)
			}
		}
	}
	for _, m := range [][]byte{sealed, stream} {
		for i := range m {
			flipped := bytes.Clone(m)
			flipped[i] ^= 1 << (i % 8)
			if got, err := Decrypt(flipped, []Key{p.decryption()}); err != nil && got != nil {
				t.Errorf("flip at %d: content and %v", i, err)
			}
		}
	}
}

// signers: flipping a bit anywhere in what is signed is noticed.
func TestHostile_flippedSignature(t *testing.T) {
	content := text(300)
	for _, p := range []pair{rsaPair(), p256Pair()} {
		der := must(Sign(content, []Signer{p.signer()}, SignOptions{Time: testTime}))
		s := must(ParseSignedData(der))
		for _, field := range [][]byte{s.Signers[0].signed.content, s.Signers[0].value} {
			at := bytes.Index(der, field)
			for i := range field {
				flipped := bytes.Clone(der)
				flipped[at+i] ^= 1 << (i % 8)
				s, err := ParseSignedData(flipped)
				if err != nil {
					continue
				}
				if got, err := s.Verify(content); err == nil && got[0].Err == nil {
					t.Errorf("%s: flip at %d of %d verified", p.name, i, len(field))
				}
			}
		}
	}
}

// counting is a key that counts its uses; it behaves as *rsa.PrivateKey.
type counting struct {
	key  *rsa.PrivateKey
	used int
	opts crypto.DecrypterOpts
}

func (c *counting) Public() crypto.PublicKey { return c.key.Public() }

func (c *counting) Decrypt(r io.Reader, m []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	c.used++
	c.opts = opts
	return c.key.Decrypt(r, m, opts)
}

// Whatever is wrong behind the outer form gives the same error value after the
// same use of the key (row S3).
func TestDecrypt_oneErrorForAll(t *testing.T) {
	key := make([]byte, 32)
	rand.Read(key)
	good := wrapFor(rsaPair(), key)
	noPadding := rawRSA(rsaPair(), append([]byte{0, 7}, bytes.Repeat([]byte{9}, 254)...))
	padded := append(text(4096), bytes.Repeat([]byte{16}, 16)...)
	spoiled := func(i int, b byte) []byte { p := bytes.Clone(padded); p[len(p)-i] = b; return p }
	random := make([]byte, 4096)
	rand.Read(random)
	// A random block keeps valid padding with probability 1/256: choose one that does not.
	for _, err := Decrypt(parts{wrapped: [][]byte{good}, cipher: random}.build(), []Key{rsaPair().decryption()}); err == nil; {
		rand.Read(random)
		_, err = Decrypt(parts{wrapped: [][]byte{good}, cipher: random}.build(), []Key{rsaPair().decryption()})
	}
	tests := []struct {
		name string
		p    parts
	}{
		{"bad RSA padding", parts{wrapped: [][]byte{noPadding}, key: key, content: padded}},
		{"wrapped key too long for the modulus", parts{wrapped: [][]byte{bytes.Repeat([]byte{0xff}, 256)}, key: key, content: padded}},
		{"wrapped key of other length", parts{wrapped: [][]byte{good[:255]}, key: key, content: padded}},
		{"good padding, 16 octet key for AES-256", parts{wrapped: [][]byte{wrapFor(rsaPair(), key[:16])}, key: key, content: padded}},
		{"good padding, empty key", parts{wrapped: [][]byte{wrapFor(rsaPair(), nil)}, key: key, content: padded}},
		{"another key", parts{wrapped: [][]byte{wrapFor(rsaPair(), make([]byte, 32))}, key: key, content: padded}},
		{"CBC padding 0", parts{wrapped: [][]byte{good}, key: key, content: spoiled(1, 0)}},
		{"CBC padding 17", parts{wrapped: [][]byte{good}, key: key, content: spoiled(1, 17)}},
		{"CBC padding 255", parts{wrapped: [][]byte{good}, key: key, content: spoiled(1, 255)}},
		{"CBC padding not even", parts{wrapped: [][]byte{good}, key: key, content: spoiled(16, 15)}},
		{"random ciphertext", parts{wrapped: [][]byte{good}, cipher: random}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &counting{key: rsaPair().key.(*rsa.PrivateKey)}
			got, err := Decrypt(tt.p.build(), []Key{{Cert: rsaPair().cert, Decrypter: k}})
			// The made-up key gives valid padding once in 256 messages: then
			// there is content, garbage as with any wrong key.
			if err == nil && !bytes.Equal(got, text(4096)) {
				t.Skip("made-up key met valid padding, 1 in 256")
			}
			if err != ErrDecrypt || got != nil {
				t.Errorf("Decrypt = %d octets, %v; want ErrDecrypt", len(got), err)
			}
			if k.used != 1 {
				t.Errorf("key used %d times, want 1", k.used)
			}
			if o, ok := k.opts.(*rsa.PKCS1v15DecryptOptions); !ok || o.SessionKeyLen != 32 {
				t.Errorf("options = %+v, want session key mode", k.opts)
			}
		})
	}
}

// Two RecipientInfos, one bad and one good, open alike whichever is bad and
// however (CVE-2019-1563): the sender learns nothing about the bad one.
func TestDecrypt_twoRecipientInfos(t *testing.T) {
	key := make([]byte, 32)
	good := wrapFor(rsaPair(), key)
	padded := append(text(64), bytes.Repeat([]byte{16}, 16)...)
	bad := map[string][]byte{
		"bad padding":  rawRSA(rsaPair(), append([]byte{0, 7}, bytes.Repeat([]byte{9}, 254)...)),
		"short key":    wrapFor(rsaPair(), key[:16]),
		"other key":    wrapFor(rsaPair(), bytes.Repeat([]byte{1}, 32)),
		"other length": good[:200],
	}
	for name, b := range bad {
		for _, order := range [][][]byte{{b, good}, {good, b}} {
			m := parts{wrapped: order, key: key, content: padded}.build()
			first, err1 := Decrypt(m, []Key{rsaPair().decryption()})
			again, err2 := Decrypt(m, []Key{rsaPair().decryption()})
			if err1 != nil || err2 != nil || !bytes.Equal(first, again) {
				t.Errorf("%s: %v, %v; a repeated message behaves differently", name, err1, err2)
			}
		}
	}
}

// A key of the wrong length behind good OAEP padding is no key either.
func TestDecrypt_oaepKeyOfOtherLength(t *testing.T) {
	pub := rsaPair().cert.PublicKey.(*rsa.PublicKey)
	for _, n := range []int{0, 16, 31, 33, 64} {
		wrapped := must(rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, pub, make([]byte, n), nil))
		u := try{recipient: recipient{wrapped: wrapped}, key: rsaPair().decryption(), opts: &rsa.OAEPOptions{Hash: crypto.SHA256}}
		if !bytes.Equal(u.unwrap(32), madeUpKey(wrapped, 32)) {
			t.Errorf("%d octets: not the made-up key", n)
		}
	}
}

// The made-up key is the same for the same message and differs between messages.
func TestUnwrap_madeUpKeyIsStable(t *testing.T) {
	bad := rawRSA(rsaPair(), append([]byte{0, 7}, bytes.Repeat([]byte{9}, 254)...))
	unwrap := func(w []byte, opts crypto.DecrypterOpts) []byte {
		u := try{recipient: recipient{wrapped: w}, key: rsaPair().decryption(), opts: opts}
		return u.unwrap(32)
	}
	session := &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 32}
	oaep := &rsa.OAEPOptions{Hash: crypto.SHA256}
	a := unwrap(bad, session)
	if !bytes.Equal(a, unwrap(bad, session)) {
		t.Error("two made-up keys for one message")
	}
	if !bytes.Equal(a, unwrap(bad, oaep)) || !bytes.Equal(a, madeUpKey(bad, 32)) {
		t.Error("OAEP failure does not give the made-up key")
	}
	if bytes.Equal(a, unwrap(bad[:255], session)) {
		t.Error("one made-up key for two messages")
	}
}

func TestDecrypt_malformedInside(t *testing.T) {
	key := make([]byte, 32)
	good := [][]byte{wrapFor(rsaPair(), key)}
	block := make([]byte, 16)
	tests := []struct {
		name string
		p    parts
		want error
	}{
		{"ciphertext of 17 octets", parts{wrapped: good, cipher: make([]byte, 17)}, ErrMalformed},
		{"no ciphertext", parts{wrapped: good, cipher: []byte{}}, ErrMalformed},
		{"IV of 15 octets", parts{wrapped: good, cipher: block, iv: make([]byte, 15)}, ErrMalformed},
		{"no IV", parts{wrapped: good, cipher: block, iv: []byte{}}, ErrMalformed},
		{"GCM in EnvelopedData", parts{wrapped: good, cipher: block, alg: oidAES256GCM}, ErrCipher},
		{"Triple-DES", parts{wrapped: good, cipher: block, alg: "\x2a\x86\x48\x86\xf7\x0d\x03\x07"}, ErrCipher},
		{"RC2", parts{wrapped: good, cipher: block, alg: "\x2a\x86\x48\x86\xf7\x0d\x03\x02"}, ErrCipher},
		{"DES", parts{wrapped: good, cipher: block, alg: "\x2b\x0e\x03\x02\x07"}, ErrCipher},
		{"no recipient", parts{cipher: block}, ErrNoRecipient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &counting{key: rsaPair().key.(*rsa.PrivateKey)}
			if _, err := Decrypt(tt.p.build(), []Key{{Cert: rsaPair().cert, Decrypter: k}}); err != tt.want {
				t.Errorf("Decrypt = %v, want %v", err, tt.want)
			}
			if k.used != 0 {
				t.Errorf("key used before the form was checked")
			}
		})
	}
	if _, err := Decrypt(must(Encrypt(nil, []Recipient{rsaPair().recipient("")}, "")),
		[]Key{{}, {Cert: rsaPair().cert}, {Decrypter: rsaPair().decryption().Decrypter}}); !errors.Is(err, ErrDecrypt) {
		t.Errorf("keys without content: %v", err)
	}
}

// Every one of 1,024 changes to ciphertext or tag of a GCM message is refused.
func TestDecrypt_gcmAltered(t *testing.T) {
	o := openssl(t, rsaPair())
	o.write("content", text(600))
	m := o.cms("-encrypt -binary -in content -outform DER -aes-256-gcm -recip rsa.pem")
	for i := len(m) - 400; i < len(m); i++ {
		flipped := bytes.Clone(m)
		flipped[i] ^= 1
		if got, err := Decrypt(flipped, []Key{rsaPair().decryption()}); err == nil || got != nil {
			t.Fatalf("flip at %d of %d: %d octets, %v", i, len(m), len(got), err)
		}
	}
}
