package main

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
)

// certStep is one question of a certificate search, for people and programs.
type certStep struct {
	Name    string     `json:"name"`
	Source  string     `json:"source"`
	Certs   []certInfo `json:"certs"`
	Skipped []string   `json:"skipped,omitempty"`
	Error   string     `json:"error,omitempty"`
}

type certInfo struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Binding     string    `json:"binding"`
	Usable      bool      `json:"usable"` // to encrypt to, before trust
	Reason      string    `json:"reason,omitempty"`
	Trusted     *bool     `json:"trusted,omitempty"`
	Path        []string  `json:"path,omitempty"`
	Fingerprint string    `json:"sha256"`
	PEM         string    `json:"pem"`

	cert *x509.Certificate
}

func certLookup(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON, with the certificates")
	return func(c *call) error {
		addr, err := c.oneAddress()
		if err != nil {
			return err
		}
		steps, found := certSteps(addr, c.resolver.Explain(c.ctx, addr), c.clock())
		if *asJSON {
			if err := c.json(steps); err != nil {
				return err
			}
		} else {
			c.printSteps(steps)
		}
		if found == 0 {
			return noCertificate(steps)
		}
		return nil
	}
}

func certCheck(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON, with the certificates")
	from := f.String("for", "", "our `domain` whose anchors decide; needed when we have several")
	return func(c *call) error {
		addr, err := c.oneAddress()
		if err != nil {
			return err
		}
		local, err := c.localDomain(*from)
		if err != nil {
			return err
		}
		anchors, err := c.store.Anchors(c.ctx, hisp.Address{Local: "postmaster", Domain: local}, hisp.Outgoing)
		if err != nil {
			return err
		}
		steps, found := certSteps(addr, c.resolver.Explain(c.ctx, addr), c.clock())
		trusted := c.judge(steps, anchors)
		if *asJSON {
			if err := c.json(steps); err != nil {
				return err
			}
		} else {
			c.printSteps(steps)
		}
		switch {
		case found == 0:
			return noCertificate(steps)
		case trusted == 0 && len(anchors) == 0:
			return hint(fmt.Errorf("no certificate is trusted: %s has no anchors for sending", local), "hisp anchor add "+string(local)+" FILE")
		case trusted == 0:
			return hint(errors.New("no certificate is both usable and trusted"), "hisp anchor list "+string(local)+" shows whom we trust; the reasons are above")
		}
		return nil
	}
}

// localDomain is the domain named, or the only one we have.
func (c *call) localDomain(name string) (hisp.Domain, error) {
	if name != "" {
		d, err := hisp.ParseDomain(name)
		if err != nil {
			return "", usagef("%q is not a domain", name)
		}
		return d, c.hosted(d)
	}
	domains, err := c.store.ListDomains(c.ctx)
	if err != nil {
		return "", err
	}
	if len(domains) != 1 {
		return "", usagef("we have %d domains: say with -for whose anchors decide", len(domains))
	}
	return domains[0].Name, nil
}

// certSteps describes a search; found counts certificates.
func certSteps(addr hisp.Address, asked []dnscert.Step, now time.Time) (steps []certStep, found int) {
	for _, s := range asked {
		step := certStep{Name: s.Name, Source: s.Source, Skipped: s.Skipped, Certs: []certInfo{}}
		if s.Err != nil {
			step.Error = errorText(s.Err)
		}
		for _, cert := range s.Certs {
			step.Certs = append(step.Certs, describe(cert.Certificate, addr, now))
			found++
		}
		steps = append(steps, step)
	}
	return steps, found
}

func describe(cert *x509.Certificate, addr hisp.Address, now time.Time) certInfo {
	info := certInfo{
		Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
		Binding: trust.Bound(cert, addr).String(), Usable: true, Fingerprint: fingerprint(cert), PEM: string(pemOf(cert)), cert: cert,
	}
	refuse := func(reason string) {
		if info.Usable {
			info.Usable, info.Reason = false, reason
		}
	}
	if now.After(cert.NotAfter) {
		refuse("expired")
	}
	if now.Before(cert.NotBefore) {
		refuse("not yet valid")
	}
	if trust.Bound(cert, addr) == trust.None {
		refuse("not for this address: no subjectAltName names it or its domain")
	}
	if err := trust.CheckUsage(cert, trust.Encrypt); err != nil {
		refuse(trustReason(err))
	}
	return info
}

// trustReason returns the reasons of a refusal without the names of functions.
func trustReason(err error) string {
	var refused *trust.Error
	if errors.As(err, &refused) {
		return refused.Error()
	}
	return errorText(err)
}

// judge builds a path from every usable certificate and counts those that have one.
func (c *call) judge(steps []certStep, anchors []*x509.Certificate) (trusted int) {
	var pool []*x509.Certificate
	for _, s := range steps {
		for _, info := range s.Certs {
			pool = append(pool, info.cert)
		}
	}
	for i := range steps {
		for j := range steps[i].Certs {
			info := &steps[i].Certs[j]
			path, err := c.verifier.Path(info.cert, pool, anchors, c.clock())
			ok := err == nil && info.Usable
			info.Trusted = &ok
			for _, cert := range path {
				info.Path = append(info.Path, cert.Subject.String())
			}
			if err != nil && info.Reason == "" {
				info.Reason = trustReason(err)
			}
			if ok {
				trusted++
			}
		}
	}
	return trusted
}

func noCertificate(steps []certStep) error {
	for _, s := range steps {
		if s.Error != "" {
			return hint(errors.New("the search could not be finished"), "the DNS servers did not answer; [dns] servers in the configuration names them")
		}
	}
	return hint(errors.New("no certificate is published"), "the address is no Direct address, or its HISP does not publish in DNS; ask the recipient's HISP")
}

func (c *call) printSteps(steps []certStep) {
	for _, s := range steps {
		c.printf("%s  CERT  %s\n", s.Name, s.Source)
		if s.Error != "" {
			c.printf("  error: %s\n", s.Error)
		}
		for _, reason := range s.Skipped {
			c.printf("  skipped: %s\n", reason)
		}
		if len(s.Certs) == 0 && s.Error == "" {
			c.printf("  nothing found\n")
		}
		for _, info := range s.Certs {
			c.printCert(info)
		}
	}
}

func (c *call) printCert(info certInfo) {
	c.printf("  %s\n    issued by %s\n    valid %s to %s, %s\n    sha256 %s\n",
		info.Subject, info.Issuer, day(info.NotBefore), day(info.NotAfter), info.Binding, info.Fingerprint)
	switch {
	case !info.Usable:
		c.printf("    refused: %s\n", info.Reason)
	case info.Trusted == nil:
		c.printf("    usable; whether it is trusted tells hisp cert check\n")
	case *info.Trusted:
		c.printf("    trusted, by the path")
		for _, name := range info.Path {
			c.printf("\n      %s", name)
		}
		c.printf("\n")
	default:
		c.printf("    not trusted: %s\n", info.Reason)
	}
}
