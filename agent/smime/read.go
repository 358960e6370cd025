package smime

import (
	"bytes"
	"strings"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// ambiguous are the defects that could make another reader see another
// structure or sender than we do (security row M3).
const ambiguous = mimetree.DuplicateField | mimetree.DuplicateParam | mimetree.BadType | mimetree.BadField |
	mimetree.BareLF | mimetree.NoBoundary | mimetree.Unclosed | mimetree.BadEncoding

// Signed is a signed entity taken apart.
type Signed struct {
	CMS     []byte // SignedData, BER
	Content []byte // the octets that were signed; nil when they are inside CMS
}

// ParseSigned takes apart a multipart/signed of exactly two parts, or an
// application/pkcs7-mime whose CMS is to be a SignedData. The signature covers
// the whole entity: what is a part of something larger is ErrNotSigned
// (security rows S2, S7). It shares memory with entity.
func ParseSigned(entity []byte) (Signed, error) {
	top, err := mimetree.Parse(entity)
	if err != nil {
		return Signed{}, ErrStructure
	}
	switch top.MediaType {
	case typeSigned:
		return clearSigned(entity, top)
	case typeCMS, typeOldCMS:
		if top.Protection(entity) != mimetree.Signed {
			return Signed{}, ErrNotSigned
		}
		if top.Defects&ambiguous != 0 {
			return Signed{}, ErrStructure
		}
		der, err := top.Decode(entity)
		if err != nil {
			return Signed{}, ErrStructure
		}
		return Signed{CMS: der}, nil
	}
	return Signed{}, ErrNotSigned
}

func clearSigned(entity []byte, top *mimetree.Part) (Signed, error) {
	// RFC 1847 §2.1: protocol must be that of the second part. Its absence is
	// common enough to pass.
	protocol := strings.ToLower(top.Params["protocol"])
	if protocol != "" && !isSignature(protocol) {
		return Signed{}, ErrNotSigned
	}
	if top.Defects&ambiguous != 0 || len(top.Parts) != 2 {
		return Signed{}, ErrStructure
	}
	content, signature := top.Parts[0], top.Parts[1]
	if !isSignature(signature.MediaType) || (content.Defects|signature.Defects)&(ambiguous&^inside) != 0 {
		return Signed{}, ErrStructure
	}
	der, err := signature.Decode(entity)
	if err != nil || len(der) == 0 {
		return Signed{}, ErrStructure
	}
	return Signed{CMS: der, Content: content.Of(entity)}, nil
}

// inside are the defects that concern the content below a part; a signed
// message may be a broken multipart and is delivered as it is.
const inside = mimetree.NoBoundary | mimetree.Unclosed | mimetree.BadEncoding

func isSignature(mediaType string) bool {
	return mediaType == typeSignature || mediaType == typeOldSignature
}

// Message is the message inside a verified entity.
type Message struct {
	Bytes   []byte // header, empty line, body
	Wrapped bool   // it was in a message/rfc822, header included
}

// Unwrap returns the message in content, the signed octets. A message/rfc822,
// with parameters or a content-transfer-encoding if need be, holds all of it
// and shares memory with content. Otherwise the signed entity takes the header
// fields of the outer message, except those it has itself and those that
// describe the encrypted body (Direct AS §2, unwrapped form). ErrStructure
// means that two readers could see two messages.
func Unwrap(outer []byte, outerFields []mimetree.Field, content []byte) (Message, error) {
	entity, err := parseTop(content)
	if err != nil {
		return Message{}, err
	}
	m := Message{Wrapped: entity.MediaType == typeMessage || entity.MediaType == typeGlobal}
	if m.Wrapped {
		body, err := entity.Decode(content)
		if err != nil {
			return Message{}, ErrStructure
		}
		m.Bytes = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	} else {
		m.Bytes = merge(outer, outerFields, content, entity)
	}
	return m, nil
}

// ParseMessage reads the structure of a message that is to be trusted with
// who it is from: ErrStructure if its header is ambiguous, if it is not ended
// by an empty line, or if a CR or LF stands alone anywhere (security row T2).
func ParseMessage(msg []byte) (*mimetree.Part, error) {
	top, err := parseTop(msg)
	if err != nil || top.Defects&mimetree.NoBody != 0 || !crlfOnly(msg) {
		return nil, ErrStructure
	}
	return top, nil
}

func parseTop(b []byte) (*mimetree.Part, error) {
	top, err := mimetree.Parse(b)
	if err != nil || top.Defects&(ambiguous&^inside) != 0 {
		return nil, ErrStructure
	}
	return top, nil
}

func merge(outer []byte, fields []mimetree.Field, content []byte, entity *mimetree.Part) []byte {
	var kept []mimetree.Field
	size := len(content)
	for _, f := range fields {
		_, own := entity.Get(content, f.Name)
		if own == 0 && f.Name != "" && !hasPrefixFold(f.Name, "Content-") {
			kept = append(kept, f)
			size += f.Raw.Len()
		}
	}
	out := make([]byte, 0, size)
	for _, f := range kept {
		out = append(out, f.Raw.Of(outer)...)
	}
	return append(out, content...)
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
