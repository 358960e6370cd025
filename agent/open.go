package agent

import (
	"context"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"time"

	"github.com/hispnode/hisp/agent/cms"
	"github.com/hispnode/hisp/agent/smime"
	"github.com/hispnode/hisp/agent/trust"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/hisp/mimetree"
)

// Open implements hisp.Agent. The order is fixed: nothing of the content is
// looked at before its signature is good, and no trust is asked for before the
// content is known to be for this envelope.
func (a *Agent) Open(ctx context.Context, env hisp.Envelope, msg hisp.Message) (hisp.Opened, error) {
	outer, err := readOuter(msg.Bytes())
	if err != nil {
		return hisp.Opened{}, err
	}
	env.To = unique(env.To)
	plain, err := a.decrypt(ctx, env.To, outer)
	if err != nil {
		return hisp.Opened{}, err
	}
	v, err := verify(plain)
	if err != nil {
		return hisp.Opened{}, err
	}
	inner, err := a.unwrap(outer, v.content)
	if err != nil {
		return hisp.Opened{}, err
	}
	p, err := checkEnvelope(env, outer, inner)
	if err != nil {
		return hisp.Opened{}, err
	}
	opened, err := a.decide(ctx, env.To, p, v)
	if err != nil {
		return hisp.Opened{}, err
	}
	opened.Message = hisp.NewMessage(inner.Bytes)
	return opened, nil
}

// outer is the message as it arrived.
type outer struct {
	raw []byte
	top *mimetree.Part
}

// readOuter refuses what is not enveloped as a whole (rows BB-05, S2).
func readOuter(raw []byte) (outer, error) {
	top, err := mimetree.Parse(raw)
	if err != nil {
		return outer{}, refuse(opOpen, hisp.Malformed, "the message has too many parts, fields or levels", err)
	}
	if top.Protection(raw) != mimetree.Enveloped {
		return outer{}, refuse(opOpen, hisp.Unprotected, "the message is not encrypted S/MIME; a Direct message is signed, then encrypted as a whole", nil)
	}
	if top.Defects&(mimetree.DuplicateField|mimetree.DuplicateParam|mimetree.BadField) != 0 {
		return outer{}, refuse(opOpen, hisp.Malformed, "the header is ambiguous: fields or parameters twice, or lines that are no fields", nil)
	}
	return outer{raw, top}, nil
}

// decrypt tries the keys of all recipients (row SM-18). Whatever goes wrong
// with the message is the same CannotDecrypt (security row S3).
func (a *Agent) decrypt(ctx context.Context, rcpts []hisp.Address, o outer) ([]byte, error) {
	var keys []cms.Key
	for _, rcpt := range rcpts {
		list, err := a.cfg.Keys.DecryptionKeys(ctx, rcpt)
		if err != nil {
			return nil, passOn(opOpen, err)
		}
		for _, k := range list {
			keys = addKey(keys, k)
		}
	}
	der, err := o.top.Decode(o.raw)
	if err != nil {
		return nil, cannotDecrypt()
	}
	if !o.top.Encoded() {
		der = append([]byte(nil), der...) // it shares the message, which must not change
	}
	plain, err := cms.DecryptInPlace(der, keys)
	if err != nil {
		return nil, cannotDecrypt()
	}
	return plain, nil
}

func cannotDecrypt() error {
	return refuse(opOpen, hisp.CannotDecrypt, "the message cannot be decrypted with any key of its recipients", nil)
}

func addKey(keys []cms.Key, k hisp.DecryptionKey) []cms.Key {
	if k.Cert == nil || k.Decrypter == nil {
		return keys
	}
	for _, have := range keys {
		if have.Cert.Equal(k.Cert) {
			return keys
		}
	}
	key := cms.Key{Cert: k.Cert, Decrypter: k.Decrypter}
	if x, ok := k.Decrypter.(ecdh.KeyExchanger); ok {
		key.Exchanger = x
	}
	return append(keys, key)
}

// verified is the content with the certificates whose signatures are good.
type verified struct {
	content []byte
	signers []*x509.Certificate
	pool    []*x509.Certificate // what the message brought along
}

// verify takes the signed entity apart and checks its signatures. At least
// one must be good (row SM-21); signers whose attributes contradict the
// content's kind refuse the message (security rows S4, S5).
func verify(plain []byte) (verified, error) {
	bad := func(hint string, err error) (verified, error) {
		return verified{}, refuse(opOpen, hisp.BadSignature, hint, err)
	}
	signed, err := smime.ParseSigned(plain)
	if errors.Is(err, smime.ErrNotSigned) {
		return verified{}, refuse(opOpen, hisp.Unprotected, "the message is encrypted but not signed as a whole", nil)
	}
	if err != nil {
		return bad("the structure of the signed message is ambiguous or broken", err)
	}
	data, err := cms.ParseSignedData(signed.CMS)
	if err != nil {
		return bad("the signature cannot be read", err)
	}
	results, err := data.Verify(signed.Content)
	if err != nil {
		return bad("the signature has no signer or does not belong to this content", err)
	}
	v := verified{content: signed.Content, pool: data.Certificates}
	if v.content == nil {
		v.content = data.Content
	}
	var last error
	for _, r := range results {
		switch {
		case errors.Is(r.Err, cms.ErrAttributes):
			return bad("a signer's signed attributes are missing or contradictory", r.Err)
		case r.Err != nil:
			last = r.Err
		default:
			v.signers = append(v.signers, r.Cert)
		}
	}
	if len(v.signers) == 0 {
		return bad(signatureHint(last), last)
	}
	return v, nil
}

func signatureHint(err error) string {
	switch {
	case errors.Is(err, cms.ErrDigest), errors.Is(err, cms.ErrAlgorithm):
		return "the signature algorithm is not accepted; sign with SHA-256"
	case errors.Is(err, cms.ErrWeakKey):
		return "the signer's key is too weak; use RSA of 2048 bits or more, or ECDSA"
	case errors.Is(err, cms.ErrCertificate):
		return "the signer's certificate is not in the message"
	case errors.Is(err, cms.ErrAltered):
		return "the message was altered after it was signed"
	}
	return "the signature does not verify"
}

// unwrap returns the message inside the signed content.
func (a *Agent) unwrap(o outer, content []byte) (smime.Message, error) {
	inner, err := smime.Unwrap(o.raw, o.top.Fields, content)
	if err != nil {
		return inner, refuse(opOpen, hisp.Malformed, "the signed content is ambiguous or broken", err)
	}
	if !inner.Wrapped && a.cfg.Unwrapped == RefuseUnwrapped {
		return inner, refuse(opOpen, hisp.Unprotected, "the header is not signed; wrap the message in message/rfc822", nil)
	}
	return inner, nil
}

// checkEnvelope compares the inner message with the envelope (rows BB-11,
// BB-12, BB-17) and with the outer header (rows SM-05, S8).
func checkEnvelope(env hisp.Envelope, o outer, inner smime.Message) (parties, error) {
	p, hint, ok := partiesOf(inner.Bytes)
	if !ok {
		return p, refuse(opOpen, hisp.Malformed, hint, nil)
	}
	switch {
	case env.From.IsZero() && !p.notice:
		hint = "the null sender is for MDNs and DSNs only"
	case !env.From.IsZero() && !env.From.Equal(p.from) && !env.From.Equal(p.sender):
		hint = "MAIL FROM is neither From nor Sender of the signed message"
	case missing(env.To, p.to):
		hint = "a recipient is not named in To or Cc of the signed message"
	case inner.Wrapped && !outerAgrees(o, env, p):
		hint = "From, To or Cc outside differ from those of the signed message"
	default:
		return p, nil
	}
	return p, refuse(opOpen, hisp.Tampered, hint, nil)
}

// outerAgrees compares From, and if To or Cc stand outside whether the
// recipients of the envelope do. Peers may leave fields out or rewrite
// Message-ID and Subject: only the inner ones count.
func outerAgrees(o outer, env hisp.Envelope, p parties) bool {
	from, ok := mailbox(o.raw, o.top.Fields, fieldFrom)
	if !ok || !from.IsZero() && !from.Equal(p.from) {
		return false
	}
	to, ok := recipients(o.raw, o.top.Fields)
	if !ok {
		return false
	}
	_, hasTo := o.top.Get(o.raw, fieldTo)
	_, hasCc := o.top.Get(o.raw, fieldCc)
	return hasTo+hasCc == 0 || !missing(env.To, to)
}

// decide finds a signer bound to From and asks for each recipient whether one
// is trusted (rows TR-01..TR-03, security row S6).
func (a *Agent) decide(ctx context.Context, rcpts []hisp.Address, p parties, v verified) (hisp.Opened, error) {
	out := hisp.Opened{From: p.from}
	signers, err := boundSigners(v.signers, p.from)
	if err != nil {
		return out, err
	}
	now := a.now()
	for _, rcpt := range rcpts {
		signer, err := a.trustedBy(ctx, rcpt, hisp.Incoming, signers, v.pool, now)
		trust := &out.Trusted
		if errors.Is(err, hisp.Untrusted) && p.notice && a.cfg.Notices == EitherAnchors {
			// One-way partners can still answer (row TR-05).
			signer, err = a.trustedBy(ctx, rcpt, hisp.Outgoing, signers, v.pool, now)
			trust = &out.NoticeOnly
		}
		switch {
		case errors.Is(err, hisp.Untrusted):
			out.Rejected = append(out.Rejected, hisp.Rejection{Recipient: rcpt, Err: err})
			continue
		case err != nil:
			return out, err
		}
		*trust = append(*trust, rcpt)
		if out.Signer == nil {
			out.Signer = signer
		}
	}
	if len(out.Trusted)+len(out.NoticeOnly) == 0 {
		if len(out.Rejected) == 0 {
			return out, refuse(opOpen, hisp.Malformed, "the envelope has no recipient", nil)
		}
		return out, out.Rejected[0].Err
	}
	return out, nil
}

// boundSigners returns the signers who may sign for from: by subjectAltName
// and key usage (rows CRT-02..CRT-05, CRT-07).
func boundSigners(signers []*x509.Certificate, from hisp.Address) ([]*x509.Certificate, error) {
	var (
		bound []*x509.Certificate
		cause error
	)
	for _, cert := range signers {
		if trust.Bound(cert, from) == trust.None {
			continue
		}
		if cause = trust.CheckUsage(cert, trust.Sign); cause == nil {
			bound = append(bound, cert)
		}
	}
	switch {
	case len(bound) > 0:
		return bound, nil
	case cause != nil:
		return nil, refuse(opOpen, hisp.Untrusted, hisp.HintOf(cause), cause)
	}
	return nil, refuse(opOpen, hisp.Untrusted, "no signer's certificate is bound to the address in From or its domain", nil)
}

// trustedBy returns a signer with a path to the anchors of rcpt for one
// direction; Untrusted if there is none.
func (a *Agent) trustedBy(ctx context.Context, rcpt hisp.Address, dir hisp.Direction, signers, pool []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	anchors, err := a.cfg.Trust.Anchors(ctx, rcpt, dir)
	if err != nil {
		return nil, passOn(opOpen, err)
	}
	return a.trusted(signers, pool, anchors, now)
}

// trusted returns the first signer with a path to one of anchors, or why the
// last one has none.
func (a *Agent) trusted(signers, pool, anchors []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	var last error
	for _, cert := range signers {
		if _, last = a.cfg.Verifier.Path(cert, pool, anchors, now); last == nil {
			return cert, nil
		}
	}
	return nil, refuse(opOpen, hisp.Untrusted, hisp.HintOf(last), last)
}
