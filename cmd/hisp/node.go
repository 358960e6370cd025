package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hispnode/hisp/agent"
	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/imapd"
	"github.com/hispnode/hisp/smtpd"
	"github.com/hispnode/hisp/smtpd/relay"
)

// shutdownGrace is how long sessions may finish what they are doing.
const shutdownGrace = 9 * time.Second

// node is everything that serves in one process, wired by newNode on an open
// backend.
type node struct {
	*backend
	cert  atomic.Pointer[tls.Certificate]
	log   *slog.Logger
	level *slog.LevelVar

	relay      *relay.Relay
	submission *smtpd.Server
	backbone   *smtpd.Server
	imap       *imapd.Server
	dns        *dnscert.Server

	control   net.Listener
	listeners map[string]net.Listener // by the name of the key in [listen]
}

// newNode wires a node and opens its listeners; run starts it. The caller
// closes b.
func newNode(ctx context.Context, b *backend, log *slog.Logger, level *slog.LevelVar) (*node, error) {
	n := &node{backend: b, log: log, level: level, listeners: map[string]net.Listener{}}
	steps := []func() error{n.loadTLS, n.newRelay, n.newCore, n.newServers}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := n.listen(ctx); err != nil {
		n.closeListeners()
		return nil, err
	}
	return n, nil
}

func (n *node) loadTLS() error {
	pair, err := n.readTLS(n.live.Load())
	n.cert.Store(pair)
	return err
}

// readTLS reads the certificate and key of a configuration.
func (n *node) readTLS(cfg *config) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cfg.resolve(cfg.TLS.Certificate), cfg.resolve(cfg.TLS.Key))
	if err != nil {
		return nil, hint(fmt.Errorf("tls: %w", err), "set certificate and key in [tls]; hisp init makes a pair for trials")
	}
	warnTLS(n.log, pair.Leaf, cfg.Hostname, n.clock())
	return &pair, nil
}

// tlsConfig is for servers; ask tells whether to ask clients for a certificate.
func (n *node) tlsConfig(ask tls.ClientAuthType) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     ask,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.cert.Load(), nil },
	}
}

func (n *node) newRelay() error {
	cfg := n.live.Load()
	roots, err := relayRoots(cfg)
	if err != nil {
		return err
	}
	n.relay, err = relay.New(relay.Config{
		Hostname: cfg.Hostname, Resolver: n.resolver, Roots: roots, Log: n.log,
		Peer: func(d hisp.Domain) relay.Peer {
			c := n.live.Load()
			p := c.Peer[string(d)]
			port := p.Port
			if port == 0 {
				port = c.Relay.Port
			}
			return relay.Peer{TLS: tlsPolicies[p.TLS], Host: p.Host, Port: uint16(port)}
		},
	})
	return err
}

// relayRoots are the system's CAs and the configured ones.
func relayRoots(cfg *config) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, file := range cfg.Relay.Roots {
		pem, err := os.ReadFile(cfg.resolve(file))
		if err != nil {
			return nil, fmt.Errorf("relay.roots: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("relay.roots: %s has no PEM certificate", file)
		}
	}
	return pool, nil
}

func (n *node) newCore() error {
	cfg := n.live.Load()
	var err error
	n.node, err = hisp.New(hisp.Config{
		Hostname: cfg.Hostname, Log: n.log, Agent: n.agent, Queue: n.store, Tracker: n.store, Auditor: n.store,
		Directory: n.store, Keys: n.keys, Transport: n.relay, Clock: n.clock,
		MaxMessage: cfg.Limits.MessageSize, MaxRecipients: cfg.Limits.Recipients,
		Retry: hisp.RetryPolicy{
			First: time.Duration(cfg.Queue.RetryFirst), Max: time.Duration(cfg.Queue.RetryMax), MaxAge: time.Duration(cfg.Queue.RetryAge),
		},
		PerDomain:    cfg.Queue.PerDomain,
		TrackTimeout: time.Duration(cfg.Notices.Timeout), KeepTracks: time.Duration(cfg.Notices.Keep),
		ForwardProcessed: cfg.Notices.ForwardProcessed,
	})
	return err
}

func (n *node) newServers() error {
	cfg := n.live.Load()
	common := smtpd.Config{
		Hostname: cfg.Hostname, Directory: n.store, Audit: n.store, Clock: n.clock, Log: n.log,
		Limits: smtpd.Limits{MessageOctets: cfg.Limits.MessageSize, Recipients: cfg.Limits.Recipients},
	}
	edge, backbone := common, common
	// What partners send is sealed and so larger than what users submit.
	backbone.Limits.MessageOctets = hisp.MaxSealed(cfg.Limits.MessageSize)
	edge.TLS, backbone.TLS = n.tlsConfig(tls.RequestClientCert), n.tlsConfig(tls.NoClientCert)
	var err error
	n.submission, err = smtpd.NewSubmission(smtpd.SubmissionConfig{Config: edge, Authenticator: n.backend.node, Submitter: n.backend.node})
	if err != nil {
		return err
	}
	n.backbone, err = smtpd.NewBackbone(smtpd.BackboneConfig{
		Config: backbone, Receiver: n.backend.node,
		AllowPlain: func(d hisp.Domain) bool { return n.live.Load().Peer[string(d)].AcceptPlain },
	})
	if err != nil {
		return err
	}
	n.imap, err = imapd.New(imapd.Config{
		Auth: n.backend.node, Store: n.store, TLS: n.tlsConfig(tls.RequestClientCert), Clock: n.clock, Log: n.log,
		Limits: imapd.Limits{MessageSize: cfg.Limits.MessageSize},
	})
	return err
}

// listen opens every configured address, so that a port in use is found before
// anything starts.
func (n *node) listen(ctx context.Context) error {
	l := n.live.Load().Listen
	for _, e := range []struct{ name, addr string }{
		{listenerSubmissionTLS, l.SubmissionTLS}, {listenerSubmission, l.Submission}, {listenerBackbone, l.Backbone},
		{listenerIMAPS, l.IMAPS}, {listenerIMAP, l.IMAP},
	} {
		if e.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", e.addr)
		if err != nil {
			return listenError(e.name, e.addr, err)
		}
		n.listeners[e.name] = ln
	}
	var err error
	if n.control, err = listenControl(n.live.Load().resolve(n.live.Load().Data)); err != nil || l.DNS == "" {
		return err
	}
	n.dns, err = dnscert.NewServer(ctx, dnscert.ServerConfig{Addr: l.DNS, Source: zones{n.live.Load, n.clock, n.store}, Clock: n.clock, Log: n.log})
	if err != nil {
		return listenError(listenerDNS, l.DNS, err)
	}
	return nil
}

func listenError(name, addr string, err error) error {
	err = fmt.Errorf("listen.%s: %w", name, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hint(err, "another program has "+addr+"; stop it or set another address in [listen] (ss -ltnp shows it)")
	case errors.Is(err, syscall.EACCES):
		return hint(err, "ports below 1024 need root or CAP_NET_BIND_SERVICE: setcap cap_net_bind_service=+ep on the binary, or AmbientCapabilities in the systemd unit")
	}
	return err
}

func (n *node) closeListeners() {
	for _, ln := range n.listeners {
		ln.Close()
	}
	if n.control != nil {
		n.control.Close()
	}
}

// run serves until ctx ends, then drains: no new connections, sessions finish
// what they are doing, work under way is committed.
func (n *node) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	serve := func(name string, fn func(context.Context, net.Listener) error) {
		if ln := n.listeners[name]; ln != nil {
			g.Go(func() error { return fn(gctx, ln) })
		}
	}
	serve(listenerSubmissionTLS, n.submission.ServeTLS)
	serve(listenerSubmission, n.submission.Serve)
	serve(listenerBackbone, n.backbone.Serve)
	serve(listenerIMAPS, n.imap.ServeTLS)
	serve(listenerIMAP, n.imap.Serve)
	if n.dns != nil {
		g.Go(func() error { return n.dns.Run(gctx) })
	}
	g.Go(func() error { return n.backend.node.Run(gctx) })
	control := &controlServer{config: n.live.Load, backend: n.backend, log: n.log}
	g.Go(func() error { return control.serve(gctx, n.control) })
	g.Go(func() error { return n.reportHead(gctx) })
	g.Go(func() error { return n.watchTLS(gctx) })
	g.Go(func() error {
		<-gctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		return errors.Join(n.submission.Shutdown(drain), n.backbone.Shutdown(drain))
	})
	n.log.Info("serving", "listeners", len(n.listeners), "host", n.live.Load().Hostname)
	err := g.Wait()
	n.relay.Close()
	if errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("some sessions were cut off at shutdown")
		err = nil
	}
	n.log.Info("stopped")
	return err
}

// headInterval is how often the end of the audit chain goes to the log, where
// an attacker on the data folder cannot reach it (row AU-05).
const headInterval = 10 * time.Minute

func (n *node) reportHead(ctx context.Context) error {
	tick := time.NewTicker(headInterval)
	defer tick.Stop()
	for {
		head, err := n.store.AuditHead(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		n.log.Info("audit head", "seq", head.Seq, "hash", fmt.Sprintf("%x", head.Hash))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reload reads the configuration file, the TLS certificate and the log level
// again, audited, since it can change who is exempt from TLS and which messages
// the agent refuses. All of it comes into force or nothing.
func (n *node) reload(ctx context.Context) {
	inForce := false
	err := n.audited(ctx, "reload", "", hisp.Address{}, func() error {
		put, err := n.readAgain()
		if err != nil {
			return err
		}
		put()
		inForce = true
		return nil
	})
	if !inForce {
		n.log.Error("reload failed: the old configuration stays", "err", err)
		return
	}
	if n.dns != nil {
		if err := n.dns.Reload(ctx); err != nil { // it tries again by itself
			n.log.Warn("zones not refreshed", "err", err)
		}
	}
	if err != nil {
		n.log.Error("configuration read again, which is not in the audit trail", "err", err)
		return
	}
	n.log.Info("configuration read again")
}

// readAgain reads all that SIGHUP changes and returns what puts it in force.
func (n *node) readAgain() (put func(), err error) {
	cfg, err := loadConfig(n.live.Load().path)
	if err != nil {
		return nil, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, err
	}
	pair, err := n.readTLS(&cfg)
	if err != nil {
		return nil, err
	}
	sta, err := agent.New(n.agentConfig(cfg, n.clock))
	if err != nil {
		return nil, err
	}
	return func() {
		n.live.Store(&cfg)
		n.cert.Store(pair)
		n.agent.now.Store(sta)
		n.level.Set(level)
	}, nil
}
