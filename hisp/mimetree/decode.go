package mimetree

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
)

// Decode returns the body of p without its content-transfer-encoding. For
// 7bit, 8bit and binary it is a part of msg itself, which the caller must not
// change. An unknown encoding or a broken base64 is ErrEncode.
func (p *Part) Decode(msg []byte) ([]byte, error) {
	body := p.Body.Of(msg)
	switch p.Encoding {
	case "7bit", "8bit", "binary":
		return body, nil
	case "base64":
		return DecodeBase64(body)
	case "quoted-printable":
		out, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
		if err != nil {
			return nil, ErrEncode
		}
		return out, nil
	}
	return nil, ErrEncode
}

// DecodeBase64 decodes src (RFC 2045 §6.8) with lines of any length, one
// included, blanks and line ends anywhere, with or without padding. Any other
// octet, and anything but white space after padding, is ErrEncode.
func DecodeBase64(src []byte) ([]byte, error) {
	clean := src
	if bytes.ContainsAny(src, " \t") {
		clean = make([]byte, 0, len(src))
		for _, c := range src {
			if c != ' ' && c != '\t' {
				clean = append(clean, c)
			}
		}
	}
	clean = bytes.TrimRight(clean, "\r\n=")
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(clean)))
	n, err := base64.RawStdEncoding.Decode(out, clean)
	if err != nil {
		return nil, ErrEncode
	}
	return out[:n], nil
}
