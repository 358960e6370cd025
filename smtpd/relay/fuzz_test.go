package relay

import (
	"context"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// FuzzClient lets a hostile exchanger say anything, in the clear. Send must
// return one result for each recipient in bounded time, and no success unless
// something that looks like one was said.
func FuzzClient(f *testing.F) {
	f.Add([]byte("220 x\r\n250 x\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 ok\r\n"))
	f.Add([]byte("220 x\r\n250-x\r\n250-PIPELINING\r\n250 SIZE 10\r\n"))
	f.Add([]byte("220 x\r\n250-x\r\n250 STARTTLS\r\n220 go\r\n250-AUTH PLAIN\r\n"))
	f.Add([]byte("220-\r\n220-\r\n220-\r\n"))
	f.Add([]byte("220 x\r\n250 x\r\n550 5.1.1 no\r\n421 4.3.2 bye\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x05hello"))
	f.Add([]byte("250\n250\n250\n999 x\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		r, err := New(Config{
			Hostname: "x.example", Resolver: names{}, Roots: x509.NewCertPool(),
			Peer:   func(hisp.Domain) Peer { return Peer{TLS: Opportunistic, Host: "192.0.2.1"} },
			Limits: Limits{Command: time.Second, Handshake: time.Second, Final: time.Second, Data: time.Second, Total: 3 * time.Second},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return &hostile{said: said}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		env := envelope("a", "b", "c")
		res := r.Send(t.Context(), env, hisp.NewMessage([]byte(text)))
		if len(res) != 3 {
			t.Fatalf("results = %d, want 3", len(res))
		}
		for i, one := range res {
			if one.Recipient != env.To[i] {
				t.Errorf("result %d is for another recipient", i)
			}
			if one.Err == nil && one.Code/100 != 2 {
				t.Errorf("result %d: success with code %d", i, one.Code)
			}
		}
	})
}

// hostile is a connection on which everything was said beforehand.
type hostile struct {
	said []byte
	net.TCPConn
}

func (h *hostile) Read(p []byte) (int, error) {
	if len(h.said) == 0 {
		return 0, net.ErrClosed
	}
	n := copy(p, h.said)
	h.said = h.said[n:]
	return n, nil
}
func (h *hostile) Write(p []byte) (int, error)     { return len(p), nil }
func (h *hostile) Close() error                    { return nil }
func (h *hostile) SetDeadline(time.Time) error     { return nil }
func (h *hostile) SetReadDeadline(time.Time) error { return nil }
