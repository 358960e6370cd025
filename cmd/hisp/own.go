package main

import (
	"context"
	"crypto/x509"
	"slices"

	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Mail between addresses of our own needs no outside world: their certificates
// are in the store, whatever DNS says of our domains, and a domain trusts its
// own certificates without naming their CA. Trust between two domains of the
// same node is configured like any other (row TR-02).

// sourceOwn is hisp.Cert.Source of a certificate from our store.
const sourceOwn = "own-store"

// ownCerts answers for our own domains from the store and asks next for all
// others.
type ownCerts struct {
	store interface {
		hisp.Directory
		store.Keys
	}
	clock hisp.Clock
	next  hisp.CertResolver
}

// LookupCerts implements hisp.CertResolver, address-bound before domain-bound
// (row DISC-04).
func (o ownCerts) LookupCerts(ctx context.Context, addr hisp.Address) ([]hisp.Cert, error) {
	ours, err := o.store.Hosted(ctx, addr.Domain)
	if err != nil {
		return nil, err
	}
	if !ours {
		return o.next.LookupCerts(ctx, addr)
	}
	keys, err := o.store.ListKeys(ctx, addr.Base())
	if err != nil {
		return nil, err
	}
	now := o.clock()
	for _, want := range []trust.Binding{trust.AddressBound, trust.DomainBound} {
		var found []hisp.Cert
		for _, k := range keys {
			if publishable(k, now) && trust.Bound(k.Chain[0], addr.Base()) == want {
				found = append(found, hisp.Cert{Certificate: k.Chain[0], Source: sourceOwn})
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}

// ownTrust adds to the anchors of an address its own certificates and those of
// its domain, each of which stands for itself only. Colleagues with
// address-bound certificates trust each other by their CA's anchor.
type ownTrust struct {
	hisp.TrustStore
	keys store.Keys
}

// Anchors implements hisp.TrustStore.
func (o ownTrust) Anchors(ctx context.Context, local hisp.Address, dir hisp.Direction) ([]*x509.Certificate, error) {
	anchors, err := o.TrustStore.Anchors(ctx, local, dir)
	if err != nil {
		return nil, err
	}
	keys, err := o.keys.ListKeys(ctx, local.Base())
	if err != nil {
		return nil, err
	}
	anchors = slices.Clone(anchors)
	for _, k := range keys {
		if len(k.Chain) > 0 && k.Retired.IsZero() {
			anchors = append(anchors, k.Chain[0])
		}
	}
	return anchors, nil
}
