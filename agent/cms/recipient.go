package cms

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // SHA-384 and SHA-512 for OAEP and key derivation
	"crypto/subtle"
	"io"
	"sync"
)

// tagKeyAgree is the tag of a KeyAgreeRecipientInfo, RFC 5652 §6.2.
const tagKeyAgree = tagContext | constructed | 1

// recipient is one way to the content key that we may be able to go.
type recipient struct {
	id      identifier
	alg     algorithm
	wrapped []byte
	agree   *agreement // nil for key transport
}

// recipientInfos reads the RecipientInfos. Choices we do not know, and members
// of those we know whose inside we do not, are skipped: the message may still
// be for us through another.
func (m *sealed) recipientInfos(r reader) error {
	for n := 0; len(r) > 0; n++ {
		if n == maxRecipients {
			return ErrTooComplex
		}
		p, ok := r.next()
		if !ok {
			return ErrMalformed
		}
		switch p.tag {
		case tagSequence:
			if t, ok := keyTransport(p.content); ok {
				m.recipients = append(m.recipients, t)
			}
		case tagKeyAgree:
			more, ok := keyAgreement(p.content)
			if !ok {
				continue
			}
			if len(m.recipients)+len(more) > maxRecipients {
				return ErrTooComplex
			}
			m.recipients = append(m.recipients, more...)
		}
	}
	return nil
}

// keyTransport reads a KeyTransRecipientInfo (RFC 5652 §6.2.1).
func keyTransport(r reader) (out recipient, ok bool) {
	if _, ok = r.small(); !ok {
		return out, false
	}
	if out.id, ok = r.identifier(); !ok {
		return out, false
	}
	if out.alg, ok = r.algorithm(tagSequence); !ok {
		return out, false
	}
	out.wrapped, ok = r.only(tagOctetString)
	return out, ok
}

// try is a recipient with the key that is named by it.
type try struct {
	recipient
	key  Key
	opts crypto.DecrypterOpts // for key transport
}

// match pairs recipients and keys, at most maxUnwraps of them, from public
// fields only.
func (m *sealed) match(keys []Key) []try {
	var tries []try
	for _, k := range keys {
		if k.Cert == nil {
			continue
		}
		for _, r := range m.recipients {
			if !r.id.names(k.Cert) {
				continue
			}
			t := try{recipient: r, key: k}
			if !t.usable(m.keyLen) {
				continue
			}
			if tries = append(tries, t); len(tries) == maxUnwraps {
				return tries
			}
		}
	}
	return tries
}

// usable reports whether the key can do what the algorithm needs.
func (t *try) usable(keyLen int) bool {
	if t.agree != nil {
		return t.key.Exchanger != nil && t.agree.fits(t.key.Exchanger)
	}
	if t.key.Decrypter == nil {
		return false
	}
	if _, ok := t.key.Decrypter.Public().(*rsa.PublicKey); !ok {
		return false
	}
	switch t.alg.id {
	case oidRSA:
		//lint:ignore SA1019 row SM-13: peers send it; session key mode and unwrap hide failures
		t.opts = &rsa.PKCS1v15DecryptOptions{SessionKeyLen: keyLen}
		return t.alg.noParams()
	case oidOAEP:
		opts, ok := oaepOptions(t.alg)
		t.opts = opts
		return ok
	}
	return false
}

// unwrap returns a content key of n octets in any case: when the wrapped key
// is wrong, a made-up one that depends on the message only, so that a repeated
// message behaves as one with a well-formed but unknown key does. With
// RecipientInfos for several keys of ours this hides which one was good
// (CVE-2019-1563), and it is what RFC 3218 §2.3.2 asks for.
func (t *try) unwrap(n int) []byte {
	key := madeUpKey(t.wrapped, n)
	var got []byte
	var err error
	if t.agree != nil {
		got, err = t.agree.unwrap(t.key.Exchanger, t.wrapped)
	} else {
		got, err = t.key.Decrypter.Decrypt(&once{key: key}, t.wrapped, t.opts)
	}
	if err == nil && len(got) == n {
		subtle.ConstantTimeCopy(1, key, got)
	}
	return key
}

// once gives the made-up key to an rsa.PrivateKey as the random key it keeps
// when the padding is wrong; whatever else asks for randomness gets it.
type once struct{ key []byte }

func (o *once) Read(p []byte) (int, error) {
	n := copy(p, o.key)
	o.key = nil
	if n < len(p) {
		if _, err := io.ReadFull(rand.Reader, p[n:]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// madeUpSecret is drawn once per process.
var madeUpSecret = sync.OnceValue(func() [32]byte {
	var s [32]byte
	rand.Read(s[:])
	return s
})

func madeUpKey(wrapped []byte, n int) []byte {
	secret := madeUpSecret()
	h := hmac.New(sha256.New, secret[:])
	h.Write(wrapped)
	return h.Sum(nil)[:n]
}

// oaepOptions reads RSAES-OAEP-params (RFC 4055 §4.1). Absent parameters mean
// the defaults. A label is allowed by the standard and used by nobody: only
// the empty one is read.
func oaepOptions(a algorithm) (*rsa.OAEPOptions, bool) {
	if a.params.tag == 0 {
		return &rsa.OAEPOptions{Hash: crypto.SHA1, MGFHash: crypto.SHA1}, true
	}
	if a.params.tag != tagSequence {
		return nil, false
	}
	r := a.params.content
	hash, mgf, ok := hashAndMask(&r)
	if !ok {
		return nil, false
	}
	source, present, ok := r.option(tagContext | constructed | 2)
	if !ok || len(r) > 0 {
		return nil, false
	}
	if present {
		alg, ok := source.algorithm(tagSequence)
		if !ok || alg.id != oidPSpecified || alg.params.tag != tagOctetString || len(alg.params.content) > 0 {
			return nil, false
		}
	}
	return &rsa.OAEPOptions{Hash: hash, MGFHash: mgf}, true
}
