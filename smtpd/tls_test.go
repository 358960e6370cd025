package smtpd

import (
	"crypto/tls"
	"testing"
)

// Row TLS-05: no protocol before TLS 1.2 and no NULL, RC4 or Triple-DES.
func TestSTARTTLS_oldProtocolsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*tls.Config)
		ok   bool
	}{
		{"TLS 1.0", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, false},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		{"weak suites", func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}
		}, false},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"TLS 1.3", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, true},
	} {
		for _, open := range []*house{backbone(t), submission(t)} {
			p := open.dial()
			p.cmd("EHLO x.example", "250")
			p.cmd("STARTTLS", "220")
			cfg := open.client.Clone()
			c.set(cfg)
			if err := tls.Client(p.conn, cfg).Handshake(); (err == nil) != c.ok {
				t.Errorf("%s: handshake = %v, want success %v", c.name, err, c.ok)
			}
		}
	}
}
