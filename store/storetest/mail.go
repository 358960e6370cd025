package storetest

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// RunMail tests store.Folders and store.Messages.
func RunMail(t *testing.T, open func(t *testing.T) Mail) {
	runAll(t, open, []test[Mail]{
		{"a new account has its folders", testNewFolders},
		{"create, delete, rename, subscribe", testFolders},
		{"renaming INBOX moves its messages", testRenameInbox},
		{"renaming takes the folders below along", testRenameTree},
		{"a message comes back byte for byte", testMessageRoundTrip},
		{"flags", testFlags},
		{"copy and move", testCopy},
		{"expunge", testExpunge},
		{"UIDs are never used twice", testUIDs},
		{"modification sequences only rise", testModSeq},
		{"watch", testWatch},
		{"many writers in one folder", testMailRace},
	})
}

func bobOf(t *testing.T, s Mail) hisp.Address {
	t.Helper()
	return people(t, s, "Bob")[0]
}

func names(t *testing.T, s Mail, a hisp.Address) string {
	t.Helper()
	fs, err := s.ListFolders(t.Context(), a)
	ok(t, err)
	all := ""
	for _, f := range fs {
		all += f.Name + " "
	}
	return all
}

func add(t *testing.T, s Mail, a hisp.Address, folder string, n int, flags ...string) {
	t.Helper()
	for i := range n {
		_, _, err := s.Append(t.Context(), a, folder, message(fmt.Sprint(i), 100+i), flags, time.Now())
		ok(t, err)
	}
}

// folder checks that the counters fit the messages and returns both.
func folder(t *testing.T, s Mail, a hisp.Address, name string) (store.Folder, []store.MessageInfo) {
	t.Helper()
	f, infos, err := s.ListMessages(t.Context(), a, name)
	ok(t, err)
	wanted := f
	wanted.Messages, wanted.Unseen, wanted.Deleted, wanted.Size = uint32(len(infos)), 0, 0, 0
	last := uint32(0)
	for _, m := range infos {
		wanted.Size += m.Size
		seen, deleted := false, false
		for _, fl := range m.Flags {
			seen, deleted = seen || fl == `\Seen`, deleted || fl == `\Deleted`
		}
		if !seen {
			wanted.Unseen++
		}
		if deleted {
			wanted.Deleted++
		}
		if m.UID <= last || m.UID >= f.UIDNext || m.ModSeq > f.HighestModSeq || m.ModSeq == 0 {
			t.Errorf("message %+v does not fit folder %+v", m, f)
		}
		last = m.UID
	}
	if f != wanted {
		t.Errorf("folder = %+v, want %+v", f, wanted)
	}
	fs, err := s.ListFolders(t.Context(), a)
	ok(t, err)
	for _, l := range fs {
		if l.Name == f.Name && l != f {
			t.Errorf("listed folder = %+v, want %+v", l, f)
		}
	}
	return f, infos
}

func testNewFolders(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	fs, err := s.ListFolders(t.Context(), addr("bOB", home))
	ok(t, err)
	wanted := [][2]string{{"INBOX", ""}, {"Drafts", `\Drafts`}, {"Junk", `\Junk`}, {"Sent", `\Sent`}, {"Trash", `\Trash`}}
	equal(t, "folders", len(fs), len(wanted))
	validity := map[uint32]bool{}
	for i, f := range fs {
		equal(t, "name", f.Name, wanted[i][0])
		equal(t, "special use", f.SpecialUse, wanted[i][1])
		equal(t, "next UID", f.UIDNext, 1)
		equal(t, "subscribed", f.Subscribed, true)
		if f.UIDValidity == 0 || f.HighestModSeq == 0 || validity[f.UIDValidity] {
			t.Errorf("folder %+v: no or no new UIDVALIDITY, or no modification sequence", f)
		}
		validity[f.UIDValidity] = true
	}
	folder(t, s, bob, "inbox")
	_, err = s.ListFolders(t.Context(), addr("nobody", home))
	want(t, err, hisp.NotFound)
}

func testFolders(t *testing.T, s Mail) {
	ctx, bob := t.Context(), bobOf(t, s)
	ok(t, s.CreateFolder(ctx, bob, "Praxis/Müller", ""))
	want(t, s.CreateFolder(ctx, bob, "Praxis/Müller", ""), hisp.Conflict)
	want(t, s.CreateFolder(ctx, bob, "inbox", ""), hisp.Conflict)
	want(t, s.CreateFolder(ctx, addr("nobody", home), "x", ""), hisp.NotFound)
	for _, bad := range []string{"a//b", "/a", "a/", "a\r\nb", "a\x00b"} {
		want(t, s.CreateFolder(ctx, bob, bad, ""), hisp.Malformed)
	}
	add(t, s, bob, "Praxis/Müller", 2)
	before, _ := folder(t, s, bob, "Praxis/Müller")
	ok(t, s.RenameFolder(ctx, bob, "Praxis/Müller", "Archiv"))
	after, _ := folder(t, s, bob, "Archiv")
	before.Name = "Archiv"
	equal(t, "renamed folder", after, before)
	equal(t, "names", names(t, s, bob), "INBOX Archiv Drafts Junk Sent Trash ")
	want(t, s.RenameFolder(ctx, bob, "Praxis/Müller", "x"), hisp.NotFound)
	want(t, s.RenameFolder(ctx, bob, "Archiv", "Sent"), hisp.Conflict)
	ok(t, s.SubscribeFolder(ctx, bob, "Archiv", false))
	f, _ := folder(t, s, bob, "Archiv")
	equal(t, "subscribed", f.Subscribed, false)
	want(t, s.SubscribeFolder(ctx, bob, "none", true), hisp.NotFound)
	ok(t, s.DeleteFolder(ctx, bob, "Archiv"))
	want(t, s.DeleteFolder(ctx, bob, "Archiv"), hisp.NotFound)
	want(t, s.DeleteFolder(ctx, bob, "Inbox"), hisp.Denied)
	_, _, err := s.ListMessages(ctx, bob, "Archiv")
	want(t, err, hisp.NotFound)
	_, _, err = s.Append(ctx, bob, "Archiv", message("m", 10), nil, time.Now())
	want(t, err, hisp.NotFound)
	ok(t, s.CreateFolder(ctx, bob, "Archiv", `\Archive`))
	again, infos := folder(t, s, bob, "Archiv")
	equal(t, "messages of a new folder", len(infos), 0)
	equal(t, "UIDVALIDITY rose", again.UIDValidity > f.UIDValidity, true)
	equal(t, "special use", again.SpecialUse, `\Archive`)
}

// RFC 9051 §6.3.6.
func testRenameInbox(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	ok(t, s.CreateFolder(t.Context(), bob, "INBOX/below", ""))
	add(t, s, bob, "INBOX", 3, `\Seen`)
	before, _ := folder(t, s, bob, "INBOX")
	ok(t, s.RenameFolder(t.Context(), bob, "INBOX", "Old"))
	in, _ := folder(t, s, bob, "INBOX")
	equal(t, "INBOX", in.Messages, 0)
	equal(t, "UIDVALIDITY of INBOX", in.UIDValidity, before.UIDValidity)
	old, infos := folder(t, s, bob, "Old")
	equal(t, "moved", old.Messages, 3)
	equal(t, "flags", len(infos[0].Flags), 1)
	equal(t, "names", names(t, s, bob), "INBOX Drafts INBOX/below Junk Old Sent Trash ")
}

func testRenameTree(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	for _, n := range []string{"a", "a/b", "a/b/c", "ab", "x/b"} {
		ok(t, s.CreateFolder(t.Context(), bob, n, ""))
	}
	add(t, s, bob, "a/b/c", 1)
	want(t, s.RenameFolder(t.Context(), bob, "a", "a/d"), hisp.Malformed)
	want(t, s.RenameFolder(t.Context(), bob, "a", "x"), hisp.Conflict) // x/b is taken
	ok(t, s.RenameFolder(t.Context(), bob, "a", "z"))
	equal(t, "names", names(t, s, bob), "INBOX Drafts Junk Sent Trash ab x/b z z/b z/b/c ")
	f, _ := folder(t, s, bob, "z/b/c")
	equal(t, "messages", f.Messages, 1)
}

func testMessageRoundTrip(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	when := time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)
	for i, size := range []int{1, 100, 64 << 10, 64<<10 + 1, 1 << 20, 1<<20 + 1} {
		m := hisp.NewMessage(append([]byte(nil), message("r", size+20).Bytes()[:size]...))
		f, info, err := s.Append(t.Context(), bob, "Sent", m, []string{"$Forwarded", `\seen`}, when)
		ok(t, err)
		equal(t, "UID", info.UID, uint32(i+1))
		equal(t, "size", info.Size, int64(size))
		equal(t, "received", info.Received, when)
		equal(t, "messages", f.Messages, uint32(i+1))
		got, err := s.ReadMessage(t.Context(), bob, "Sent", info.UID)
		ok(t, err)
		sameMessage(t, got, m)
	}
	_, infos := folder(t, s, bob, "Sent")
	if !reflect.DeepEqual(infos[0].Flags, []string{"$Forwarded", `\Seen`}) {
		t.Errorf("flags = %v, want sorted, \\Seen spelling", infos[0].Flags)
	}
	_, err := s.ReadMessage(t.Context(), bob, "Sent", 99)
	want(t, err, hisp.NotFound)
	_, err = s.ReadMessage(t.Context(), bob, "none", 1)
	want(t, err, hisp.NotFound)
}

func testFlags(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	add(t, s, bob, "INBOX", 3)
	tests := []struct {
		op    store.FlagOp
		flags []string
		want  []string
	}{
		{store.FlagsAdd, []string{`\seen`, "$Work"}, []string{"$Work", `\Seen`}},
		{store.FlagsAdd, []string{`\SEEN`, `\Recent`, `\Deleted`}, []string{"$Work", `\Deleted`, `\Seen`}},
		{store.FlagsRemove, []string{`\deleted`, "other"}, []string{"$Work", `\Seen`}},
		{store.FlagsReplace, []string{`\Flagged`, `\Answered`}, []string{`\Answered`, `\Flagged`}},
		{store.FlagsReplace, nil, nil},
	}
	for _, tt := range tests {
		infos, err := s.SetFlags(t.Context(), bob, "INBOX", []uint32{3, 1, 7, 3}, tt.op, tt.flags)
		ok(t, err)
		equal(t, "messages changed", len(infos), 2)
		for _, m := range infos {
			if len(m.Flags)+len(tt.want) > 0 && !reflect.DeepEqual(m.Flags, tt.want) {
				t.Errorf("flags of %d = %v, want %v", m.UID, m.Flags, tt.want)
			}
		}
		_, listed := folder(t, s, bob, "INBOX")
		equal(t, "flags of the untouched one", len(listed[1].Flags), 0)
		if !reflect.DeepEqual(listed[0], infos[0]) {
			t.Errorf("listed %+v, returned %+v", listed[0], infos[0])
		}
	}
	_, err := s.SetFlags(t.Context(), bob, "none", []uint32{1}, store.FlagsAdd, nil)
	want(t, err, hisp.NotFound)
}

func testCopy(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	add(t, s, bob, "INBOX", 4, `\Flagged`)
	add(t, s, bob, "Trash", 1)
	f, pairs, err := s.CopyMessages(t.Context(), bob, "INBOX", []uint32{4, 2, 9}, "Trash", store.Copy)
	ok(t, err)
	equal(t, "pairs", fmt.Sprint(pairs), "[{2 2} {4 3}]")
	equal(t, "target", f.Name, "Trash")
	_, pairs, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{1, 2}, "Sent", store.Move)
	ok(t, err)
	equal(t, "pairs", fmt.Sprint(pairs), "[{1 1} {2 2}]")
	_, pairs, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{3}, "INBOX", store.Copy)
	ok(t, err)
	equal(t, "pairs in one folder", fmt.Sprint(pairs), "[{3 5}]")
	for name, n := range map[string]int{"INBOX": 3, "Trash": 3, "Sent": 2} {
		_, infos := folder(t, s, bob, name)
		equal(t, name, len(infos), n)
	}
	_, infos := folder(t, s, bob, "Sent")
	equal(t, "flags come along", fmt.Sprint(infos[1].Flags), `[\Flagged]`)
	for _, at := range []struct {
		folder string
		uid    uint32
	}{{"Sent", 2}, {"Trash", 2}} {
		got, err := s.ReadMessage(t.Context(), bob, at.folder, at.uid)
		ok(t, err)
		sameMessage(t, got, message("1", 101))
	}
	_, _, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{3}, "none", store.Move)
	want(t, err, hisp.NotFound)
}

func testExpunge(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	add(t, s, bob, "INBOX", 5)
	none, err := s.Expunge(t.Context(), bob, "INBOX", nil)
	ok(t, err)
	equal(t, "expunged without \\Deleted", len(none), 0)
	_, err = s.SetFlags(t.Context(), bob, "INBOX", []uint32{1, 2, 4}, store.FlagsAdd, []string{`\Deleted`})
	ok(t, err)
	got, err := s.Expunge(t.Context(), bob, "INBOX", []uint32{2, 3, 77})
	ok(t, err)
	equal(t, "expunged among", fmt.Sprint(got), "[2]")
	got, err = s.Expunge(t.Context(), bob, "INBOX", []uint32{})
	ok(t, err)
	equal(t, "expunged among none", len(got), 0)
	got, err = s.Expunge(t.Context(), bob, "INBOX", nil)
	ok(t, err)
	equal(t, "expunged", fmt.Sprint(got), "[1 4]")
	_, infos := folder(t, s, bob, "INBOX")
	equal(t, "left", len(infos), 2)
	_, err = s.ReadMessage(t.Context(), bob, "INBOX", 1)
	want(t, err, hisp.NotFound)
	_, err = s.Expunge(t.Context(), bob, "none", nil)
	want(t, err, hisp.NotFound)
}

// RFC 9051 §2.3.1.1.
func testUIDs(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	last := uint32(0)
	for range 4 {
		_, info, err := s.Append(t.Context(), bob, "INBOX", message("m", 50), []string{`\Deleted`}, time.Now())
		ok(t, err)
		equal(t, "UID rose", info.UID > last, true)
		last = info.UID
		_, err = s.Expunge(t.Context(), bob, "INBOX", nil)
		ok(t, err)
	}
	f, _ := folder(t, s, bob, "INBOX")
	equal(t, "next UID", f.UIDNext, last+1)
}

func testModSeq(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	last := uint64(0)
	rose := func(what string) {
		t.Helper()
		f, _ := folder(t, s, bob, "INBOX")
		if f.HighestModSeq <= last {
			t.Errorf("%s: modification sequence %d, was %d", what, f.HighestModSeq, last)
		}
		last = f.HighestModSeq
	}
	rose("new")
	add(t, s, bob, "INBOX", 2)
	rose("append")
	infos, err := s.SetFlags(t.Context(), bob, "INBOX", []uint32{1}, store.FlagsAdd, []string{`\Seen`})
	ok(t, err)
	equal(t, "message's sequence is new", infos[0].ModSeq > last, true)
	rose("flags")
	_, err = s.SetFlags(t.Context(), bob, "INBOX", []uint32{1}, store.FlagsAdd, []string{`\Seen`})
	ok(t, err)
	f, _ := folder(t, s, bob, "INBOX")
	equal(t, "sequence without a change", f.HighestModSeq, last)
	_, _, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{1}, "Sent", store.Move)
	ok(t, err)
	rose("move")
	_, err = s.SetFlags(t.Context(), bob, "INBOX", []uint32{2}, store.FlagsAdd, []string{`\Deleted`})
	ok(t, err)
	rose("flags")
	_, err = s.Expunge(t.Context(), bob, "INBOX", nil)
	ok(t, err)
	rose("expunge")
}

func testWatch(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	in, sent := s.Watch(ctx, addr("BOB", home), "inbox"), s.Watch(ctx, bob, "Sent")
	woken := func(ch <-chan struct{}) int {
		synctest.Wait()
		n := 0
		for len(ch) > 0 {
			<-ch
			n++
		}
		return n
	}
	equal(t, "at first", woken(in), 0)
	add(t, s, bob, "INBOX", 3)
	equal(t, "three changes merged", woken(in), 1)
	equal(t, "other folder", woken(sent), 0)
	changes := map[string]func() error{
		"flags": func() error {
			_, err := s.SetFlags(ctx, bob, "INBOX", []uint32{1}, store.FlagsAdd, []string{`\Deleted`})
			return err
		},
		"expunge": func() error { _, err := s.Expunge(ctx, bob, "INBOX", nil); return err },
		"move": func() error {
			_, _, err := s.CopyMessages(ctx, bob, "INBOX", []uint32{2}, "Sent", store.Move)
			return err
		},
	}
	for _, what := range []string{"flags", "expunge", "move"} {
		ok(t, changes[what]())
		equal(t, what, woken(in), 1)
	}
	equal(t, "target of the move", woken(sent), 1)
	cancel()
	synctest.Wait()
	add(t, s, bob, "INBOX", 1)
	equal(t, "after the end", woken(in), 0)
}

func testMailRace(t *testing.T, s Mail) {
	bob := bobOf(t, s)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 15 {
				_, info, err := s.Append(t.Context(), bob, "INBOX", message(fmt.Sprint(w, i), 200), nil, time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 3 {
				case 0:
					_, err = s.SetFlags(t.Context(), bob, "INBOX", []uint32{info.UID}, store.FlagsAdd, []string{`\Deleted`})
					if err == nil {
						_, err = s.Expunge(t.Context(), bob, "INBOX", []uint32{info.UID})
					}
				case 1:
					_, _, err = s.CopyMessages(t.Context(), bob, "INBOX", []uint32{info.UID}, "Sent", store.Move)
				}
				if err != nil {
					t.Error(err)
				}
				if _, _, err = s.ListMessages(t.Context(), bob, "INBOX"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	in, _ := folder(t, s, bob, "INBOX")
	sent, _ := folder(t, s, bob, "Sent")
	equal(t, "INBOX", in.Messages, 30)
	equal(t, "UIDs given", in.UIDNext, 91)
	equal(t, "Sent", sent.Messages, 30)
}
