package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/hispnode/hisp/hisp"
)

// bbolt trusts its file: a damaged page ends the process, in part from
// goroutines of its own, where nobody can recover. So the pages are looked at
// with plain reads first: all of them before bbolt walks them all (an Open
// after a crash, Verify), else those that every Open reads. What is met later
// in a transaction is caught by guard.

// The file format of bbolt, version 2, in the byte order of the machine.
const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaOctets  = 56 // before the FNV-1a sum
	noFreelist  = 1<<64 - 1

	pageHead     = 16 // id, flags, count, overflow
	pageElement  = 16
	bucketOctets = 16 // root page and sequence, before an inline page

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01 // of a leaf element

	maxTreeDepth = 64      // a tree of 2^64 pages is less deep
	maxOverflow  = 1 << 18 // pages of one record or free list
)

// pageFile is a database file read without bbolt.
type pageFile struct {
	r        io.ReaderAt
	size     int64
	pageSize int64
	root     uint64
	freelist uint64
	high     uint64 // no page has this number or a higher one
	txid     uint64
	seen     []bool // pages of the trees
}

// openPages reads the newest whole meta page.
func openPages(r io.ReaderAt, size int64) (*pageFile, error) {
	p := &pageFile{r: r, size: size}
	sizes := []int64{0} // where a meta page can be
	for n := int64(1 << 10); n <= 1<<16; n <<= 1 {
		sizes = append(sizes, n)
	}
	for _, at := range sizes {
		p.readMeta(at)
	}
	switch {
	case p.pageSize == 0:
		return nil, damaged("neither of its two first pages is whole")
	case p.high < 4 || p.high > uint64(size/p.pageSize):
		return nil, damaged(fmt.Sprintf("it has %d octets and should have %d pages of %d", size, p.high, p.pageSize))
	}
	return p, nil
}

func (p *pageFile) readMeta(at int64) {
	var b [pageHead + metaOctets + 8]byte
	if _, err := p.r.ReadAt(b[:], at); err != nil {
		return
	}
	m, num := b[pageHead:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(m[:metaOctets])
	pageSize, txid := int64(num.Uint32(m[8:])), num.Uint64(m[48:])
	if num.Uint32(m) != metaMagic || num.Uint32(m[4:]) != metaVersion || num.Uint64(m[metaOctets:]) != sum.Sum64() ||
		pageSize < 1<<10 || pageSize > 1<<16 || at != 0 && at != pageSize || p.pageSize != 0 && txid < p.txid {
		return
	}
	p.pageSize, p.txid = pageSize, txid
	p.root, p.freelist, p.high = num.Uint64(m[16:]), num.Uint64(m[32:]), num.Uint64(m[40:])
}

// damaged is the error of a database file that bbolt must not read.
func damaged(detail string) error {
	return &hisp.Error{Op: "bolt", Kind: hisp.Malformed, Hint: hintDamaged, Err: fmt.Errorf("the database file is damaged: %s", detail)}
}

func isDamage(err error) bool {
	return errors.Is(err, hisp.Malformed) && hisp.HintOf(err) == hintDamaged
}

// check reads the pages that every Open reads, and all pages of the trees when
// bbolt will do so because the list of free pages was not written.
func (p *pageFile) check() error {
	if p.freelist == noFreelist {
		return p.checkAll()
	}
	if err := p.checkFreelist(); err != nil {
		return err
	}
	_, _, err := p.page(p.root)
	return err
}

// checkAll reads every page that is in use.
func (p *pageFile) checkAll() error {
	if p.freelist != noFreelist {
		if err := p.checkFreelist(); err != nil {
			return err
		}
	}
	p.seen = make([]bool, p.high)
	return p.tree(p.root, 0)
}

func (p *pageFile) checkFreelist() error {
	flags, b, err := p.page(p.freelist)
	if err != nil {
		return err
	}
	if flags != freelistPage {
		return damaged(fmt.Sprintf("page %d should be the list of free pages", p.freelist))
	}
	num := binary.NativeEndian
	count, ids := uint64(num.Uint16(b[10:])), b[pageHead:]
	if count == 0xFFFF && len(ids) >= 8 {
		count, ids = num.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return damaged("its list of free pages is cut off")
	}
	for i := range count {
		if id := num.Uint64(ids[8*i:]); id < 2 || id >= p.high {
			return damaged("its list of free pages names pages that are not there")
		}
	}
	return nil
}

// page reads a page with its overflow.
func (p *pageFile) page(id uint64) (flags uint16, b []byte, err error) {
	if id < 2 || id >= p.high {
		return 0, nil, damaged(fmt.Sprintf("a page %d is used and not there", id))
	}
	var head [pageHead]byte
	if _, err := p.r.ReadAt(head[:], int64(id)*p.pageSize); err != nil {
		return 0, nil, damaged(fmt.Sprintf("page %d cannot be read: %v", id, err))
	}
	num := binary.NativeEndian
	over := uint64(num.Uint32(head[12:]))
	if num.Uint64(head[:]) != id || over > maxOverflow || id+over >= p.high {
		return 0, nil, damaged(fmt.Sprintf("page %d is not what it should be", id))
	}
	b = make([]byte, int64(over+1)*p.pageSize)
	if _, err := p.r.ReadAt(b, int64(id)*p.pageSize); err != nil {
		return 0, nil, damaged(fmt.Sprintf("page %d cannot be read: %v", id, err))
	}
	return num.Uint16(b[8:]), b, nil
}

// tree reads a page of a bucket and all below it.
func (p *pageFile) tree(id uint64, depth int) error {
	_, b, err := p.page(id)
	if err != nil {
		return err
	}
	if depth > maxTreeDepth || p.seen[id] {
		return damaged(fmt.Sprintf("page %d is in use twice", id))
	}
	for i := range uint64(len(b)) / uint64(p.pageSize) {
		p.seen[id+i] = true
	}
	return p.elements(id, b, depth)
}

// elements checks the elements of a page in b, which may be an inline one.
func (p *pageFile) elements(id uint64, b []byte, depth int) error {
	num := binary.NativeEndian
	flags, count := num.Uint16(b[8:]), int(num.Uint16(b[10:]))
	bad := damaged(fmt.Sprintf("page %d is not what it should be", id))
	if flags != branchPage && flags != leafPage || flags == branchPage && (count == 0 || depth > maxTreeDepth) ||
		pageHead+count*pageElement > len(b) {
		return bad
	}
	for i := range count {
		e := b[pageHead+i*pageElement:]
		if flags == branchPage {
			if uint64(num.Uint32(e))+uint64(num.Uint32(e[4:])) > uint64(len(e)) {
				return bad
			}
			if err := p.tree(num.Uint64(e[8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		start := uint64(num.Uint32(e[4:])) + uint64(num.Uint32(e[8:]))
		end := start + uint64(num.Uint32(e[12:]))
		if end > uint64(len(e)) {
			return bad
		}
		if num.Uint32(e)&bucketFlag != 0 {
			if err := p.bucket(id, e[start:end], depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks a bucket within a page: its own tree or an inline page.
func (p *pageFile) bucket(id uint64, b []byte, depth int) error {
	if len(b) < bucketOctets || depth > maxTreeDepth {
		return damaged(fmt.Sprintf("page %d is not what it should be", id))
	}
	if root := binary.NativeEndian.Uint64(b); root != 0 {
		return p.tree(root, depth+1)
	}
	inline := b[bucketOctets:]
	if len(inline) < pageHead || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return damaged(fmt.Sprintf("page %d is not what it should be", id))
	}
	return p.elements(id, inline, depth+1)
}

// checkFile looks at a database file before bbolt opens it.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return wrapErr("bolt.Open", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return wrapErr("bolt.Open", err)
	}
	p, err := openPages(f, st.Size())
	if err != nil {
		return err
	}
	return p.check()
}

// guard runs fn, which reads the database, and turns what bbolt or the memory
// map does on a damaged file into an error. Other panics go on.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if !ofDamage(r) {
				panic(r)
			}
			// bbolt's texts may quote keys; the type and the stack do not.
			err = damaged(fmt.Sprintf("panic of type %T", r))
		}
	}()
	return fn()
}

// ofDamage tells whether a panic comes from the contents of the database file:
// raised in bbolt, or by touching the memory map beyond the file.
func ofDamage(r any) bool {
	if fault, ok := r.(interface{ Addr() uintptr }); ok && fault.Addr() > 1<<16 {
		return true
	}
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			return strings.HasPrefix(f.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}
