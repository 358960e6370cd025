package relay

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

const maxLine = 998 // octets without CRLF, RFC 5321 §4.5.3.1.6

// delivery is the state of one Send.
type delivery struct {
	env     hisp.Envelope
	msg     []byte
	eight   bool // content beyond 7 bits
	utf8    bool // header or sender beyond ASCII (RFC 6531 §3.1)
	results []hisp.Result
	final   []bool // by recipient: no other exchanger is asked
	touched bool   // the peer has answered something in this transaction
}

func newDelivery(env hisp.Envelope, msg hisp.Message) *delivery {
	d := &delivery{env: env, msg: msg.Bytes(), final: make([]bool, len(env.To))}
	for _, a := range env.To {
		d.results = append(d.results, hisp.Result{Recipient: a, Err: temporary("no exchanger was reached", nil)})
	}
	header := d.msg
	if i := bytes.Index(header, []byte("\r\n\r\n")); i >= 0 {
		header = header[:i]
	}
	d.eight = !isASCII(d.msg)
	d.utf8 = !isASCII(header) || !isASCII([]byte(env.From.Local))
	for _, a := range env.To {
		d.utf8 = d.utf8 || !isASCII([]byte(a.Local))
	}
	return d
}

// check refuses what must not go on the wire (threat T2).
func (d *delivery) check() error {
	malformed := func(hint string) error {
		return &hisp.Error{Op: "relay.Send", Kind: hisp.Malformed, Hint: hint}
	}
	if len(d.env.To) == 0 {
		return malformed("a message needs a recipient")
	}
	for _, a := range append([]hisp.Address{d.env.From}, d.env.To...) {
		if strings.ContainsFunc(a.Local+string(a.Domain), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return malformed("an address has a control character")
		}
	}
	for _, a := range d.env.To {
		if a.Domain != d.env.To[0].Domain || a.Domain == "" {
			return malformed("all recipients of one relay must be in one domain")
		}
	}
	if bytes.IndexByte(d.msg, 0) >= 0 {
		return malformed("the message has a NUL")
	}
	for rest := d.msg; len(rest) > 0; {
		line, after, found := bytes.Cut(rest, []byte("\r\n"))
		if bytes.ContainsAny(line, "\r\n") {
			return malformed("the message has a bare CR or LF; lines end with CRLF only")
		}
		if len(line) > maxLine {
			return malformed("the message has a line of more than 998 octets; wrap base64 at 76")
		}
		if !found {
			break
		}
		rest = after
	}
	return nil
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// done tells whether every recipient has its final result.
func (d *delivery) done() bool {
	for _, f := range d.final {
		if !f {
			return false
		}
	}
	return true
}

// open returns the recipients without final result.
func (d *delivery) open() []int {
	var list []int
	for i, f := range d.final {
		if !f {
			list = append(list, i)
		}
	}
	return list
}

// endAll gives every recipient err as its final result.
func (d *delivery) endAll(err error) []hisp.Result {
	for i := range d.results {
		d.results[i].Err, d.final[i] = err, true
	}
	return d.results
}

// fail notes an error of the connection for whoever is open; another exchanger
// may do better.
func (d *delivery) fail(host string, err error) {
	for _, i := range d.open() {
		d.results[i] = hisp.Result{Recipient: d.env.To[i], Err: err, Host: host}
	}
}

// set notes the answer for recipient i.
func (d *delivery) set(i int, host string, a answer) {
	d.results[i] = hisp.Result{Recipient: d.env.To[i], Err: a.err(host), Host: host, Code: a.code, Enhanced: a.enhanced}
	d.final[i] = a.code/100 == 2 || a.code/100 == 5
}

// refuse gives whoever is open a final result of our own about this peer.
func (d *delivery) refuse(host string, k hisp.Kind, enhanced, hint string) {
	for _, i := range d.open() {
		d.results[i] = hisp.Result{Recipient: d.env.To[i], Host: host, Enhanced: enhanced,
			Err: &hisp.Error{Op: "relay.Send", Kind: k, Hint: hint}}
		d.final[i] = true
	}
}

// answer is one SMTP reply. Its text stays out of hints: it may hold an address.
type answer struct {
	code     int
	enhanced string
	lines    []string // without code
}

// err maps a reply to our kinds: the one table of this edge (RFC 5321 §4.2,
// RFC 3463 §3).
func (a answer) err(host string) error {
	said := strings.TrimSpace(strconv.Itoa(a.code) + " " + a.enhanced)
	e := &hisp.Error{Op: "relay.Send", Hint: "the exchanger " + host + " answered " + said}
	switch {
	case a.code/100 == 2:
		return nil
	case a.code/100 != 5:
		e.Kind = hisp.Temporary
	case strings.HasPrefix(a.enhanced, "5.1.") && a.enhanced != "5.1.7" && a.enhanced != "5.1.8": // those are about the sender
		e.Kind = hisp.UnknownRecipient
	case a.enhanced == "5.3.4", a.enhanced == "5.2.3", a.code == 552 && a.enhanced == "":
		e.Kind = hisp.TooLarge
	default:
		e.Kind = hisp.Refused
	}
	return e
}
