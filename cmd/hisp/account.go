package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// passwordFlags are the ways to give a password.
type passwordFlags struct{ generate *bool }

func newPasswordFlags(f *flag.FlagSet) passwordFlags {
	return passwordFlags{f.Bool("generate", false, "make a password and print it on stdout")}
}

// minPassword keeps what can be guessed online out (NIST SP 800-63B §3.1.1).
const minPassword = 8

// hash gets a password and returns its hash; a generated one is returned as
// well, to be printed when the act is done.
func (p passwordFlags) hash(c *call) (hash, generated string, err error) {
	if *p.generate {
		generated = generatePassword()
		hash, err = store.HashPassword(generated)
		return hash, generated, err
	}
	password, err := c.front.Secret("password: ")
	if err != nil {
		return "", "", hint(fmt.Errorf("no password: %w", err), "type it, give it on standard input, or use -generate")
	}
	if len(password) < minPassword {
		return "", "", hint(fmt.Errorf("a password has at least %d characters", minPassword), "-generate makes a good one")
	}
	again, err := c.front.Secret("again: ")
	if err == nil && again != password {
		return "", "", errors.New("the two passwords differ")
	}
	hash, err = store.HashPassword(password)
	return hash, "", err
}

// generatePassword returns 130 random bits in groups that can be read aloud.
func generatePassword() string {
	text := strings.ToLower(rand.Text())
	var groups []string
	for chunk := range slices.Chunk([]byte(text), 5) {
		groups = append(groups, string(chunk))
	}
	return strings.Join(groups, "-")
}

// sizeFlag is a flag for a size: a number, or one with k, M or G behind it.
type sizeFlag int64

const quotaUsage = "`octets` the mailbox may hold, such as 500M (k, M and G are powers of 1024); 0 is unlimited"

// String implements flag.Value.
func (o *sizeFlag) String() string { return "" }

// Set implements flag.Value.
func (o *sizeFlag) Set(s string) error {
	shift := 0
	for i, unit := range []string{"k", "M", "G"} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			s, shift = number, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 63-shift)
	if err != nil {
		return errors.New("not a size such as 500000, 10k, 500M or 2G")
	}
	*o = sizeFlag(n << shift)
	return nil
}

func accountAdd(f *flag.FlagSet) func(c *call) error {
	password := newPasswordFlags(f)
	none := f.Bool("no-password", false, "no password: only client certificates log in")
	var quota sizeFlag
	f.Var(&quota, "quota", quotaUsage)
	passThrough := f.Bool("pass-through", false, "deliver messages still sealed: the account holds its own keys")
	return func(c *call) error {
		addr, err := c.oneAddress()
		if err != nil {
			return err
		}
		if err := c.hosted(addr.Domain); err != nil {
			return err
		}
		if _, err := c.store.GetAccount(c.ctx, addr); err == nil {
			return hint(errors.New("the account is there already"), "hisp account password changes its password")
		}
		rec := store.AccountRecord{Account: hisp.Account{Address: addr, Quota: int64(quota), PassThrough: *passThrough}, Created: c.clock().UTC()}
		var generated string
		if !*none {
			if rec.PasswordHash, generated, err = password.hash(c); err != nil {
				return err
			}
		}
		err = c.admin("account add", addr.Domain, addr, func() error { return c.store.PutAccount(c.ctx, rec) })
		if err == nil && generated != "" {
			c.printf("%s\n", generated)
		}
		return err
	}
}

func accountPassword(f *flag.FlagSet) func(c *call) error {
	password := newPasswordFlags(f)
	remove := f.Bool("remove", false, "remove the password: only client certificates log in")
	return func(c *call) error {
		addr, err := c.oneAddress()
		if err != nil {
			return err
		}
		if _, err := c.account(addr); err != nil {
			return err
		}
		var hash, generated string
		if !*remove {
			if hash, generated, err = password.hash(c); err != nil {
				return err
			}
		}
		err = c.changeAccount("account password", addr, func(a *store.AccountRecord) error {
			a.PasswordHash = hash
			return nil
		})
		if err == nil && generated != "" {
			c.printf("%s\n", generated)
		}
		return err
	}
}

// accountSwitch makes a command that only sets one property of an account.
func accountSwitch(what string, set func(a *store.AccountRecord)) func(*flag.FlagSet) func(c *call) error {
	return func(*flag.FlagSet) func(c *call) error {
		return func(c *call) error {
			addr, err := c.oneAddress()
			if err != nil {
				return err
			}
			return c.changeAccount(what, addr, func(a *store.AccountRecord) error {
				set(a)
				return nil
			})
		}
	}
}

// accountSet changes what has a value.
func accountSet(f *flag.FlagSet) func(c *call) error {
	quota := sizeFlag(-1)
	f.Var(&quota, "quota", quotaUsage)
	passThrough := f.String("pass-through", "", "`on` or off: deliver messages still sealed")
	return func(c *call) error {
		addr, err := c.oneAddress()
		if err != nil {
			return err
		}
		if quota < 0 && *passThrough == "" {
			return usagef("nothing to set: give -quota or -pass-through")
		}
		if !slices.Contains([]string{"", "on", "off"}, *passThrough) {
			return usagef("-pass-through is on or off")
		}
		return c.changeAccount("account set", addr, func(a *store.AccountRecord) error {
			if quota >= 0 {
				a.Quota = int64(quota)
			}
			if *passThrough != "" {
				a.PassThrough = *passThrough == "on"
			}
			return nil
		})
	}
}

func accountRemove(f *flag.FlagSet) func(c *call) error {
	mail := f.Bool("and-mail", false, "confirm that its mail is deleted too")
	return func(c *call) error {
		addr, err := c.oneAddress()
		if err != nil {
			return err
		}
		if _, err := c.account(addr); err != nil {
			return err
		}
		folders, err := c.store.ListFolders(c.ctx, addr)
		if err != nil {
			return err
		}
		messages := 0
		for _, folder := range folders {
			messages += int(folder.Messages)
		}
		if messages > 0 && !*mail {
			return hint(fmt.Errorf("the account has %d messages, which would be deleted", messages), "add -and-mail to delete them, or use hisp account disable")
		}
		return c.admin("account remove", addr.Domain, addr, func() error { return c.store.RemoveAccount(c.ctx, addr) })
	}
}

func accountCertAdd(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN("ADDRESS", "FILE"); err != nil {
			return err
		}
		addr, err := c.address(0)
		if err != nil {
			return err
		}
		certs, err := c.readCerts(c.args[1])
		if err != nil {
			return err
		}
		sum := sha256.Sum256(certs[0].Raw)
		err = c.changeAccount("account cert add", addr, func(a *store.AccountRecord) error {
			if slices.Contains(a.ClientCerts, sum) {
				return errors.New("the certificate is there already")
			}
			a.ClientCerts = append(a.ClientCerts, sum)
			return nil
		})
		if err == nil {
			c.printf("%s\n", hex.EncodeToString(sum[:]))
		}
		return err
	}
}

func accountCertRemove(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN("ADDRESS", "FINGERPRINT"); err != nil {
			return err
		}
		addr, err := c.address(0)
		if err != nil {
			return err
		}
		return c.changeAccount("account cert remove", addr, func(a *store.AccountRecord) error {
			sum, err := pick(c.args[1], a.ClientCerts, func(s [32]byte) string { return hex.EncodeToString(s[:]) })
			if err != nil {
				return err
			}
			a.ClientCerts = slices.DeleteFunc(a.ClientCerts, func(s [32]byte) bool { return s == sum })
			return nil
		})
	}
}

// accountRow is an account without its secrets.
type accountRow struct {
	Address     string    `json:"address"`
	Disabled    bool      `json:"disabled"`
	Password    bool      `json:"password"`
	ClientCerts []string  `json:"client_certs"`
	PassThrough bool      `json:"pass_through"`
	Quota       int64     `json:"quota"`
	Messages    uint32    `json:"messages"`
	Octets      int64     `json:"octets"`
	Created     time.Time `json:"created"`
}

func accountList(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		var d hisp.Domain
		if len(c.args) > 0 {
			var err error
			if d, err = c.oneDomain(); err != nil {
				return err
			}
			if err := c.hosted(d); err != nil {
				return err
			}
		}
		accounts, err := c.store.ListAccounts(c.ctx, d)
		if err != nil {
			return err
		}
		rows := make([]accountRow, 0, len(accounts))
		for _, a := range accounts {
			r, err := c.accountRow(a)
			if err != nil {
				return err
			}
			rows = append(rows, r)
		}
		if *asJSON {
			return c.json(rows)
		}
		var lines [][]string
		for _, r := range rows {
			lines = append(lines, []string{r.Address, r.logins(), fmt.Sprint(r.Messages), octets(r.Octets), day(r.Created)})
		}
		return c.table([]string{"address", "login", "messages", "size", "created"}, lines)
	}
}

func (c *call) accountRow(a store.AccountRecord) (accountRow, error) {
	r := accountRow{
		Address: a.Address.AddrSpec(), Disabled: a.Disabled, Password: a.PasswordHash != "",
		PassThrough: a.PassThrough, Quota: a.Quota, Created: a.Created, ClientCerts: []string{},
	}
	for _, sum := range a.ClientCerts {
		r.ClientCerts = append(r.ClientCerts, hex.EncodeToString(sum[:]))
	}
	folders, err := c.store.ListFolders(c.ctx, a.Address)
	for _, folder := range folders {
		r.Messages += folder.Messages
		r.Octets += folder.Size
	}
	return r, err
}

// logins says in one word or more how the account may log in.
func (r accountRow) logins() string {
	var ways []string
	switch {
	case r.Disabled:
		ways = append(ways, "disabled")
	case !r.Password && len(r.ClientCerts) == 0:
		ways = append(ways, "none")
	}
	if r.Password && !r.Disabled {
		ways = append(ways, "password")
	}
	if len(r.ClientCerts) > 0 && !r.Disabled {
		ways = append(ways, fmt.Sprintf("certificate (%d)", len(r.ClientCerts)))
	}
	if r.PassThrough {
		ways = append(ways, "pass-through")
	}
	return strings.Join(ways, ", ")
}

func octets(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprint(n)
}

// oneAddress reads the only argument as an address.
func (c *call) oneAddress() (hisp.Address, error) {
	if err := c.argN("ADDRESS"); err != nil {
		return hisp.Address{}, err
	}
	return c.address(0)
}

func (c *call) account(addr hisp.Address) (store.AccountRecord, error) {
	a, err := c.store.GetAccount(c.ctx, addr)
	if err != nil && hisp.KindOf(err) == hisp.NotFound {
		return a, hint(errors.New("no such account"), "hisp account list "+string(addr.Domain)+" shows those of the domain")
	}
	return a, err
}

// changeAccount reads an account, changes it and writes it, as one act.
func (c *call) changeAccount(what string, addr hisp.Address, change func(a *store.AccountRecord) error) error {
	if _, err := c.account(addr); err != nil {
		return err
	}
	return c.admin(what, addr.Domain, addr, func() error {
		a, err := c.account(addr)
		if err != nil {
			return err
		}
		if err := change(&a); err != nil {
			return err
		}
		return c.store.PutAccount(c.ctx, a)
	})
}

// pick finds the one of items whose name begins with prefix.
func pick[T any](prefix string, items []T, name func(T) string) (T, error) {
	var found T
	count := 0
	prefix = strings.ToLower(strings.ReplaceAll(prefix, ":", ""))
	for _, item := range items {
		if strings.HasPrefix(name(item), prefix) && prefix != "" {
			found = item
			count++
		}
	}
	switch count {
	case 0:
		return found, fmt.Errorf("none begins with %s", prefix)
	case 1:
		return found, nil
	}
	return found, hint(fmt.Errorf("%d begin with %s", count, prefix), "give more of it")
}
