package keystore

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"slices"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Import takes in a private key with its certificate and the intermediates
// that came along: PKCS#12, or PEM with PKCS#8 (also encrypted with PBES2),
// PKCS#1 or SEC 1. Owner is the address, or with Local "" the domain, that the
// certificate must be bound to; the zero owner is read from the certificate,
// which then must have exactly one subjectAltName. The role follows keyUsage.
//
// A key whose certificate has expired is stored as retired: it decrypts what
// is still under way. A key that is known already gets the certificate and
// keeps its earlier ones for decryption. Errors: Malformed (the hint says
// what is wrong with file or certificate), TooLarge, Denied (password),
// NotFound (the domain is not ours), Conflict (the key is another owner's or
// retired).
func (k *Keys) Import(ctx context.Context, owner hisp.Address, data []byte, password string) (store.Key, error) {
	const op = "keystore.Import"
	m, err := read(op, data, password)
	if err != nil {
		return store.Key{}, err
	}
	if m.key == nil {
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Malformed,
			Hint: "the file has no private key; a certificate for a request is installed with 'hisp key install'"}
	}
	chain := chainFor(m.key.Public(), m.certs)
	if chain == nil {
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Malformed, Err: errMismatch,
			Hint: "no certificate in the file belongs to its private key; put both into one file"}
	}
	if owner == (hisp.Address{}) {
		if owner, err = ownerOf(op, chain[0]); err != nil {
			return store.Key{}, err
		}
	}
	return k.put(ctx, op, owner, m.key, chain)
}

// ownerOf reads the owner from a certificate with a single name.
func ownerOf(op string, cert *x509.Certificate) (hisp.Address, error) {
	if len(cert.EmailAddresses)+len(cert.DNSNames) != 1 {
		return hisp.Address{}, &hisp.Error{Op: op, Kind: hisp.Malformed,
			Hint: "the certificate has no subjectAltName or several; say for which address or domain the key is"}
	}
	if len(cert.EmailAddresses) == 1 {
		return hisp.ParseAddress(cert.EmailAddresses[0])
	}
	d, err := hisp.ParseDomain(cert.DNSNames[0])
	return hisp.Address{Domain: d}, err
}

// put checks a key with its chain and stores it.
func (k *Keys) put(ctx context.Context, op string, owner hisp.Address, signer crypto.Signer, chain []*x509.Certificate) (store.Key, error) {
	if err := checkCert(op, chain[0], owner); err != nil {
		return store.Key{}, err
	}
	role, err := roleOf(op, chain[0])
	if err != nil {
		return store.Key{}, err
	}
	key, err := k.record(ctx, op, owner, signer, role)
	if err != nil {
		return store.Key{}, err
	}
	if key.Chain, err = renew(op, key.Chain, chain); err != nil {
		return store.Key{}, err
	}
	key.Role = role
	if now := k.cfg.Clock().UTC(); now.After(key.Chain[0].NotAfter) {
		key.Retired = now
	}
	return k.store(ctx, op, key)
}

// record returns the stored record of a key, or a new one without chain. The
// domain must be ours and the key must not be another owner's (row CRT-14).
func (k *Keys) record(ctx context.Context, op string, owner hisp.Address, signer crypto.Signer, role store.KeyRole) (store.Key, error) {
	if err := k.checkHosted(ctx, op, owner.Domain); err != nil {
		return store.Key{}, err
	}
	id, err := keyID(signer.Public())
	if err != nil {
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Malformed, Err: err}
	}
	key, found, err := k.find(ctx, op, id)
	switch {
	case err != nil:
		return store.Key{}, err
	case found && key.Owner.Key() != owner.Key():
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Conflict,
			Hint: "this private key is in use for another address or domain; every owner needs a key of its own"}
	case found && !key.Retired.IsZero():
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Conflict,
			Hint: "this private key was retired and does not come back; make a new one with 'hisp key csr'"}
	case found:
		return key, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Malformed, Err: err}
	}
	return store.Key{ID: id, Owner: owner, Role: role, PKCS8: der, Created: k.cfg.Clock().UTC()}, nil
}

// renew puts a chain before the earlier certificates of the same key. Peers
// name the certificate they encrypted to, so none is forgotten.
func renew(op string, old, chain []*x509.Certificate) ([]*x509.Certificate, error) {
	chain = slices.Clone(chain)
	for _, cert := range old {
		equal, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if ok && equal.Equal(chain[0].PublicKey) && !slices.ContainsFunc(chain, cert.Equal) {
			chain = append(chain, cert)
		}
	}
	if len(chain) > 2*maxCerts {
		return nil, &hisp.Error{Op: op, Kind: hisp.TooLarge, Hint: "the key has too many certificates; make a new key with 'hisp key csr'"}
	}
	return chain, nil
}

// Generate makes a private key for owner, an address or with Local "" a
// domain, and returns its record and the certificate request as PEM. The key
// waits until Install brings the certificate. Errors: Malformed, NotFound.
func (k *Keys) Generate(ctx context.Context, owner hisp.Address, role store.KeyRole, a Algorithm) (store.Key, []byte, error) {
	const op = "keystore.Generate"
	signer, err := newKey(op, role, a)
	if err != nil {
		return store.Key{}, nil, err
	}
	key, err := k.record(ctx, op, owner, signer, role)
	if err != nil {
		return store.Key{}, nil, err
	}
	csr, err := request(op, owner, role, signer)
	if err != nil {
		return store.Key{}, nil, err
	}
	key, err = k.store(ctx, op, key)
	return key, csr, err
}

// Request returns a certificate request for a stored key as PEM, for its first
// certificate or to renew it. NotFound.
func (k *Keys) Request(ctx context.Context, id string) ([]byte, error) {
	const op = "keystore.Request"
	key, err := k.mustFind(ctx, op, id)
	if err != nil {
		return nil, err
	}
	signer, err := parsePKCS8(key.PKCS8)
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.Internal, Err: err}
	}
	return request(op, key.Owner, key.Role, signer)
}

// Install stores the certificate that a CA made for a request of this node.
// Data is the certificate as PEM or DER, with intermediates if PEM. The
// certificate must be for the owner of the key; the role follows its keyUsage.
// Errors as of Import; NotFound also when no key waits for it.
func (k *Keys) Install(ctx context.Context, data []byte) (store.Key, error) {
	const op = "keystore.Install"
	m, err := read(op, data, "")
	if err != nil {
		return store.Key{}, err
	}
	if m.key != nil {
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Malformed,
			Hint: "the file has a private key; use 'hisp key import', or remove the key from the file"}
	}
	all, err := k.all(ctx, op)
	if err != nil {
		return store.Key{}, err
	}
	for _, cert := range m.certs {
		id, err := keyID(cert.PublicKey)
		i := slices.IndexFunc(all, func(key store.Key) bool { return key.ID == id })
		if err != nil || i < 0 {
			continue
		}
		signer, err := parsePKCS8(all[i].PKCS8)
		if err != nil {
			return store.Key{}, &hisp.Error{Op: op, Kind: hisp.Internal, Err: err}
		}
		return k.put(ctx, op, all[i].Owner, signer, chainFor(signer.Public(), m.certs))
	}
	return store.Key{}, &hisp.Error{Op: op, Kind: hisp.NotFound,
		Hint: "no private key of this node belongs to the certificate; it was made from another request"}
}

// Retire makes a key one that only decrypts. To retire it again changes
// nothing. NotFound.
func (k *Keys) Retire(ctx context.Context, id string) (store.Key, error) {
	const op = "keystore.Retire"
	key, err := k.mustFind(ctx, op, id)
	if err != nil {
		return store.Key{}, err
	}
	if key.Retired.IsZero() {
		key.Retired = k.cfg.Clock().UTC()
	}
	return k.store(ctx, op, key)
}

// Listed is a key without its private part, and its state.
type Listed struct {
	store.Key
	State State
}

// List returns the keys of an address and its domain, with Local "" the
// domain-bound ones, with the zero owner all, newest first.
func (k *Keys) List(ctx context.Context, owner hisp.Address) ([]Listed, error) {
	list, err := k.cfg.Store.ListKeys(ctx, owner)
	if err != nil {
		return nil, &hisp.Error{Op: "keystore.List", Kind: hisp.KindOf(err), Err: err}
	}
	out := make([]Listed, len(list))
	for i, key := range list {
		out[i] = Listed{Key: public(key), State: stateOf(key, k.cfg.Clock())}
	}
	return out, nil
}

func (k *Keys) checkHosted(ctx context.Context, op string, d hisp.Domain) error {
	hosted, err := k.cfg.Hosted(ctx, d)
	if err != nil {
		return &hisp.Error{Op: op, Kind: hisp.KindOf(err), Err: err}
	}
	if !hosted {
		return &hisp.Error{Op: op, Kind: hisp.NotFound, Hint: "the domain is not one of this node; add it with 'hisp domain add'"}
	}
	return nil
}

func (k *Keys) all(ctx context.Context, op string) ([]store.Key, error) {
	list, err := k.cfg.Store.ListKeys(ctx, hisp.Address{})
	if err != nil {
		return nil, &hisp.Error{Op: op, Kind: hisp.KindOf(err), Err: err}
	}
	return list, nil
}

func (k *Keys) find(ctx context.Context, op, id string) (store.Key, bool, error) {
	list, err := k.all(ctx, op)
	if err != nil {
		return store.Key{}, false, err
	}
	i := slices.IndexFunc(list, func(key store.Key) bool { return key.ID == id })
	if i < 0 {
		return store.Key{}, false, nil
	}
	return list[i], true, nil
}

func (k *Keys) mustFind(ctx context.Context, op, id string) (store.Key, error) {
	key, found, err := k.find(ctx, op, id)
	if err == nil && !found {
		err = &hisp.Error{Op: op, Kind: hisp.NotFound, Hint: "there is no such key; 'hisp key list' shows them"}
	}
	return key, err
}

func (k *Keys) store(ctx context.Context, op string, key store.Key) (store.Key, error) {
	if err := k.cfg.Store.PutKey(ctx, key); err != nil {
		return store.Key{}, &hisp.Error{Op: op, Kind: hisp.KindOf(err), Err: err}
	}
	return public(key), nil
}

// public is key without its private part (row CRT-13).
func public(key store.Key) store.Key {
	key.PKCS8 = nil
	return key
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
