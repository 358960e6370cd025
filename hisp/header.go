package hisp

import "github.com/hispnode/hisp/hisp/mimetree"

// Header field names the node itself reads or writes, RFC 5322 §3.6 and
// RFC 2045.
const (
	fieldFrom        = "From"
	fieldSender      = "Sender"
	fieldTo          = "To"
	fieldCc          = "Cc"
	fieldBcc         = "Bcc"
	fieldDate        = "Date"
	fieldSubject     = "Subject"
	fieldMessageID   = "Message-ID"
	fieldContentType = "Content-Type"
)

// typeMultipart begins every multipart type, RFC 2046 §5.1.
const typeMultipart = "multipart/"

// maxKeptHeader bounds the original header kept for a failure notice, octets.
const maxKeptHeader = 8 << 10

// header is the header of one message as the node needs it.
type header struct {
	raw    []byte // with the empty line
	fields []mimetree.Field
	msg    []byte
}

func parseHeader(msg []byte) (header, error) {
	fields, body, err := mimetree.ParseHeader(msg)
	if err != nil {
		return header{}, &Error{Op: "hisp.parseHeader", Kind: Malformed, Hint: "the message header is not well formed (RFC 5322 §2.2)", Err: err}
	}
	return header{raw: msg[:body], fields: fields, msg: msg}, nil
}

// all returns the unfolded values of every field called name.
func (h header) all(name string) []string {
	var values []string
	for _, f := range h.fields {
		if f.Is(name) {
			values = append(values, f.Text(h.msg))
		}
	}
	return values
}

// first returns the first value of name, or "".
func (h header) first(name string) string {
	if all := h.all(name); len(all) > 0 {
		return all[0]
	}
	return ""
}

// addresses reads the address lists of every field called name.
func (h header) addresses(name string) ([]Address, error) {
	var list []Address
	for _, value := range h.all(name) {
		specs, err := mimetree.Addresses(value)
		if err != nil {
			return nil, &Error{Op: "hisp.header", Kind: Malformed, Hint: "the " + name + " field is not a list of addresses (RFC 5322 §3.4)", Err: err}
		}
		for _, spec := range specs {
			a, err := ParseAddress(spec)
			if err != nil {
				return nil, err
			}
			list = append(list, a)
		}
	}
	return list, nil
}

// single returns the one address in the one field called name; a group or a
// list is refused, because it could not be bound to a signer (security row S6).
func (h header) single(name string) (Address, error) {
	if values := h.all(name); len(values) == 1 {
		if spec, err := mimetree.Mailbox(values[0]); err == nil {
			return ParseAddress(spec)
		}
	}
	return Address{}, &Error{Op: "hisp.header", Kind: Malformed, Hint: "exactly one " + name + " address is needed"}
}

// kept returns the header for a failure notice, cut at a line end.
func (h header) kept() []byte {
	if len(h.raw) <= maxKeptHeader {
		return h.raw
	}
	cut := h.raw[:maxKeptHeader]
	for i := len(cut) - 1; i > 0; i-- {
		if cut[i] == '\n' {
			return cut[:i+1]
		}
	}
	return nil
}

func contains(list []Address, a Address) bool {
	for _, b := range list {
		if a.Equal(b) {
			return true
		}
	}
	return false
}
