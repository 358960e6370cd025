package testnet

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Message makes a plain message with further header lines and a unique
// Message-ID.
func Message(from, to, subject, body string, lines ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%d.%s>\r\n",
		from, to, subject, time.Now().Format(time.RFC1123Z), time.Now().UnixNano(), from)
	for _, l := range lines {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("\r\n" + body + "\r\n")
	return []byte(b.String())
}

// AskDispatched is the header line that asks for a notice of final delivery.
const AskDispatched = "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"

// Submit sends raw over port 465 as local@site and returns the server's
// refusal as *smtp.SMTPError.
func (s *Site) Submit(t testing.TB, local, password string, raw []byte, to ...string) error {
	t.Helper()
	c, err := smtp.DialTLS(s.Addr("submission_tls"), s.TLS(t))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", local+"@"+s.Domain, password)); err != nil {
		return err
	}
	if err := c.SendMail(local+"@"+s.Domain, to, bytes.NewReader(raw)); err != nil {
		return err
	}
	return c.Quit()
}

// Inbox reads all messages of a folder of local@site over IMAP.
func (s *Site) Inbox(t testing.TB, local, password string) []string {
	t.Helper()
	list, err := s.TryInbox(t, local, password)
	if err != nil {
		t.Fatalf("%s: imap: %v", s.Name, err)
	}
	return list
}

// TryInbox is Inbox for a node that may be down.
func (s *Site) TryInbox(t testing.TB, local, password string) ([]string, error) {
	c, err := imapclient.DialTLS(s.Addr("imaps"), &imapclient.Options{TLSConfig: s.TLS(t)})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.Login(local+"@"+s.Domain, password).Wait(); err != nil {
		return nil, err
	}
	box, err := c.Select("INBOX", nil).Wait()
	if err != nil || box.NumMessages == 0 {
		return nil, err
	}
	section := &imap.FetchItemBodySection{Peek: true}
	msgs, err := c.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range msgs {
		out = append(out, string(m.FindBodySection(section)))
	}
	return out, nil
}

// Eventually waits until ok holds, looking every 50 ms.
func Eventually(t testing.TB, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen within %v: %s", timeout, what)
		case <-tick.C:
		}
	}
}
