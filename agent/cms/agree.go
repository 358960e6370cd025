package cms

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/subtle"
	"encoding/binary"
)

// agreement is what all recipients of one KeyAgreeRecipientInfo share: an
// ephemeral ECDH key and how to derive the key that unwraps (RFC 5753 §3.1).
type agreement struct {
	point  []byte // originator's public key, uncompressed
	ukm    []byte // content; nil when absent
	digest crypto.Hash
	wrap   algorithm
	keyLen int
}

// keyAgreement reads a KeyAgreeRecipientInfo (RFC 5652 §6.2.2) with an
// originator public key. Static originator keys are not supported.
func keyAgreement(r reader) ([]recipient, bool) {
	if _, ok := r.small(); !ok {
		return nil, false
	}
	a := &agreement{}
	originator, ok := r.take(tagContext | constructed)
	if !ok {
		return nil, false
	}
	key, ok := originator.only(tagContext | constructed | 1)
	if !ok {
		return nil, false
	}
	if _, ok = key.algorithm(tagSequence); !ok { // the curve is that of our key
		return nil, false
	}
	bits, ok := key.only(tagBitString)
	if !ok || len(bits) < 2 || bits[0] != 0 {
		return nil, false
	}
	a.point = bits[1:]
	ukm, present, ok := r.option(tagContext | constructed | 1)
	if !ok {
		return nil, false
	}
	if present {
		if a.ukm, ok = ukm.only(tagOctetString); !ok {
			return nil, false
		}
	}
	if !a.scheme(&r) {
		return nil, false
	}
	keys, ok := r.only(tagSequence)
	if !ok {
		return nil, false
	}
	return a.recipients(keys)
}

func (a *agreement) scheme(r *reader) bool {
	alg, ok := r.algorithm(tagSequence)
	if a.digest = derivationDigest(alg.id); !ok || a.digest == 0 || alg.params.tag != tagSequence {
		return false
	}
	wrap := reader(alg.params.raw)
	a.wrap, ok = wrap.algorithm(tagSequence)
	a.keyLen = wrapKeyLen(a.wrap.id)
	return ok && a.keyLen > 0
}

// recipients reads the RecipientEncryptedKeys.
func (a *agreement) recipients(r reader) (out []recipient, ok bool) {
	for len(r) > 0 {
		body, ok := r.take(tagSequence)
		if !ok || len(out) == maxRecipients {
			return nil, false
		}
		id, ok := agreeIdentifier(&body)
		if !ok {
			return nil, false
		}
		wrapped, ok := body.only(tagOctetString)
		if !ok {
			return nil, false
		}
		out = append(out, recipient{id: id, wrapped: wrapped, agree: a})
	}
	return out, true
}

// agreeIdentifier takes a KeyAgreeRecipientIdentifier, whose rKeyId is a
// SEQUENCE that begins with the subjectKeyIdentifier.
func agreeIdentifier(r *reader) (identifier, bool) {
	if r.peek() == tagSequence {
		return r.identifier()
	}
	key, ok := r.take(tagContext | constructed)
	if !ok {
		return identifier{}, false
	}
	id, ok := key.take(tagOctetString)
	return identifier{keyID: id}, ok && len(id) > 0
}

// fits reports whether the originator's point is on the curve of our key,
// P-256, P-384 or P-521; all of it is public.
func (a *agreement) fits(key ecdh.KeyExchanger) bool {
	switch key.Curve() {
	case ecdh.P256(), ecdh.P384(), ecdh.P521():
	default:
		return false
	}
	_, err := key.Curve().NewPublicKey(a.point)
	return err == nil
}

// unwrap derives the key encryption key and unwraps the content key.
func (a *agreement) unwrap(key ecdh.KeyExchanger, wrapped []byte) ([]byte, error) {
	point, err := key.Curve().NewPublicKey(a.point)
	if err != nil {
		return nil, ErrDecrypt
	}
	shared, err := key.ECDH(point)
	if err != nil {
		return nil, ErrDecrypt
	}
	return unwrapAES(derive(a.digest, shared, a.sharedInfo(), a.keyLen), wrapped)
}

// sharedInfo is ECC-CMS-SharedInfo (RFC 5753 §7.2).
func (a *agreement) sharedInfo() []byte {
	var party []byte
	if a.ukm != nil {
		party = element(tagContext|constructed, element(tagOctetString, a.ukm))
	}
	bits := binary.BigEndian.AppendUint32(nil, uint32(a.keyLen*8))
	return element(tagSequence, a.wrap.raw, party,
		element(tagContext|constructed|2, element(tagOctetString, bits)))
}

// derive is the key derivation of ANSI X9.63 (SEC 1 §3.6.1).
func derive(h crypto.Hash, shared, info []byte, n int) []byte {
	var out []byte
	for i := uint32(1); len(out) < n; i++ {
		w := h.New()
		w.Write(shared)
		w.Write(binary.BigEndian.AppendUint32(nil, i))
		w.Write(info)
		out = w.Sum(out)
	}
	return out[:n]
}

// unwrapAES is AES key unwrap (RFC 3394 §2.2.2).
func unwrapAES(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil || len(wrapped)%8 != 0 || len(wrapped) < 24 || len(wrapped) > 40 {
		return nil, ErrDecrypt // RFC 3565 keys of 16 to 32 octets
	}
	n := len(wrapped)/8 - 1
	var buf [16]byte
	copy(buf[:8], wrapped)
	out := append([]byte(nil), wrapped[8:]...)
	for t := 6 * n; t > 0; t-- {
		i := (t - 1) % n
		binary.BigEndian.PutUint64(buf[:8], binary.BigEndian.Uint64(buf[:8])^uint64(t))
		copy(buf[8:], out[i*8:])
		block.Decrypt(buf[:], buf[:])
		copy(out[i*8:], buf[8:])
	}
	const initial = 0xa6a6a6a6a6a6a6a6
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], initial)
	if subtle.ConstantTimeCompare(buf[:8], want[:]) != 1 {
		return nil, ErrDecrypt
	}
	return out, nil
}
