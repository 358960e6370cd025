package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/argon2"

	"github.com/hispnode/hisp/hisp"
)

// argon2id parameters (RFC 9106 §4, OWASP 2024 choose 19 MiB and 2 passes as
// the least): about 60 ms on one core of the reference machine.
const (
	argonMemory  = 32 << 10 // KiB
	argonPasses  = 3
	argonThreads = 1
	argonSalt    = 16 // octets
	argonTag     = 32 // octets
)

// Bounds for hashes made elsewhere, so that an imported one cannot take the
// node's memory.
const (
	maxArgonMemory = 256 << 10 // KiB
	maxArgonPasses = 16
	maxPassword    = 1024 // octets
	maxRemembered  = 4096 // passwords that were right, in memory
)

// HashPassword returns the argon2id PHC string of a password of 1 to 1024
// octets. The error is Malformed.
func HashPassword(password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", &hisp.Error{Op: "store.HashPassword", Kind: hisp.Malformed,
			Hint: "a password has 1 to 1024 octets"}
	}
	salt := make([]byte, argonSalt)
	mustRand(salt)
	h := phc{memory: argonMemory, passes: argonPasses, threads: argonThreads, salt: salt}
	h.tag = h.compute(password, argonTag)
	return h.String(), nil
}

// Passwords checks passwords, few at a time: each check takes 32 MiB and a
// core, and strangers may start as many as they like. A password that was right
// is remembered in memory under a random key, so that a client which logs in
// for each message does not pay again; a wrong one always pays.
type Passwords struct {
	slots  chan struct{}
	secret [32]byte
	dummy  string

	mu    sync.Mutex
	right map[[32]byte]struct{}
}

// NewPasswords makes a checker that runs at most parallel checks at once.
func NewPasswords(parallel int) *Passwords {
	p := &Passwords{slots: make(chan struct{}, max(parallel, 1)), right: map[[32]byte]struct{}{}}
	mustRand(p.secret[:])
	h := phc{memory: argonMemory, passes: argonPasses, threads: argonThreads,
		salt: make([]byte, argonSalt), tag: make([]byte, argonTag)}
	mustRand(h.salt)
	mustRand(h.tag) // no password has it
	p.dummy = h.String()
	return p
}

// Check compares password with a PHC string. "" as hash stands for an unknown
// user or one without a password and takes as long as a wrong password. The
// error is Denied, or the context's while waiting for a turn.
func (p *Passwords) Check(ctx context.Context, hash, password string) error {
	denied := &hisp.Error{Op: "store.Passwords.Check", Kind: hisp.Denied, Hint: "wrong user name or password"}
	if len(password) > maxPassword {
		password, hash = "", "" // pays like any other
	}
	if hash == "" {
		hash = p.dummy
	}
	memory := p.memory(hash, password)
	if p.remembered(memory) {
		return nil
	}
	h, err := parsePHC(hash)
	if err != nil {
		return err
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	got := h.compute(password, uint32(len(h.tag)))
	<-p.slots
	if subtle.ConstantTimeCompare(got, h.tag) != 1 || password == "" {
		return denied
	}
	p.remember(memory)
	return nil
}

func (p *Passwords) memory(hash, password string) [32]byte {
	mac := hmac.New(sha256.New, p.secret[:])
	fmt.Fprintf(mac, "%d:%s%s", len(hash), hash, password)
	return [32]byte(mac.Sum(nil))
}

func (p *Passwords) remembered(m [32]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.right[m]
	return ok
}

func (p *Passwords) remember(m [32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.right) >= maxRemembered {
		clear(p.right)
	}
	p.right[m] = struct{}{}
}

// phc is an argon2id hash in the PHC string format,
// $argon2id$v=19$m=MEMORY,t=PASSES,p=THREADS$SALT$TAG.
type phc struct {
	memory, passes uint32
	threads        uint8
	salt, tag      []byte
}

func (h phc) compute(password string, size uint32) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.threads, size)
}

func (h phc) String() string {
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.memory, h.passes, h.threads, enc.EncodeToString(h.salt), enc.EncodeToString(h.tag))
}

func parsePHC(s string) (phc, error) {
	bad := &hisp.Error{Op: "store.Passwords.Check", Kind: hisp.Internal,
		Hint: "the stored password hash is not an argon2id PHC string within bounds: set the password again"}
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return phc{}, bad
	}
	var h phc
	if _, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.threads); err != nil {
		return phc{}, bad
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(f[4])
	h.tag, err2 = base64.RawStdEncoding.DecodeString(f[5])
	switch {
	case err1 != nil, err2 != nil,
		h.memory < 8 || h.memory > maxArgonMemory,
		h.passes < 1 || h.passes > maxArgonPasses,
		h.threads < 1 || h.threads > 8,
		len(h.salt) < 8 || len(h.salt) > 64,
		len(h.tag) < 16 || len(h.tag) > 64:
		return phc{}, bad
	}
	return h, nil
}
