package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// postmaster is whom every domain that takes mail has (RFC 5321 §4.5.1).
const postmaster = "postmaster"

// newDomain reads a domain that is to be hosted: one that DNS can delegate to
// us has a dot.
func newDomain(text string) (hisp.Domain, error) {
	d, err := hisp.ParseDomain(text)
	if err != nil {
		return d, usagef("%q is not a domain", text)
	}
	if !strings.Contains(string(d), ".") {
		return d, hint(usagef("%q is not a whole domain", text), "write it as others do behind the @, such as clinic.org")
	}
	return d, nil
}

func domainAdd(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN("DOMAIN"); err != nil {
			return err
		}
		d, err := newDomain(c.args[0])
		if err != nil {
			return err
		}
		err = c.admin("domain add", d, hisp.Address{}, func() error {
			return c.store.AddDomain(c.ctx, store.Domain{Name: d, Created: c.clock().UTC()})
		})
		if hisp.KindOf(err) == hisp.Conflict && err != nil {
			return fmt.Errorf("%s is there already", d)
		}
		if err != nil {
			return err
		}
		c.notef("next: hisp account add NAME@%s and %s@%s, hisp key trial %s or hisp key csr %s, hisp anchor add %s FILE, hisp dns records %s\n", d, postmaster, d, d, d, d, d)
		return nil
	}
}

func domainRemove(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		d, err := c.oneDomain()
		if err != nil {
			return err
		}
		err = c.admin("domain remove", d, hisp.Address{}, func() error { return c.removeDomain(d) })
		switch {
		case err == nil:
			return c.noteKeys(d)
		case hisp.KindOf(err) == hisp.Conflict:
			return hint(fmt.Errorf("%s still has accounts", d), "remove them first: hisp account list "+string(d))
		case hisp.KindOf(err) == hisp.NotFound:
			return noDomain(d)
		}
		return err
	}
}

// removeDomain removes a domain with its anchors: whom it trusted shall not be
// trusted unseen when it is hosted again.
func (c *call) removeDomain(d hisp.Domain) error {
	if err := c.store.RemoveDomain(c.ctx, d); err != nil {
		return err
	}
	anchors, err := c.store.ListAnchors(c.ctx, d)
	if err != nil {
		return err
	}
	for _, a := range anchors {
		if err := c.store.RemoveAnchor(c.ctx, d, sha256.Sum256(a.Cert.Raw)); err != nil {
			return err
		}
	}
	return nil
}

// noteKeys says that the keys of a domain are still there: mail that was
// encrypted to them may yet be restored or read.
func (c *call) noteKeys(d hisp.Domain) error {
	keys, err := c.keysOf(d)
	switch {
	case err != nil:
		return err
	case len(keys) == 1:
		c.notef("1 key of %s stays, encrypted, in the store; hisp key list and hisp key remove ID destroy it\n", d)
	case len(keys) > 1:
		c.notef("%d keys of %s stay, encrypted, in the store; hisp key list and hisp key remove ID destroy them\n", len(keys), d)
	}
	return nil
}

func domainList(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		domains, err := c.store.ListDomains(c.ctx)
		if err != nil {
			return err
		}
		type row struct {
			Domain   hisp.Domain `json:"domain"`
			Accounts int         `json:"accounts"`
			Keys     int         `json:"keys"`
			Anchors  int         `json:"anchors"`
			Created  time.Time   `json:"created"`
		}
		rows := make([]row, 0, len(domains))
		for _, d := range domains {
			r := row{Domain: d.Name, Created: d.Created}
			if r.Accounts, r.Keys, r.Anchors, err = c.countOf(d.Name); err != nil {
				return err
			}
			rows = append(rows, r)
		}
		if *asJSON {
			return c.json(rows)
		}
		var lines [][]string
		for _, r := range rows {
			lines = append(lines, []string{string(r.Domain), strconv.Itoa(r.Accounts), strconv.Itoa(r.Keys), strconv.Itoa(r.Anchors), day(r.Created)})
		}
		return c.table([]string{"domain", "accounts", "keys", "anchors", "created"}, lines)
	}
}

func (c *call) countOf(d hisp.Domain) (accounts, keys, anchors int, err error) {
	as, err := c.store.ListAccounts(c.ctx, d)
	if err != nil {
		return 0, 0, 0, err
	}
	ks, err := c.keysOf(d)
	if err != nil {
		return 0, 0, 0, err
	}
	ts, err := c.store.ListAnchors(c.ctx, d)
	return len(as), len(ks), len(ts), err
}

// oneDomain reads the only argument as a domain.
func (c *call) oneDomain() (hisp.Domain, error) {
	if err := c.argN("DOMAIN"); err != nil {
		return "", err
	}
	return c.domain(0)
}

// hosted is an error when d is not one of ours.
func (c *call) hosted(d hisp.Domain) error {
	ok, err := c.store.Hosted(c.ctx, d)
	if err == nil && !ok {
		return noDomain(d)
	}
	return err
}

func noDomain(d hisp.Domain) error {
	return hint(fmt.Errorf("no domain %s", d), "hisp domain list shows ours, hisp domain add makes one")
}

// day and moment write times for people.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
