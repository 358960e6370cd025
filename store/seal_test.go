package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/hispnode/hisp/hisp"
)

// The vectors of the C2SP xaes-256-gcm specification, one for each value of
// the top bit of the CMAC subkey.
func TestSealer_vectors(t *testing.T) {
	tests := []struct {
		name         string
		key          byte
		nonce, plain string
		ad, want     string
	}{
		{name: "subkey without carry", key: 1, nonce: "ABCDEFGHIJKLMNOPQRSTUVWX", plain: "XAES-256-GCM",
			want: "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{name: "subkey with carry", key: 3, nonce: "ABCDEFGHIJKLMNOPQRSTUVWX", plain: "XAES-256-GCM", ad: "c2sp.org/XAES-256-GCM",
			want: "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSealer([32]byte(bytes.Repeat([]byte{tt.key}, 32)))
			sealed := s.sealWith(nil, [nonceSize]byte([]byte(tt.nonce)), []byte(tt.plain), []byte(tt.ad))
			if got := hex.EncodeToString(sealed[nonceSize:]); got != tt.want {
				t.Errorf("sealed = %s, want %s", got, tt.want)
			}
			if got, err := s.Open(nil, sealed, []byte(tt.ad)); err != nil || string(got) != tt.plain {
				t.Errorf("Open = %q, %v, want %q", got, err, tt.plain)
			}
		})
	}
}

func TestSealer_openRefuses(t *testing.T) {
	key := NewDataKey()
	s := key.Sealer("a")
	sealed := s.Seal(nil, []byte("value"), []byte("place"))
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := s.Open(nil, changed, []byte("place")); err == nil {
			t.Errorf("opened with octet %d changed", i)
		}
		if _, err := s.Open(nil, sealed[:i], []byte("place")); err == nil {
			t.Errorf("opened when cut to %d octets", i)
		}
	}
	if _, err := s.Open(nil, sealed, []byte("other place")); err == nil {
		t.Error("opened at another place")
	}
	if _, err := key.Sealer("b").Open(nil, sealed, []byte("place")); err == nil {
		t.Error("opened in another bucket")
	}
}

func TestDataKey_wrap(t *testing.T) {
	master, key := NewMasterKey(), NewDataKey()
	got, err := UnwrapDataKey(master, key.Wrap(master))
	if err != nil || got.secret != key.secret {
		t.Fatalf("UnwrapDataKey = %v, want the key that was wrapped", err)
	}
	_, err = UnwrapDataKey(NewMasterKey(), key.Wrap(master))
	if !errors.Is(err, hisp.Denied) {
		t.Errorf("with another master key: %v, want Denied", err)
	}
}

func TestDataKey_indexKeepsPartsApart(t *testing.T) {
	index := NewDataKey().Index("x")
	if index("ab", "c") == index("a", "bc") {
		t.Error("the same key for other parts")
	}
	if first, again := index("ab", "c"), index("ab", "c"); first != again {
		t.Error("another key for the same parts")
	}
}

func TestMasterKey(t *testing.T) {
	k := NewMasterKey()
	got, err := ParseMasterKey(append([]byte("  "), k.Encode()...))
	if err != nil || got != k {
		t.Errorf("ParseMasterKey(Encode) = %v, want the same key", err)
	}
	for _, bad := range []string{"", "00", string(k.Encode()[:63]), "zz" + string(k.Encode()[2:])} {
		if _, err := ParseMasterKey([]byte(bad)); !errors.Is(err, hisp.Malformed) {
			t.Errorf("ParseMasterKey of %d octets: %v, want Malformed", len(bad), err)
		}
	}
	for _, verb := range []string{"%v", "%s", "%x", "%#v", "%d"} {
		if s := fmt.Sprintf(verb, k); s != "master key" {
			t.Errorf("%s shows %d octets", verb, len(s))
		}
	}
}
