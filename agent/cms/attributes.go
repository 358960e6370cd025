package cms

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"slices"
	"time"
)

// attributes are the signed attributes we look at (RFC 5652 §11).
type attributes struct {
	contentType []byte
	digest      []byte
	signingTime time.Time
	protection  reader // content of CMSAlgorithmProtection; nil when absent
}

// signedAttributes reads signedAttrs. RFC 5652 makes them optional when the
// content is id-data; without them the signed octets of one message verify as
// the content of another (eprint 2023/1801), so they are demanded here. Each
// attribute may appear once, with one value where we look at it.
func signedAttributes(p piece) (a attributes, ok bool) {
	if p.tag == 0 || len(p.raw) > maxAttributeSize {
		return a, false
	}
	var seen []oid
	for r := p.content; len(r) > 0; {
		body, ok := r.take(tagSequence)
		if !ok {
			return a, false
		}
		id, ok := body.take(tagOID)
		if !ok {
			return a, false
		}
		values, ok := body.only(tagSet)
		if !ok || slices.Contains(seen, oid(id)) || len(seen) == maxAttributes {
			return a, false
		}
		seen = append(seen, oid(id))
		if !a.set(oid(id), values) {
			return a, false
		}
	}
	return a, a.contentType != nil && a.digest != nil
}

// set keeps the one value of an attribute we know.
func (a *attributes) set(id oid, values reader) (ok bool) {
	switch id {
	case oidContentType:
		a.contentType, ok = values.only(tagOID)
	case oidMessageDigest:
		a.digest, ok = values.only(tagOctetString)
	case oidSigningTime:
		// Nothing is decided by it: a form nobody can read is no reason to
		// lose the message, a second value is.
		a.signingTime, ok = readTime(values)
	case oidAlgorithmProtection:
		a.protection, ok = values.only(tagSequence)
	default:
		ok = true
	}
	return ok
}

// fits reports whether the attributes agree with their SignerInfo: content
// type id-data (§11.1), and the algorithms if they are protected (RFC 6211 §2).
func (a attributes) fits(s *SignerInfo) bool {
	if oid(a.contentType) != oidData {
		return false
	}
	if a.protection == nil {
		return true
	}
	r := a.protection
	digest, ok := r.algorithm(tagSequence)
	if !ok || !digest.same(s.digest) {
		return false
	}
	signature, ok := r.algorithm(tagContext | constructed | 1)
	return ok && len(r) == 0 && signature.same(s.signature)
}

// readTime reads the one Time in values (RFC 5652 §11.3), zero when its text
// is not in the form the standard wants.
func readTime(values reader) (time.Time, bool) {
	p, ok := values.next()
	if !ok || len(values) > 0 || p.tag != tagUTCTime && p.tag != tagGenTime {
		return time.Time{}, false
	}
	var t time.Time
	if _, err := asn1.Unmarshal(p.raw, &t); err != nil {
		return time.Time{}, true
	}
	return t.UTC(), true
}

// timeDER writes a Time: UTCTime through 2049, GeneralizedTime after.
func timeDER(t time.Time) []byte {
	t = t.UTC()
	if y := t.Year(); y >= 1950 && y < 2050 {
		return element(tagUTCTime, []byte(t.Format("060102150405Z")))
	}
	return element(tagGenTime, []byte(t.Format("20060102150405Z")))
}

// attributesDER is the SET OF signed attributes of a new signature.
func attributesDER(content []byte, digest, signature []byte, at time.Time) []byte {
	attribute := func(id oid, value []byte) []byte {
		return element(tagSequence, id.der(), element(tagSet, value))
	}
	implicit := bytes.Clone(signature)
	implicit[0] = tagContext | constructed | 1
	items := [][]byte{
		attribute(oidContentType, oidData.der()),
		attribute(oidMessageDigest, element(tagOctetString, content)),
		attribute(oidSigningTime, timeDER(at)),
		attribute(oidAlgorithmProtection, element(tagSequence, digest, implicit)),
	}
	slices.SortFunc(items, bytes.Compare)
	return element(tagSet, items...)
}

// digestOID names a digest for the SignedData we make.
func digestOID(h crypto.Hash) oid {
	switch h {
	case crypto.SHA256:
		return oidSHA256
	case crypto.SHA384:
		return oidSHA384
	case crypto.SHA512:
		return oidSHA512
	}
	return ""
}
