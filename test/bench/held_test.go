package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hispnode/hisp/agent/keystore"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/smtpd"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
	"github.com/hispnode/hisp/test/testnet"
)

// heldDir names the folder of a site for the child process that serves it
// without working on its queue.
const heldDir = "HISP_BENCH_HELD"

// held is a node that takes messages and keeps them queued, as a Postfix does
// whose mail is on hold. It is a process of its own.
type held struct{ backbone, submission string }

// startHeld stops the node of s and serves its data folder instead.
func startHeld(b *testing.B, s *testnet.Site) held {
	if err := s.Stop(); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), heldDir+"="+s.Dir)
	cmd.Stderr = io.Discard
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	var h held
	if _, err := fmt.Fscan(bufio.NewReader(out), &h.backbone, &h.submission); err != nil {
		b.Fatal(err)
	}
	return h
}

// serveHeld is the child: the parts of cmd/hisp that take messages, wired as
// there. It ends with its standard input.
func serveHeld(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil {
		return err
	}
	key, err := store.ParseMasterKey(text)
	if err != nil {
		return err
	}
	log := slog.New(hisp.NewLogHandler(slog.NewTextHandler(os.Stderr, nil)))
	st, err := bolt.Open(bolt.Options{Create: true, Dir: filepath.Join(dir, "data"), MasterKey: key, Log: log})
	if err != nil {
		return err
	}
	defer st.Close()
	node, err := hisp.New(hisp.Config{Hostname: "mail.clinic.example", Log: log, Agent: nothing{}, Transport: nothing{},
		Queue: st, Tracker: st, Auditor: st, Directory: st, Keys: keystore.New(keystore.Config{Store: st, Hosted: st.Hosted})})
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls", "cert.pem"), filepath.Join(dir, "tls", "key.pem"))
	if err != nil {
		return err
	}
	common := smtpd.Config{Hostname: "mail.clinic.example", Directory: st, Audit: st, Log: log, TLS: &tls.Config{Certificates: []tls.Certificate{pair}}}
	back, err := smtpd.NewBackbone(smtpd.BackboneConfig{Config: common, Receiver: node, AllowPlain: func(hisp.Domain) bool { return true }})
	if err != nil {
		return err
	}
	sub, err := smtpd.NewSubmission(smtpd.SubmissionConfig{Config: common, Authenticator: node, Submitter: node})
	if err != nil {
		return err
	}
	return serveUntilEOF(back, sub)
}

func serveUntilEOF(servers ...*smtpd.Server) error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(servers))
	var addrs []string
	for _, s := range servers {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			cancel()
			return err
		}
		addrs = append(addrs, ln.Addr().String())
		go func() { ended <- s.Serve(ctx, ln) }()
	}
	fmt.Println(strings.Join(addrs, " "))
	_, err := io.Copy(io.Discard, os.Stdin)
	cancel()
	for _, s := range servers {
		_ = s.Shutdown(ctx) // cuts off whoever is left
		<-ended
	}
	return err
}

// nothing is the agent and the transport of a node that does not work.
type nothing struct{}

func (nothing) Seal(context.Context, hisp.Envelope, hisp.Message) (hisp.Sealed, error) {
	return hisp.Sealed{}, hisp.Temporary
}
func (nothing) Open(context.Context, hisp.Envelope, hisp.Message) (hisp.Opened, error) {
	return hisp.Opened{}, hisp.Temporary
}
func (nothing) Send(context.Context, hisp.Envelope, hisp.Message) []hisp.Result { return nil }
