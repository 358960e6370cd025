package bench

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/hispnode/hisp/test/load"
	"github.com/hispnode/hisp/test/testnet"
)

// BenchmarkRoundTrip sends messages from one node to the other and counts the
// dispatched notices in the sender's mailbox: submission, seal, relay, open,
// delivery, two notices sealed, relayed and opened. Both nodes share the
// machine. x-primitives is the processor time of both nodes for one round trip
// in multiples of the RSA operations that it cannot do without.
func BenchmarkRoundTrip(b *testing.B) {
	r := newRig(b)
	notices := watchInbox(b, r)
	for _, c := range []struct{ inFlight, octets int }{{1, 4 << 10}, {1, octets}, {16, 4 << 10}, {16, octets}} {
		b.Run(fmt.Sprintf("inflight=%d/octets=%d", c.inFlight, c.octets), func(b *testing.B) {
			r.trips(b, c.inFlight, c.inFlight*2, c.octets, notices) // connections, caches
			least := primitives(b)
			before := cpuTime(b, r.Hospital) + cpuTime(b, r.Clinic)
			b.ResetTimer()
			r.trips(b, c.inFlight, b.N, c.octets, notices)
			each := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(1/each.Seconds(), "trips/s")
			used := (cpuTime(b, r.Hospital) + cpuTime(b, r.Clinic) - before) / time.Duration(b.N)
			least = (least + primitives(b)) / 2
			b.ReportMetric(float64(used.Microseconds())/1000, "cpu-ms/trip")
			b.ReportMetric(float64(used)/float64(least), "x-primitives")
		})
	}
}

// trips makes n round trips with so many under way. Each of the connections
// sends one message after the other and does not wait for notices; the gate
// does.
func (r *rig) trips(b *testing.B, inFlight, n, octets int, notices <-chan struct{}) {
	free := make(chan struct{}, inFlight)
	for range inFlight {
		free <- struct{}{}
	}
	l := load.Load{Addr: r.Hospital.Addr("submission"), TLS: r.Hospital.TLS(b), Login: plainLogin(from, r.senderPass),
		From: from, To: to, Conns: min(inFlight, 4), Messages: n}
	l.Next = func() []byte {
		<-free
		return plain(from, to, octets)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if res, err := l.Run(b.Context()); err != nil || res.Accepted != n {
			b.Errorf("%v: %v", res, err)
		}
	})
	timeout := time.After(2 * time.Minute)
	for range n {
		select {
		case <-notices:
			free <- struct{}{}
		case <-timeout:
			b.Fatal("notices are missing")
		}
	}
	wg.Wait()
}

// watchInbox gives a value for each message that arrives in the sender's INBOX.
func watchInbox(b *testing.B, r *rig) <-chan struct{} {
	arrived := make(chan struct{}, 1<<16)
	var seen uint32
	c, err := imapclient.DialTLS(r.Hospital.Addr("imaps"), &imapclient.Options{
		TLSConfig: r.Hospital.TLS(b),
		UnilateralDataHandler: &imapclient.UnilateralDataHandler{Mailbox: func(d *imapclient.UnilateralDataMailbox) {
			for d.NumMessages != nil && seen < *d.NumMessages {
				seen++
				arrived <- struct{}{}
			}
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Login(from, r.senderPass).Wait(); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		b.Fatal(err)
	}
	idle, err := c.Idle()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { idle.Close() })
	return arrived
}

// cpuTime is what the node has used of all cores so far, in ticks of 10 ms.
func cpuTime(b *testing.B, s *testnet.Site) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Pid()))
	if err != nil {
		b.Skipf("reads /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before may hold anything
	fields := strings.Fields(rest)
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// primitives is the processor time of the RSA operations of one round trip: the
// message and its two notices are each signed, encrypted to one recipient,
// decrypted and verified. It is the median of many, because the nodes it is
// compared with meet the same neighbours on the machine.
func primitives(b *testing.B) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	var times []float64
	for range 200 {
		started := threadTime(b)
		sig, err1 := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		err2 := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], sig)
		// Wrapping a session key and taking it out cost what verifying and
		// signing do.
		_, err3 := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		err4 := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], sig)
		times = append(times, float64(threadTime(b)-started))
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			b.Fatal(err)
		}
	}
	return 3 * time.Duration(median(times))
}

// threadTime is the processor time of the calling thread.
func threadTime(b *testing.B) time.Duration {
	const thread = 1 // RUSAGE_THREAD of getrusage(2)
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Skipf("asks for the time of a thread: %v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
