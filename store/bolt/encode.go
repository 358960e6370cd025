package bolt

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// recordVersion is the first octet of each binary record; older ones stay
// readable when it is raised.
const recordVersion = 1

const zeroTime = math.MinInt64 // the zero time has no UnixNano

// encoder appends fields; strings have their length before them.
type encoder struct{ b []byte }

func newEncoder(size int) *encoder { return &encoder{b: append(make([]byte, 0, size), recordVersion)} }

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

func (e *encoder) flag(v bool) {
	if v {
		e.u8(1)
	} else {
		e.u8(0)
	}
}

func (e *encoder) str(s string) {
	e.b = binary.AppendUvarint(e.b, uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) time(t time.Time) { e.u64(uint64(unixNano(t))) }

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return zeroTime
	}
	return t.UnixNano()
}

func (e *encoder) addr(a hisp.Address) {
	e.str(a.Local)
	e.str(string(a.Domain))
}

func (e *encoder) addrs(as []hisp.Address) {
	e.b = binary.AppendUvarint(e.b, uint64(len(as)))
	for _, a := range as {
		e.addr(a)
	}
}

func (e *encoder) peer(p netip.Addr) {
	b, err := p.MarshalBinary()
	if err != nil {
		b = nil
	}
	e.str(string(b))
}

func (e *encoder) body(r bodyRef) {
	e.u64(r.id)
	e.u64(uint64(r.size))
	e.flag(r.file)
}

// decoder reads fields; after an error it gives zero values and failed.
type decoder struct {
	rest   []byte
	failed bool
}

func newDecoder(b []byte) *decoder {
	d := &decoder{rest: b}
	if d.u8() != recordVersion {
		d.failed = true
	}
	return d
}

func (d *decoder) take(n uint64) []byte {
	if d.failed || n > uint64(len(d.rest)) {
		d.failed = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) flag() bool { return d.u8() == 1 }

func (d *decoder) count() uint64 {
	n, used := binary.Uvarint(d.rest)
	if used <= 0 {
		d.failed = true
		return 0
	}
	d.rest = d.rest[used:]
	return n
}

func (d *decoder) str() string { return string(d.take(d.count())) }

func (d *decoder) time() time.Time {
	ns := int64(d.u64())
	if ns == zeroTime || d.failed {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (d *decoder) addr() hisp.Address {
	return hisp.Address{Local: d.str(), Domain: hisp.Domain(d.str())}
}

func (d *decoder) addrs() []hisp.Address {
	n := d.count()
	if n > uint64(len(d.rest)) { // an address has at least two octets
		d.failed = true
		return nil
	}
	as := make([]hisp.Address, 0, n)
	for range n {
		as = append(as, d.addr())
	}
	return as
}

func (d *decoder) peer() netip.Addr {
	var p netip.Addr
	if err := p.UnmarshalBinary([]byte(d.str())); err != nil {
		d.failed = true
	}
	return p
}

func (d *decoder) body() bodyRef {
	return bodyRef{id: d.u64(), size: int64(d.u64()), file: d.flag()}
}

func (d *decoder) err(what string) error {
	if d.failed {
		return fail("bolt", hisp.Internal, what+" is damaged: run hisp verify")
	}
	return nil
}

// storedItem is what the queue bucket holds: the item with a reference in
// place of its message. The fields the due index needs come first.
type storedItem struct {
	hisp.Item
	body bodyRef
}

func (it *storedItem) encode() []byte {
	e := newEncoder(256)
	e.time(it.Due)
	e.u8(uint8(it.Work))
	e.str(string(it.Domain))
	e.body(it.body)
	e.u32(uint32(it.Attempt))
	e.time(it.Created)
	e.str(it.LastErr)
	env := &it.Envelope
	e.str(string(env.ID))
	e.u8(uint8(env.Origin))
	e.addr(env.From)
	e.addrs(env.To)
	e.time(env.Received)
	e.addr(env.Account)
	e.str(string(env.Auth))
	e.peer(env.Peer)
	e.flag(env.TLS)
	return e.b
}

func decodeItem(id hisp.ID, b []byte) (storedItem, error) {
	d := newDecoder(b)
	it := storedItem{}
	it.ID = id
	it.Due = d.time()
	it.Work = hisp.Work(d.u8())
	it.Domain = hisp.Domain(d.str())
	it.body = d.body()
	it.Attempt = int(d.u32())
	it.Created = d.time()
	it.LastErr = d.str()
	env := &it.Envelope
	env.ID = hisp.ID(d.str())
	env.Origin = hisp.Origin(d.u8())
	env.From = d.addr()
	env.To = d.addrs()
	env.Received = d.time()
	env.Account = d.addr()
	env.Auth = hisp.AuthKind(d.str())
	env.Peer = d.peer()
	env.TLS = d.flag()
	return it, d.err("a queue item")
}

// decodeEntry reads only what the due index needs.
func decodeEntry(id hisp.ID, b []byte) (*entry, error) {
	d := newDecoder(b)
	e := &entry{id: id, due: int64(d.u64()), work: hisp.Work(d.u8()), domain: hisp.Domain(d.str()), body: d.body()}
	return e, d.err("a queue item")
}

func encodeTrack(t hisp.Track) []byte {
	e := newEncoder(256 + len(t.Header))
	e.str(string(t.Message))
	e.str(t.MessageID)
	e.addr(t.Sender)
	e.addr(t.Recipient)
	e.flag(t.Requested)
	e.time(t.Sent)
	e.time(t.Deadline)
	e.time(t.Processed)
	e.u8(uint8(t.Final))
	e.time(t.Ended)
	e.str(t.Reason)
	e.str(string(t.Header))
	e.u64(t.Version)
	return e.b
}

func decodeTrack(b []byte) (hisp.Track, error) {
	d := newDecoder(b)
	t := hisp.Track{Message: hisp.ID(d.str()), MessageID: d.str(), Sender: d.addr(), Recipient: d.addr(),
		Requested: d.flag(), Sent: d.time(), Deadline: d.time(), Processed: d.time(),
		Final: hisp.TrackState(d.u8()), Ended: d.time(), Reason: d.str()}
	if h := d.str(); h != "" {
		t.Header = []byte(h)
	}
	t.Version = d.u64()
	return t, d.err("a track")
}

func encodePrivate(p hisp.AuditPrivate) []byte {
	e := newEncoder(128)
	e.addr(p.From)
	e.addrs(p.To)
	e.addr(p.Account)
	e.str(p.MessageID)
	e.str(string(p.Auth))
	e.peer(p.Peer)
	return e.b
}

func decodePrivate(b []byte) (hisp.AuditPrivate, error) {
	d := newDecoder(b)
	p := hisp.AuditPrivate{From: d.addr(), To: d.addrs(), Account: d.addr(), MessageID: d.str(),
		Auth: hisp.AuthKind(d.str()), Peer: d.peer()}
	if len(p.To) == 0 {
		p.To = nil
	}
	return p, d.err("the private part of an audit entry")
}
