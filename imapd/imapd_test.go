package imapd

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hispnode/hisp/store"
)

const plainMessage = "From: Dr Canary <canary@clinic.example>\r\nTo: b@x.example\r\nSubject: canary subject\r\n" +
	"Date: Sun, 22 Nov 2026 10:00:00 +0100\r\nMessage-ID: <canary-1@clinic.example>\r\n\r\nhello body\r\n"

func TestSession_story(t *testing.T) { onStores(t, testSessionStory) }

func testSessionStory(t *testing.T, n *testNode) {
	n.deliver("INBOX", plainMessage)
	c := n.login()
	caps := c.ok("CAPABILITY")
	for _, want := range []string{"IMAP4rev2", "IMAP4rev1", "IDLE", "UIDPLUS", "MOVE", "SPECIAL-USE", "APPENDLIMIT=37748736", "SEARCHRES", "ESEARCH", "LIST-STATUS", "NAMESPACE", "LITERAL-"} {
		has(t, caps, want)
	}
	has(t, c.ok("NAMESPACE"), `* NAMESPACE (("" "/")) NIL NIL`)
	list := c.ok(`LIST "" "*" RETURN (SPECIAL-USE SUBSCRIBED)`)
	for _, want := range []string{`\Sent`, `\Trash`, `\Drafts`, `\Junk`, `"/" INBOX`, `\HasNoChildren`, `\Subscribed`} {
		has(t, list, want)
	}
	sel := c.ok("SELECT inbox")
	has(t, sel, "* 1 EXISTS")
	has(t, sel, "[UIDVALIDITY ")
	has(t, sel, "[UIDNEXT 2]")
	has(t, sel, `[PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)]`)
	got := c.ok("FETCH 1 (UID FLAGS RFC822.SIZE ENVELOPE BODYSTRUCTURE)")
	has(t, got, `"canary subject"`)
	has(t, got, `("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 12 1 NIL NIL NIL NIL)`)
	has(t, c.ok("FETCH 1 BODY.PEEK[]"), fmt.Sprintf("BODY[] {%d}\r\n%s", len(plainMessage), plainMessage))
	hasNot(t, c.ok("FETCH 1 FLAGS"), `\Seen`)
	has(t, c.ok("FETCH 1 BODY[TEXT]<0.5>"), "BODY[TEXT]<0> {5}\r\nhello")
	has(t, c.ok("FETCH 1 FLAGS"), `\Seen`)
	has(t, c.ok("UID STORE 1 +FLAGS (\\Flagged $Forwarded)"), `FLAGS ($Forwarded \Flagged \Seen)`)
	hasNot(t, c.ok("STORE 1 -FLAGS.SILENT \\Flagged"), "FETCH")
	hasNot(t, c.ok("NOOP"), "FETCH")
	if got := c.ok("UID COPY 1 Sent"); len(got) != 0 {
		t.Errorf("COPY gave %q", got)
	}
	c.want("UID COPY 1 Sent", "OK [COPYUID ")
	c.want("COPY 1 Nowhere", "NO [TRYCREATE]")
	moved := c.ok("UID MOVE 1 Trash")
	has(t, moved, "* OK [COPYUID ")
	has(t, moved, "* 1 EXPUNGE")
	c.want("APPEND Sent (\\Seen) \"22-Nov-2026 10:00:00 +0100\" {5}\r\nabc\r\n", "OK [APPENDUID ")
	has(t, c.ok("STATUS Sent (MESSAGES UIDNEXT UNSEEN SIZE)"), "MESSAGES 3 UIDNEXT 4 UNSEEN 0 SIZE")
	c.ok("SELECT Sent")
	has(t, c.ok("FETCH 3 (INTERNALDATE BODY.PEEK[])"), "INTERNALDATE \"22-Nov-2026 09:00:00 +0000\" BODY[] {5}\r\nabc\r\n")
	c.ok("STORE 1:2 +FLAGS.SILENT \\Deleted")
	ex := c.ok("EXPUNGE")
	has(t, ex, "* 2 EXPUNGE")
	has(t, ex, "* 1 EXPUNGE")
	c.ok("UNSELECT")
	c.want("FETCH 1 FLAGS", "BAD")
	has(t, c.ok("LOGOUT"), "* BYE")
}

// TestPush: every session on a folder hears of arrivals, flags and removals
// made by others (row ED-04).
func TestPush(t *testing.T) { onStores(t, testPush) }

func testPush(t *testing.T, n *testNode) {
	n.deliver("INBOX", plainMessage)
	idler, other := n.login(), n.login()
	idler.ok("SELECT INBOX")
	other.ok("SELECT INBOX")
	idler.send("i IDLE\r\n")
	if got := idler.line(); !strings.HasPrefix(got, "+") {
		t.Fatalf("IDLE: %q", got)
	}
	n.deliver("INBOX", plainMessage)
	if got := idler.line(); got != "* 2 EXISTS" {
		t.Errorf("after delivery: %q", got)
	}
	other.ok(`STORE 1 +FLAGS (\Deleted)`)
	if got := idler.line(); got != `* 1 FETCH (UID 1 FLAGS (\Deleted))` {
		t.Errorf("after STORE: %q", got)
	}
	other.ok("EXPUNGE")
	if got := idler.line(); got != "* 1 EXPUNGE" {
		t.Errorf("after EXPUNGE: %q", got)
	}
	idler.send("done\r\n")
	if _, got := idler.until("i"); !strings.HasPrefix(got, "OK") {
		t.Errorf("DONE: %q", got)
	}
}

// TestExpungeHeld: FETCH, STORE and SEARCH with message numbers must not
// change them (RFC 9051 §7.5.1); what is gone is told by a code.
func TestExpungeHeld(t *testing.T) { onStores(t, testExpungeHeld) }

func testExpungeHeld(t *testing.T, n *testNode) {
	for range 3 {
		n.deliver("INBOX", plainMessage)
	}
	a, b := n.login(), n.login()
	a.ok("SELECT INBOX")
	b.ok("SELECT INBOX")
	b.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	b.ok("EXPUNGE")
	b.ok(`STORE 2 +FLAGS.SILENT (\Flagged)`)
	got := a.want("FETCH 1:3 (UID FLAGS)", "NO [EXPUNGEISSUED]")
	hasNot(t, got, "EXPUNGE")
	has(t, got, "* 2 FETCH (UID 2")
	has(t, got, `* 3 FETCH (UID 3 FLAGS (\Flagged))`)
	has(t, a.ok("SEARCH FLAGGED"), "* SEARCH 3")
	has(t, a.ok("NOOP"), "* 1 EXPUNGE")
	has(t, a.ok("FETCH 2 (UID FLAGS)"), `* 2 FETCH (UID 3 FLAGS (\Flagged))`)
	a.want("FETCH 3 FLAGS", "BAD")
}

// TestExamine: go-imap does not enforce read-only.
func TestExamine(t *testing.T) { onStores(t, testExamine) }

func testExamine(t *testing.T, n *testNode) {
	n.deliver("INBOX", plainMessage, `\Deleted`)
	c := n.login()
	has(t, c.want("EXAMINE INBOX", "OK [READ-ONLY]"), "[PERMANENTFLAGS ()]")
	c.ok("FETCH 1 BODY[]")
	hasNot(t, c.ok("FETCH 1 FLAGS"), `\Seen`)
	c.want(`STORE 1 +FLAGS (\Seen)`, "NO [NOPERM]")
	c.want("EXPUNGE", "NO [NOPERM]")
	c.want("MOVE 1 Trash", "NO [NOPERM]")
	c.want("COPY 1 Trash", "OK [COPYUID")
	c.ok("CLOSE")
	has(t, c.ok("STATUS INBOX (MESSAGES)"), "MESSAGES 1")
	c.ok("SELECT INBOX")
	c.ok("CLOSE")
	has(t, c.ok("STATUS INBOX (MESSAGES)"), "MESSAGES 0")
}

func TestFolders(t *testing.T) { onStores(t, testFolders) }

func testFolders(t *testing.T, n *testNode) {
	c := n.login()
	c.ok("CREATE a/b/c/")
	list := c.ok(`LIST "" "a*"`)
	has(t, list, `(\HasChildren) "/" "a"`)
	has(t, list, `(\HasNoChildren) "/" "a/b/c"`)
	if got := c.ok(`LIST "" "a/%"`); len(got) != 1 {
		t.Errorf("LIST a/%% gave %q", got)
	}
	c.want("CREATE a", "NO [ALREADYEXISTS]")
	c.want("CREATE inbox", "NO [ALREADYEXISTS]")
	c.want("DELETE a", "NO [HASCHILDREN]")
	c.want("DELETE INBOX", "NO [CANNOT]")
	c.want("DELETE missing", "NO [NONEXISTENT]")
	c.want("SELECT missing", "NO [NONEXISTENT]")
	c.want("RENAME a a/x", "NO [CANNOT]")
	c.ok("RENAME a z")
	has(t, c.ok(`LIST "" "*"`), `"z/b/c"`)
	c.ok("SUBSCRIBE z/b")
	has(t, c.ok(`LSUB "" "z/%"`), `LSUB (\HasChildren) "/" "z/b"`)
	c.ok("UNSUBSCRIBE z")
	has(t, c.ok(`LSUB "" "%"`), `LSUB (\Noselect) "/" "z"`)
	has(t, c.ok(`LIST (SUBSCRIBED RECURSIVEMATCH) "" "%"`), `"z" (CHILDINFO ("SUBSCRIBED"))`)
	has(t, c.ok(`LIST "" (INBOX z) RETURN (STATUS (MESSAGES UNSEEN))`), `* STATUS INBOX (MESSAGES 0 UNSEEN 0)`)
	has(t, c.ok(`LIST (SPECIAL-USE) "" "*"`), `\Sent`)
	has(t, c.ok(`LIST "" ""`), `LIST (\Noselect) "/" ""`)
	c.ok("CREATE Archive (USE (\\Archive))")
	c.want("CREATE Other (USE (\\Archive))", "NO [USEATTR]")
	c.ok("CREATE &AOk-t&AOk-")
	has(t, c.ok(`LIST "" "&AOk-*"`), `"&AOk-t&AOk-"`)
	n.deliver("INBOX", plainMessage)
	c.ok("RENAME INBOX Old")
	has(t, c.ok("STATUS Old (MESSAGES)"), "MESSAGES 1")
	has(t, c.ok("STATUS INBOX (MESSAGES)"), "MESSAGES 0")
	c.ok("DELETE Old")
}

// TestNames: nothing that could become a path or break a line is a folder
// (row M5).
func TestNames(t *testing.T) {
	n := newTestNode(t, nil)
	c := n.login()
	for _, name := range []string{
		`"../../x"`, `a/../b`, `..`, `.`, `/etc`, `a//b`, `"a\\b"`, `"a%b"`, `"a*b"`, `#news`, `&AC4ALg-`, `a/&AC4-`,
		`&AAAAAQ-`, `&AA0ACg-x`, `&ICg-`, `&IC4-x`, strings.Repeat("n", 501), strings.Repeat("a/", 17) + "a", `" a"`, `""`,
	} {
		untagged, tagged := c.do("CREATE " + name)
		if strings.HasPrefix(tagged, "OK") || len(untagged) > 0 {
			t.Errorf("CREATE %s: %q %q", name, untagged, tagged)
		}
	}
	folders, err := n.store.ListFolders(context.Background(), testAddress)
	if err != nil || len(folders) != 5 {
		t.Errorf("folders = %v, %v; want the 5 of a new account", folders, err)
	}
}

func TestMatches(t *testing.T) {
	tests := []struct {
		name, pattern string
		want          bool
	}{
		{"INBOX", "inbox", true}, {"INBOX", "*", true}, {"a/b", "%", false}, {"a/b", "a/%", true}, {"a/b", "*b", true},
		{"a/b/c", "a/%", false}, {"a/b/c", "a/%/c", true}, {"abc", "a%c", true}, {"abc", "a%d", false}, {"", "", true}, {"a", "", false},
	}
	for _, tt := range tests {
		if got := matches(tt.name, tt.pattern); got != tt.want {
			t.Errorf("matches(%q, %q) = %v, want %v", tt.name, tt.pattern, got, tt.want)
		}
	}
	// Exponential in go-imap's matcher.
	if matches(strings.Repeat("a", 500), strings.Repeat("*a", 400)+"b") {
		t.Error("matched")
	}
}

// TestFolderGone: a session whose folder is deleted elsewhere is told to go.
func TestFolderGone(t *testing.T) { onStores(t, testFolderGone) }

func testFolderGone(t *testing.T, n *testNode) {
	if err := n.store.CreateFolder(context.Background(), testAddress, "tmp", ""); err != nil {
		t.Fatal(err)
	}
	a, b := n.login(), n.login()
	a.ok("SELECT tmp")
	b.ok("SELECT tmp")
	b.ok("DELETE tmp")
	b.ok("SELECT INBOX")
	a.send("x NOOP\r\n")
	has(t, a.ended(), "* BYE")
}

func TestDiff(t *testing.T) {
	snap := func(l ...entry) *snapshot { return &snapshot{list: l} }
	before := snap(entry{uid: 1, modSeq: 1}, entry{uid: 3, modSeq: 1}, entry{uid: 5, modSeq: 1}, entry{uid: 7, modSeq: 1})
	after := snap(entry{uid: 3, modSeq: 2}, entry{uid: 7, modSeq: 1}, entry{uid: 8, modSeq: 3}, entry{uid: 9, modSeq: 4})
	c := diff(before, after)
	if fmt.Sprint(c.expunged, c.flags, c.added) != "[1 3] [0] true" {
		t.Errorf("diff = %v", c)
	}
	if c := diff(after, after); len(c.expunged)+len(c.flags) > 0 || c.added {
		t.Errorf("diff of equals = %v", c)
	}
}

var _ Mailboxes = (*memStore)(nil)
var _ store.Messages = (*memStore)(nil)

// TestDesktopClient is the order in which Thunderbird works: folders, flags,
// headers, one message, a copy of what was sent, a removal, then IDLE.
func TestDesktopClient(t *testing.T) {
	onStores(t, func(t *testing.T, n *testNode) {
		for range 3 {
			n.deliver("INBOX", nested)
		}
		c := n.startTLS()
		c.ok("CAPABILITY")
		c.ok("AUTHENTICATE PLAIN " + plainResponse())
		c.ok("CAPABILITY")
		c.ok("ENABLE UTF8=ACCEPT")
		c.ok("NAMESPACE")
		has(t, c.ok(`LIST (SUBSCRIBED) "" "*" RETURN (SPECIAL-USE)`), `\Trash`)
		has(t, c.ok(`LIST "" "INBOX"`), "INBOX")
		has(t, c.ok(`SELECT "INBOX"`), "* 3 EXISTS")
		if got := c.ok("UID FETCH 1:* (FLAGS)"); len(got) != 3 {
			t.Errorf("flags of %d messages, want 3", len(got))
		}
		has(t, c.ok("UID FETCH 1:3 (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To)])"), "BODY[HEADER.FIELDS (")
		has(t, c.ok("UID FETCH 2 (UID RFC822.SIZE BODY.PEEK[])"), nested)
		c.ok(`UID STORE 2 +Flags (\Seen)`)
		c.want(fmt.Sprintf("APPEND \"Sent\" (\\Seen) {%d}\r\n%s", len(plainMessage), plainMessage), "OK [APPENDUID")
		has(t, c.ok(`UID STORE 1 +FLAGS (\Deleted \Seen)`), `\Deleted`)
		has(t, c.ok(`UID MOVE 1 "Trash"`), "* 1 EXPUNGE")
		c.send("i IDLE\r\n")
		c.line()
		n.deliver("INBOX", plainMessage)
		if got := c.line(); got != "* 3 EXISTS" {
			t.Errorf("IDLE told %q", got)
		}
		c.send("DONE\r\n")
		c.until("i")
		has(t, c.ok("UID FETCH 4:* (FLAGS)"), "* 3 FETCH (UID 4 FLAGS ())")
		c.ok(`LIST "" "%" RETURN (STATUS (UIDNEXT MESSAGES UNSEEN))`)
		c.ok("CLOSE")
		c.ok("LOGOUT")
		want := map[string]int{"INBOX": 3, "Sent": 1, "Trash": 1}
		for folder, count := range want {
			if _, infos, err := n.store.ListMessages(context.Background(), testAddress, folder); err != nil || len(infos) != count {
				t.Errorf("%s has %d messages, %v; want %d", folder, len(infos), err, count)
			}
		}
	})
}

// TestRestart: UIDs, UIDVALIDITY and flags are those of the store, and outlive
// the edge.
func TestRestart(t *testing.T) {
	s := openBolt(t)
	n := newTestNode(t, func(c *Config) { c.Store = s })
	n.deliver("INBOX", plainMessage)
	c := n.login()
	before := c.ok("SELECT INBOX")
	c.ok(`STORE 1 +FLAGS (\Flagged kept)`)
	n.stop()
	n.start()
	c = n.login()
	after := c.ok("SELECT INBOX")
	if validity(before) == "" || validity(before) != validity(after) {
		t.Errorf("UIDVALIDITY %q, then %q", validity(before), validity(after))
	}
	has(t, c.ok("FETCH 1 (UID FLAGS)"), `UID 1 FLAGS (\Flagged kept)`)
}

func validity(lines []string) string {
	for _, l := range lines {
		if _, rest, ok := strings.Cut(l, "[UIDVALIDITY "); ok {
			return rest
		}
	}
	return ""
}
