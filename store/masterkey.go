package store

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

const keySize = 32 // octets, AES-256

// MasterKey wraps the data key of a store. It lives outside the data folder.
// With every fmt verb and in logs it shows nothing of itself.
type MasterKey [keySize]byte

// NewMasterKey makes a random master key.
func NewMasterKey() MasterKey {
	var k MasterKey
	mustRand(k[:])
	return k
}

// ParseMasterKey reads what Encode wrote: 64 hexadecimal digits with optional
// white space around. The error is Malformed and does not repeat its input.
func ParseMasterKey(text []byte) (MasterKey, error) {
	var k MasterKey
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != keySize {
		return k, &hisp.Error{Op: "store.ParseMasterKey", Kind: hisp.Malformed,
			Hint: "a master key is 64 hexadecimal digits"}
	}
	return MasterKey(raw), nil
}

// Encode returns the key as a line of 64 hexadecimal digits, for its file.
func (k MasterKey) Encode() []byte { return []byte(hex.EncodeToString(k[:]) + "\n") }

// String hides the key.
func (k MasterKey) String() string { return "master key" }

// Format makes every fmt verb print String.
func (k MasterKey) Format(s fmt.State, _ rune) { fmt.Fprint(s, k.String()) }

// LogValue makes slog print String.
func (k MasterKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

func mustRand(b []byte) {
	if _, err := rand.Read(b); err != nil {
		panic("store: no randomness: " + err.Error()) // crypto/rand never fails on supported systems
	}
}
