package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"github.com/hispnode/hisp/hisp"
)

// XAES-256-GCM (C2SP xaes-256-gcm): AES-256-GCM under a key derived from the
// first half of a random 192-bit nonce. Random nonces stay safe for 2^80
// values per key, where plain GCM allows 2^32 (NIST SP 800-38D §8.3); a busy
// node writes 2^32 values in two weeks.
const (
	nonceSize = 24
	tagSize   = 16

	// SealOverhead is how many octets Seal adds.
	SealOverhead = nonceSize + tagSize
)

var errSealed = errors.New("sealed value does not open: damaged, moved or of another key")

// Sealer seals the values of one bucket. It is safe for concurrent use.
type Sealer struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC subkey K1 of NIST SP 800-38B §6.1
}

// newSealer makes a sealer for an AES-256 key.
func newSealer(key [32]byte) *Sealer {
	s := &Sealer{}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("store: " + err.Error()) // a 32-octet key is always right
	}
	s.block = block
	block.Encrypt(s.k1[:], s.k1[:])
	var carry byte
	for i := len(s.k1) - 1; i >= 0; i-- {
		next := s.k1[i] >> 7
		s.k1[i] = s.k1[i]<<1 | carry
		carry = next
	}
	s.k1[len(s.k1)-1] ^= carry * 0x87
	return s
}

// aead derives the AES-256-GCM of one nonce prefix.
func (s *Sealer) aead(prefix []byte) cipher.AEAD {
	var key [32]byte
	for i := range 2 {
		half := key[16*i : 16*i+16]
		half[1], half[2] = byte(i+1), 'X'
		copy(half[4:], prefix)
		for j := range half {
			half[j] ^= s.k1[j]
		}
		s.block.Encrypt(half, half)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("store: " + err.Error())
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("store: " + err.Error())
	}
	return gcm
}

// Seal appends the random nonce and the sealed plain to dst. ad is the name of
// the place where the value is stored; a value moved to another place does not
// open.
func (s *Sealer) Seal(dst, plain, ad []byte) []byte {
	var nonce [nonceSize]byte
	mustRand(nonce[:])
	return s.sealWith(dst, nonce, plain, ad)
}

func (s *Sealer) sealWith(dst []byte, nonce [nonceSize]byte, plain, ad []byte) []byte {
	if dst == nil {
		dst = make([]byte, 0, len(plain)+SealOverhead)
	}
	dst = append(dst, nonce[:]...)
	return s.aead(nonce[:12]).Seal(dst, nonce[12:], plain, ad)
}

// Open appends the plain value of what Seal wrote to dst.
func (s *Sealer) Open(dst, sealed, ad []byte) ([]byte, error) {
	if len(sealed) < SealOverhead {
		return nil, errSealed
	}
	plain, err := s.aead(sealed[:12]).Open(dst, sealed[12:nonceSize], sealed[nonceSize:], ad)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// DataKey is the secret all values of one store are sealed under. Each bucket
// has its own key derived from it.
type DataKey struct{ secret [keySize]byte }

const wrapContext = "hisp store data key v1"

// NewDataKey makes a random data key.
func NewDataKey() *DataKey {
	k := &DataKey{}
	mustRand(k.secret[:])
	return k
}

// Wrap seals the data key under the master key.
func (k *DataKey) Wrap(m MasterKey) []byte {
	return newSealer(m).Seal(nil, k.secret[:], []byte(wrapContext))
}

// UnwrapDataKey opens what Wrap wrote: Denied if m is not the master key it
// was wrapped under.
func UnwrapDataKey(m MasterKey, wrapped []byte) (*DataKey, error) {
	secret, err := newSealer(m).Open(nil, wrapped, []byte(wrapContext))
	if err != nil || len(secret) != keySize {
		return nil, &hisp.Error{Op: "store.UnwrapDataKey", Kind: hisp.Denied,
			Hint: "this master key does not open the store: give the master key the store was created with"}
	}
	return &DataKey{secret: [keySize]byte(secret)}, nil
}

// Sealer returns the sealer of a bucket.
func (k *DataKey) Sealer(bucket string) *Sealer {
	return newSealer(k.derive("seal " + bucket))
}

// Index returns the function that makes bucket keys of names that are PHI.
func (k *DataKey) Index(bucket string) func(parts ...string) [16]byte {
	key := k.derive("index " + bucket)
	return func(parts ...string) [16]byte {
		mac := hmac.New(sha256.New, key[:])
		var n [4]byte
		for _, p := range parts {
			n[0], n[1], n[2], n[3] = byte(len(p)>>24), byte(len(p)>>16), byte(len(p)>>8), byte(len(p))
			mac.Write(n[:]) // lengths keep ("ab","c") apart from ("a","bc")
			mac.Write([]byte(p))
		}
		return [16]byte(mac.Sum(nil)[:16])
	}
}

func (k *DataKey) derive(info string) [keySize]byte {
	out, err := hkdf.Key(sha256.New, k.secret[:], nil, "hisp store "+info, keySize)
	if err != nil {
		panic("store: " + err.Error()) // 32 octets are always possible
	}
	return [keySize]byte(out)
}
