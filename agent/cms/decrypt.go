package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"slices"
)

// maxUnwraps bounds private key operations per message. A message carries one
// RecipientInfo per certificate, so a real one needs one.
const maxUnwraps = 16

// Decrypt returns the content of an EnvelopedData (RFC 5652 §6) or
// AuthEnvelopedData (RFC 5083), BER or DER, with any of the keys.
//
// The errors are ErrMalformed, ErrTooComplex, ErrCipher and ErrNoRecipient,
// which follow from public octets alone, and ErrDecrypt for everything that
// involves a key: a wrong key, a wrapped key that is not one, padding, a tag.
// Those take the same work whatever is wrong. Content of an EnvelopedData is
// not authenticated: release nothing of it before an inner signature has been
// verified.
func Decrypt(ber []byte, keys []Key) ([]byte, error) { return decrypt(ber, keys, false) }

// DecryptInPlace is Decrypt without its own copy of the content: it overwrites
// ber, which the result may share.
func DecryptInPlace(ber []byte, keys []Key) ([]byte, error) { return decrypt(ber, keys, true) }

func decrypt(ber []byte, keys []Key, inPlace bool) ([]byte, error) {
	id, body, owned, err := contentInfo(ber)
	if err != nil {
		return nil, err
	}
	var m *sealed
	switch id {
	case oidEnvelopedData:
		m, err = parseEnveloped(body)
	case oidAuthEnvelopedData:
		m, err = parseAuthEnveloped(body)
	default:
		return nil, ErrMalformed
	}
	if err != nil {
		return nil, err
	}
	tries := m.match(keys)
	if len(tries) == 0 {
		return nil, ErrNoRecipient
	}
	if !owned && !inPlace {
		m.ciphertext = append(make([]byte, 0, len(m.ciphertext)+len(m.mac)), m.ciphertext...)
	}
	if m.mac != nil {
		return m.openGCM(tries)
	}
	return m.openCBC(tries)
}

// sealed is a parsed EnvelopedData or AuthEnvelopedData.
type sealed struct {
	recipients []recipient
	keyLen     int
	iv         []byte // CBC initialisation vector or GCM nonce
	tagLen     int    // GCM
	mac        []byte // GCM tag; nil for CBC
	aad        []byte // GCM, authAttrs in DER
	ciphertext []byte
}

// parseEnveloped reads EnvelopedData: version, originatorInfo, recipientInfos,
// encryptedContentInfo, unprotectedAttrs.
func parseEnveloped(r reader) (*sealed, error) {
	m, alg, err := parseCommon(&r)
	if err != nil {
		return nil, err
	}
	if _, _, ok := r.option(tagContext | constructed | 1); !ok || len(r) > 0 {
		return nil, ErrMalformed
	}
	if m.keyLen = cbcKeyLen(alg.id); m.keyLen == 0 {
		return nil, ErrCipher
	}
	m.iv = alg.params.content
	if alg.params.tag != tagOctetString || len(m.iv) != aes.BlockSize ||
		len(m.ciphertext) == 0 || len(m.ciphertext)%aes.BlockSize != 0 {
		return nil, ErrMalformed
	}
	return m, nil
}

// parseAuthEnveloped reads AuthEnvelopedData: as EnvelopedData, then authAttrs,
// mac and unauthAttrs.
func parseAuthEnveloped(r reader) (*sealed, error) {
	m, alg, err := parseCommon(&r)
	if err != nil {
		return nil, err
	}
	if r.peek() == tagContext|constructed|1 {
		attrs, ok := r.next()
		if !ok {
			return nil, ErrMalformed
		}
		m.aad = bytes.Clone(attrs.raw)
		m.aad[0] = tagSet // RFC 5083 §2.2: the DER of a SET OF
	}
	mac, ok := r.take(tagOctetString)
	if !ok {
		return nil, ErrMalformed
	}
	if _, _, ok := r.option(tagContext | constructed | 2); !ok || len(r) > 0 {
		return nil, ErrMalformed
	}
	if m.keyLen = gcmKeyLen(alg.id); m.keyLen == 0 {
		return nil, ErrCipher
	}
	if !m.gcmParams(alg) || len(mac) != m.tagLen {
		return nil, ErrMalformed
	}
	m.mac = append(make([]byte, 0, 16), mac...)
	return m, nil
}

// gcmParams reads GCMParameters (RFC 5084 §3.2). Nonces of other than 12
// octets are read only with a full tag, which is all crypto/cipher offers.
func (m *sealed) gcmParams(a algorithm) bool {
	if a.params.tag != tagSequence {
		return false
	}
	r := a.params.content
	nonce, ok := r.take(tagOctetString)
	if !ok || len(nonce) == 0 || len(nonce) > 64 {
		return false
	}
	m.iv, m.tagLen = nonce, 12
	if len(r) > 0 {
		if m.tagLen, ok = r.small(); !ok || len(r) > 0 {
			return false
		}
	}
	return m.tagLen >= 12 && m.tagLen <= 16 && (len(nonce) == 12 || m.tagLen == 16)
}

// parseCommon reads what both kinds begin with.
func parseCommon(r *reader) (*sealed, algorithm, error) {
	if _, ok := r.small(); !ok {
		return nil, algorithm{}, ErrMalformed
	}
	if _, _, ok := r.option(tagContext | constructed); !ok { // originatorInfo
		return nil, algorithm{}, ErrMalformed
	}
	infos, ok := r.take(tagSet)
	if !ok {
		return nil, algorithm{}, ErrMalformed
	}
	m := &sealed{}
	if err := m.recipientInfos(infos); err != nil {
		return nil, algorithm{}, err
	}
	info, ok := r.take(tagSequence)
	if !ok {
		return nil, algorithm{}, ErrMalformed
	}
	if _, ok := info.take(tagOID); !ok { // contentType: the caller reads MIME or fails
		return nil, algorithm{}, ErrMalformed
	}
	alg, ok := info.algorithm(tagSequence)
	if !ok {
		return nil, algorithm{}, ErrMalformed
	}
	c, ok := info.only(tagContext)
	if !ok {
		return nil, algorithm{}, ErrMalformed
	}
	m.ciphertext = c
	return m, alg, nil
}

// openCBC decrypts in place. Each try ends in a key, made up if need be, and
// the padding of the last block decides which is taken; when none fits the
// whole content is decrypted all the same, so that a bad wrap, a key of the
// wrong length, bad padding and content the caller refuses cost alike (RFC
// 3218 §2.3, row S3).
func (m *sealed) openCBC(tries []try) ([]byte, error) {
	var block cipher.Block
	pad := 0
	for _, t := range tries {
		b, err := aes.NewCipher(t.unwrap(m.keyLen))
		if err != nil {
			return nil, ErrDecrypt // the length is ours: cannot happen
		}
		block = b
		if pad = m.padding(b); pad > 0 {
			break
		}
	}
	cipher.NewCBCDecrypter(block, m.iv).CryptBlocks(m.ciphertext, m.ciphertext)
	if pad == 0 {
		return nil, ErrDecrypt
	}
	end := len(m.ciphertext) - pad
	return m.ciphertext[:end:end], nil
}

// padding decrypts the last block and returns the number of padding octets, 0
// when they are wrong, without a branch on any of them.
func (m *sealed) padding(b cipher.Block) int {
	last := len(m.ciphertext) - aes.BlockSize
	before := m.iv
	if last > 0 {
		before = m.ciphertext[last-aes.BlockSize : last]
	}
	var plain [aes.BlockSize]byte
	b.Decrypt(plain[:], m.ciphertext[last:])
	subtle.XORBytes(plain[:], plain[:], before)
	n := int(plain[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, aes.BlockSize)
	for i := range plain {
		padded := subtle.ConstantTimeLessOrEq(aes.BlockSize-i, n)
		equal := subtle.ConstantTimeByteEq(plain[i], byte(n))
		good &= equal | (1 ^ padded)
	}
	return subtle.ConstantTimeSelect(good, n, 0)
}

// openGCM decrypts in place; the tag stands behind the ciphertext for it.
func (m *sealed) openGCM(tries []try) ([]byte, error) {
	n := len(m.ciphertext)
	for i, t := range tries {
		aead, err := m.aead(t.unwrap(m.keyLen))
		if err != nil {
			return nil, ErrDecrypt
		}
		box := m.ciphertext
		if i+1 < len(tries) {
			box = slices.Clone(box) // a failed Open clears what it was given
		}
		box = append(box[:n], m.mac...)
		if plain, err := aead.Open(box[:0], m.iv, box, m.aad); err == nil {
			return plain[:n:n], nil
		}
	}
	return nil, ErrDecrypt
}

func (m *sealed) aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if len(m.iv) != 12 {
		return cipher.NewGCMWithNonceSize(block, len(m.iv))
	}
	return cipher.NewGCMWithTagSize(block, m.tagLen)
}
