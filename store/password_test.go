package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
)

func TestPasswords(t *testing.T) {
	hash, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	again, err := HashPassword("correct horse")
	if err != nil || again == hash {
		t.Errorf("the same hash twice: no salt (%v)", err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=32768,t=") {
		t.Errorf("hash begins %q, want the PHC form of argon2id", hash[:20])
	}
	p := NewPasswords(1)
	tests := []struct {
		name, hash, password string
		want                 error
	}{
		{name: "right", hash: hash, password: "correct horse"},
		{name: "right again, remembered", hash: hash, password: "correct horse"},
		{name: "wrong", hash: hash, password: "wrong horse", want: hisp.Denied},
		{name: "empty", hash: hash, want: hisp.Denied},
		{name: "unknown user", password: "correct horse", want: hisp.Denied},
		{name: "too long", hash: hash, password: strings.Repeat("x", maxPassword+1), want: hisp.Denied},
		{name: "not PHC", hash: "secret", password: "secret", want: hisp.Internal},
		{name: "takes all memory", hash: "$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", password: "x", want: hisp.Internal},
		{name: "takes all time", hash: "$argon2id$v=19$m=8,t=4294967295,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", password: "x", want: hisp.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := p.Check(t.Context(), tt.hash, tt.password)
			if tt.want == nil && err != nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Check = %v, want %v", err, tt.want)
			}
		})
	}
}

// A known and an unknown user must cost the same (security row T7). The bound
// is wide, because the machine is shared: it finds a path without hashing.
func TestPasswords_unknownUserTakesAsLong(t *testing.T) {
	hash, err := HashPassword("right")
	if err != nil {
		t.Fatal(err)
	}
	p := NewPasswords(1)
	best := func(hash string) time.Duration {
		least := time.Hour
		for range 3 {
			start := need.CPUTime()
			if err := p.Check(t.Context(), hash, "wrong"); !errors.Is(err, hisp.Denied) {
				t.Fatalf("Check = %v, want Denied", err)
			}
			least = min(least, need.CPUTime()-start)
		}
		return least
	}
	known, unknown := best(hash), best("")
	if known > 3*unknown || unknown > 3*known {
		t.Errorf("known user %v, unknown user %v", known, unknown)
	}
}

func TestPasswords_waitsForItsTurn(t *testing.T) {
	p := NewPasswords(1)
	p.slots <- struct{}{} // one check is running
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := p.Check(ctx, "", "x"); !errors.Is(err, context.Canceled) {
				t.Errorf("Check = %v, want the context's error", err)
			}
		})
	}
	cancel()
	wg.Wait()
}

func BenchmarkHashPassword(b *testing.B) {
	for b.Loop() {
		if _, err := HashPassword("correct horse"); err != nil {
			b.Fatal(err)
		}
	}
}
