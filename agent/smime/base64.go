package smime

import "encoding/base64"

// columns of a line of base64 without CRLF, RFC 2045 §6.8.
const (
	columns = 76
	perLine = columns / 4 * 3 // octets
)

// base64Len is the length of n octets in base64 with CRLF after each line of
// 76 columns, the last included.
func base64Len(n int) int {
	return (n+2)/3*4 + (n+perLine-1)/perLine*len(crlf)
}

// AppendBase64 appends src to dst in base64 with CRLF after each line of 76
// columns, the last included.
func AppendBase64(dst, src []byte) []byte {
	at := len(dst)
	if need := at + base64Len(len(src)); need > cap(dst) {
		grown := make([]byte, at, need)
		copy(grown, dst)
		dst = grown
	}
	return encodeBase64(dst[:cap(dst)], at, src)
}

// encodeBase64 writes src to buf from at on and returns buf up to its end. src
// may lie in buf if it begins at least base64Len(len(src)) - len(src) + 80
// octets behind at: then what is written never reaches what is still to be
// read.
func encodeBase64(buf []byte, at int, src []byte) []byte {
	for len(src) > 0 {
		n := min(len(src), perLine)
		base64.StdEncoding.Encode(buf[at:], src[:n])
		at += (n + 2) / 3 * 4
		buf[at], buf[at+1] = '\r', '\n'
		at += len(crlf)
		src = src[n:]
	}
	return buf[:at]
}
