package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"time"

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

// optionFinalDestination is the value of Disposition-Notification-Options that
// asks for dispatched (row DN-01).
const optionFinalDestination = "X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"

// compose writes l as an RFC 5322 message with CRLF line ends and a Message-ID
// of the given host.
func compose(l letter, host string, now time.Time) (hisp.Message, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\n", l.from.AddrSpec())
	for i, to := range l.to {
		if i == 0 {
			fmt.Fprintf(&b, "To: <%s>", to.AddrSpec())
		} else {
			fmt.Fprintf(&b, ",\r\n <%s>", to.AddrSpec())
		}
	}
	fmt.Fprintf(&b, "\r\nSubject: %s\r\n", mime.QEncoding.Encode("utf-8", l.subject))
	fmt.Fprintf(&b, "Date: %s\r\nMessage-ID: <%s@%s>\r\n", now.Format(time.RFC1123Z), hisp.NewID(now), host)
	if l.dispatched {
		fmt.Fprintf(&b, "Disposition-Notification-To: <%s>\r\nDisposition-Notification-Options: %s\r\n", l.from.AddrSpec(), optionFinalDestination)
	}
	parts := multipart.NewWriter(&b)
	fmt.Fprintf(&b, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"%s\"\r\n\r\n", parts.Boundary())
	if err := writeText(parts, l.text); err != nil {
		return hisp.Message{}, err
	}
	for _, a := range l.attachments {
		if err := writeAttachment(parts, a); err != nil {
			return hisp.Message{}, err
		}
	}
	if err := parts.Close(); err != nil {
		return hisp.Message{}, err
	}
	return hisp.NewMessage(b.Bytes()), nil
}

func writeText(parts *multipart.Writer, text string) error {
	h := textproto.MIMEHeader{}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Transfer-Encoding", "quoted-printable")
	w, err := parts.CreatePart(h)
	if err != nil {
		return err
	}
	qp := quotedprintable.NewWriter(w)
	if _, err := qp.Write([]byte(text)); err != nil {
		return err
	}
	return qp.Close()
}

const base64Line = 76 // characters, RFC 2045 §6.8

func writeAttachment(parts *multipart.Writer, a attachment) error {
	h := textproto.MIMEHeader{}
	h.Set("Content-Type", mime.FormatMediaType(a.mediaType, map[string]string{"name": a.name}))
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": a.name}))
	h.Set("Content-Transfer-Encoding", "base64")
	w, err := parts.CreatePart(h)
	if err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(a.content)
	for len(text) > 0 {
		n := min(base64Line, len(text))
		if _, err := fmt.Fprintf(w, "%s\r\n", text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}
