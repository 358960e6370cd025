package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Words for directions on the command line.
var directions = map[string]hisp.Direction{"incoming": hisp.Incoming, "outgoing": hisp.Outgoing, "both": hisp.Both}

func anchorAdd(f *flag.FlagSet) func(c *call) error {
	direction := f.String("direction", "both", "`whom` the anchor is trusted for: incoming (who sends to us), outgoing (whom we send to) or both")
	return func(c *call) error {
		if err := c.argN("DOMAIN", "FILE"); err != nil {
			return err
		}
		d, err := c.domain(0)
		if err != nil {
			return err
		}
		dir, ok := directions[*direction]
		if !ok {
			return usagef("-direction is incoming, outgoing or both")
		}
		if err := c.hosted(d); err != nil {
			return err
		}
		certs, err := c.readCerts(c.args[1])
		if err != nil {
			return err
		}
		for _, cert := range certs {
			if err := checkAnchor(cert, c.clock()); err != nil {
				return err
			}
		}
		for _, cert := range certs {
			err := c.admin("anchor add", d, hisp.Address{}, func() error {
				return c.store.PutAnchor(c.ctx, store.Anchor{Domain: d, Direction: dir, Cert: cert, Added: c.clock().UTC()})
			})
			if err != nil {
				return err
			}
			c.printf("%s\n", fingerprint(cert))
		}
		return nil
	}
}

// checkAnchor refuses what no path would ever end at, before it puzzles anyone.
func checkAnchor(cert *x509.Certificate, now time.Time) error {
	switch {
	case !cert.IsCA:
		return hint(fmt.Errorf("%s is not a CA certificate", fingerprint(cert)[:16]), "a trust anchor is the CA that issues the partner's certificates; ask the partner's HISP for it")
	case now.After(cert.NotAfter):
		return fmt.Errorf("%s expired on %s", fingerprint(cert)[:16], day(cert.NotAfter))
	}
	return nil
}

func anchorRemove(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN("DOMAIN", "FINGERPRINT"); err != nil {
			return err
		}
		d, err := c.domain(0)
		if err != nil {
			return err
		}
		if err := c.hosted(d); err != nil {
			return err
		}
		anchors, err := c.store.ListAnchors(c.ctx, d)
		if err != nil {
			return err
		}
		a, err := pick(c.args[1], anchors, func(a store.Anchor) string { return fingerprint(a.Cert) })
		if err != nil {
			return hint(fmt.Errorf("anchor of %s: %w", d, err), "hisp anchor list "+string(d)+" shows their fingerprints")
		}
		return c.admin("anchor remove", d, hisp.Address{}, func() error {
			return c.store.RemoveAnchor(c.ctx, d, sha256.Sum256(a.Cert.Raw))
		})
	}
}

func anchorList(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON, with the certificates")
	return func(c *call) error {
		d, err := c.maybeDomain()
		if err != nil {
			return err
		}
		anchors, err := c.store.ListAnchors(c.ctx, d)
		if err != nil {
			return err
		}
		type row struct {
			Domain      hisp.Domain `json:"domain"`
			Direction   string      `json:"direction"`
			Subject     string      `json:"subject"`
			Expires     time.Time   `json:"expires"`
			Added       time.Time   `json:"added"`
			Fingerprint string      `json:"sha256"`
			PEM         string      `json:"pem"`
		}
		rows := make([]row, 0, len(anchors))
		var lines [][]string
		for _, a := range anchors {
			r := row{a.Domain, a.Direction.String(), a.Cert.Subject.String(), a.Cert.NotAfter, a.Added, fingerprint(a.Cert), string(pemOf(a.Cert))}
			rows = append(rows, r)
			lines = append(lines, []string{string(r.Domain), r.Direction, c.expiry(r.Expires), r.Fingerprint[:16], r.Subject})
		}
		if *asJSON {
			return c.json(rows)
		}
		return c.table([]string{"domain", "direction", "expires", "fingerprint", "subject"}, lines)
	}
}

// maybeDomain reads the domain that may be the only argument; it must be ours.
func (c *call) maybeDomain() (hisp.Domain, error) {
	if len(c.args) == 0 {
		return "", nil
	}
	d, err := c.oneDomain()
	if err != nil {
		return "", err
	}
	return d, c.hosted(d)
}

// soonExpires is when a list begins to warn of an expiry.
const soonExpires = 30 * 24 * time.Hour

// expiry writes the day a certificate ends and says when that is near.
func (c *call) expiry(t time.Time) string {
	switch left := t.Sub(c.clock()); {
	case left <= 0:
		return day(t) + " EXPIRED"
	case left < soonExpires:
		return fmt.Sprintf("%s (%d days)", day(t), int(left.Hours()/24))
	}
	return day(t)
}

// readCerts reads certificates from a PEM or DER file of the caller.
func (c *call) readCerts(name string) ([]*x509.Certificate, error) {
	data, err := c.front.ReadFile(name)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

func parseCerts(data []byte) ([]*x509.Certificate, error) {
	if !bytes.Contains(data, []byte("-----BEGIN")) {
		cert, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, errors.New("no certificate in it, neither PEM nor DER")
		}
		return []*x509.Certificate{cert}, nil
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is damaged", len(certs)+1)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}

func pemOf(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, cert := range certs {
		b.Write(pemBlock(pemCertificate, cert.Raw))
	}
	return b.Bytes()
}

// PEM block types, RFC 7468 §5 and §10.
const (
	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
)

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// pemOfKey writes a private key as PKCS#8.
func pemOfKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pemBlock(pemPrivateKey, der), err
}

// fingerprint is the hex SHA-256 of a certificate.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}
