package smime

import "encoding/base64"

// columns of a line of base64 without CRLF, RFC 2045 §6.8.
const (
	columns = 76
	perLine = columns / 4 * 3 // octets
)

// Base64Len is the length of n octets in base64 with CRLF after each line of
// 76 columns, the last included.
func Base64Len(n int) int {
	return (n+2)/3*4 + (n+perLine-1)/perLine*len(crlf)
}

// AppendBase64 appends src to dst in base64 with CRLF after each line of 76
// columns, the last included.
func AppendBase64(dst, src []byte) []byte {
	at := len(dst)
	if need := at + Base64Len(len(src)); need > cap(dst) {
		grown := make([]byte, at, need)
		copy(grown, dst)
		dst = grown
	}
	dst = dst[:at+Base64Len(len(src))]
	for len(src) > 0 {
		n := min(len(src), perLine)
		base64.StdEncoding.Encode(dst[at:], src[:n])
		at += (n + 2) / 3 * 4
		dst[at], dst[at+1] = '\r', '\n'
		at += 2
		src = src[n:]
	}
	return dst
}
