package hisp

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"
)

// Message is one RFC 5322 message: header, empty line, body, with CRLF line
// ends. The bytes never change once a Message holds them. In logs and with any
// fmt verb it shows its size only.
type Message struct{ raw []byte }

// NewMessage takes ownership of raw, which the caller must not change again.
func NewMessage(raw []byte) Message { return Message{raw: raw} }

// Bytes returns the message itself. The caller must not change it.
func (m Message) Bytes() []byte { return m.raw }

// Size is the number of octets.
func (m Message) Size() int64 { return int64(len(m.raw)) }

// String shows the size only: content is PHI.
func (m Message) String() string { return fmt.Sprintf("message of %d octets", len(m.raw)) }

// Format makes every fmt verb print String.
func (m Message) Format(s fmt.State, _ rune) { fmt.Fprint(s, m.String()) }

// LogValue makes slog print String.
func (m Message) LogValue() slog.Value { return slog.StringValue(m.String()) }

// ID names a message or a queue item: 26 characters, time-ordered, random.
type ID string

var idEncoding = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// NewID makes an ID for time t: 48 bits of milliseconds, 80 random bits.
func NewID(t time.Time) ID {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(t.UnixMilli())<<16)
	if _, err := rand.Read(b[6:]); err != nil {
		panic("hisp: no randomness: " + err.Error()) // crypto/rand never fails on supported systems
	}
	return ID(idEncoding.EncodeToString(b[:]))
}
