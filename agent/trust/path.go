package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// Config bounds the work of one Path. Zero fields get their defaults.
type Config struct {
	Depth      int // certificates in a chain with both ends; default 8
	Pool       int // certificates in the pool; default 256
	Signatures int // signature checks; default 100
	Cache      int // remembered signature checks over all calls; default 4096
}

// Bounds of one Path that need no configuration (security rows S10, S11).
const (
	maxSteps       = 1000    // issuer candidates looked at
	maxComparisons = 50_000  // names against name constraints
	maxCertificate = 1 << 16 // octets of one certificate
	maxRefusals    = 32      // listed in an Error
)

// Verifier builds paths. It is safe for concurrent use.
type Verifier struct {
	cfg   Config
	cache *signatureCache
}

// New returns a Verifier with the bounds of cfg.
func New(cfg Config) *Verifier {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&cfg.Depth, 8)
	def(&cfg.Pool, 256)
	def(&cfg.Signatures, 100)
	def(&cfg.Cache, 4096)
	return &Verifier{cfg: cfg, cache: newSignatureCache(cfg.Cache)}
}

// Path finds a chain from leaf, an end entity, through certificates of pool to
// one of anchors (conformance rows CRT-06, CRT-08, CRT-09, CRT-12). The chain
// begins with leaf and ends with the anchor; it is leaf alone when leaf itself
// is an anchor. Every certificate of it, the anchor included, is valid at the
// time at. Neither the order of pool nor that of anchors changes the result.
//
// No path is Untrusted with an *Error inside; a nil leaf is Malformed.
func (v *Verifier) Path(leaf *x509.Certificate, pool, anchors []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	if leaf == nil {
		return nil, &hisp.Error{Op: "trust.Path", Kind: hisp.Malformed, Hint: "there is no certificate"}
	}
	s := &search{Verifier: v, at: at, pool: pool, anchors: anchors, nodes: map[*x509.Certificate]*node{}}
	first := s.node(leaf, containsCert(anchors, leaf))
	if reason := s.leafProblem(first); reason != "" {
		s.refuse(first, 0, reason)
	} else if len(pool) > v.cfg.Pool {
		s.refuse(first, 0, TooComplex)
	} else {
		s.chain = append(s.chain, first)
		if first.anchor || s.extend() {
			return s.certificates(), nil
		}
	}
	if s.exhausted {
		s.refusals = append([]Refusal{{Cert: leaf, Reason: TooComplex}}, s.refusals...)
	}
	return nil, untrusted("trust.Path", s.refusals)
}

// search is the state of one Path: a depth-first search in which chain is the
// path so far.
type search struct {
	*Verifier
	at            time.Time
	pool, anchors []*x509.Certificate
	nodes         map[*x509.Certificate]*node
	chain         []*node
	refusals      []Refusal
	steps         int
	signatures    int
	comparisons   int
	exhausted     bool // a bound was reached: the search ends without result
}

// node is a certificate with what the search has found out about it.
type node struct {
	*x509.Certificate
	print       [sha256.Size]byte
	keyPrint    [sha256.Size]byte // of the SubjectPublicKeyInfo
	anchor      bool
	selfIssued  bool
	names       *names
	constraints *constraints
	parsed      bool
	malformed   bool
}

func (s *search) node(cert *x509.Certificate, anchor bool) *node {
	n, ok := s.nodes[cert]
	if !ok {
		n = &node{
			Certificate: cert,
			print:       fingerprint(cert),
			keyPrint:    sha256.Sum256(cert.RawSubjectPublicKeyInfo),
			selfIssued:  bytes.Equal(cert.RawSubject, cert.RawIssuer),
		}
		s.nodes[cert] = n
	}
	n.anchor = n.anchor || anchor
	return n
}

// parse reads names and constraints once; false if they are malformed.
func (n *node) parse() bool {
	if !n.parsed {
		n.parsed = true
		var errNames, errConstraints error
		n.names, errNames = namesOf(n.Certificate)
		n.constraints, errConstraints = constraintsOf(n.Certificate)
		n.malformed = errNames != nil || errConstraints != nil
	}
	return !n.malformed
}

// extend tries the candidates for the issuer of the last certificate; true
// when the chain has reached an anchor.
func (s *search) extend() bool {
	subject, depth := s.chain[len(s.chain)-1], len(s.chain)
	candidates := s.issuers(subject)
	if len(candidates) == 0 {
		s.refuse(subject, depth-1, NoPath)
	}
	for _, c := range candidates {
		if s.steps++; s.steps > maxSteps {
			s.exhausted = true
		}
		if s.exhausted {
			return false
		}
		if reason := s.issuerProblem(c, subject); reason != "" {
			s.refuse(c, depth, reason)
			continue
		}
		s.chain = append(s.chain, c)
		if c.anchor || s.extend() {
			return true
		}
		s.chain = s.chain[:depth]
	}
	return false
}

// issuers returns the certificates named as the issuer of n that are not in
// the chain yet: anchors first, then those whose key identifier fits, then
// those that are valid longest.
func (s *search) issuers(n *node) []*node {
	var list []*node
	add := func(certs []*x509.Certificate, anchor bool) {
		for _, c := range certs {
			if c != nil && bytes.Equal(c.RawSubject, n.RawIssuer) && !s.inChain(c) {
				list = append(list, s.node(c, anchor))
			}
		}
	}
	add(s.anchors, true)
	add(s.pool, false)
	if len(list) < 2 {
		return list
	}
	for _, c := range list { // the same bytes may be in both lists as two values
		c.anchor = c.anchor || slices.ContainsFunc(list, func(o *node) bool { return o.anchor && o.print == c.print })
	}
	slices.SortFunc(list, func(a, b *node) int { return compareIssuers(n, a, b) })
	return slices.CompactFunc(list, func(a, b *node) bool { return a.print == b.print })
}

func compareIssuers(subject, a, b *node) int {
	rank := func(c *node) int {
		switch {
		case c.anchor:
			return 0
		case len(subject.AuthorityKeyId) > 0 && bytes.Equal(subject.AuthorityKeyId, c.SubjectKeyId):
			return 1
		}
		return 2
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	if d := b.NotAfter.Compare(a.NotAfter); d != 0 {
		return d
	}
	return bytes.Compare(a.print[:], b.print[:])
}

// inChain tells whether the chain has the same name with the same key already:
// going through it again leads nowhere new (RFC 4158 §2.4.2).
func (s *search) inChain(c *x509.Certificate) bool {
	return slices.ContainsFunc(s.chain, func(n *node) bool {
		return bytes.Equal(n.RawSubject, c.RawSubject) && bytes.Equal(n.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
	})
}

func (s *search) refuse(n *node, depth int, r Reason) {
	if len(s.refusals) < maxRefusals {
		s.refusals = append(s.refusals, Refusal{Cert: n.Certificate, Depth: depth, Reason: r})
	}
}

func (s *search) certificates() []*x509.Certificate {
	out := make([]*x509.Certificate, len(s.chain))
	for i, n := range s.chain {
		out[i] = n.Certificate
	}
	return out
}

func containsCert(list []*x509.Certificate, cert *x509.Certificate) bool {
	return slices.ContainsFunc(list, func(c *x509.Certificate) bool { return c != nil && bytes.Equal(c.Raw, cert.Raw) })
}

func fingerprint(cert *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(cert.Raw) }
