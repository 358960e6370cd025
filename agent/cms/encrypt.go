package cms

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // RSAES-OAEP default digest
	"crypto/x509"
	"slices"
)

// maxRecipients bounds RecipientInfos, written or read.
const maxRecipients = 1024

// Encrypt returns content as an EnvelopedData (RFC 5652 §6) in DER under a
// fresh content key, with one KeyTransRecipientInfo per different certificate
// that names it by issuer and serial number. The first of two recipients with
// the same certificate decides the key transport.
//
// ErrRecipient: nobody to encrypt to, or a certificate that is not RSA of 2048
// to 8192 bits. ErrCipher: an unknown cipher or key transport.
func Encrypt(content []byte, to []Recipient, c Cipher) ([]byte, error) {
	return AppendEncrypted(nil, content, to, c)
}

// AppendEncrypted appends what Encrypt returns to dst and returns the extended
// slice. It grows dst once, to the exact size, and encrypts straight into it;
// dst must not overlap content.
func AppendEncrypted(dst, content []byte, to []Recipient, c Cipher) ([]byte, error) {
	id, keyLen := c.algorithm()
	if keyLen == 0 {
		return nil, ErrCipher
	}
	secret := make([]byte, keyLen+aes.BlockSize)
	rand.Read(secret) // never fails: crypto/rand ends the process instead
	key, iv := secret[:keyLen], secret[keyLen:]
	recipients, err := recipientInfos(to, key)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, ErrCipher
	}
	out, at := enveloped(dst, recipients, algorithmDER(id, element(tagOctetString, iv)), len(content))
	encryptCBC(out[at:], content, cipher.NewCBCEncrypter(block, iv))
	return out, nil
}

func (c Cipher) algorithm() (id oid, keyLen int) {
	switch c {
	case AES256CBC, "":
		return oidAES256CBC, 32
	case AES128CBC:
		return oidAES128CBC, 16
	}
	return "", 0
}

// enveloped appends everything but the ciphertext, for which it leaves room
// at the end from offset at on.
func enveloped(dst []byte, recipients [][]byte, alg []byte, contentLen int) (out []byte, at int) {
	sealed := paddedLen(contentLen)
	dataType, version := oidData.der(), element(tagInteger, []byte{0})
	set := 0
	for _, r := range recipients {
		set += len(r)
	}
	info := len(dataType) + len(alg) + elementLen(sealed)
	body := len(version) + elementLen(set) + elementLen(info)
	whole := len(oidEnvelopedData.der()) + elementLen(elementLen(body))

	out = slices.Grow(dst, elementLen(whole))
	out = appendHeader(out, tagSequence, whole)
	out = append(out, oidEnvelopedData.der()...)
	out = appendHeader(out, tagContext|constructed, elementLen(body))
	out = appendHeader(out, tagSequence, body)
	out = append(out, version...) // 0: only issuerAndSerialNumber recipients, no extras
	out = appendElement(out, tagSet, recipients...)
	out = appendHeader(out, tagSequence, info)
	out = append(out, dataType...)
	out = append(out, alg...)
	out = appendHeader(out, tagContext, sealed)
	at = len(out)
	return out[:at+sealed], at
}

// paddedLen is the length with PKCS #7 padding, RFC 5652 §6.3.
func paddedLen(n int) int { return n + aes.BlockSize - n%aes.BlockSize }

// encryptCBC encrypts content with its padding into dst of paddedLen octets.
func encryptCBC(dst, content []byte, mode cipher.BlockMode) {
	whole := len(content) &^ (aes.BlockSize - 1)
	if whole > 0 {
		mode.CryptBlocks(dst[:whole], content[:whole])
	}
	pad := aes.BlockSize - len(content) + whole
	last := append(make([]byte, 0, aes.BlockSize), content[whole:]...)
	last = append(last, bytes.Repeat([]byte{byte(pad)}, pad)...)
	mode.CryptBlocks(dst[whole:], last)
}

// recipientInfos wraps the key for each certificate, in the order of a DER SET.
func recipientInfos(to []Recipient, key []byte) ([][]byte, error) {
	if len(to) == 0 || len(to) > maxRecipients {
		return nil, ErrRecipient
	}
	infos := make([][]byte, 0, len(to))
	seen := make(map[string]struct{}, len(to))
	for _, r := range to {
		if r.Cert == nil {
			return nil, ErrRecipient
		}
		if _, twice := seen[string(r.Cert.Raw)]; twice {
			continue
		}
		seen[string(r.Cert.Raw)] = struct{}{}
		info, err := r.info(key)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, bytes.Compare)
	return infos, nil
}

// info is the KeyTransRecipientInfo of one recipient (RFC 5652 §6.2.1).
func (r Recipient) info(key []byte) ([]byte, error) {
	pub, ok := usableRSA(r.Cert)
	if !ok {
		return nil, ErrRecipient
	}
	var wrapped, alg []byte
	var err error
	if r.KeyTransport == RSAPKCS1v15 || r.KeyTransport == "" {
		alg = algorithmDER(oidRSA, element(tagNull))
		//lint:ignore SA1019 row SM-13: what every Direct peer reads; OAEP is per peer
		wrapped, err = rsa.EncryptPKCS1v15(rand.Reader, pub, key)
	} else {
		h := r.KeyTransport.hash()
		if h == 0 {
			return nil, ErrCipher
		}
		alg = algorithmDER(oidOAEP, oaepParams(h))
		wrapped, err = rsa.EncryptOAEP(h.New(), rand.Reader, pub, key, nil)
	}
	if err != nil {
		return nil, ErrRecipient
	}
	return element(tagSequence, element(tagInteger, []byte{0}), issuerAndSerialDER(r.Cert),
		alg, element(tagOctetString, wrapped)), nil
}

// usableRSA returns the key of cert if we may encrypt to it (row SM-15).
func usableRSA(cert *x509.Certificate) (*rsa.PublicKey, bool) {
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, false
	}
	return pub, strongRSA(pub)
}

func (k KeyTransport) hash() crypto.Hash {
	switch k {
	case RSAOAEPSHA1:
		return crypto.SHA1
	case RSAOAEPSHA256:
		return crypto.SHA256
	case RSAOAEPSHA384:
		return crypto.SHA384
	case RSAOAEPSHA512:
		return crypto.SHA512
	}
	return 0
}

// oaepParams is RSAES-OAEP-params (RFC 4055 §4.1) with h for both hash and
// MGF1. For SHA-1 both are the defaults, which DER leaves out; for the others
// a missing MGF1 would mean SHA-1 and readers would fail.
func oaepParams(h crypto.Hash) []byte {
	if h == crypto.SHA1 {
		return element(tagSequence)
	}
	alg := algorithmDER(digestOID(h), element(tagNull))
	return element(tagSequence, element(tagContext|constructed, alg),
		element(tagContext|constructed|1, algorithmDER(oidMGF1, alg)))
}
