package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// benchSizes are octets of the message.
var benchSizes = []int{4 << 10, 100 << 10, 1 << 20, 25 << 20}

func benchName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%dMB", n>>20)
	}
	return fmt.Sprintf("%dKB", n>>10)
}

func benchLetter(size int) string {
	var b bytes.Buffer
	b.WriteString(letter())
	line := bytes.Repeat([]byte("x"), 76)
	for b.Len() < size {
		b.Write(line)
		b.WriteString("\r\n")
	}
	return b.String()
}

// primitives are the operations no implementation can do without, each once,
// into memory that is there already.
type primitives struct {
	key              *rsa.PrivateKey
	block            cipher.Block
	iv, in, out, b64 []byte
	digest           [32]byte
	signature        []byte
	wrapped          []byte
}

func newPrimitives(b *testing.B, key *rsa.PrivateKey, size int) *primitives {
	size &^= aes.BlockSize - 1
	p := &primitives{key: key, iv: make([]byte, aes.BlockSize), in: make([]byte, size), out: make([]byte, size)}
	p.b64 = make([]byte, base64.StdEncoding.EncodedLen(size))
	var err error
	if p.block, err = aes.NewCipher(make([]byte, 32)); err != nil {
		b.Fatal(err)
	}
	p.seal(b)
	return p
}

func (p *primitives) seal(b *testing.B) {
	var err error
	p.digest = sha256.Sum256(p.in)
	if p.signature, err = rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, p.digest[:]); err != nil {
		b.Fatal(err)
	}
	//lint:ignore SA1019 what S/MIME peers read (row SM-13) is what is measured
	if p.wrapped, err = rsa.EncryptPKCS1v15(rand.Reader, &p.key.PublicKey, p.iv); err != nil {
		b.Fatal(err)
	}
	cipher.NewCBCEncrypter(p.block, p.iv).CryptBlocks(p.out, p.in)
	base64.StdEncoding.Encode(p.b64, p.out)
}

func (p *primitives) open(b *testing.B) {
	if _, err := base64.StdEncoding.Decode(p.out, p.b64); err != nil {
		b.Fatal(err)
	}
	//lint:ignore SA1019 as above
	if err := rsa.DecryptPKCS1v15SessionKey(rand.Reader, p.key, p.wrapped, make([]byte, len(p.iv))); err != nil {
		b.Fatal(err)
	}
	cipher.NewCBCDecrypter(p.block, p.iv).CryptBlocks(p.out, p.out)
	digest := sha256.Sum256(p.out)
	if err := rsa.VerifyPKCS1v15(&p.key.PublicKey, crypto.SHA256, digest[:], p.signature); err != nil {
		b.Fatal(err)
	}
}

// compare runs work and least in turn, and reports how many times as long the
// work takes (the best of each, so that neighbours on the machine count for
// neither) and how much memory it holds at most: the message it was given and
// all it allocates, in multiples of size.
func compare(b *testing.B, size, given int, work, least func()) {
	b.SetBytes(int64(size))
	best, bestLeast := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	var before, after runtime.MemStats
	allocated := uint64(0)
	for b.Loop() {
		b.StopTimer()
		started := time.Now()
		least()
		bestLeast = min(bestLeast, time.Since(started))
		runtime.ReadMemStats(&before)
		b.StartTimer()
		started = time.Now()
		work()
		best = min(best, time.Since(started))
		b.StopTimer()
		runtime.ReadMemStats(&after)
		allocated = max(allocated, after.TotalAlloc-before.TotalAlloc)
		b.StartTimer()
	}
	b.ReportMetric(float64(best)/float64(bestLeast), "x-primitives")
	b.ReportMetric(float64(given+int(allocated))/float64(size), "x-memory")
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(benchName(size), func(b *testing.B) {
			w := newWorld()
			a := w.agent(b)
			msg := hisp.NewMessage([]byte(benchLetter(size)))
			p := newPrimitives(b, w.alice.Key.(*rsa.PrivateKey), size)
			compare(b, size, size, func() {
				if s, err := a.Seal(context.Background(), aliceToBob(), msg); err != nil || len(s.Copies) != 1 {
					b.Fatal(err)
				}
			}, func() { p.seal(b) })
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(benchName(size), func(b *testing.B) {
			w := newWorld()
			a := w.agent(b)
			s, err := a.Seal(context.Background(), aliceToBob(), hisp.NewMessage([]byte(benchLetter(size))))
			if err != nil {
				b.Fatal(err)
			}
			msg := s.Copies[0].Message
			p := newPrimitives(b, w.alice.Key.(*rsa.PrivateKey), size)
			compare(b, size, int(msg.Size()), func() {
				if _, err := a.Open(context.Background(), aliceToBob(), msg); err != nil {
					b.Fatal(err)
				}
			}, func() { p.open(b) })
		})
	}
}
