package imapd

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// appendStep is how many octets of a literal are read at once.
const appendStep int64 = 64 << 10

// budget bounds the octets of messages that all connections together hold.
type budget struct {
	mu   sync.Mutex
	left int64
}

func newBudget(n int64) *budget { return &budget{left: n} }

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// Append implements APPEND. The octets are kept as they come; NUL, which no
// literal may hold (RFC 9051 §4.3), is refused.
func (s *session) Append(mailbox string, r imap.LiteralReader, options *imap.AppendOptions) (*imap.AppendData, error) {
	raw, err := s.readAppend(r)
	if err != nil {
		return nil, err
	}
	defer s.srv.messages.give(r.Size())
	flags, err := checkFlags(options.Flags, s.keywords())
	if err != nil {
		return nil, err
	}
	received := options.Time
	if received.IsZero() {
		received = s.srv.clock()
	}
	name := lookupName(mailbox)
	f, info, err := s.srv.store.Append(s.ctx, s.acct.Address, name, hisp.NewMessage(raw), flags, received.UTC())
	if err != nil {
		return nil, s.refuseTarget("imapd.Append", err)
	}
	s.srv.views.touch(s.acct.Address, name)
	return &imap.AppendData{UID: imap.UID(info.UID), UIDValidity: f.UIDValidity}, nil
}

// readAppend reads the literal into memory that grows with what arrives, and
// the budget with it: who announces much and sends little holds little. On
// success r.Size() octets of the budget are taken.
func (s *session) readAppend(r imap.LiteralReader) ([]byte, error) {
	size := r.Size()
	if size == 0 {
		return nil, bad("a message has at least one octet")
	}
	var b bytes.Buffer
	var held int64
	var err error
	for held < size && err == nil {
		step := min(appendStep, size-held)
		if !s.srv.messages.take(step) {
			err = no(imap.ResponseCodeUnavailable, "too many messages are being stored, try again later")
			break
		}
		held += step
		_, err = io.CopyN(&b, r, step)
	}
	if err == nil && bytes.IndexByte(b.Bytes(), 0) >= 0 {
		err = no(imap.ResponseCodeCannot, "the message has a NUL octet; encode binary content")
	}
	if err != nil {
		s.srv.messages.give(held)
		return nil, err
	}
	return b.Bytes(), nil
}

// refuseTarget is refuse for a folder to put messages in.
func (s *session) refuseTarget(op string, err error) error {
	if errors.Is(err, hisp.NotFound) {
		return no(imap.ResponseCodeTryCreate, "there is no such folder") // RFC 9051 §6.3.12, §6.4.7
	}
	return s.refuse(op, err)
}

// keywords returns the flags that the selected folder has.
func (s *session) keywords() []imap.Flag {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sel == nil {
		return nil
	}
	flags, _ := folderFlags(s.sel.known)
	return flags
}

// selected returns the selection; write tells that messages shall change.
func (s *session) selected(write bool) (*selection, error) {
	if s.sel == nil {
		return nil, bad("no folder is selected")
	}
	if write && s.sel.readOnly {
		return nil, no(imap.ResponseCodeNoPerm, "the folder is opened read-only, SELECT it to change it")
	}
	return s.sel, nil
}

// indexes is a range of the known snapshot, low included, high not.
type indexes struct{ low, high int }

// resolve turns a set from the client into indexes of the known snapshot,
// ascending.
func (sel *selection) resolve(set imap.NumSet) ([]int, error) {
	l, err := sel.ranges(set)
	if err != nil {
		return nil, err
	}
	var picked []int
	next := 0
	for _, r := range l { // "*" may repeat another number
		for i := max(next, r.low); i < r.high; i++ {
			picked = append(picked, i)
		}
		next = max(next, r.high)
	}
	return picked, nil
}

// ranges turns a set into ranges of the known snapshot, ascending. "*" is the
// last message; a message number beyond it is the client's mistake (RFC 9051
// §6.4.5), an unknown UID is not.
func (sel *selection) ranges(set imap.NumSet) ([]indexes, error) {
	var l []indexes
	if imap.IsSearchRes(set) {
		for _, uid := range sel.saved {
			if i, ok := sel.known.find(uid); ok {
				l = append(l, indexes{i, i + 1})
			}
		}
		return l, nil
	}
	total := uint32(len(sel.known.list))
	switch set := set.(type) {
	case imap.SeqSet:
		if total == 0 && set.Dynamic() {
			return nil, nil
		}
		for _, r := range set {
			low, high := span(r.Start, r.Stop, total)
			if high > total {
				return nil, bad("there is no message of this number")
			}
			l = append(l, indexes{int(low - 1), int(high)})
		}
	case imap.UIDSet:
		if total == 0 {
			return nil, nil
		}
		for _, r := range set {
			low, high := span(uint32(r.Start), uint32(r.Stop), sel.known.list[total-1].uid)
			i, _ := sel.known.find(low)
			j, ok := sel.known.find(high)
			if ok {
				j++
			}
			l = append(l, indexes{i, j})
		}
	}
	slices.SortFunc(l, func(a, b indexes) int { return a.low - b.low })
	return l, nil
}

// span replaces "*", which go-imap gives as 0, by last and orders the ends.
func span(start, stop, last uint32) (low, high uint32) {
	if start == 0 {
		start = last
	}
	if stop == 0 {
		stop = last
	}
	return min(start, stop), max(start, stop)
}

// uids returns the UIDs at the indexes.
func (sel *selection) uids(picked []int) []uint32 {
	l := make([]uint32, len(picked))
	for i, p := range picked {
		l[i] = sel.known.list[p].uid
	}
	return l
}

// Store implements STORE.
func (s *session) Store(w *imapserver.FetchWriter, set imap.NumSet, change *imap.StoreFlags, _ *imap.StoreOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sel, err := s.selected(true)
	if err != nil {
		return err
	}
	picked, err := sel.resolve(set)
	if err != nil {
		return err
	}
	inUse, _ := folderFlags(sel.known)
	flags, err := checkFlags(change.Flags, inUse)
	if err != nil || len(picked) == 0 {
		return err
	}
	infos, err := s.srv.store.SetFlags(s.ctx, s.acct.Address, sel.view.key.folder, sel.uids(picked), flagOp(change.Op), flags)
	if err != nil {
		return s.refuse("imapd.Store", err)
	}
	sel.view.invalidate()
	_, withUID := set.(imap.UIDSet)
	shared := make(map[string][]imap.Flag)
	for _, m := range infos {
		i, ok := sel.known.find(m.UID)
		if !ok {
			continue
		}
		sel.tell(m.UID, m.ModSeq)
		if change.Silent {
			continue
		}
		r := w.CreateMessage(uint32(i + 1))
		if withUID && s.usesUID() {
			r.WriteUID(imap.UID(m.UID))
		}
		e := newEntry(m, shared)
		r.WriteFlags(e.flags)
		if err := r.Close(); err != nil {
			return err
		}
	}
	return expungeIssued(len(infos) < len(picked))
}

// usesUID tells whether the command is a UID command; "$" gives UIDs to both.
func (s *session) usesUID() bool { return isUIDCommand(s.gate.currentVerb()) }

func flagOp(op imap.StoreFlagsOp) store.FlagOp {
	switch op {
	case imap.StoreFlagsAdd:
		return store.FlagsAdd
	case imap.StoreFlagsDel:
		return store.FlagsRemove
	}
	return store.FlagsReplace
}

// expungeIssued tells that messages went away which the client still counts
// (RFC 5530 §3; RFC 2180 §4.1.2).
func expungeIssued(missing bool) error {
	if missing {
		return no(codeExpungeIssued, "some of these messages exist no more")
	}
	return nil
}

// Copy implements COPY.
func (s *session) Copy(set imap.NumSet, dest string) (*imap.CopyData, error) {
	return s.copy(set, dest, store.Copy)
}

// Move implements MOVE (RFC 6851): one step in the store. The EXPUNGE
// responses come with the updates before the tagged OK.
func (s *session) Move(w *imapserver.MoveWriter, set imap.NumSet, dest string) error {
	data, err := s.copy(set, dest, store.Move)
	if err != nil || data == nil {
		return err
	}
	return w.WriteCopyData(data)
}

// copy returns nil data if there was nothing to copy.
func (s *session) copy(set imap.NumSet, dest string, mode store.CopyMode) (*imap.CopyData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sel, err := s.selected(mode == store.Move)
	if err != nil {
		return nil, err
	}
	picked, err := sel.resolve(set)
	if err != nil || len(picked) == 0 {
		return nil, err
	}
	from, to := sel.view.key.folder, lookupName(dest)
	f, pairs, err := s.srv.store.CopyMessages(s.ctx, s.acct.Address, from, sel.uids(picked), to, mode)
	if err != nil {
		return nil, s.refuseTarget("imapd.copy", err)
	}
	if mode == store.Move {
		sel.view.invalidate()
	}
	s.srv.views.touch(s.acct.Address, to)
	if len(pairs) == 0 {
		return nil, expungeIssued(true)
	}
	data := &imap.CopyData{UIDValidity: f.UIDValidity}
	for _, p := range pairs {
		data.SourceUIDs.AddNum(imap.UID(p.From))
		data.DestUIDs.AddNum(imap.UID(p.To))
	}
	return data, nil
}

// Expunge implements EXPUNGE, UID EXPUNGE and the silent one of CLOSE, which
// does nothing to a folder opened read-only (RFC 9051 §6.4.1).
func (s *session) Expunge(_ *imapserver.ExpungeWriter, set *imap.UIDSet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sel, err := s.selected(true)
	if err != nil {
		if s.sel != nil && s.gate.currentVerb() == verbClose {
			return nil
		}
		return err
	}
	var uids []uint32
	if set != nil {
		picked, err := sel.resolve(*set)
		if err != nil || len(picked) == 0 {
			return err
		}
		uids = sel.uids(picked)
	}
	if _, err := s.srv.store.Expunge(s.ctx, s.acct.Address, sel.view.key.folder, uids); err != nil {
		return s.refuse("imapd.Expunge", err)
	}
	sel.view.invalidate() // the updates before the tagged OK tell what went
	return nil
}

func isUIDCommand(verb string) bool {
	return len(verb) > len(uidPrefix) && strings.HasPrefix(verb, uidPrefix)
}
