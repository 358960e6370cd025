// Package keystore holds the node's private keys: it hands them to the agent
// as handles, takes them in from PKCS#12 (RFC 7292) and PEM (RFC 7468, PKCS#8
// with PBES2 of RFC 8018), makes new ones with certificate requests (RFC 2986)
// and issues certificates of a trial CA.
//
// What is kept of a key is store.Key; this package adds no storage. It never
// gives a private key away: results carry Key without PKCS8. It builds no
// paths and checks no trust: that a peer will trust a certificate is for the
// peer's anchors.
package keystore

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// maxCached is how many parsed keys are kept in memory; beyond it all are
// parsed anew.
const maxCached = 4096

// Config is what Keys needs.
type Config struct {
	Store  store.Keys
	Hosted func(ctx context.Context, d hisp.Domain) (bool, error) // as hisp.Directory
	Clock  hisp.Clock                                             // nil is time.Now
}

// Keys is the hisp.KeyStore over a store.Keys. It is safe for concurrent use.
// Each call lists the keys of one address; a private key and its certificates
// are parsed once and kept until the store has others for it.
type Keys struct {
	cfg   Config
	mu    sync.Mutex
	cache map[string]*parsed // by store.Key.ID
}

// New returns the key store over cfg.Store.
func New(cfg Config) *Keys {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Keys{cfg: cfg, cache: map[string]*parsed{}}
}

// SigningKeys returns the keys that may sign for addr now: active, with a
// certificate that is valid, allows digitalSignature and is bound to addr by
// subjectAltName (conformance rows CRT-02, CRT-06, CRT-07), address-bound
// before domain-bound and newest first. None is an empty slice and nil; a key
// that cannot be read is Internal.
func (k *Keys) SigningKeys(ctx context.Context, addr hisp.Address) ([]hisp.SigningKey, error) {
	const op = "keystore.SigningKeys"
	list, err := k.list(ctx, op, addr)
	if err != nil {
		return nil, err
	}
	now := k.cfg.Clock()
	var byAddress, byDomain []hisp.SigningKey
	for _, key := range list {
		if !key.Retired.IsZero() || key.Role == store.RoleEncrypt {
			continue
		}
		p, err := k.parsed(op, key)
		if err != nil {
			return nil, err
		}
		cert := p.send[0]
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) || !allows(cert, x509.KeyUsageDigitalSignature) {
			continue
		}
		handle := hisp.SigningKey{Chain: slices.Clone(p.send), Signer: p.signer}
		switch boundBy(cert, addr) {
		case byMailbox:
			byAddress = append(byAddress, handle)
		case byHost:
			byDomain = append(byDomain, handle)
		}
	}
	return append(byAddress, byDomain...), nil
}

// DecryptionKeys returns every key and certificate that a message for addr may
// have been encrypted to: retired ones and expired certificates included, for
// a +tag address also those of its base, newest first. A key that was
// certified several times appears once for each certificate. Keys for signing
// only do not appear. A key that cannot be read is Internal.
func (k *Keys) DecryptionKeys(ctx context.Context, addr hisp.Address) ([]hisp.DecryptionKey, error) {
	const op = "keystore.DecryptionKeys"
	list, err := k.list(ctx, op, addr)
	if err != nil {
		return nil, err
	}
	if base := addr.Base(); base != addr { // row BB-18: a peer may have looked up the base
		more, err := k.list(ctx, op, base)
		if err != nil {
			return nil, err
		}
		list = mergeKeys(list, more)
	}
	var out []hisp.DecryptionKey
	for _, key := range list {
		if key.Role == store.RoleSign {
			continue
		}
		p, err := k.parsed(op, key)
		if err != nil {
			return nil, err
		}
		if p.decrypter == nil {
			continue
		}
		for _, cert := range p.own {
			out = append(out, hisp.DecryptionKey{Cert: cert, Decrypter: p.decrypter})
		}
	}
	return out, nil
}

// list returns the certified keys of addr and its domain. That a key belongs
// to the address or its domain is checked once more (row CRT-14).
func (k *Keys) list(ctx context.Context, op string, addr hisp.Address) ([]store.Key, error) {
	if addr.Local == "" || addr.Domain == "" {
		return nil, nil
	}
	list, err := k.cfg.Store.ListKeys(ctx, addr)
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.KindOf(err), Err: err}
	}
	return slices.DeleteFunc(slices.Clone(list), func(key store.Key) bool {
		mine := key.Owner.Domain == addr.Domain && (key.Owner.Local == "" || key.Owner.Equal(addr))
		return !mine || len(key.Chain) == 0
	}), nil
}

// mergeKeys joins two lists, without doubles, newest first.
func mergeKeys(a, b []store.Key) []store.Key {
	for _, key := range b {
		if !slices.ContainsFunc(a, func(o store.Key) bool { return o.ID == key.ID }) {
			a = append(a, key)
		}
	}
	slices.SortStableFunc(a, func(x, y store.Key) int { return y.Created.Compare(x.Created) })
	return a
}

// parsed is a key ready for use.
type parsed struct {
	chain     []*x509.Certificate // as stored: tells whether this is still current
	signer    crypto.Signer
	decrypter crypto.Decrypter    // nil if the key cannot decrypt
	send      []*x509.Certificate // the certificate and intermediates, without earlier certificates
	own       []*x509.Certificate // the certificate and earlier ones of the same key
}

func (k *Keys) parsed(op string, key store.Key) (*parsed, error) {
	k.mu.Lock()
	p := k.cache[key.ID]
	k.mu.Unlock()
	if p != nil && sameChain(p.chain, key.Chain) {
		return p, nil
	}
	p, err := parse(key)
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.Internal, Hint: "a stored private key cannot be read; 'hisp verify' checks the store", Err: err}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.cache) >= maxCached {
		clear(k.cache)
	}
	k.cache[key.ID] = p
	return p, nil
}

func parse(key store.Key) (*parsed, error) {
	signer, err := parsePKCS8(key.PKCS8)
	if err != nil {
		return nil, err
	}
	if id, err := keyID(signer.Public()); err != nil || id != key.ID || !matches(signer, key.Chain[0]) {
		return nil, errMismatch
	}
	p := &parsed{chain: key.Chain, signer: signer}
	p.decrypter, _ = signer.(crypto.Decrypter)
	for i, cert := range key.Chain {
		if matches(signer, cert) {
			p.own = append(p.own, cert)
			if i > 0 {
				continue
			}
		}
		p.send = append(p.send, cert)
	}
	slices.SortStableFunc(p.own, func(a, b *x509.Certificate) int { return b.NotBefore.Compare(a.NotBefore) })
	return p, nil
}

func sameChain(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, func(x, y *x509.Certificate) bool { return x == y || bytes.Equal(x.Raw, y.Raw) })
}

// keyID is store.Key.ID: hex SHA-256 of the SubjectPublicKeyInfo in the form
// crypto/x509 gives it.
func keyID(public crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

// matches tells whether cert is for the private key.
func matches(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && cert.PublicKey != nil && public.Equal(cert.PublicKey)
}

// binding is how a certificate of ours names its owner.
type binding uint8

const (
	notBound binding = iota
	byMailbox
	byHost
)

// boundBy compares the subjectAltNames with addr as a peer will (rows CRT-02,
// CRT-05): the whole address or exactly its domain. With Local "" only the
// domain binds.
func boundBy(cert *x509.Certificate, addr hisp.Address) binding {
	for _, name := range cert.EmailAddresses {
		if a, err := hisp.ParseAddress(name); err == nil && addr.Local != "" && a.Equal(addr) {
			return byMailbox
		}
	}
	for _, name := range cert.DNSNames {
		if strings.EqualFold(name, string(addr.Domain)) {
			return byHost
		}
	}
	return notBound
}

// newestFirst orders certificates of one key: the one to use is first.
func newestFirst(a, b *x509.Certificate) int {
	return cmp.Or(b.NotAfter.Compare(a.NotAfter), b.NotBefore.Compare(a.NotBefore), bytes.Compare(a.Raw, b.Raw))
}
