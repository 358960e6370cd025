//lint:file-ignore SA1019 PKCS #1 v1.5 is what peers send (row SM-13)

package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"testing"
)

var transports = []KeyTransport{"", RSAPKCS1v15, RSAOAEPSHA1, RSAOAEPSHA256, RSAOAEPSHA384, RSAOAEPSHA512}

func TestEncrypt_roundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 127, 128, 4096, 65535, 70000} {
		for _, k := range transports {
			for _, c := range []Cipher{"", AES128CBC, AES256CBC} {
				der, err := Encrypt(text(n), []Recipient{rsaPair().recipient(k)}, c)
				if err != nil {
					t.Fatalf("%d %q %q: Encrypt = %v", n, k, c, err)
				}
				if _, owned, err := normalise(der); owned || err != nil {
					t.Fatalf("%d: output is not DER: %v", n, err)
				}
				got, err := Decrypt(der, []Key{otherPair().decryption(), rsaPair().decryption()})
				if err != nil || !bytes.Equal(got, text(n)) {
					t.Fatalf("%d %q %q: Decrypt = %d octets, %v", n, k, c, len(got), err)
				}
			}
		}
	}
}

func TestEncrypt_severalRecipients(t *testing.T) {
	to := []Recipient{rsaPair().recipient(""), bigPair().recipient(RSAOAEPSHA256), rsaPair().recipient("")}
	der := must(Encrypt(text(100), to, ""))
	for _, p := range []pair{rsaPair(), bigPair()} {
		if got, err := Decrypt(der, []Key{p.decryption()}); err != nil || !bytes.Equal(got, text(100)) {
			t.Errorf("%s: %v", p.name, err)
		}
	}
	_, body, _, _ := contentInfo(der)
	if m, err := parseEnveloped(body); err != nil || len(m.recipients) != 2 {
		t.Errorf("recipients = %d, want 2: the same certificate counts once", len(m.recipients))
	}
	if _, err := Decrypt(der, []Key{otherPair().decryption()}); err != ErrNoRecipient || !errors.Is(err, ErrDecrypt) {
		t.Errorf("stranger: %v, want ErrNoRecipient", err)
	}
}

func TestEncrypt_refuses(t *testing.T) {
	good := rsaPair().recipient("")
	tests := []struct {
		name string
		to   []Recipient
		c    Cipher
		want error
	}{
		{"nobody", nil, "", ErrRecipient},
		{"no certificate", []Recipient{{}}, "", ErrRecipient},
		{"EC certificate", []Recipient{good, p256Pair().recipient("")}, "", ErrRecipient},
		{"RSA 1024", []Recipient{weakPair().recipient("")}, "", ErrRecipient},
		{"unknown cipher", []Recipient{good}, "des-ede3-cbc", ErrCipher},
		{"unknown key transport", []Recipient{rsaPair().recipient("rsa-raw")}, "", ErrCipher},
		{"certificate without key", []Recipient{{Cert: &x509.Certificate{}}}, "", ErrRecipient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if der, err := Encrypt(text(10), tt.to, tt.c); err != tt.want || der != nil {
				t.Errorf("Encrypt = %d octets, %v; want %v", len(der), err, tt.want)
			}
		})
	}
}

func TestAppendEncrypted_keepsWhatIsThere(t *testing.T) {
	out := must(AppendEncrypted([]byte("before"), text(100), []Recipient{rsaPair().recipient("")}, ""))
	if !bytes.HasPrefix(out, []byte("before")) {
		t.Error("prefix is lost")
	}
	if got, err := Decrypt(out[6:], []Key{rsaPair().decryption()}); err != nil || !bytes.Equal(got, text(100)) {
		t.Error(err)
	}
}

func TestDecrypt_leavesInputAlone(t *testing.T) {
	der := must(Encrypt(text(1000), []Recipient{rsaPair().recipient("")}, ""))
	before := bytes.Clone(der)
	must(Decrypt(der, []Key{rsaPair().decryption()}))
	if !bytes.Equal(der, before) {
		t.Error("Decrypt wrote into its input")
	}
	if got := must(DecryptInPlace(der, []Key{rsaPair().decryption()})); !bytes.Equal(got, text(1000)) {
		t.Error("DecryptInPlace: other content")
	}
}

// parts builds an EnvelopedData by hand so that a test can break one thing.
type parts struct {
	wrapped [][]byte // one RecipientInfo each, for rsaPair
	alg     oid
	key     []byte
	iv      []byte
	content []byte // padded plaintext, encrypted with key
	cipher  []byte // or the ciphertext
}

func wrapFor(p pair, key []byte) []byte {
	return must(rsa.EncryptPKCS1v15(rand.Reader, p.cert.PublicKey.(*rsa.PublicKey), key))
}

// rawRSA is the RSA operation without padding of ours.
func rawRSA(p pair, em []byte) []byte {
	pub := p.cert.PublicKey.(*rsa.PublicKey)
	return powMod(em, pub)
}

func ktri(p pair, wrapped []byte) []byte {
	return element(tagSequence, element(tagInteger, []byte{0}), issuerAndSerialDER(p.cert),
		algorithmDER(oidRSA, element(tagNull)), element(tagOctetString, wrapped))
}

func (p parts) build() []byte {
	if p.iv == nil {
		p.iv = make([]byte, 16)
	}
	if p.alg == "" {
		p.alg = oidAES256CBC
	}
	if p.cipher == nil {
		p.cipher = make([]byte, len(p.content))
		cipher.NewCBCEncrypter(must(aes.NewCipher(p.key)), p.iv).CryptBlocks(p.cipher, p.content)
	}
	var infos [][]byte
	for _, w := range p.wrapped {
		infos = append(infos, ktri(rsaPair(), w))
	}
	return message(oidEnvelopedData, element(tagInteger, []byte{0}), element(tagSet, infos...),
		element(tagSequence, oidData.der(), algorithmDER(p.alg, element(tagOctetString, p.iv)),
			element(tagContext, p.cipher)))
}
