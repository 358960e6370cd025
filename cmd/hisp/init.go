package main

import (
	_ "embed" // the documented configuration
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hispnode/hisp/agent/keystore"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

//go:embed config_default.toml
var configText string

// initFlags are what to set up beyond the files.
type initFlags struct {
	hostname, domain, account, data, key *string
	trial, print                         *bool
}

// Names in the documented configuration that init replaces.
const (
	defaultHostLine = `hostname = "mail.example.org"`
	defaultDataLine = `data = "data"`
	defaultKeyLine  = `master_key_file = "master.key"`
	trialCAFile     = "trial-ca.pem"
	trialCertFile   = "trial-ca.crt"
)

const hintOnlyNew = "nothing was changed; init only makes new nodes"

func initCommand(f *flag.FlagSet) func(c *call) error {
	o := initFlags{
		hostname: f.String("hostname", "", "`name` of this host in DNS; default mail.DOMAIN, else what the system says"),
		domain:   f.String("domain", "", "first `domain` to host"),
		account:  f.String("account", "", "first account, an `address` in the domain; its password is printed"),
		data:     f.String("data", "data", "`folder` of the store"),
		key:      f.String("master-key", "master.key", "`file` for the master key, outside the data folder"),
		trial:    f.Bool("trial", false, "make a trial CA, a key for the domain and a TLS certificate for the host"),
		print:    f.Bool("print", false, "print the documented configuration and do nothing"),
	}
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		if *o.print {
			c.printf("%s", configText)
			return nil
		}
		return o.run(c)
	}
}

func (o initFlags) run(c *call) error {
	domain, account, err := o.names()
	if err != nil {
		return err
	}
	if err := o.writeFiles(c, domain); err != nil {
		return err
	}
	if c.config, err = loadConfig(c.configPath); err != nil {
		return err
	}
	if c.backend, err = makeBackend(c.config, quietLog(), time.Now); err != nil {
		return err
	}
	// Where the certificate goes is there before it comes.
	if err := os.MkdirAll(filepath.Dir(c.config.resolve(c.config.TLS.Key)), 0o700); err != nil {
		return errors.Join(fileError(err), c.backend.Close())
	}
	password, err := o.fill(c, domain, account)
	if err = errors.Join(err, c.backend.Close()); err != nil {
		return err
	}
	o.explain(c, domain, account, password)
	return nil
}

// names checks the names in the flags before anything is written.
func (o initFlags) names() (domain hisp.Domain, account hisp.Address, err error) {
	if *o.domain != "" {
		if domain, err = newDomain(*o.domain); err != nil {
			return "", account, err
		}
	}
	if *o.account != "" {
		if account, err = hisp.ParseAddress(*o.account); err != nil || account.Domain != domain {
			return "", account, usagef("-account: %q is not an address in -domain", *o.account)
		}
	}
	if *o.trial && domain == "" {
		return "", account, usagef("-trial needs -domain")
	}
	switch {
	case *o.hostname != "":
	case domain != "":
		*o.hostname = "mail." + string(domain)
	default:
		if *o.hostname, err = os.Hostname(); err != nil {
			return "", account, usagef("give -hostname")
		}
	}
	if _, err := hisp.ParseDomain(*o.hostname); err != nil {
		return "", account, usagef("-hostname: %q is not a host name", *o.hostname)
	}
	return domain, account, nil
}

// writeFiles writes configuration and master key. Everything that is in the way
// is found before the first is written.
func (o initFlags) writeFiles(c *call, domain hisp.Domain) error {
	cfg := config{path: c.configPath}
	key, data := cfg.resolve(*o.key), cfg.resolve(*o.data)
	if rel, err := filepath.Rel(data, key); err == nil && !strings.HasPrefix(rel, "..") {
		return hint(usagef("the master key would be inside the data folder"), "whoever copies the folder would have the key too; choose another -master-key")
	}
	inTheWay := []string{c.configPath, key}
	if *o.trial {
		inTheWay = append(inTheWay, cfg.resolve(trialCAFile), cfg.resolve(trialCertFile), cfg.resolve("tls"))
	}
	for _, path := range inTheWay {
		if _, err := os.Lstat(path); err == nil {
			return hint(fmt.Errorf("%s: exists already", path), hintOnlyNew)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fileError(err)
		}
	}
	if names, err := os.ReadDir(data); err == nil && len(names) > 0 {
		return hint(fmt.Errorf("%s: not empty", data), hintOnlyNew)
	}
	text := strings.NewReplacer(
		defaultHostLine, fmt.Sprintf("hostname = %q", *o.hostname),
		defaultDataLine, fmt.Sprintf("data = %q", *o.data),
		defaultKeyLine, fmt.Sprintf("master_key_file = %q", *o.key),
	).Replace(configText)
	for _, dir := range []string{filepath.Dir(c.configPath), filepath.Dir(key)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fileError(err)
		}
	}
	if err := c.front.WriteFile(key, store.NewMasterKey().Encode()); err != nil {
		return err
	}
	return c.front.WriteFile(c.configPath, []byte(text))
}

// fill makes what the flags ask for in the new store.
func (o initFlags) fill(c *call, domain hisp.Domain, account hisp.Address) (password string, err error) {
	if domain == "" {
		return "", nil
	}
	err = c.admin("domain add", domain, hisp.Address{}, func() error {
		return c.store.AddDomain(c.ctx, store.Domain{Name: domain, Created: c.clock().UTC()})
	})
	if err != nil {
		return "", err
	}
	if !account.IsZero() {
		password = generatePassword()
		hash, err := store.HashPassword(password)
		if err != nil {
			return "", err
		}
		rec := store.AccountRecord{Account: hisp.Account{Address: account}, PasswordHash: hash, Created: c.clock().UTC()}
		if err := c.admin("account add", domain, account, func() error { return c.store.PutAccount(c.ctx, rec) }); err != nil {
			return "", err
		}
	}
	if *o.trial {
		err = o.makeTrial(c, domain)
	}
	return password, err
}

// makeTrial makes the CA, the key and anchor of the domain, and the TLS files.
func (o initFlags) makeTrial(c *call, domain hisp.Domain) error {
	ca, err := keystore.NewTrialCA("trial CA of "+string(domain), c.clock())
	if err != nil {
		return err
	}
	text, err := ca.MarshalPEM()
	if err != nil {
		return err
	}
	if err := c.front.WriteFile(c.config.resolve(trialCAFile), text); err != nil {
		return err
	}
	if err := c.front.WriteFile(c.config.resolve(trialCertFile), pemOf(ca.Cert)); err != nil {
		return err
	}
	owner := hisp.Address{Domain: domain}
	err = c.admin("key trial", domain, owner, func() error {
		_, err := c.keys.NewTrial(c.ctx, ca, owner, store.RoleDual, keystore.RSA2048)
		return err
	})
	if err != nil {
		return err
	}
	err = c.admin("anchor add", domain, hisp.Address{}, func() error {
		return c.store.PutAnchor(c.ctx, store.Anchor{Domain: domain, Direction: hisp.Both, Cert: ca.Cert, Added: c.clock().UTC()})
	})
	if err != nil {
		return err
	}
	return writeTLS(c, ca)
}

// writeTLS makes the TLS certificate of the host at the places the
// configuration names.
func writeTLS(c *call, ca *keystore.TrialCA) error {
	cert, err := ca.IssueTLS(c.clock(), c.config.Hostname, "localhost", "127.0.0.1") // mail clients on this host
	if err != nil {
		return err
	}
	key, err := pemOfKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pemBlock(pemCertificate, der)...)
	}
	for path, text := range map[string][]byte{c.config.TLS.Certificate: chain, c.config.TLS.Key: key} {
		path = c.config.resolve(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fileError(err)
		}
		if err := c.front.WriteFile(path, text); err != nil {
			return err
		}
	}
	return nil
}

// explain says what was made and what to do next.
func (o initFlags) explain(c *call, domain hisp.Domain, account hisp.Address, password string) {
	path := func(name string) string { return c.path(c.config.resolve(name)) }
	c.printf("configuration  %s\nmaster key     %s (keep a copy elsewhere: without it the data is lost)\ndata           %s\n",
		c.path(c.configPath), path(*o.key), path(*o.data))
	if *o.trial {
		c.printf("trial CA       %s (partners take %s as their anchor)\n", path(trialCAFile), path(trialCertFile))
	}
	if password != "" {
		c.printf("account        %s\npassword       %s\n", account.AddrSpec(), password)
	}
	at := "hisp "
	if c.configPath != configDefault {
		at = "hisp -config " + c.configPath + " "
	}
	name := string(domain)
	if name == "" {
		name = "DOMAIN"
	}
	var next [][2]string // command and why
	add := func(command, why string) { next = append(next, [2]string{at + command, why}) }
	if domain == "" {
		add("domain add DOMAIN", "host a domain")
	}
	if account.IsZero() {
		add("account add NAME@"+name, "make an account")
	}
	if !strings.EqualFold(account.Local, postmaster) {
		add("account add -generate "+postmaster+"@"+name, "answers to what the node sends, and partners' questions, arrive there")
	}
	if !*o.trial {
		next = append(next, [2]string{"put certificate and key for " + c.config.Hostname + " at", path(c.config.TLS.Certificate) + " and " + path(c.config.TLS.Key)})
		add("key csr "+name, "ask your CA for the domain's certificate")
		add("key install FILE", "take in what the CA sends back")
	}
	add("anchor add "+name+" FILE", "trust a partner's CA")
	add("dns records "+name, "what to publish in DNS")
	add("serve", "start the node")
	add("dns check "+name, "see whether the world can reach it")
	c.printf("\nnext:\n")
	width := 0
	for _, line := range next {
		width = max(width, len(line[0]))
	}
	for i, line := range next {
		c.printf("%d. %-*s  %s\n", i+1, width, line[0], line[1])
	}
}
