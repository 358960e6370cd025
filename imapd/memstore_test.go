package imapd

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/storetest"
)

// memStore is store.Folders and store.Messages in memory, complete.
type memStore struct {
	mu       sync.Mutex
	accounts map[hisp.Address]*memAccount
	validity uint32
	quota    int64 // octets of one account, 0 is none
}

type memAccount struct {
	folders map[string]*memFolder
}

type memFolder struct {
	store.Folder
	messages []memMessage // by UID
	watchers map[chan struct{}]struct{}
}

type memMessage struct {
	store.MessageInfo
	msg hisp.Message
}

func newMemStore() *memStore {
	return &memStore{accounts: make(map[hisp.Address]*memAccount), validity: 1000}
}

func (s *memStore) addAccount(a hisp.Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	acct := &memAccount{folders: make(map[string]*memFolder)}
	s.accounts[a.Key()] = acct
	for name, use := range map[string]string{"INBOX": "", "Sent": `\Sent`, "Drafts": `\Drafts`, "Junk": `\Junk`, "Trash": `\Trash`} {
		acct.folders[name] = s.newFolder(name, use)
	}
}

func (s *memStore) newFolder(name, use string) *memFolder {
	s.validity++
	return &memFolder{
		Folder:   store.Folder{Name: name, SpecialUse: use, UIDValidity: s.validity, UIDNext: 1, HighestModSeq: 1, Subscribed: true},
		watchers: make(map[chan struct{}]struct{}),
	}
}

func (s *memStore) account(a hisp.Address) (*memAccount, error) {
	if acct, ok := s.accounts[a.Key()]; ok {
		return acct, nil
	}
	return nil, hisp.NotFound
}

func (s *memStore) folder(a hisp.Address, name string) (*memFolder, error) {
	acct, err := s.account(a)
	if err != nil {
		return nil, err
	}
	if f, ok := acct.folders[lookupName(name)]; ok {
		return f, nil
	}
	return nil, hisp.NotFound
}

// count brings the sums up to date.
func (f *memFolder) count() store.Folder {
	f.Messages, f.Unseen, f.Deleted, f.Size = uint32(len(f.messages)), 0, 0, 0
	for _, m := range f.messages {
		f.Size += m.Size
		if !slices.Contains(m.Flags, `\Seen`) {
			f.Unseen++
		}
		if slices.Contains(m.Flags, `\Deleted`) {
			f.Deleted++
		}
	}
	return f.Folder
}

func (f *memFolder) changed() {
	for ch := range f.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (s *memStore) ListFolders(_ context.Context, a hisp.Address) ([]store.Folder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	acct, err := s.account(a)
	if err != nil {
		return nil, err
	}
	var l []store.Folder
	for _, name := range slices.Sorted(maps.Keys(acct.folders)) {
		if name == "INBOX" {
			l = append([]store.Folder{acct.folders[name].count()}, l...)
			continue
		}
		l = append(l, acct.folders[name].count())
	}
	return l, nil
}

func (s *memStore) CreateFolder(_ context.Context, a hisp.Address, name, use string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	acct, err := s.account(a)
	if err != nil {
		return err
	}
	if name != lookupName(name) && lookupName(name) != inbox || strings.ContainsAny(name, "\r\n\x00") || strings.Contains("/"+name, "//") {
		return hisp.Malformed
	}
	if _, ok := acct.folders[lookupName(name)]; ok {
		return hisp.Conflict
	}
	acct.folders[name] = s.newFolder(name, use)
	return nil
}

func (s *memStore) DeleteFolder(_ context.Context, a hisp.Address, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return err
	}
	if lookupName(name) == inbox {
		return hisp.Denied
	}
	delete(s.accounts[a.Key()].folders, name)
	f.changed()
	return nil
}

func (s *memStore) RenameFolder(_ context.Context, a hisp.Address, from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, from)
	if err != nil {
		return err
	}
	folders := s.accounts[a.Key()].folders
	if _, ok := folders[to]; ok {
		return hisp.Conflict
	}
	if from == "INBOX" {
		target := s.newFolder(to, "")
		folders[to] = target
		for _, m := range f.messages {
			s.add(target, m.msg, m.Flags, m.Received)
		}
		f.messages = nil
		f.HighestModSeq++
		f.changed()
		return nil
	}
	if strings.HasPrefix(to, from+"/") {
		return hisp.Malformed
	}
	for name := range folders {
		if _, taken := folders[to+strings.TrimPrefix(name, from)]; taken && strings.HasPrefix(name, from+"/") {
			return hisp.Conflict
		}
	}
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		if name == from || strings.HasPrefix(name, from+"/") {
			g := folders[name]
			delete(folders, name)
			g.Name = to + strings.TrimPrefix(name, from)
			folders[g.Name] = g
			g.changed()
		}
	}
	return nil
}

func (s *memStore) SubscribeFolder(_ context.Context, a hisp.Address, name string, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err == nil {
		f.Subscribed = on
	}
	return err
}

func (s *memStore) ListMessages(_ context.Context, a hisp.Address, name string) (store.Folder, []store.MessageInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return store.Folder{}, nil, err
	}
	l := make([]store.MessageInfo, len(f.messages))
	for i, m := range f.messages {
		l[i] = m.MessageInfo
	}
	return f.count(), l, nil
}

func (s *memStore) ReadMessage(_ context.Context, a hisp.Address, name string, uid uint32) (hisp.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return hisp.Message{}, err
	}
	if i, ok := f.find(uid); ok {
		return f.messages[i].msg, nil
	}
	return hisp.Message{}, hisp.NotFound
}

func (f *memFolder) find(uid uint32) (int, bool) {
	return slices.BinarySearchFunc(f.messages, uid, func(m memMessage, uid uint32) int { return int(m.UID) - int(uid) })
}

func (s *memStore) add(f *memFolder, msg hisp.Message, flags []string, received time.Time) store.MessageInfo {
	f.HighestModSeq++
	m := memMessage{store.MessageInfo{UID: f.UIDNext, ModSeq: f.HighestModSeq, Flags: combine(nil, store.FlagsReplace, flags), Received: received, Size: msg.Size()}, msg}
	f.UIDNext++
	f.messages = append(f.messages, m)
	f.changed()
	return m.MessageInfo
}

func (s *memStore) Append(_ context.Context, a hisp.Address, name string, msg hisp.Message, flags []string, received time.Time) (store.Folder, store.MessageInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return store.Folder{}, store.MessageInfo{}, err
	}
	if s.quota > 0 && f.count().Size+msg.Size() > s.quota {
		return store.Folder{}, store.MessageInfo{}, hisp.Full
	}
	info := s.add(f, msg, flags, received)
	return f.count(), info, nil
}

func (s *memStore) SetFlags(_ context.Context, a hisp.Address, name string, uids []uint32, op store.FlagOp, flags []string) ([]store.MessageInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return nil, err
	}
	next := f.HighestModSeq + 1
	var l []store.MessageInfo
	for _, uid := range distinct(uids) {
		i, ok := f.find(uid)
		if !ok {
			continue
		}
		m := &f.messages[i]
		if changed := combine(m.Flags, op, flags); !slices.Equal(changed, m.Flags) {
			m.Flags, m.ModSeq, f.HighestModSeq = changed, next, next
		}
		l = append(l, m.MessageInfo)
	}
	f.changed()
	return l, nil
}

func distinct(uids []uint32) []uint32 {
	return slices.Compact(slices.Sorted(slices.Values(uids)))
}

func combine(have []string, op store.FlagOp, flags []string) []string {
	var change []string
	for _, f := range flags {
		for _, g := range systemFlags() {
			if strings.EqualFold(f, string(g)) {
				f = string(g)
			}
		}
		if !strings.EqualFold(f, string(flagRecent)) {
			change = append(change, f)
		}
	}
	out := slices.Clone(have)
	switch op {
	case store.FlagsReplace:
		out = change
	case store.FlagsAdd:
		out = append(out, change...)
	case store.FlagsRemove:
		out = slices.DeleteFunc(out, func(f string) bool { return slices.Contains(change, f) })
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *memStore) CopyMessages(_ context.Context, a hisp.Address, from string, uids []uint32, to string, mode store.CopyMode) (store.Folder, []store.UIDPair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, from)
	if err != nil {
		return store.Folder{}, nil, err
	}
	target, err := s.folder(a, to)
	if err != nil {
		return store.Folder{}, nil, err
	}
	var pairs []store.UIDPair
	for _, uid := range distinct(uids) {
		i, ok := f.find(uid)
		if !ok {
			continue
		}
		m := f.messages[i]
		info := s.add(target, m.msg, m.Flags, m.Received)
		pairs = append(pairs, store.UIDPair{From: uid, To: info.UID})
	}
	if mode == store.Move {
		f.remove(func(m memMessage) bool {
			return slices.ContainsFunc(pairs, func(p store.UIDPair) bool { return p.From == m.UID })
		})
	}
	return target.Folder, pairs, nil
}

func (f *memFolder) remove(which func(memMessage) bool) []uint32 {
	var gone []uint32
	f.messages = slices.DeleteFunc(f.messages, func(m memMessage) bool {
		if which(m) {
			gone = append(gone, m.UID)
			return true
		}
		return false
	})
	f.HighestModSeq++
	f.changed()
	return gone
}

func (s *memStore) Expunge(_ context.Context, a hisp.Address, name string, uids []uint32) ([]uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return nil, err
	}
	return f.remove(func(m memMessage) bool {
		return slices.Contains(m.Flags, `\Deleted`) && (uids == nil || slices.Contains(uids, m.UID))
	}), nil
}

func (s *memStore) Watch(ctx context.Context, a hisp.Address, name string) <-chan struct{} {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.folder(a, name)
	if err != nil {
		return ch
	}
	f.watchers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(f.watchers, ch)
	})
	return ch
}

// The rest makes memStore pass the contract suite.

func (s *memStore) AddDomain(context.Context, store.Domain) error       { return nil }
func (s *memStore) RemoveDomain(context.Context, hisp.Domain) error     { return nil }
func (s *memStore) ListDomains(context.Context) ([]store.Domain, error) { return nil, nil }
func (s *memStore) PutAccount(_ context.Context, a store.AccountRecord) error {
	s.addAccount(a.Address)
	return nil
}
func (s *memStore) RemoveAccount(context.Context, hisp.Address) error { return nil }
func (s *memStore) GetAccount(context.Context, hisp.Address) (store.AccountRecord, error) {
	return store.AccountRecord{}, hisp.NotFound
}
func (s *memStore) ListAccounts(context.Context, hisp.Domain) ([]store.AccountRecord, error) {
	return nil, nil
}
func (s *memStore) Close() error { return nil }

// TestMemStore: the fake keeps the promises of a store.
func TestMemStore(t *testing.T) {
	storetest.RunMail(t, func(*testing.T) storetest.Mail { return newMemStore() })
}
