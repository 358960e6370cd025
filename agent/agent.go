// Package agent is the security and trust agent of the node (Direct AS §2–§4;
// RFC 8551): it signs and encrypts what leaves, and decrypts, verifies and
// decides trust for what arrives, recipient by recipient. It implements
// hisp.Agent.
//
// Seal wraps the message in message/rfc822, signs it detached with SHA-256 and
// encrypts it once per destination domain. Open accepts what RFC 8551 senders
// make, wrapped or not, and refuses what is not signed as a whole, not bound
// to the single From by subjectAltName, or not meant for this envelope.
//
// The package asks for certificates, anchors and keys through the contracts of
// package hisp. It does no network or disk access of its own, stores nothing,
// answers nobody and does not judge content.
package agent

import (
	"errors"
	"time"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/hisp"
)

// PeerOptions are how to encrypt to one destination domain. The zero value is
// what every Direct implementation reads: RSA PKCS #1 v1.5 and AES-256-CBC
// (conformance rows SM-11, SM-13).
type PeerOptions struct {
	KeyTransport cms.KeyTransport
	Cipher       cms.Cipher
}

// Unwrapped says what Open does with a message that is not in message/rfc822
// (conformance row SM-04): its header is not signed.
type Unwrapped uint8

const (
	AcceptUnwrapped Unwrapped = iota // as Direct AS 1.3 asks for older peers
	RefuseUnwrapped                  // Unprotected
)

// NoticeTrust says which anchors hold for MDNs and DSNs that arrive.
type NoticeTrust uint8

const (
	IncomingAnchors NoticeTrust = iota // like any message
	EitherAnchors                      // and those for sending: one-way partners can still answer (row TR-05)
)

// Config is what the agent works with. Resolver, Trust and Keys are required.
type Config struct {
	Resolver hisp.CertResolver
	Trust    hisp.TrustStore
	Keys     hisp.KeyStore

	Clock     hisp.Clock                    // default time.Now
	Verifier  *trust.Verifier               // default trust.New(trust.Config{})
	Peer      func(hisp.Domain) PeerOptions // default: the zero PeerOptions for all
	Unwrapped Unwrapped
	Notices   NoticeTrust
}

// Agent is a security and trust agent. It is safe for concurrent use.
type Agent struct{ cfg Config }

var _ hisp.Agent = (*Agent)(nil)

// New returns an agent. The error says which field of c is missing.
func New(c Config) (*Agent, error) {
	if c.Resolver == nil || c.Trust == nil || c.Keys == nil {
		return nil, errors.New("agent: Resolver, Trust and Keys are required")
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Verifier == nil {
		c.Verifier = trust.New(trust.Config{})
	}
	if c.Peer == nil {
		c.Peer = func(hisp.Domain) PeerOptions { return PeerOptions{} }
	}
	return &Agent{cfg: c}, nil
}

func (a *Agent) now() time.Time { return a.cfg.Clock().UTC() }

const (
	opSeal = "agent.Seal"
	opOpen = "agent.Open"
)

func refuse(op string, kind hisp.Kind, hint string, cause error) error {
	return &hisp.Error{Op: op, Kind: kind, Hint: hint, Err: cause}
}

// passOn returns the error of a store or resolver with its kind, or as
// Temporary if it has none: what failed was not the message.
func passOn(op string, err error) error {
	kind := hisp.KindOf(err)
	if kind == hisp.Internal {
		kind = hisp.Temporary
	}
	return &hisp.Error{Op: op, Kind: kind, Hint: hisp.HintOf(err), Err: err}
}
