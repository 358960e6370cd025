package imapd

import (
	"crypto/tls"
	"testing"
	"time"
)

// TestTLS_oldProtocolsRefused is row TLS-05 at both doors.
func TestTLS_oldProtocolsRefused(t *testing.T) {
	n := newTestNode(t, nil)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		cfg := n.tls.Clone()
		cfg.MinVersion, cfg.MaxVersion = version, version
		upgraded := n.dial(n.clear, false)
		upgraded.ok("STARTTLS")
		upgraded.nc.SetDeadline(time.Now().Add(testPatience))
		direct, err := tls.Dial("tcp", n.full, cfg)
		if err == nil {
			direct.Close()
		}
		startTLS := tls.Client(upgraded.nc, cfg).Handshake()
		if want := version >= tls.VersionTLS12; (err == nil) != want || (startTLS == nil) != want {
			t.Errorf("%s: %v at once, %v after STARTTLS, want success %v", tls.VersionName(version), err, startTLS, want)
		}
	}
}
