package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/agent/smime"
	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
)

// maxLookups bounds how many recipients of one message are looked up at once.
const maxLookups = 8

// Seal implements hisp.Agent.
func (a *Agent) Seal(ctx context.Context, env hisp.Envelope, msg hisp.Message) (hisp.Sealed, error) {
	raw := msg.Bytes()
	top, err := mimetree.Parse(raw)
	if err != nil {
		return hisp.Sealed{}, refuse(opSeal, hisp.Malformed, "the message has too many parts, fields or levels", err)
	}
	if top.Protection(raw) == mimetree.Enveloped {
		return passThrough(env, msg), nil
	}
	from, err := author(env, raw)
	if err != nil {
		return hisp.Sealed{}, err
	}
	now := a.now()
	signers, err := a.signers(ctx, from, now)
	if err != nil {
		return hisp.Sealed{}, err
	}
	groups, rejected, err := a.destinations(ctx, from, unique(env.To), now)
	if err != nil || len(groups) == 0 {
		return hisp.Sealed{Rejected: rejected}, err
	}
	signed, err := sign(raw, signers, now)
	if err != nil {
		return hisp.Sealed{}, err
	}
	out := hisp.Sealed{Rejected: rejected, Copies: make([]hisp.Copy, 0, len(groups))}
	header := smime.OuterHeader(raw, top.Fields)
	for _, g := range groups {
		if err := ctx.Err(); err != nil {
			return hisp.Sealed{}, passOn(opSeal, err)
		}
		sealed, err := smime.Envelope(header, len(signed), len(g.certs), func(dst []byte) ([]byte, error) {
			return a.encrypt(dst, signed, g)
		})
		if err != nil {
			return hisp.Sealed{}, refuse(opSeal, hisp.Internal, "", err)
		}
		out.Copies = append(out.Copies, hisp.Copy{Domain: g.domain, To: g.to, Message: hisp.NewMessage(sealed)})
	}
	return out, nil
}

// passThrough relays what the source sealed itself, octet for octet (row
// BB-04), one copy per domain.
func passThrough(env hisp.Envelope, msg hisp.Message) hisp.Sealed {
	var out hisp.Sealed
	index := map[hisp.Domain]int{}
	for _, rcpt := range unique(env.To) {
		i, ok := index[rcpt.Domain]
		if !ok {
			i = len(out.Copies)
			index[rcpt.Domain] = i
			out.Copies = append(out.Copies, hisp.Copy{Domain: rcpt.Domain, Message: msg})
		}
		out.Copies[i].To = append(out.Copies[i].To, rcpt)
	}
	return out
}

// author returns who signs: the single From. What a peer would refuse as
// tampering (rows BB-11, BB-12) is not sealed in the first place.
func author(env hisp.Envelope, raw []byte) (hisp.Address, error) {
	p, hint, ok := partiesOf(raw)
	switch {
	case !ok:
	case env.From.IsZero() && !p.notice:
		hint, ok = "only an MDN or DSN may have the null sender", false
	case !env.From.IsZero() && !env.From.Equal(p.from) && !env.From.Equal(p.sender):
		hint, ok = "MAIL FROM must be the address in From or Sender", false
	case missing(env.To, p.to):
		hint, ok = "every recipient must be named in To or Cc; send Bcc copies as messages of their own", false
	}
	if !ok {
		return hisp.Address{}, refuse(opSeal, hisp.Malformed, hint, nil)
	}
	return p.from, nil
}

// signers returns the keys that may sign for from now (rows SM-17, SM-19):
// bound to it, in date, for digital signatures.
func (a *Agent) signers(ctx context.Context, from hisp.Address, now time.Time) ([]cms.Signer, error) {
	keys, err := a.cfg.Keys.SigningKeys(ctx, from)
	if err != nil {
		return nil, passOn(opSeal, err)
	}
	hint := "no signing key for the sender; ask for one with 'hisp key csr' or import one with 'hisp key import'"
	var signers []cms.Signer
	for _, k := range keys {
		if len(k.Chain) == 0 || k.Signer == nil {
			continue
		}
		cert := k.Chain[0]
		switch {
		case trust.Bound(cert, from) == trust.None:
			hint = "the signing certificate is not bound to the sender's address or domain"
		case now.After(cert.NotAfter):
			hint = "the sender's signing certificate has expired; renew it and import it with 'hisp key import'"
		case now.Before(cert.NotBefore):
			hint = "the sender's signing certificate is not valid yet"
		case trust.CheckUsage(cert, trust.Sign) != nil:
			hint = "the sender's certificate may not be used to sign: key usage or key strength"
		default:
			signers = append(signers, cms.Signer{Chain: k.Chain, Key: k.Signer})
		}
	}
	if len(signers) == 0 {
		return nil, refuse(opSeal, hisp.NoKey, hint, nil)
	}
	return signers, nil
}

// maxCopyCerts bounds the certificates of one copy: what a peer's reader may
// take for an attack is split into several copies.
const maxCopyCerts = 256

// group is one copy to be: the recipients in one domain and the certificates
// to encrypt to, each once.
type group struct {
	domain hisp.Domain
	to     []hisp.Address
	certs  []*x509.Certificate
	have   map[string]bool // certs by their DER
}

func (g *group) add(rcpt hisp.Address, certs []*x509.Certificate) {
	g.to = append(g.to, rcpt)
	for _, c := range certs {
		if !g.have[string(c.Raw)] {
			g.have[string(c.Raw)] = true
			g.certs = append(g.certs, c)
		}
	}
}

// destinations finds usable trusted certificates for each recipient and
// groups those who have some by domain, in the order of the envelope.
func (a *Agent) destinations(ctx context.Context, from hisp.Address, rcpts []hisp.Address, now time.Time) ([]*group, []hisp.Rejection, error) {
	anchors, err := a.cfg.Trust.Anchors(ctx, from, hisp.Outgoing)
	if err != nil {
		return nil, nil, passOn(opSeal, err)
	}
	found := a.lookUp(ctx, rcpts)
	var (
		groups   []*group
		rejected []hisp.Rejection
	)
	byDomain := map[hisp.Domain]*group{}
	for i, rcpt := range rcpts {
		certs, err := a.usable(rcpt, found[i], anchors, now)
		if err != nil {
			rejected = append(rejected, hisp.Rejection{Recipient: rcpt, Err: err})
			continue
		}
		g := byDomain[rcpt.Domain]
		if g == nil || len(g.certs)+len(certs) > maxCopyCerts {
			g = &group{domain: rcpt.Domain, have: map[string]bool{}}
			byDomain[rcpt.Domain] = g
			groups = append(groups, g)
		}
		g.add(rcpt, certs)
	}
	return groups, rejected, nil
}

// lookup is the answer of the resolver for one recipient.
type lookup struct {
	certs []hisp.Cert
	err   error
}

// lookUp asks the resolver for all recipients, several at once. The +tag of a
// local part does not count (row BB-18).
func (a *Agent) lookUp(ctx context.Context, rcpts []hisp.Address) []lookup {
	found := make([]lookup, len(rcpts))
	slots := make(chan struct{}, maxLookups)
	var wg sync.WaitGroup
	for i, rcpt := range rcpts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			found[i] = a.lookUpOne(ctx, rcpt.Base())
		})
	}
	wg.Wait()
	return found
}

// lookUpOne contains a panic over what a stranger publishes: in a goroutine of
// its own it would end the process, and again after each start.
func (a *Agent) lookUpOne(ctx context.Context, rcpt hisp.Address) (l lookup) {
	defer func() {
		if v := recover(); v != nil {
			// The value of a panic may quote input; its type and the stack do not.
			l = lookup{err: refuse(opSeal, hisp.Internal, "", fmt.Errorf("panic of type %T\n%s", v, debug.Stack()))}
		}
	}()
	l.certs, l.err = a.cfg.Resolver.LookupCerts(ctx, rcpt)
	return l
}

// maxCerts bounds the certificates of one recipient that are tried.
const maxCerts = 16

// usable returns the certificates of rcpt to encrypt to: bound to it, in date,
// for key encipherment, with a path to an anchor (rows BB-13, CRT-05..07,
// TR-01, TR-14). One good one among bad ones is enough (row DISC-06). None
// found or none usable is NoCertificate, none trusted Untrusted.
func (a *Agent) usable(rcpt hisp.Address, found lookup, anchors []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	if found.err != nil {
		return nil, passOn(opSeal, found.err)
	}
	if len(found.certs) == 0 {
		return nil, refuse(opSeal, hisp.NoCertificate, "no certificate is published for the recipient's address or domain", nil)
	}
	pool := make([]*x509.Certificate, 0, len(found.certs))
	for _, c := range found.certs[:min(len(found.certs), maxCerts)] {
		if c.Certificate != nil {
			pool = append(pool, c.Certificate)
		}
	}
	var (
		good      []*x509.Certificate
		unusable  error
		untrusted error
	)
	for _, cert := range pool {
		if err := fitForEncryption(cert, rcpt.Base(), now); err != nil {
			unusable = err
		} else if _, err := a.cfg.Verifier.Path(cert, pool, anchors, now); err != nil {
			untrusted = refuse(opSeal, hisp.Untrusted, hisp.HintOf(err), err)
		} else {
			good = append(good, cert)
		}
	}
	switch {
	case len(good) > 0:
		return good, nil
	case untrusted != nil:
		return nil, untrusted
	}
	return nil, unusable
}

// fitForEncryption checks everything but the path.
func fitForEncryption(cert *x509.Certificate, rcpt hisp.Address, now time.Time) error {
	hint := ""
	switch {
	case trust.Bound(cert, rcpt) == trust.None:
		hint = "the published certificate is for another address or domain"
	case now.After(cert.NotAfter):
		hint = "the recipient's certificate has expired; its holder must renew and publish it"
	case now.Before(cert.NotBefore):
		hint = "the recipient's certificate is not valid yet"
	case trust.CheckUsage(cert, trust.Encrypt) != nil:
		hint = "the recipient's certificate may not be used to encrypt: key usage, or a key that is not RSA of 2048 bits or more"
	default:
		return nil
	}
	return refuse(opSeal, hisp.NoCertificate, hint, nil)
}

// sign makes the entity to be encrypted: msg in 7-bit form, wrapped, signed.
func sign(msg []byte, signers []cms.Signer, now time.Time) ([]byte, error) {
	canonical, err := smime.SevenBit(msg)
	if err != nil {
		return nil, refuse(opSeal, hisp.Malformed, "the message has too many parts, fields or levels", err)
	}
	signed, err := smime.Sign(canonical, func(content []byte) ([]byte, error) {
		return cms.Sign(content, signers, cms.SignOptions{Time: now})
	})
	switch {
	case errors.Is(err, cms.ErrSign): // a token that does not answer may do so later
		return nil, refuse(opSeal, hisp.Temporary, "the sender's signing key does not answer", err)
	case err != nil:
		return nil, refuse(opSeal, hisp.NoKey, "the sender's signing key cannot be used", err)
	}
	return signed, nil
}

func (a *Agent) encrypt(dst, signed []byte, g *group) ([]byte, error) {
	peer := a.cfg.Peer(g.domain)
	to := make([]cms.Recipient, len(g.certs))
	for i, cert := range g.certs {
		to[i] = cms.Recipient{Cert: cert, KeyTransport: peer.KeyTransport}
	}
	return cms.AppendEncrypted(dst, signed, to, peer.Cipher)
}
