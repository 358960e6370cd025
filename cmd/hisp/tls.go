package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"
)

const (
	tlsWarning = 14 * 24 * time.Hour // before the certificate ends; who renews by machine does it 30 days before
	tlsLook    = 24 * time.Hour
)

// warnTLS tells the log what partners and mail clients will not like about the
// certificate of the host.
func warnTLS(log *slog.Logger, leaf *x509.Certificate, hostname string, now time.Time) {
	const hintNew = "get a new one, put it in place and send SIGHUP"
	switch left := leaf.NotAfter.Sub(now); {
	case left < 0:
		log.Error("the tls certificate has expired: partners will refuse it", "op", "tls", "expired", leaf.NotAfter, "hint", hintNew)
	case left < tlsWarning:
		log.Warn("the tls certificate expires soon", "op", "tls", "expires", leaf.NotAfter, "days", int(left/(24*time.Hour)), "hint", hintNew)
	case now.Before(leaf.NotBefore):
		log.Warn("the tls certificate is not valid yet", "op", "tls", "from", leaf.NotBefore)
	}
	if leaf.VerifyHostname(hostname) != nil {
		log.Warn("the tls certificate is not for the host: partners will refuse it", "op", "tls", "host", hostname,
			"hint", "hostname in the configuration, the name in the certificate and the MX record must be the same")
	}
}

// watchTLS repeats the warnings every day.
func (n *node) watchTLS(ctx context.Context) error {
	tick := time.NewTicker(tlsLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if pair := n.cert.Load(); pair != nil {
				warnTLS(n.log, pair.Leaf, n.live.Load().Hostname, n.clock())
			}
		}
	}
}
