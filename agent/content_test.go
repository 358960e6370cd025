package agent

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"testing"
)

// Rows SM-23, ED-09, XD-10, official tests SMTP 25 to 29: whatever is attached,
// in whatever order and under whatever type, comes out octet for octet.
func TestSealOpen_anyContent(t *testing.T) {
	var xdm bytes.Buffer
	z := zip.NewWriter(&xdm)
	for name, content := range map[string]string{"INDEX.HTM": "<html><body><p>not closed", "IHE_XDM/SUBSET01/METADATA.XML": "<x/>"} {
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, content)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	type attachment struct{ mediaType, content string }
	ccda := attachment{"text/xml", "<?xml-stylesheet href=\"missing.xsl\"?><ClinicalDocument xmlns=\"urn:hl7-org:v3\"/>"}
	pdf := attachment{"application/pdf", "%PDF-1.7\n\xe2\xe3\xcf\xd3\r\x00"}
	tests := map[string][]attachment{
		"C-CDA with a stylesheet that is missing": {ccda},
		"C-CDA, PDF":                   {ccda, pdf},
		"PDF, C-CDA":                   {pdf, ccda},
		"XDM as zip, bad index":        {{"application/zip", xdm.String()}},
		"XDM as octet-stream, PDF":     {{"application/octet-stream", xdm.String()}, pdf},
		"XDM as xml":                   {{"application/xml", xdm.String()}},
		"HL7, DICOM, HTML, unheard of": {{"application/hl7-v2+er7", "MSH|^~\\&|\r"}, {"application/dicom", "\x00DICM"}, {"text/html", "<script>"}, {"x-foo/x-bar; x*0=1", "?"}},
		"nothing in it":                {{"application/octet-stream", ""}},
	}
	w := newWorld()
	a := w.agent(t)
	for name, list := range tests {
		t.Run(name, func(t *testing.T) {
			msg := "From: " + alice + "\r\nTo: " + bob + "\r\nMessage-ID: <1@hospital.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b1\r\n\r\n"
			for _, at := range list {
				msg += "--b1\r\nContent-Type: " + at.mediaType + "\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString([]byte(at.content)) + "\r\n"
			}
			msg += "--b1--\r\n"
			o, err := a.Open(context.Background(), aliceToBob(), seal(t, a, aliceToBob(), msg).Copies[0].Message)
			if err != nil {
				t.Fatal(err)
			}
			if string(o.Message.Bytes()) != msg {
				t.Errorf("message = %q, want %q", o.Message.Bytes(), msg)
			}
		})
	}
}
