package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// keysOf returns all keys of a domain, address-bound ones included.
func keysOf(ctx context.Context, keys store.Keys, d hisp.Domain) ([]store.Key, error) {
	all, err := keys.ListKeys(ctx, hisp.Address{})
	var own []store.Key
	for _, k := range all {
		if k.Owner.Domain == d {
			own = append(own, k)
		}
	}
	return own, err
}

func (c *call) keysOf(d hisp.Domain) ([]store.Key, error) { return keysOf(c.ctx, c.store, d) }

// oneZone reads the only argument as a domain of ours and returns its zone.
func (c *call) oneZone() (dnscert.Zone, error) {
	d, err := c.oneDomain()
	if err != nil {
		return dnscert.Zone{}, err
	}
	if err := c.hosted(d); err != nil {
		return dnscert.Zone{}, err
	}
	zone, err := zones{func() *config { return &c.config }, c.clock, c.store}.zone(c.ctx, d)
	zone.Elsewhere = c.config.Listen.DNS == ""
	return zone, err
}

func dnsRecords(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		zone, err := c.oneZone()
		if err != nil {
			return err
		}
		lines, err := dnscert.Records(zone, c.clock())
		if err != nil {
			return err
		}
		if *asJSON {
			return c.json(lines)
		}
		for _, line := range lines {
			c.printf("%s\n", line)
		}
		if len(zone.Certs) == 0 {
			c.notef("hisp: note: %s has no certificate to publish yet: hisp key trial or hisp key csr makes one\n", zone.Name)
		}
		return nil
	}
}

func dnsCheck(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		zone, err := c.oneZone()
		if err != nil {
			return err
		}
		findings := dnscert.Check(c.ctx, c.resolver, zone)
		wrong := 0
		for _, f := range findings {
			if !f.OK {
				wrong++
			}
		}
		if *asJSON {
			if err := c.json(findings); err != nil {
				return err
			}
		} else {
			c.printFindings(findings)
		}
		if wrong > 0 {
			return hint(fmt.Errorf("%d of %d answers are not as they should be", wrong, len(findings)), "hisp dns records "+string(zone.Name)+" prints what to publish; changes take up to the old TTL to be seen")
		}
		return nil
	}
}

func (c *call) printFindings(findings []dnscert.Finding) {
	for _, f := range findings {
		state := "ok"
		if !f.OK {
			state = "WRONG"
		}
		c.printf("%-5s  %s  %s\n", state, f.Name, f.Type)
		if f.OK {
			continue
		}
		c.printf("         want %s\n         got  %s\n", orNothing(f.Want), orNothing(f.Got))
		if f.Hint != "" {
			c.printf("         %s\n", f.Hint)
		}
	}
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
