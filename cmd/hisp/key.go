package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/hispnode/hisp/agent/keystore"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// keyFlags say what kind of key to make.
type keyFlags struct{ role, algorithm *string }

func newKeyFlags(f *flag.FlagSet) keyFlags {
	return keyFlags{
		f.String("role", string(store.RoleDual), "what the key is for: `sign`, encrypt or dual"),
		f.String("algorithm", string(keystore.RSA2048), "`rsa-2048`, rsa-3072, rsa-4096, or p-256 for signing only"),
	}
}

// owner reads the argument i: an address, or a domain for all its addresses.
func (c *call) owner(i int) (hisp.Address, error) {
	if strings.Contains(c.args[i], "@") {
		return c.address(i)
	}
	d, err := c.domain(i)
	return hisp.Address{Domain: d}, err
}

func (c *call) ownOwner() (hisp.Address, error) {
	owner, err := c.owner(0)
	if err != nil {
		return owner, err
	}
	return owner, c.hosted(owner.Domain)
}

// keyCA makes a trial CA. It needs no store: the CA is a file of the caller.
func keyCA(f *flag.FlagSet) func(c *call) error {
	name := f.String("name", "hisp trial CA", "common `name` of the CA")
	certOut := f.String("certificate", "", "`file` for the certificate alone, to give to partners")
	return func(c *call) error {
		if err := c.argN("FILE"); err != nil {
			return err
		}
		ca, err := keystore.NewTrialCA(*name, time.Now())
		if err != nil {
			return err
		}
		text, err := ca.MarshalPEM()
		if err != nil {
			return err
		}
		if err := c.front.WriteFile(c.args[0], text); err != nil {
			return err
		}
		if *certOut != "" {
			if err := c.front.WriteFile(*certOut, pemOf(ca.Cert)); err != nil {
				return err
			}
		}
		c.printf("%s\n", fingerprint(ca.Cert))
		c.notef("next: hisp key trial -ca %s DOMAIN; partners take the CA as anchor: hisp anchor add THEIR-DOMAIN FILE\n", c.args[0])
		return nil
	}
}

func keyTrial(f *flag.FlagSet) func(c *call) error {
	kind := newKeyFlags(f)
	file := f.String("ca", "", "`file` made by hisp key ca (required)")
	return func(c *call) error {
		if err := c.argN("OWNER"); err != nil {
			return err
		}
		if *file == "" {
			return hint(usagef("missing -ca FILE"), "hisp key ca FILE makes a trial CA")
		}
		owner, err := c.ownOwner()
		if err != nil {
			return err
		}
		data, err := c.front.ReadFile(*file)
		if err != nil {
			return err
		}
		ca, err := keystore.ParseTrialCA(data)
		if err != nil {
			return fmt.Errorf("%s: %w", *file, err)
		}
		return c.addKey("key trial", owner, func() (store.Key, error) {
			return c.keys.NewTrial(c.ctx, ca, owner, store.KeyRole(*kind.role), keystore.Algorithm(*kind.algorithm))
		})
	}
}

// addKey runs an act that brings a key and prints its ID.
func (c *call) addKey(what string, owner hisp.Address, act func() (store.Key, error)) error {
	var key store.Key
	err := c.admin(what, owner.Domain, owner, func() (err error) {
		key, err = act()
		return err
	})
	if err == nil {
		c.printf("%s\n", key.ID)
	}
	return err
}

func keyCSR(f *flag.FlagSet) func(c *call) error {
	kind := newKeyFlags(f)
	renew := f.String("renew", "", "`ID` of a key: ask for a new certificate instead of making a new key")
	return func(c *call) error {
		if *renew != "" {
			if err := c.argN(); err != nil {
				return err
			}
			key, err := c.key(*renew)
			if err != nil {
				return err
			}
			text, err := c.keys.Request(c.ctx, key.ID)
			c.printf("%s", text)
			return err
		}
		if err := c.argN("OWNER"); err != nil {
			return err
		}
		owner, err := c.ownOwner()
		if err != nil {
			return err
		}
		var key store.Key
		var text []byte
		err = c.admin("key csr", owner.Domain, owner, func() (err error) {
			key, text, err = c.keys.Generate(c.ctx, owner, store.KeyRole(*kind.role), keystore.Algorithm(*kind.algorithm))
			return err
		})
		if err != nil {
			return err
		}
		c.printf("%s", text)
		c.notef("key %s waits for its certificate; next: send the request to your CA, then hisp key install FILE\n", key.ID[:16])
		return nil
	}
}

func keyInstall(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN("FILE"); err != nil {
			return err
		}
		data, err := c.front.ReadFile(c.args[0])
		if err != nil {
			return err
		}
		return c.addKey("key install", hisp.Address{}, func() (store.Key, error) { return c.keys.Install(c.ctx, data) })
	}
}

func keyImport(f *flag.FlagSet) func(c *call) error {
	ownerName := f.String("owner", "", "`address or domain` the key is for; read from the certificate if it names exactly one")
	noPassword := f.Bool("no-password", false, "the file has no password: do not ask")
	return func(c *call) error {
		if err := c.argN("FILE"); err != nil {
			return err
		}
		var owner hisp.Address
		if *ownerName != "" {
			named := &call{args: []string{*ownerName}}
			var err error
			if owner, err = named.owner(0); err != nil {
				return err
			}
			if err := c.hosted(owner.Domain); err != nil {
				return err
			}
		}
		data, err := c.front.ReadFile(c.args[0])
		if err != nil {
			return err
		}
		password := ""
		if !*noPassword && needsPassword(data) {
			if password, err = c.front.Secret("password of " + c.args[0] + ": "); err != nil {
				return hint(fmt.Errorf("no password: %w", err), "type it, give it on standard input, or use -no-password")
			}
		}
		return c.addKey("key import", owner, func() (store.Key, error) { return c.keys.Import(c.ctx, owner, data, password) })
	}
}

// needsPassword tells whether a key file may be encrypted: PKCS#12 always is.
func needsPassword(data []byte) bool {
	text := string(data)
	return !strings.Contains(text, "-----BEGIN ") || strings.Contains(text, "ENCRYPTED")
}

func keyRetire(f *flag.FlagSet) func(c *call) error {
	force := f.Bool("force", false, "retire the last key as well")
	return func(c *call) error {
		if err := c.argN("ID"); err != nil {
			return err
		}
		key, err := c.key(c.args[0])
		if err != nil {
			return err
		}
		return c.admin("key retire", key.Owner.Domain, key.Owner, func() error {
			if !*force {
				if err := c.replaced(key); err != nil {
					return err
				}
			}
			_, err := c.keys.Retire(c.ctx, key.ID)
			return err
		})
	}
}

// replaced is an error unless other keys do what key does: those of its owner
// or, for an address, those of its domain.
func (c *call) replaced(key keystore.Listed) error {
	all, err := c.keys.List(c.ctx, hisp.Address{})
	if err != nil || !inUse(key) {
		return err
	}
	var signs, decrypts bool
	for _, k := range all {
		if k.ID == key.ID || !inUse(k) || k.Owner != key.Owner && k.Owner != (hisp.Address{Domain: key.Owner.Domain}) {
			continue
		}
		signs = signs || k.Role != store.RoleEncrypt
		decrypts = decrypts || k.Role != store.RoleSign
	}
	owner := ownerText(key.Owner)
	const next = "hisp key csr makes the next one first; -force retires it all the same"
	switch {
	case key.Role != store.RoleEncrypt && !signs:
		return hint(fmt.Errorf("it is the last key that signs for %s: without it nothing can be sent", owner), next)
	case key.Role != store.RoleSign && !decrypts:
		return hint(fmt.Errorf("it is the last key that others can encrypt to for %s: without it nobody can write to them", owner), next)
	}
	return nil
}

// inUse tells whether others encrypt to a key, or it signs, today.
func inUse(k keystore.Listed) bool {
	return k.State == keystore.StateActive || k.State == keystore.StateExpiring
}

func keyRemove(f *flag.FlagSet) func(c *call) error {
	destroy := f.Bool("destroy", false, "destroy a key that has a certificate: what was encrypted to it can never be read again")
	return func(c *call) error {
		if err := c.argN("ID"); err != nil {
			return err
		}
		key, err := c.key(c.args[0])
		if err != nil {
			return err
		}
		if key.State != keystore.StatePending && !*destroy {
			return hint(errors.New("messages under way may be encrypted to this key"), "hisp key retire keeps it for decryption only; -destroy removes it for good")
		}
		return c.admin("key remove", key.Owner.Domain, key.Owner, func() error { return c.store.RemoveKey(c.ctx, key.ID) })
	}
}

// key finds a key by the beginning of its ID.
func (c *call) key(prefix string) (keystore.Listed, error) {
	all, err := c.keys.List(c.ctx, hisp.Address{})
	if err != nil {
		return keystore.Listed{}, err
	}
	key, err := pick(prefix, all, func(k keystore.Listed) string { return k.ID })
	if err != nil {
		err = hint(fmt.Errorf("key: %w", err), "hisp key list shows their IDs")
	}
	return key, err
}

// keyRow is a key without its secret.
type keyRow struct {
	ID      string     `json:"id"`
	Owner   string     `json:"owner"`
	Role    string     `json:"role"`
	State   string     `json:"state"`
	Expires *time.Time `json:"expires,omitempty"`
	Created time.Time  `json:"created"`
	Retired *time.Time `json:"retired,omitempty"`
	Subject string     `json:"subject,omitempty"`
	Issuer  string     `json:"issuer,omitempty"`
	Chain   string     `json:"chain_pem,omitempty"`
}

func keyList(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON, with the certificates")
	return func(c *call) error {
		d, err := c.maybeDomain()
		if err != nil {
			return err
		}
		all, err := c.keys.List(c.ctx, hisp.Address{})
		if err != nil {
			return err
		}
		rows := []keyRow{}
		var lines [][]string
		for _, k := range all {
			if d != "" && k.Owner.Domain != d {
				continue
			}
			r := keyRowOf(k)
			rows = append(rows, r)
			expires := "-"
			if r.Expires != nil {
				expires = c.expiry(*r.Expires)
			}
			lines = append(lines, []string{r.ID[:16], r.Owner, r.Role, r.State, expires, r.Issuer})
		}
		if *asJSON {
			return c.json(rows)
		}
		return c.table([]string{"id", "owner", "role", "state", "expires", "issuer"}, lines)
	}
}

// ownerText names the owner of a key: an address, or a domain.
func ownerText(owner hisp.Address) string {
	if owner.Local == "" {
		return string(owner.Domain)
	}
	return owner.AddrSpec()
}

func keyRowOf(k keystore.Listed) keyRow {
	r := keyRow{ID: k.ID, Owner: ownerText(k.Owner), Role: string(k.Role), State: string(k.State), Created: k.Created}
	if !k.Retired.IsZero() {
		r.Retired = &k.Retired
	}
	if len(k.Chain) > 0 {
		cert := k.Chain[0]
		r.Expires, r.Subject, r.Issuer, r.Chain = &cert.NotAfter, cert.Subject.String(), cert.Issuer.String(), string(pemOf(k.Chain...))
	}
	return r
}
