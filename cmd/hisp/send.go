package main

import (
	"errors"
	"flag"
	"io"
	"mime"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

// fileList is a flag that may be given several times.
type fileList []string

// String implements flag.Value.
func (l *fileList) String() string { return "" }

// Set implements flag.Value.
func (l *fileList) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// mediaTypes of what clinicians attach; the system knows more.
var mediaTypes = map[string]string{
	".xml": "text/xml", ".cda": "text/xml", ".pdf": "application/pdf", ".zip": "application/zip", ".txt": "text/plain",
	".hl7": "x-application/hl7-v2+er7", ".json": "application/json", ".jpg": "image/jpeg", ".png": "image/png", ".dcm": "application/dicom",
}

func sendCommand(f *flag.FlagSet) func(c *call) error {
	var from, to addressList
	var files fileList
	f.Var(&from, "from", "sender `address`, an account of ours")
	f.Var(&to, "to", "recipient `address`; may be repeated")
	f.Var(&files, "attach", "`file` to attach; may be repeated")
	subject := f.String("subject", "", "subject")
	text := f.String("text", "", "text; read from standard input if left out")
	noNotice := f.Bool("no-notice", false, "do not ask for a notice of final delivery")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		if len(from) != 1 || len(to) == 0 {
			return usagef("give one -from and at least one -to")
		}
		if c.node == nil {
			return hint(errNoNode, "start it with hisp serve")
		}
		account, err := c.account(from[0])
		if err != nil {
			return err
		}
		if account.Disabled {
			return errors.New("the account is disabled")
		}
		l := letter{from: from[0], to: to, subject: *subject, text: *text, dispatched: !*noNotice}
		if *text == "" {
			raw, err := io.ReadAll(io.LimitReader(c.front, maxFile))
			if err != nil {
				return err
			}
			l.text = string(raw)
		}
		for _, name := range files {
			content, err := c.front.ReadFile(name)
			if err != nil {
				return err
			}
			l.attachments = append(l.attachments, attachment{name: filepath.Base(name), mediaType: mediaTypeOf(name), content: content})
		}
		return c.submit(l, account.Address)
	}
}

// submit hands a letter to the node, as an edge does, and prints its ID.
func (c *call) submit(l letter, account hisp.Address) error {
	now := c.clock().UTC()
	msg, err := compose(l, c.config.Hostname, now)
	if err != nil {
		return err
	}
	env := hisp.Envelope{ID: hisp.NewID(now), Origin: hisp.Edge, From: l.from, To: l.to, Received: now, Account: account, Auth: hisp.AuthLocal, TLS: true}
	if err := c.node.Submit(c.ctx, env, msg); err != nil {
		return err
	}
	c.printf("%s\n", env.ID)
	c.notef("next: hisp message track %s\n", env.ID)
	return nil
}

func mediaTypeOf(name string) string {
	ext := strings.ToLower(filepath.Ext(name))
	if t, ok := mediaTypes[ext]; ok {
		return t
	}
	t, _, err := mime.ParseMediaType(mime.TypeByExtension(ext))
	if err != nil || slices.Contains([]string{"", "message/rfc822"}, t) {
		return "application/octet-stream"
	}
	return t
}
