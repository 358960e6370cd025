package mimetree

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
)

// Encoded tells whether the body of p is under an encoding, known or not: other
// than 7bit, 8bit and binary, which leave it as it is.
func (p *Part) Encoded() bool {
	switch p.Encoding {
	case encodingSevenBit, encodingEightBit, encodingBinary:
		return false
	}
	return true
}

// Decode returns the body of p without its content-transfer-encoding. For
// 7bit, 8bit and binary it is a part of msg itself, which the caller must not
// change. An unknown encoding or a broken base64 is ErrEncode.
func (p *Part) Decode(msg []byte) ([]byte, error) {
	body := p.Body.Of(msg)
	if !p.Encoded() {
		return body, nil
	}
	switch p.Encoding {
	case encodingBase64:
		return DecodeBase64(body)
	case encodingQuoted:
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
	src = bytes.TrimRight(src, "\r\n\t =")
	d := base64Decoder{out: make([]byte, 0, base64.RawStdEncoding.DecodedLen(len(src)))}
	for len(src) > 0 {
		line := src
		if i := bytes.IndexByte(src, '\n'); i >= 0 {
			line, src = src[:i], src[i+1:]
		} else {
			src = nil
		}
		if err := d.line(bytes.TrimSuffix(line, []byte{'\r'})); err != nil {
			return nil, err
		}
	}
	return d.end()
}

// base64Decoder decodes line by line, because the standard decoder leaves its
// fast path at each line end. A group of four may go over a line end.
type base64Decoder struct {
	out  []byte
	rest [4]byte
	n    int // octets in rest
}

func (d *base64Decoder) line(line []byte) error {
	if bytes.IndexByte(line, ' ') >= 0 || bytes.IndexByte(line, '\t') >= 0 || bytes.IndexByte(line, '\r') >= 0 {
		line = withoutBlanks(line)
	}
	for d.n > 0 && d.n < 4 && len(line) > 0 {
		d.rest[d.n] = line[0]
		line = line[1:]
		if d.n++; d.n == 4 {
			if err := d.decode(d.rest[:]); err != nil {
				return err
			}
			d.n = 0
		}
	}
	whole := len(line) &^ 3
	d.n += copy(d.rest[d.n:], line[whole:])
	return d.decode(line[:whole])
}

func (d *base64Decoder) decode(src []byte) error {
	free := d.out[len(d.out):cap(d.out)]
	n, err := base64.RawStdEncoding.Decode(free, src)
	if err != nil {
		return ErrEncode
	}
	d.out = d.out[:len(d.out)+n]
	return nil
}

func (d *base64Decoder) end() ([]byte, error) {
	if err := d.decode(d.rest[:d.n]); err != nil {
		return nil, err
	}
	return d.out, nil
}

func withoutBlanks(line []byte) []byte {
	kept := make([]byte, 0, len(line))
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' {
			kept = append(kept, c)
		}
	}
	return kept
}
