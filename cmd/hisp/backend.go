package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hispnode/hisp/agent"
	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/agent/keystore"
	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
)

// backend is what commands work on: the open store and the parts that need no
// network listener. The serving process has one for its whole life, a command
// without a serving process makes its own.
type backend struct {
	store    *bolt.Store
	keys     *keystore.Keys
	resolver *dnscert.Resolver
	verifier *trust.Verifier
	agent    *liveAgent
	node     *hisp.Node // nil unless serving
	clock    hisp.Clock
	live     atomic.Pointer[config] // in force; a serving node changes it on SIGHUP

	adminLock sync.Mutex // see call.admin
}

// openBackend opens the store of c and builds the parts on it.
func openBackend(c config, log *slog.Logger, clock hisp.Clock) (*backend, error) {
	return buildBackend(c, bolt.Options{Log: log, Clock: clock})
}

// makeBackend is openBackend for init, which makes the store.
func makeBackend(c config, log *slog.Logger, clock hisp.Clock) (*backend, error) {
	return buildBackend(c, bolt.Options{Create: true, Log: log, Clock: clock})
}

func buildBackend(c config, o bolt.Options) (*backend, error) {
	if err := checkOwner(c.resolve(c.Data)); err != nil {
		return nil, err
	}
	key, err := readMasterKey(c.resolve(c.MasterKeyFile))
	if err != nil {
		return nil, err
	}
	o.Dir, o.MasterKey = c.resolve(c.Data), key
	st, err := bolt.Open(o)
	if err != nil {
		return nil, storeError(c, err)
	}
	b, err := newBackend(c, st, o.Log, o.Clock)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return b, nil
}

func newBackend(c config, st *bolt.Store, log *slog.Logger, clock hisp.Clock) (*backend, error) {
	b := &backend{store: st, clock: clock, verifier: trust.New(trust.Config{})}
	b.live.Store(&c)
	b.keys = keystore.New(keystore.Config{Store: st, Hosted: st.Hosted, Clock: clock})
	var err error
	resolving := dnscert.ResolverConfig{Clock: clock, Log: log}
	for _, s := range c.DNS.Servers {
		addr, err := parseServer(s)
		if err != nil {
			return nil, err
		}
		resolving.Servers = append(resolving.Servers, addr)
	}
	if b.resolver, err = dnscert.NewResolver(resolving); err != nil {
		return nil, err
	}
	b.agent = &liveAgent{}
	now, err := agent.New(b.agentConfig(c, clock))
	b.agent.now.Store(now)
	return b, err
}

// liveAgent is the agent of the configuration in force.
type liveAgent struct{ now atomic.Pointer[agent.Agent] }

// Seal implements hisp.Agent.
func (l *liveAgent) Seal(ctx context.Context, env hisp.Envelope, msg hisp.Message) (hisp.Sealed, error) {
	return l.now.Load().Seal(ctx, env, msg)
}

// Open implements hisp.Agent.
func (l *liveAgent) Open(ctx context.Context, env hisp.Envelope, msg hisp.Message) (hisp.Opened, error) {
	return l.now.Load().Open(ctx, env, msg)
}

// agentConfig is the agent of the configuration at the given clock.
func (b *backend) agentConfig(c config, clock hisp.Clock) agent.Config {
	return agent.Config{
		Resolver: ownCerts{b.store, clock, b.resolver}, Trust: ownTrust{b.store, b.store}, Keys: b.keys, Clock: clock, Verifier: b.verifier,
		Peer:      func(d hisp.Domain) agent.PeerOptions { return b.live.Load().peerOptions(d) },
		Unwrapped: c.unwrapped(),
		Notices:   agent.EitherAnchors, // one-way partners can still answer (row TR-05)
	}
}

// Close closes the store.
func (b *backend) Close() error { return b.store.Close() }

// audited runs one act of an operator between two audit records: that it was
// begun, without which it does not happen, and how it ended, without which it is
// not reported done. what is constant text; domain and account say whom it is
// about.
func (b *backend) audited(ctx context.Context, what string, domain hisp.Domain, account hisp.Address, act func() error) error {
	rec := b.adminRecord(what, hisp.OutcomeBegun)
	rec.Domain, rec.Private.Account = domain, account
	if err := b.store.Record(ctx, rec); err != nil {
		return fmt.Errorf("nothing done, the audit trail cannot be written: %w", err)
	}
	err := act()
	rec.Time, rec.Outcome = b.clock().UTC(), hisp.OutcomeOK
	if err != nil {
		rec.Outcome = hisp.OutcomeFailed
		var known *hisp.Error
		if errors.As(err, &known) {
			rec.Kind = known.Kind.Error()
		}
	}
	// The act is over: its record is written even when the caller has gone.
	if auditErr := b.store.Record(context.WithoutCancel(ctx), rec); auditErr != nil {
		return errors.Join(err, fmt.Errorf("done, but the end is not in the audit trail: %w", auditErr))
	}
	return err
}

func (b *backend) adminRecord(what string, outcome hisp.AuditOutcome) hisp.AuditRecord {
	return hisp.AuditRecord{
		Time: b.clock().UTC(), Event: hisp.AuditAdmin, Outcome: outcome, Detail: what,
		Private: hisp.AuditPrivate{Auth: hisp.AuthLocal},
	}
}

// peerOptions says how to encrypt to a domain: the peer's own settings before
// those of [agent].
func (c config) peerOptions(d hisp.Domain) agent.PeerOptions {
	o := agent.PeerOptions{KeyTransport: cms.KeyTransport(c.Agent.KeyTransport), Cipher: cms.Cipher(c.Agent.Cipher)}
	p := c.Peer[string(d)]
	if p.KeyTransport != "" {
		o.KeyTransport = cms.KeyTransport(p.KeyTransport)
	}
	if p.Cipher != "" {
		o.Cipher = cms.Cipher(p.Cipher)
	}
	return o
}

func (c config) unwrapped() agent.Unwrapped {
	if c.Agent.RefuseUnwrapped {
		return agent.RefuseUnwrapped
	}
	return agent.AcceptUnwrapped
}

// readMasterKey reads the key file, which must be for its owner only.
func readMasterKey(path string) (store.MasterKey, error) {
	var key store.MasterKey
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return key, hint(fmt.Errorf("%s: no master key there", path), "hisp init makes one; if the data folder is not empty, its own key must be found or the data is lost")
	}
	if err != nil {
		return key, fileError(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return key, hint(fmt.Errorf("%s: others may read the master key", path), "chmod 600 "+path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return key, fileError(err)
	}
	if key, err = store.ParseMasterKey(text); err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// checkOwner keeps root from leaving files in the data folder of another user,
// whose node could then not open its store.
func checkOwner(data string) error {
	info, err := os.Stat(data)
	if err != nil {
		return nil // to be made, or bolt.Open says what is wrong
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || owner.Uid == 0 {
		return nil
	}
	return hint(fmt.Errorf("%s: belongs to user %d, and this is root", data, owner.Uid),
		fmt.Sprintf("run the command as that user: sudo -u '#%d' hisp …", owner.Uid))
}

// storeError says in the operator's words why the store does not open.
func storeError(c config, err error) error {
	data := c.resolve(c.Data)
	switch hisp.KindOf(err) {
	case hisp.NotFound:
		return hint(fmt.Errorf("%s: no store there", data), "hisp init makes one, hisp restore brings one back; if there was one, look whether data in the configuration is right and its volume is mounted")
	case hisp.Conflict:
		return lockedError(data)
	case hisp.Denied:
		return hint(fmt.Errorf("%s: not the master key of this store", c.resolve(c.MasterKeyFile)), "set master_key_file to the key made together with "+data)
	case hisp.Refused:
		return hint(fmt.Errorf("%s: written by a newer hisp than %s", data, version()), "install the newer version again, or restore a backup made before the upgrade; nothing was changed")
	}
	if errors.Is(err, fs.ErrPermission) {
		return hint(fmt.Errorf("%s: %w", data, err), hintRunAs)
	}
	return fmt.Errorf("%s: %w", data, err)
}

// lockedError says who has the store open when no node answers on its control
// socket.
func lockedError(data string) error {
	look := "another hisp command or a node that is just starting or stopping; try again, or look with: fuser " + data + "/*"
	raw, err := os.ReadFile(filepath.Join(data, "lock"))
	pid, numErr := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || numErr != nil {
		return hint(fmt.Errorf("%s: another process has the store open", data), look)
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // none where there is no /proc
	_, err = os.Stat(filepath.Join(data, controlSocket))
	if slices.Contains(strings.Split(string(line), "\x00"), "serve") && errors.Is(err, fs.ErrNotExist) {
		look = fmt.Sprintf("a node runs (pid %d) and its control socket is not there: it is just starting or stopping, or the socket was removed; then restart the node", pid)
	}
	return hint(fmt.Errorf("%s: another process has the store open (pid %d)", data, pid), look)
}

// quietLog is the log of a command without a serving process: only what a
// person must act on.
func quietLog() *slog.Logger {
	return slog.New(hisp.NewLogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
}
