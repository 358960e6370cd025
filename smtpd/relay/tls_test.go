package relay

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
)

// Row TLS-05, our side: an exchanger that has nothing newer than TLS 1.1 gets
// no mail, whatever the policy for it is.
func TestSend_oldProtocolRefused(t *testing.T) {
	cert, pool := testCert(t, mxHost)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	said := ""
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		fmt.Fprint(c, "220 old\r\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "STARTTLS\r\n" {
				fmt.Fprint(c, "220 go\r\n")
				old := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
				if tls.Server(c, old).Handshake() == nil {
					said += "handshake\n"
				}
				return
			}
			said += line
			fmt.Fprint(c, "250-old\r\n250 STARTTLS\r\n")
		}
	}()
	r := relayTo(t, &exchanger{ln: ln}, pool, Peer{TLS: Encrypt})
	res := r.Send(t.Context(), envelope("a"), hisp.NewMessage([]byte(text)))[0]
	ln.Close()
	<-done
	if hisp.KindOf(res.Err) != hisp.Temporary || strings.Contains(said, "handshake") || strings.Contains(said, "MAIL") {
		t.Errorf("result = %v after %q, want temporary and nothing said", res.Err, said)
	}
}
