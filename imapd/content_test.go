package imapd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
)

// nested is a multipart with a message in it that is itself a multipart.
const nested = "From: =?iso-8859-1?q?J=F6rg?= <j@x.example>\r\nTo: list: a@x.example, b@y.example;\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n" +
	"X-Odd:folded\r\n\tmore\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"o\"\r\n\r\npreamble\r\n" +
	"--o\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSch=F6n\r\n" +
	"--o\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment; filename*0*=utf-8''a%20; filename*1=b\r\n\r\n" +
	"Subject: inner\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n" +
	"--i\r\n\r\nfirst\r\n--i\r\nContent-Type: text/html\r\n\r\n<p>second</p>\r\n--i--\r\n" +
	"--o--\r\nepilogue\r\n"

// TestSections: every section is cut out of the stored octets.
func TestSections(t *testing.T) {
	n := newTestNode(t, nil)
	n.deliver("INBOX", nested)
	n.deliver("INBOX", plainMessage)
	c := n.login()
	c.ok("SELECT INBOX")
	inner := nested[strings.Index(nested, "Subject: inner"):strings.Index(nested, "\r\n--o--")]
	head, body, _ := strings.Cut(nested, "\r\n\r\n")
	innerHead, innerBody, _ := strings.Cut(inner, "\r\n\r\n")
	tests := []struct{ section, want string }{
		{"BODY.PEEK[]", nested}, {"RFC822", nested}, {"RFC822.HEADER", head + "\r\n\r\n"}, {"RFC822.TEXT", body},
		{"BODY.PEEK[HEADER]", head + "\r\n\r\n"}, {"BODY.PEEK[TEXT]", body},
		{"BODY.PEEK[HEADER.FIELDS (x-odd)]", "X-Odd:folded\r\n\tmore\r\n\r\n"},
		{"BODY.PEEK[HEADER.FIELDS.NOT (From To Subject MIME-Version Content-Type)]", "X-Odd:folded\r\n\tmore\r\n\r\n"},
		{"BODY.PEEK[HEADER.FIELDS (Missing)]", "\r\n"},
		{"BODY.PEEK[1]", "Sch=F6n"},
		{"BODY.PEEK[1.MIME]", "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"},
		{"BODY.PEEK[2]", inner}, {"BODY.PEEK[2.HEADER]", innerHead + "\r\n\r\n"}, {"BODY.PEEK[2.TEXT]", innerBody},
		{"BODY.PEEK[2.HEADER.FIELDS (SUBJECT)]", "Subject: inner\r\n\r\n"},
		{"BODY.PEEK[2.1]", "first"}, {"BODY.PEEK[2.2]", "<p>second</p>"}, {"BODY.PEEK[2.2.MIME]", "Content-Type: text/html\r\n\r\n"},
		{"BODY.PEEK[3]", ""}, {"BODY.PEEK[1.1]", ""}, {"BODY.PEEK[1.TEXT]", ""}, {"BODY.PEEK[2.2.1]", ""},
		{"BINARY.PEEK[1]", "Sch\xf6n"}, {"BODY.PEEK[]<10.20>", nested[10:30]}, {"BODY.PEEK[]<100000.5>", ""},
	}
	for _, tt := range tests {
		got := c.ok("FETCH 1 " + tt.section)
		want := fmt.Sprintf(" {%d}\r\n%s", len(tt.want), tt.want)
		if len(got) != 1 || !strings.Contains(strings.ReplaceAll(got[0], "~{", "{"), want) {
			t.Errorf("%s gave %q, want the literal %q", tt.section, got, tt.want)
		}
	}
	for _, section := range []string{"BODY.PEEK[1]", "BODY.PEEK[TEXT]"} { // a plain message is its own part 1
		has(t, c.ok("FETCH 2 "+section), "{12}\r\nhello body\r\n")
	}
	c.want("FETCH 1 BODY[MIME]", "BAD")
	c.want("FETCH 1 BODY.PEEK[]<0.0>", "BAD")
	has(t, c.ok("FETCH 1 BINARY.SIZE[1]"), "BINARY.SIZE[1] 5")
}

func TestStructure(t *testing.T) {
	n := newTestNode(t, nil)
	n.deliver("INBOX", nested)
	n.deliver("INBOX", "Content-Type: multipart/mixed; boundary=x\r\n\r\nno parts")
	n.deliver("INBOX", "Subject: "+strings.Repeat("a", 300<<10)+"\r\n\r\nbody") // beyond mimetree.MaxHeader
	n.deliver("INBOX", "From: broken <<a@b>, \"c\" <d@e>\r\nDate: no date\r\nIn-Reply-To: <1@x> <2@x>\r\n\r\n")
	c := n.login()
	c.ok("SELECT INBOX")
	got := c.ok("FETCH 1 (ENVELOPE BODYSTRUCTURE)")
	for _, want := range []string{
		`"=?utf-8?q?Gr=C3=BC=C3=9Fe?="`, `(("=?utf-8?q?J=C3=B6rg?=" NIL "j" "x.example"))`, `((NIL NIL "a" "x.example")(NIL NIL "b" "y.example"))`,
		`("attachment" ("filename*0*" "utf-8''a%20" "filename*1" "b"))`, `"message" "rfc822"`, `"alternative" ("boundary" "i")`, `"mixed" ("boundary" "o")`,
	} {
		if want == `((NIL NIL "a" "x.example")(NIL NIL "b" "y.example"))` {
			want = `((NIL NIL "a" "x.example") (NIL NIL "b" "y.example"))` // go-imap puts a space
		}
		has(t, got, want)
	}
	has(t, c.ok("FETCH 2 BODYSTRUCTURE"), `(("text" "plain"`)
	has(t, c.ok("FETCH 3 (BODYSTRUCTURE ENVELOPE)"), `("application" "octet-stream" NIL NIL NIL "8bit" 4`)
	got = c.ok("FETCH 4 ENVELOPE")
	has(t, got, `"<1@x> <2@x>"`)
	has(t, got, `"d" "e"`)
}

func TestSearch(t *testing.T) {
	n := newTestNode(t, nil)
	add := func(raw string, received string, flags ...string) {
		t.Helper()
		when, err := time.Parse(time.DateOnly, received)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := n.store.Append(context.Background(), testAddress, "INBOX", hisp.NewMessage([]byte(raw)), flags, when); err != nil {
			t.Fatal(err)
		}
	}
	add(nested, "2026-01-10", `\Seen`)
	add(plainMessage, "2026-02-10", `\Flagged`, "Work")
	add(strings.Replace(plainMessage, "hello", strings.Repeat("long ", 500), 1), "2026-03-10", `\Seen`, `\Deleted`)
	c := n.login()
	c.ok("SELECT INBOX")
	tests := []struct{ keys, want string }{
		{"ALL", "1 2 3"}, {"SEEN", "1 3"}, {"UNSEEN", "2"}, {"DELETED", "3"}, {"UNDELETED", "1 2"}, {"FLAGGED", "2"}, {"KEYWORD work", "2"},
		{"UNKEYWORD work", "1 3"}, {"NEW", ""}, {"OLD", "1 2 3"}, {"RECENT", ""}, {"DRAFT", ""}, {"ANSWERED", ""},
		{"1:2", "1 2"}, {"*", "3"}, {"UID 2:*", "2 3"}, {"UID 99:*", "3"}, {"NOT 1", "2 3"}, {"OR 1 3", "1 3"}, {"(1:2 SEEN)", "1"},
		{"FROM j\xc3\xb6rg", "1"}, {"SUBJECT \"GR\xc3\x9c\xc3\x9fE\"", "1"}, {"TO b@x", "2 3"}, {"CC x", ""}, {"BCC x", ""},
		{"HEADER X-Odd more", "1"}, {"HEADER X-Odd \"\"", "1"}, {"BODY {6+}\r\nSCH\xc3\x96N", "1"}, {"BODY inner", "1"}, {"BODY second", "1"},
		{"TEXT canary-1", "2 3"}, {"TEXT \"hello body\"", "2"}, {"BODY canary-1", ""},
		{"SINCE 10-Feb-2026", "2 3"}, {"BEFORE 10-Feb-2026", "1"}, {"ON 10-Feb-2026", "2"},
		{"SENTON 22-Nov-2026", "2 3"}, {"SENTBEFORE 22-Nov-2026", "1"}, {"SENTSINCE 23-Nov-2026", ""},
		{"LARGER 2000", "3"}, {"SMALLER 2000", "1 2"}, {"SMALLER 2000 SINCE 1-Feb-2026", "2"}, {"LARGER 0", "1 2 3"}, {"SMALLER 0", ""},
		{"SMALLER 2000 SUBJECT smaller", ""},
	}
	for _, tt := range tests {
		got := c.ok("SEARCH CHARSET UTF-8 " + tt.keys)
		if want := strings.TrimRight("* SEARCH "+tt.want, " "); len(got) != 1 || got[0] != want {
			t.Errorf("%s gave %q, want %q", tt.keys, got, want)
		}
	}
	has(t, c.ok("UID SEARCH RETURN (MIN MAX COUNT ALL) SEEN"), "UID ALL 1,3 MIN 1 MAX 3 COUNT 2")
	c.ok("SEARCH RETURN (SAVE) SEEN")
	has(t, c.ok("FETCH $ UID"), "* 3 FETCH (UID 3)")
	has(t, c.ok("SEARCH $ DELETED"), "* SEARCH 3")
	c.ok("SEARCH RETURN (SAVE MIN) SEEN")
	if got := c.ok("UID FETCH $ FLAGS"); len(got) != 1 || !strings.Contains(got[0], "UID 1") {
		t.Errorf("saved MIN gave %q", got)
	}
	c.want("SEARCH 9", "BAD")
	c.want("SEARCH CHARSET KOI8-R ALL", "NO [BADCHARSET]")
	c.ok("ENABLE IMAP4rev2")
	has(t, c.ok("SEARCH SEEN"), `* ESEARCH (TAG "`)
	has(t, c.ok("SELECT INBOX"), `* LIST () "/" INBOX`)
}

// TestBytes: hostile messages come back octet for octet and in short time
// (rows M1, M3).
func TestBytes(t *testing.T) {
	samples := map[string]string{
		"two types":      "Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n",
		"two boundaries": "Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--a\r\n\r\nx\r\n--b\r\n\r\ny\r\n",
		"unterminated":   "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nx",
		"bare line ends": "Subject: x\n\nbody\rmore\nend",
		"8-bit, BOM":     "\xef\xbb\xbfSubject: \xff\xfe\r\n\r\n\x80\x81",
		"no header":      "\r\n\r\n\r\n",
		"NUL":            "Subject: a\x00b\r\nFrom: \x00 <a@b>\r\n\r\nx\x00y",
		"deep":           strings.Repeat("Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n", 10000),
		"deep messages":  strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10000),
		"addresses":      "To: " + strings.Repeat("a@b.example, ", 100000) + "\r\n\r\n",
		"parameters":     "Content-Type: text/plain" + strings.Repeat("; name*1=x", 20000) + "\r\n\r\n",
		"open brackets":  "From: " + strings.Repeat("(", 60000) + "\r\nTo: a@[" + strings.Repeat("\\", 60000) + "]\r\n\r\n",
		"long word":      "Subject: " + strings.Repeat("=?utf-8?q?a?= ", 10000) + "\r\n\r\n",
	}
	n := newTestNode(t, nil)
	c := n.login()
	c.ok("SELECT Drafts")
	for name, raw := range samples {
		uid := n.deliver("Drafts", raw)
		c.ok("NOOP")
		need.CPU(t, 2*time.Second, func() {
			got := c.ok(fmt.Sprintf("UID FETCH %d (BODY.PEEK[] ENVELOPE BODYSTRUCTURE BODY.PEEK[1.2.3])", uid))
			if !strings.Contains(strings.Join(got, ""), fmt.Sprintf("BODY[] {%d}\r\n%s", len(raw), raw)) {
				t.Errorf("%s: not the same octets: %.300q", name, got)
			}
			c.ok("SEARCH TEXT nothing")
		})
	}
}

func TestSmallerFix(t *testing.T) {
	tests := []struct{ in, want string }{
		{"a SEARCH SMALLER 10\r\n", "a SEARCH NOT LARGER 9\r\n"},
		{"SMALLER UID SEARCH (smaller 1 SEEN) SMALLER 0\r\n", "SMALLER UID SEARCH (NOT LARGER 0 SEEN) NOT ALL\r\n"},
		{"a SEARCH SUBJECT SMALLER 5 HEADER SMALLER \"SMALLER 1\" SMALLER x\r\n", "a SEARCH SUBJECT SMALLER 5 HEADER SMALLER \"SMALLER 1\" SMALLER x\r\n"},
		{"a SEARCH RETURN (MIN) CHARSET UTF-8 1:2 SINCE 1-Jan-2026 SMALLER 7\r\n", "a SEARCH RETURN (MIN) CHARSET UTF-8 1:2 SINCE 1-Jan-2026 NOT LARGER 6\r\n"},
		{"a SEARCH SMALLER\r\n", "a SEARCH SMALLER\r\n"},
		{"a SEARCH \"open\r\n", "a SEARCH \"open\r\n"},
	}
	for _, tt := range tests {
		var f smallerFix
		if got := f.line(tt.in, true); got != tt.want {
			t.Errorf("%q gave %q, want %q", tt.in, got, tt.want)
		}
	}
	var f smallerFix
	f.line("a SEARCH SUBJECT {7}\r\n", true)
	if got := f.line(" SMALLER 3\r\n", false); got != " NOT LARGER 2\r\n" {
		t.Errorf("behind a literal: %q", got)
	}
}

// TestCache: it stays within its limit and keeps what is used.
func TestCache(t *testing.T) {
	c := newCache(100)
	for i := range uint32(10) {
		c.put(cacheKey{uid: i}, i, 30)
		c.get(cacheKey{uid: 0})
	}
	if c.used > 100 || c.order.Len() != 3 {
		t.Errorf("used %d by %d values, want 90 by 3", c.used, c.order.Len())
	}
	if _, ok := c.get(cacheKey{uid: 0}); !ok {
		t.Error("the value in use was dropped")
	}
	c.put(cacheKey{uid: 99}, 0, 101)
	if _, ok := c.get(cacheKey{uid: 99}); ok {
		t.Error("a value larger than the cache is kept")
	}
}

// countingStore counts reads of whole messages.
type countingStore struct {
	*memStore
	reads int
}

func (s *countingStore) ReadMessage(ctx context.Context, a hisp.Address, f string, uid uint32) (hisp.Message, error) {
	s.reads++
	return s.memStore.ReadMessage(ctx, a, f, uid)
}

// TestFetch_reads: structures are read once, and a large message fetched in
// pieces once too.
func TestFetch_reads(t *testing.T) {
	counting := &countingStore{}
	n := newTestNode(t, func(c *Config) {
		counting.memStore = c.Store.(*memStore)
		c.Store = counting
	})
	big := plainMessage + strings.Repeat("0123456789abcdef", 64<<10)
	n.deliver("INBOX", big)
	c := n.login()
	c.ok("SELECT INBOX")
	for range 5 {
		c.ok("FETCH 1 (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER])")
	}
	if counting.reads != 1 {
		t.Errorf("%d reads for the structure, want 1", counting.reads)
	}
	var all strings.Builder
	for at := 0; at < len(big); at += 100000 {
		got := c.ok(fmt.Sprintf("FETCH 1 BODY.PEEK[]<%d.100000>", at))
		_, lit, _ := strings.Cut(got[0], "}\r\n")
		all.WriteString(strings.TrimSuffix(lit, ")"))
	}
	if all.String() != big {
		t.Error("the pieces are not the message")
	}
	if counting.reads != 2 {
		t.Errorf("%d reads, want 2", counting.reads)
	}
}

// TestParams keeps parameters as they are written.
func TestParams(t *testing.T) {
	got := params(`a/b; X="q\"; y"; name*0*=utf-8''%41; bad; =x; dup=1; dup=2; end=`)
	want := map[string]string{"x": `q"; y`, "name*0*": "utf-8''%41", "dup": "1", "end": ""}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("params = %q, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(nested))
	f.Add([]byte(plainMessage))
	f.Add([]byte("From: a <b@c>, \"x, y\" <z>; \r\nContent-Type: multipart/x; boundary=\r\n\r\n"))
	seeds, _ := filepath.Glob("testdata/*.eml")
	for _, s := range seeds {
		if b, err := os.ReadFile(s); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, _ := parse(raw)
		for _, path := range [][]int{nil, {1}, {2}, {1, 1}, {2, 1}} {
			for _, spec := range []imap.PartSpecifier{imap.PartSpecifierNone, imap.PartSpecifierHeader, imap.PartSpecifierText, imap.PartSpecifierMIME} {
				got := sectionOf(raw, p.tree, &imap.FetchItemBodySection{Part: path, Specifier: spec})
				if !bytes.Contains(raw, got) {
					t.Fatalf("section %v %s is not a part of the message", path, spec)
				}
			}
		}
		texts(raw, p.tree)
	})
}
