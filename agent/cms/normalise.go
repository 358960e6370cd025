package cms

import "slices"

// Limits of the normaliser. They are far above what a real message needs and
// keep the worst input linear in time and small in memory.
const (
	maxOctets   = 128 << 20 // of one message; ours are at most 50 MB with base64 removed
	maxDepth    = 64        // of nesting; real messages stay below 20
	maxElements = 1 << 18   // BER elements; 26 MB in 1,000 octet chunks are 27,000
)

// Identifier octets, X.690 §8.1.2.
const (
	tagBoolean     = 0x01
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagUTCTime     = 0x17
	tagGenTime     = 0x18
	tagSequence    = 0x30
	tagSet         = 0x31
	tagContext     = 0x80 // context specific, primitive
	constructed    = 0x20
)

// normalise returns ber as DER: definite lengths of minimal size, constructed
// OCTET STRINGs joined, the [0] IMPLICIT ciphertext of an EncryptedContentInfo
// too. Input that already has this form is returned as it is; otherwise the
// result is new memory and owned is true. Values of primitives and the order
// of SETs stay untouched, so that signed octets keep their meaning.
//
// It never recurses, looks at each octet at most twice and refuses trailing
// data.
func normalise(ber []byte) (der []byte, owned bool, err error) {
	if len(ber) > maxOctets {
		return nil, false, ErrTooComplex
	}
	w := walker{in: ber}
	if err := w.walk(); err != nil {
		return nil, false, err
	}
	if !w.changed {
		return ber, false, nil
	}
	w = walker{in: ber, record: true}
	if err := w.walk(); err != nil {
		return nil, false, err
	}
	return w.emit(), true, nil
}

// frame is one open constructed element.
type frame struct {
	end      int     // offset behind the content; -1 while indefinite
	contents int     // octets of content in the output so far
	segment  int     // index of its header segment
	children int     // elements seen inside
	kinds    [2]byte // identifier octets of the first two children
	tag      byte
	joined   bool // a string whose pieces are joined; its pieces have no headers
	piece    bool // a constructed piece inside such a string
}

// segment is a range of the input to copy, or a header to write anew.
type segment struct {
	start, end int32 // range of the input, for a copy
	length     int32 // of the content, for a header
	tag        byte  // identifier octet of a header; 0 for a copy
}

// walker goes once over the elements. Without record it only finds out
// whether anything has to change and stops at the first such thing.
type walker struct {
	in       []byte
	pos      int
	stack    [maxDepth]frame
	depth    int
	elements int
	segments []segment
	total    int // octets of output
	record   bool
	changed  bool
}

func (w *walker) walk() error {
	for {
		if err := w.element(); err != nil {
			return err
		}
		if w.changed && !w.record {
			return nil
		}
		if err := w.closeDefinite(); err != nil {
			return err
		}
		if w.depth == 0 {
			break
		}
	}
	if w.pos != len(w.in) {
		return ErrMalformed // trailing data
	}
	return nil
}

// element reads the next header and either skips a primitive, opens a
// constructed element or closes an indefinite one.
func (w *walker) element() error {
	if w.elements++; w.elements > maxElements {
		return ErrTooComplex
	}
	h, err := readHeader(w.in[:w.limit()], w.pos)
	if err != nil {
		return err
	}
	if h.tag == 0 {
		return w.endOfContents(h)
	}
	if h.tag&constructed == 0 {
		return w.primitive(h)
	}
	return w.open(h)
}

// limit is the end of the innermost definite element, or of the input.
func (w *walker) limit() int {
	for i := w.depth - 1; i >= 0; i-- {
		if w.stack[i].end >= 0 {
			return w.stack[i].end
		}
	}
	return len(w.in)
}

func (w *walker) endOfContents(h header) error {
	if w.depth == 0 || w.stack[w.depth-1].end >= 0 || h.length != 0 || !h.minimal {
		return ErrMalformed
	}
	w.pos = h.content
	return w.close()
}

func (w *walker) primitive(h header) error {
	if h.length < 0 {
		return ErrMalformed // X.690 §8.1.3.2: a primitive is definite
	}
	end := h.content + h.length
	if w.depth > 0 {
		top := &w.stack[w.depth-1]
		top.child(h.tag)
		if top.joined {
			if h.tag != tagOctetString {
				return ErrMalformed
			}
			w.copy(h.content, end)
			w.pos = end
			return nil
		}
	}
	if h.minimal {
		w.copy(w.pos, end)
	} else {
		w.changed = true
		w.header(h.tag, h.length)
		w.copy(h.content, end)
	}
	w.pos = end
	return nil
}

func (w *walker) open(h header) error {
	if w.depth == maxDepth {
		return ErrTooComplex
	}
	f := frame{end: -1, tag: h.tag}
	if h.length >= 0 {
		f.end = h.content + h.length
	}
	if w.depth > 0 {
		top := &w.stack[w.depth-1]
		f.piece = top.joined
		f.joined = top.joined || w.ciphertext(h.tag)
		top.child(h.tag)
	}
	switch {
	case f.piece && h.tag != tagOctetString|constructed:
		return ErrMalformed
	case h.tag == tagOctetString|constructed:
		f.joined = true
	case h.tag < tagContext>>1 && h.tag != tagSequence && h.tag != tagSet:
		// Other universal types: only strings may be constructed, and no
		// field of CMS that we read is one.
		return ErrMalformed
	}
	if f.joined {
		f.tag &^= constructed
	}
	if f.joined || h.length < 0 || !h.minimal {
		w.changed = true
	}
	if !f.piece {
		f.segment = len(w.segments)
		w.add(segment{tag: f.tag})
	}
	w.stack[w.depth] = f
	w.depth++
	w.pos = h.content
	return nil
}

// ciphertext reports whether a child with this tag is the encryptedContent
// [0] IMPLICIT OCTET STRING of an EncryptedContentInfo: the third of a
// SEQUENCE behind an OBJECT IDENTIFIER and a SEQUENCE, in ContentInfo, [0]
// and EnvelopedData or AuthEnvelopedData (RFC 5652 §6.1, RFC 5083 §2.1). An
// encapsulated [0] EXPLICIT is the second child and stays.
func (w *walker) ciphertext(tag byte) bool {
	if tag != tagContext|constructed || w.depth != 4 {
		return false
	}
	top := &w.stack[3]
	return top.tag == tagSequence && top.children == 2 && top.kinds == [2]byte{tagOID, tagSequence}
}

func (f *frame) child(tag byte) {
	if f.children < len(f.kinds) {
		f.kinds[f.children] = tag
	}
	f.children++
}

// closeDefinite closes every definite element that ends here.
func (w *walker) closeDefinite() error {
	for w.depth > 0 && w.stack[w.depth-1].end == w.pos {
		if err := w.close(); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) close() error {
	w.depth--
	f := &w.stack[w.depth]
	grown := f.contents
	if !f.piece {
		grown += headerLen(f.contents)
		if w.record {
			w.segments[f.segment].length = int32(f.contents)
		}
	}
	w.grow(grown)
	return nil
}

// grow adds n octets of output to the enclosing element.
func (w *walker) grow(n int) {
	if w.depth > 0 {
		w.stack[w.depth-1].contents += n
	} else {
		w.total += n
	}
}

func (w *walker) header(tag byte, length int) {
	w.grow(headerLen(length))
	w.add(segment{tag: tag, length: int32(length)})
}

// add doubles the room when it is full: append grows large slices by a
// quarter only, which sums up to five times the result.
func (w *walker) add(s segment) {
	if !w.record {
		return
	}
	if len(w.segments) == cap(w.segments) {
		w.segments = slices.Grow(w.segments, max(64, len(w.segments)))
	}
	w.segments = append(w.segments, s)
}

func (w *walker) copy(start, end int) {
	w.grow(end - start)
	if !w.record {
		return
	}
	if n := len(w.segments); n > 0 && w.segments[n-1].tag == 0 && int(w.segments[n-1].end) == start {
		w.segments[n-1].end = int32(end)
		return
	}
	w.add(segment{start: int32(start), end: int32(end)})
}

func (w *walker) emit() []byte {
	out := make([]byte, 0, w.total)
	for _, s := range w.segments {
		if s.tag != 0 {
			out = appendHeader(out, s.tag, int(s.length))
		} else {
			out = append(out, w.in[s.start:s.end]...)
		}
	}
	return out
}

// header is one parsed identifier and length.
type header struct {
	content int // offset of the content
	length  int // of the content; -1 when indefinite
	tag     byte
	minimal bool // the length is in its DER form
}

// readHeader reads the header at pos and checks that a definite content fits
// into in.
func readHeader(in []byte, pos int) (header, error) {
	if len(in)-pos < 2 {
		return header{}, ErrMalformed
	}
	h := header{tag: in[pos], content: pos + 2, minimal: true}
	if h.tag&0x1f == 0x1f {
		return header{}, ErrMalformed // no tag above 30 in anything we read
	}
	switch first := in[pos+1]; {
	case first < 0x80:
		h.length = int(first)
	case first == 0x80:
		h.length = -1
		return h, nil
	default:
		n := int(first & 0x7f)
		if n > 8 || len(in)-h.content < n {
			return header{}, ErrMalformed
		}
		for _, b := range in[h.content : h.content+n] {
			if h.length > maxOctets {
				return header{}, ErrMalformed
			}
			h.length = h.length<<8 | int(b)
		}
		h.content += n
		h.minimal = headerLen(h.length) == 2+n
	}
	if h.length > len(in)-h.content {
		return header{}, ErrMalformed
	}
	return h, nil
}
