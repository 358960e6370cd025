package trust

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
)

// Extensions that the search processes when they are critical, RFC 5280
// §4.2.1 and §4.2.2. Certificate policies, mappings and inhibitAnyPolicy have
// an effect only under requireExplicitPolicy, see explicitPolicy.
var understood = []asn1.ObjectIdentifier{
	oidKeyUsage,
	oidSubjectAltName,
	{2, 5, 29, 19}, // basicConstraints
	oidNameConstraints,
	{2, 5, 29, 32}, // certificatePolicies
	{2, 5, 29, 33}, // policyMappings
	{2, 5, 29, 36}, // policyConstraints
	{2, 5, 29, 37}, // extKeyUsage
	{2, 5, 29, 54}, // inhibitAnyPolicy
}

// leafProblem checks an end entity by itself.
func (s *search) leafProblem(n *node) Reason {
	if n.IsCA || n.KeyUsage&x509.KeyUsageCertSign != 0 {
		return CAAsLeaf
	}
	return s.problem(n)
}

// issuerProblem checks a candidate for the issuer of the last certificate of
// the chain, what costs least first.
func (s *search) issuerProblem(c, subject *node) Reason {
	depth := len(s.chain)
	switch {
	case depth >= s.cfg.Depth:
		return TooComplex
	case !c.BasicConstraintsValid || !c.IsCA: // RFC 5280 §6.1.4 (k); row CRT-09
		return NotCA
	case c.KeyUsage&x509.KeyUsageCertSign == 0 && (hasKeyUsage(c.Certificate) || !c.anchor):
		// RFC 5280 §6.1.4 (n). A CA must have the extension (§4.2.1.3); old
		// roots that an operator configured as anchors have not.
		return KeyUsage
	}
	if reason := s.problem(c); reason != "" {
		return reason
	}
	if c.MaxPathLen >= 0 && s.intermediates() > c.MaxPathLen { // RFC 5280 §4.2.1.9
		return PathLength
	}
	if reason := s.constraintProblem(c); reason != "" {
		return reason
	}
	return s.signatureProblem(c, subject)
}

// problem checks what holds for every certificate of a path.
func (s *search) problem(n *node) Reason {
	switch {
	case len(n.Raw) > maxCertificate:
		return TooComplex
	case s.at.Before(n.NotBefore):
		return NotYetValid
	case s.at.After(n.NotAfter) && n.anchor:
		return AnchorExpired
	case s.at.After(n.NotAfter):
		return Expired
	case n.SerialNumber == nil || n.SerialNumber.Sign() <= 0: // RFC 5280 §4.1.2.2
		return BadSerial
	case weakKey(n.Certificate):
		return WeakKey
	case !n.anchor && !strongSignature(n.SignatureAlgorithm):
		return WeakSignature
	case !forMail(n.Certificate):
		return ExtKeyUsage
	case criticalUnknown(n.Certificate), explicitPolicy(n), !n.parse():
		return CriticalExtension
	}
	return ""
}

// forMail tells whether extended key usage, if there is any, allows e-mail
// protection (RFC 8550 §4.4.4). In a CA it limits what is below.
func forMail(cert *x509.Certificate) bool {
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageEmailProtection) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// criticalUnknown finds a critical extension that is not processed (RFC 5280
// §4.2).
func criticalUnknown(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Critical && !slices.ContainsFunc(understood, e.Id.Equal) {
			return true
		}
	}
	return false
}

// explicitPolicy tells whether a certificate demands an explicit policy. That
// needs the policy processing of RFC 5280 §6.1, which is not done here, so it
// is as good as a critical extension not understood. In an anchor it has no
// effect: RFC 5280 §6.1.1 takes only name and key from there.
func explicitPolicy(n *node) bool {
	return !n.anchor && (n.RequireExplicitPolicyZero || n.RequireExplicitPolicy > 0)
}

// intermediates counts the certificates between the end entity and the next
// issuer that are not self-issued.
func (s *search) intermediates() int {
	count := 0
	for _, n := range s.chain[1:] {
		if !n.selfIssued {
			count++
		}
	}
	return count
}

// signatureProblem checks that c signed subject, from memory if it was seen
// before. Only successes are remembered.
func (s *search) signatureProblem(c, subject *node) Reason {
	key := signatureKey{key: c.keyPrint, subject: subject.print}
	if s.cache.has(key) {
		return ""
	}
	if s.signatures++; s.signatures > s.cfg.Signatures {
		s.exhausted = true
		return TooComplex
	}
	public, pssOnly := publicKey(c.Certificate)
	issuer := x509.Certificate{PublicKey: public}
	if pssOnly && !isPSS(subject.SignatureAlgorithm) ||
		issuer.CheckSignature(subject.SignatureAlgorithm, subject.RawTBSCertificate, subject.Signature) != nil {
		return BadSignature
	}
	s.cache.add(key)
	return ""
}
