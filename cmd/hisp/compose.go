package main

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"time"

	"github.com/emersion/go-message/mail"

	"github.com/hispnode/hisp/hisp"
)

// letter is a message to compose for "hisp send" and the demo.
type letter struct {
	from        hisp.Address
	to          []hisp.Address
	subject     string
	text        string
	attachments []attachment
	// dispatched asks for a notice of final delivery (Direct IG Delivery
	// Notification §1.3).
	dispatched bool
}

type attachment struct {
	name, mediaType string
	content         []byte
}

// Fields that ask for notices (RFC 8098 §2.1, §2.2), and the value that asks
// for dispatched (row DN-01).
const (
	fieldNotifyTo          = "Disposition-Notification-To"
	fieldNotifyOptions     = "Disposition-Notification-Options"
	optionFinalDestination = "X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"
)

// compose writes l as an RFC 5322 message with CRLF line ends and a Message-ID
// of the given host.
func compose(l letter, host string, now time.Time) (hisp.Message, error) {
	var h mail.Header
	if l.dispatched {
		h.Set(fieldNotifyOptions, optionFinalDestination)
		h.SetAddressList(fieldNotifyTo, mailAddresses(l.from))
	}
	h.SetMessageID(string(hisp.NewID(now)) + "@" + host)
	h.SetDate(now)
	h.SetSubject(l.subject)
	h.SetAddressList("To", mailAddresses(l.to...))
	h.SetAddressList("From", mailAddresses(l.from))
	var b bytes.Buffer
	w, err := mail.CreateWriter(&b, h)
	if err != nil {
		return hisp.Message{}, err
	}
	if err := writeParts(w, l); err != nil {
		return hisp.Message{}, err
	}
	if err := w.Close(); err != nil {
		return hisp.Message{}, err
	}
	return hisp.NewMessage(b.Bytes()), nil
}

func mailAddresses(list ...hisp.Address) []*mail.Address {
	out := make([]*mail.Address, len(list))
	for i, a := range list {
		out[i] = &mail.Address{Address: a.AddrSpec()}
	}
	return out
}

func writeParts(w *mail.Writer, l letter) error {
	var h mail.InlineHeader
	h.SetContentType("text/plain", map[string]string{"charset": "utf-8"})
	part, err := w.CreateSingleInline(h)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(part, l.text); err != nil {
		return err
	}
	if err := part.Close(); err != nil {
		return err
	}
	for _, a := range l.attachments {
		if err := writeAttachment(w, a); err != nil {
			return err
		}
	}
	return nil
}

func writeAttachment(w *mail.Writer, a attachment) error {
	var h mail.AttachmentHeader
	mediaType, params, err := mime.ParseMediaType(a.mediaType)
	if err != nil {
		return err
	}
	params["name"] = a.name
	h.SetContentType(mediaType, params)
	h.SetFilename(a.name)
	part, err := w.CreateAttachment(h)
	if err != nil {
		return err
	}
	_, err = part.Write(a.content)
	return errors.Join(err, part.Close())
}

// attachmentsOf returns the decoded attachments of a message by file name.
func attachmentsOf(raw []byte) (map[string][]byte, error) {
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		h, ok := part.Header.(*mail.AttachmentHeader)
		if !ok {
			continue
		}
		name, err := h.Filename()
		if err != nil {
			return nil, err
		}
		if found[name], err = io.ReadAll(part.Body); err != nil {
			return nil, err
		}
	}
}
