package cms

// headerLen is the size of identifier and length octets in DER.
func headerLen(length int) int {
	n := 2
	if length >= 0x80 {
		for l := length; l > 0; l >>= 8 {
			n++
		}
	}
	return n
}

// elementLen is the size of a whole element in DER.
func elementLen(length int) int { return headerLen(length) + length }

func appendHeader(dst []byte, tag byte, length int) []byte {
	dst = append(dst, tag)
	if length < 0x80 {
		return append(dst, byte(length))
	}
	n := headerLen(length) - 2
	dst = append(dst, 0x80|byte(n))
	for ; n > 0; n-- {
		dst = append(dst, byte(length>>(8*(n-1))))
	}
	return dst
}

// appendElement appends one element whose content is the parts in order.
func appendElement(dst []byte, tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	dst = appendHeader(dst, tag, n)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// element returns appendElement in new memory.
func element(tag byte, parts ...[]byte) []byte { return appendElement(nil, tag, parts...) }

func (o oid) der() []byte { return element(tagOID, []byte(o)) }

// algorithmDER is an AlgorithmIdentifier; params is a whole element or nothing.
func algorithmDER(o oid, params []byte) []byte { return element(tagSequence, o.der(), params) }

// reader is a run of DER elements, read from the front. It is used on
// normalised octets only.
type reader []byte

// piece is one element.
type piece struct {
	tag     byte
	raw     []byte // with header
	content reader
}

// next takes one element of any tag.
func (r *reader) next() (piece, bool) {
	b := []byte(*r)
	h, err := readHeader(b, 0)
	if err != nil || h.length < 0 || !h.minimal {
		return piece{}, false
	}
	end := h.content + h.length
	*r = b[end:]
	return piece{h.tag, b[:end:end], b[h.content:end:end]}, true
}

// take takes one element of the given tag and returns its content.
func (r *reader) take(tag byte) (reader, bool) {
	if r.peek() != tag {
		return nil, false
	}
	p, ok := r.next()
	return p.content, ok
}

// only returns the content of the one element in r.
func (r reader) only(tag byte) (reader, bool) {
	content, ok := r.take(tag)
	return content, ok && len(r) == 0
}

// option takes one element of the tag if it is next.
func (r *reader) option(tag byte) (content reader, present, ok bool) {
	if r.peek() != tag {
		return nil, false, true
	}
	content, ok = r.take(tag)
	return content, true, ok
}

// peek returns the tag of the next element, 0 at the end.
func (r reader) peek() byte {
	if len(r) == 0 {
		return 0
	}
	return r[0]
}

// small takes a non-negative INTEGER below 2^31.
func (r *reader) small() (int, bool) {
	c, ok := r.take(tagInteger)
	if !ok || len(c) == 0 || len(c) > 4 || c[0] >= 0x80 {
		return 0, false
	}
	n := 0
	for _, b := range c {
		n = n<<8 | int(b)
	}
	return n, true
}

// algorithm is an AlgorithmIdentifier (RFC 5280 §4.1.1.2).
type algorithm struct {
	id     oid
	params piece  // tag 0 when absent
	raw    []byte // with header
}

// algorithm takes a SEQUENCE, or the same under an IMPLICIT tag.
func (r *reader) algorithm(tag byte) (algorithm, bool) {
	if r.peek() != tag {
		return algorithm{}, false
	}
	p, ok := r.next()
	if !ok {
		return algorithm{}, false
	}
	a := algorithm{raw: p.raw}
	id, ok := p.content.take(tagOID)
	if !ok {
		return algorithm{}, false
	}
	a.id = oid(id)
	if len(p.content) > 0 {
		if a.params, ok = p.content.next(); !ok || len(p.content) > 0 {
			return algorithm{}, false
		}
	}
	return a, true
}

// noParams reports whether the parameters are absent or NULL, which RFC 5754
// §2 asks receivers to treat alike.
func (a algorithm) noParams() bool {
	return a.params.tag == 0 || a.params.tag == tagNull && len(a.params.content) == 0
}

// same compares two AlgorithmIdentifiers, NULL parameters being as good as none.
func (a algorithm) same(b algorithm) bool {
	if a.id != b.id || a.noParams() != b.noParams() {
		return false
	}
	return a.noParams() || string(a.params.raw) == string(b.params.raw)
}

// contentInfo normalises a message and opens its ContentInfo (RFC 5652 §3).
func contentInfo(ber []byte) (id oid, content reader, owned bool, err error) {
	der, owned, err := normalise(ber)
	if err != nil {
		return "", nil, false, err
	}
	body, ok := reader(der).only(tagSequence)
	if !ok {
		return "", nil, false, ErrMalformed
	}
	o, ok := body.take(tagOID)
	if !ok {
		return "", nil, false, ErrMalformed
	}
	explicit, ok := body.only(tagContext | constructed)
	if !ok {
		return "", nil, false, ErrMalformed
	}
	content, ok = explicit.only(tagSequence)
	if !ok {
		return "", nil, false, ErrMalformed
	}
	return oid(o), content, owned, nil
}
