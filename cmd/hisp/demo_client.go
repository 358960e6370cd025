package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/mail"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/hispnode/hisp/hisp"
)

// mailClient is the demo's user agent: it does what Thunderbird would do, over
// the same ports.
type mailClient struct {
	addr       hisp.Address
	password   string
	submission string // host:port with TLS from the start
	imaps      string
	tls        *tls.Config
}

// send submits msg and returns when the node has accepted it.
func (c mailClient) send(msg hisp.Message, to ...hisp.Address) error {
	conn, err := smtp.DialTLS(c.submission, c.tls)
	if err != nil {
		return fmt.Errorf("submission: %w", err)
	}
	defer conn.Close()
	if err := conn.Auth(sasl.NewPlainClient("", c.addr.AddrSpec(), c.password)); err != nil {
		return fmt.Errorf("submission: login: %w", err)
	}
	rcpts := make([]string, len(to))
	for i, a := range to {
		rcpts[i] = a.AddrSpec()
	}
	if err := conn.SendMail(c.addr.AddrSpec(), rcpts, bytes.NewReader(msg.Bytes())); err != nil {
		return fmt.Errorf("submission: %w", err)
	}
	return conn.Quit()
}

// wait reads INBOX until a message satisfies match and returns it. It uses
// IDLE between looks, as a mail client does.
func (c mailClient) wait(ctx context.Context, match func(*mail.Message) bool) ([]byte, error) {
	news := make(chan struct{}, 1)
	options := &imapclient.Options{TLSConfig: c.tls, UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(*imapclient.UnilateralDataMailbox) {
			select {
			case news <- struct{}{}:
			default:
			}
		},
	}}
	conn, err := imapclient.DialTLS(c.imaps, options)
	if err != nil {
		return nil, fmt.Errorf("imap: %w", err)
	}
	defer conn.Close()
	if err := conn.Login(c.addr.AddrSpec(), c.password).Wait(); err != nil {
		return nil, fmt.Errorf("imap: login: %w", err)
	}
	if _, err := conn.Select("INBOX", nil).Wait(); err != nil {
		return nil, fmt.Errorf("imap: select: %w", err)
	}
	for {
		if raw, err := find(conn, match); raw != nil || err != nil {
			return raw, err
		}
		if err := idle(ctx, conn, news); err != nil {
			return nil, err
		}
	}
}

func find(conn *imapclient.Client, match func(*mail.Message) bool) ([]byte, error) {
	if box := conn.Mailbox(); box == nil || box.NumMessages == 0 {
		return nil, nil
	}
	all := imap.SeqSet{imap.SeqRange{Start: 1, Stop: 0}}
	section := &imap.FetchItemBodySection{Peek: true}
	list, err := conn.Fetch(all, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		return nil, fmt.Errorf("imap: fetch: %w", err)
	}
	for _, item := range list {
		raw := item.FindBodySection(section)
		if msg, err := mail.ReadMessage(bytes.NewReader(raw)); err == nil && match(msg) {
			return raw, nil
		}
	}
	return nil, nil
}

// idleLook is how long an IDLE lasts before the client looks for itself.
const idleLook = 2 * time.Second

func idle(ctx context.Context, conn *imapclient.Client, news <-chan struct{}) error {
	cmd, err := conn.Idle()
	if err != nil {
		return fmt.Errorf("imap: idle: %w", err)
	}
	look := time.NewTimer(idleLook)
	defer look.Stop()
	select {
	case <-news:
	case <-look.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := cmd.Close(); err != nil {
		return err
	}
	return cmd.Wait()
}
