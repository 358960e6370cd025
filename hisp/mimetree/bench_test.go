package mimetree

import (
	"bytes"
	"encoding/base64"
	"testing"
)

func BenchmarkDecodeBase64(b *testing.B) {
	src := make([]byte, 1<<20)
	for i := range src {
		src[i] = byte(i * 7)
	}
	one := []byte(base64.StdEncoding.EncodeToString(src))
	var lines bytes.Buffer
	for i := 0; i < len(one); i += 76 {
		lines.Write(one[i:min(len(one), i+76)])
		lines.WriteString("\r\n")
	}
	for _, tt := range []struct {
		name string
		src  []byte
	}{{"one line", one}, {"76 columns", lines.Bytes()}} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(1 << 20)
			for b.Loop() {
				if got, err := DecodeBase64(tt.src); err != nil || len(got) != len(src) {
					b.Fatal(err)
				}
			}
		})
	}
}
