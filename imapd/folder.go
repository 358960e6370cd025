package imapd

import (
	"errors"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// Select implements SELECT and EXAMINE.
func (s *session) Select(mailbox string, options *imap.SelectOptions) (*imap.SelectData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deselect()
	name := lookupName(mailbox)
	v := s.srv.views.acquire(s.acct.Address, name)
	now, err := v.now(s.ctx)
	if err != nil {
		s.srv.views.release(v)
		return nil, s.refuse("imapd.Select", err)
	}
	s.sel = &selection{view: v, readOnly: options.ReadOnly, known: now}
	flags, unseen := folderFlags(now)
	data := &imap.SelectData{
		Flags:             flags,
		NumMessages:       uint32(len(now.list)),
		FirstUnseenSeqNum: unseen,
		UIDNext:           imap.UID(now.folder.UIDNext),
		UIDValidity:       now.folder.UIDValidity,
	}
	if !options.ReadOnly {
		data.PermanentFlags = append(slices.Clone(flags), imap.FlagWildcard)
	}
	if s.conn.EnabledCaps().Has(imap.CapIMAP4rev2) {
		data.List = &imap.ListData{Mailbox: now.folder.Name, Delim: delimiter} // RFC 9051 §6.3.2
	}
	return data, nil
}

// folderFlags returns the flags in use and the number of the first message
// that is not seen.
func folderFlags(now *snapshot) (flags []imap.Flag, unseen uint32) {
	flags = systemFlags()
	var last *imap.Flag
	for i := range now.list {
		e := &now.list[i]
		if unseen == 0 && !e.has(imap.FlagSeen) {
			unseen = uint32(i + 1)
		}
		if len(e.flags) == 0 || last == &e.flags[0] {
			continue // flags are shared between entries
		}
		last = &e.flags[0]
		for _, f := range e.flags {
			if !hasFlag(flags, f) && len(flags) < maxFlags {
				flags = append(flags, f)
			}
		}
	}
	return flags, unseen
}

// Unselect implements UNSELECT and the end of CLOSE.
func (s *session) Unselect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deselect()
	return nil
}

// Create implements CREATE with the folders above the new one (RFC 9051
// §6.3.4) and CREATE-SPECIAL-USE (RFC 6154 §3).
func (s *session) Create(mailbox string, options *imap.CreateOptions) error {
	name, err := newName(mailbox)
	if err != nil {
		return s.refuse("imapd.Create", err)
	}
	folders, err := s.folders()
	if err != nil {
		return s.refuse("imapd.Create", err)
	}
	use, err := specialUse(folders, options.SpecialUse)
	if err != nil {
		return err
	}
	if _, ok := folderNamed(folders, name); ok || name == inbox {
		return s.refuse("imapd.Create", hisp.Conflict)
	}
	if len(folders)+len(parents(name)) >= s.srv.limits.Folders {
		return no(imap.ResponseCodeLimit, "the account has as many folders as it may have")
	}
	if err := s.makeParents(folders, name); err != nil {
		return s.refuse("imapd.Create", err)
	}
	return s.refuse("imapd.Create", s.srv.store.CreateFolder(s.ctx, s.acct.Address, name, use))
}

// makeParents creates the folders above name that are not there.
func (s *session) makeParents(folders []store.Folder, name string) error {
	for _, p := range parents(name) {
		if _, ok := folderNamed(folders, p); ok {
			continue
		}
		if err := s.srv.store.CreateFolder(s.ctx, s.acct.Address, p, ""); err != nil && !errors.Is(err, hisp.Conflict) {
			return err
		}
	}
	return nil
}

// specialUse checks the wish for a special use: one, known, not given away.
func specialUse(folders []store.Folder, wish []imap.MailboxAttr) (string, error) {
	if len(wish) == 0 {
		return "", nil
	}
	use := wish[0]
	switch use {
	case imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrJunk, imap.MailboxAttrSent, imap.MailboxAttrTrash:
	default:
		return "", no(codeUseAttr, "this special use is not offered")
	}
	taken := slices.ContainsFunc(folders, func(f store.Folder) bool { return f.SpecialUse == string(use) })
	if len(wish) > 1 || taken {
		return "", no(codeUseAttr, "a folder has one special use, and a special use one folder")
	}
	return string(use), nil
}

// Delete implements DELETE. A folder with others below it stays (RFC 9051
// §6.3.5).
func (s *session) Delete(mailbox string) error {
	name := lookupName(mailbox)
	if name == inbox {
		return no(imap.ResponseCodeCannot, "INBOX cannot be deleted")
	}
	folders, err := s.folders()
	if err != nil {
		return s.refuse("imapd.Delete", err)
	}
	if hasChildren(folders, name) {
		return no(imap.ResponseCodeHasChildren, "delete the folders below it first")
	}
	err = s.srv.store.DeleteFolder(s.ctx, s.acct.Address, name)
	s.srv.views.touch(s.acct.Address, name)
	return s.refuse("imapd.Delete", err)
}

// Rename implements RENAME. The folders below move along; INBOX stays and
// gives its messages away (RFC 9051 §6.3.6).
func (s *session) Rename(mailbox, newMailbox string, _ *imap.RenameOptions) error {
	from := lookupName(mailbox)
	to, err := newName(newMailbox)
	if err != nil {
		return s.refuse("imapd.Rename", err)
	}
	if to == from || strings.HasPrefix(to, from+delim) && from != inbox {
		return no(imap.ResponseCodeCannot, "a folder cannot move below itself")
	}
	folders, err := s.folders()
	if err != nil {
		return s.refuse("imapd.Rename", err)
	}
	if _, ok := folderNamed(folders, to); ok || to == inbox {
		return s.refuse("imapd.Rename", hisp.Conflict)
	}
	if err := s.makeParents(folders, to); err != nil {
		return s.refuse("imapd.Rename", err)
	}
	err = s.srv.store.RenameFolder(s.ctx, s.acct.Address, from, to)
	for _, f := range folders {
		if f.Name == from || strings.HasPrefix(f.Name, from+delim) {
			s.srv.views.touch(s.acct.Address, f.Name)
		}
	}
	return s.refuse("imapd.Rename", err)
}

// Subscribe implements SUBSCRIBE.
func (s *session) Subscribe(mailbox string) error { return s.subscribe(mailbox, true) }

// Unsubscribe implements UNSUBSCRIBE.
func (s *session) Unsubscribe(mailbox string) error { return s.subscribe(mailbox, false) }

func (s *session) subscribe(mailbox string, on bool) error {
	err := s.srv.store.SubscribeFolder(s.ctx, s.acct.Address, lookupName(mailbox), on)
	return s.refuse("imapd.subscribe", err)
}

// Status implements STATUS.
func (s *session) Status(mailbox string, options *imap.StatusOptions) (*imap.StatusData, error) {
	folders, err := s.folders()
	if err != nil {
		return nil, s.refuse("imapd.Status", err)
	}
	f, ok := folderNamed(folders, lookupName(mailbox))
	if !ok {
		return nil, s.refuse("imapd.Status", hisp.NotFound)
	}
	return s.statusOf(f, options)
}

// statusOf fills every item that may have been asked for.
func (s *session) statusOf(f store.Folder, options *imap.StatusOptions) (*imap.StatusData, error) {
	recent, limit := uint32(0), s.AppendLimit()
	data := &imap.StatusData{
		Mailbox: f.Name, NumMessages: &f.Messages, NumRecent: &recent, UIDNext: imap.UID(f.UIDNext),
		UIDValidity: f.UIDValidity, NumUnseen: &f.Unseen, NumDeleted: &f.Deleted, Size: &f.Size, AppendLimit: &limit,
	}
	if !options.DeletedStorage {
		return data, nil
	}
	_, infos, err := s.srv.store.ListMessages(s.ctx, s.acct.Address, f.Name)
	if err != nil {
		return nil, s.refuse("imapd.Status", err)
	}
	var sum int64
	for _, m := range infos {
		if slices.Contains(m.Flags, string(imap.FlagDeleted)) {
			sum += m.Size
		}
	}
	data.DeletedStorage = &sum
	return data, nil
}

func (s *session) folders() ([]store.Folder, error) {
	return s.srv.store.ListFolders(s.ctx, s.acct.Address)
}

func folderNamed(folders []store.Folder, name string) (store.Folder, bool) {
	for _, f := range folders {
		if f.Name == name {
			return f, true
		}
	}
	return store.Folder{}, false
}

func hasChildren(folders []store.Folder, name string) bool {
	return slices.ContainsFunc(folders, func(f store.Folder) bool { return strings.HasPrefix(f.Name, name+delim) })
}

// List implements LIST, LIST-EXTENDED (RFC 5258), LIST-STATUS (RFC 5819) and
// LSUB.
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, options *imap.ListOptions) error {
	if len(patterns) == 0 || slices.Equal(patterns, []string{""}) { // asks for the delimiter, RFC 9051 §6.3.9
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: delimiter})
	}
	folders, err := s.folders()
	if err != nil {
		return s.refuse("imapd.List", err)
	}
	lsub := s.gate.currentVerb() == verbLsub
	levels := lsub && strings.HasSuffix(patterns[0], "%")
	for _, f := range withParents(folders) {
		if !slices.ContainsFunc(patterns, func(p string) bool { return matches(f.Name, ref+p) }) {
			continue
		}
		data, ok := listed(f, folders, options, lsub, levels)
		if !ok {
			continue
		}
		if options.ReturnStatus != nil && f.UIDValidity != 0 {
			if data.Status, err = s.statusOf(f, options.ReturnStatus); err != nil {
				return err
			}
		}
		if err := w.WriteList(data); err != nil {
			return err
		}
	}
	return nil
}

// withParents adds the levels that have no folder of their own, with
// UIDValidity 0, in order of names.
func withParents(folders []store.Folder) []store.Folder {
	all := slices.Clone(folders)
	known := make(map[string]bool, len(folders))
	for _, f := range folders {
		known[f.Name] = true
	}
	for _, f := range folders {
		for _, p := range parents(f.Name) {
			if !known[p] {
				known[p] = true
				all = append(all, store.Folder{Name: p})
			}
		}
	}
	return all
}

// listed makes the answer for one folder that fits a pattern; false if the
// selection options leave it out.
func listed(f store.Folder, all []store.Folder, options *imap.ListOptions, lsub, levels bool) (*imap.ListData, bool) {
	data := &imap.ListData{Mailbox: f.Name, Delim: delimiter}
	below := slices.ContainsFunc(all, func(g store.Folder) bool {
		return g.Subscribed && strings.HasPrefix(g.Name, f.Name+delim)
	})
	if options.SelectSubscribed && !f.Subscribed {
		switch {
		case levels && below: // RFC 3501 §6.3.9: a level above a subscribed folder
			data.Attrs = append(data.Attrs, imap.MailboxAttrNoSelect)
			return data, true
		case !options.SelectRecursiveMatch || !below:
			return nil, false
		}
	}
	if options.SelectRecursiveMatch && below {
		data.ChildInfo = &imap.ListDataChildInfo{Subscribed: true}
	}
	if options.SelectSpecialUse && f.SpecialUse == "" {
		return nil, false
	}
	if f.UIDValidity == 0 {
		data.Attrs = append(data.Attrs, imap.MailboxAttrNonExistent, imap.MailboxAttrNoSelect)
	}
	if hasChildren(all, f.Name) {
		data.Attrs = append(data.Attrs, imap.MailboxAttrHasChildren)
	} else {
		data.Attrs = append(data.Attrs, imap.MailboxAttrHasNoChildren)
	}
	if f.SpecialUse != "" {
		data.Attrs = append(data.Attrs, imap.MailboxAttr(f.SpecialUse))
	}
	if f.Subscribed && !lsub && (options.ReturnSubscribed || options.SelectSubscribed) {
		data.Attrs = append(data.Attrs, imap.MailboxAttrSubscribed)
	}
	return data, true
}
