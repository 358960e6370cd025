package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/imapd"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

const (
	imapUser     = "doctor@clinic.example"
	imapPassword = "correct-horse"
	imapLetter   = "From: a@hospital.example\r\nTo: doctor@clinic.example\r\nSubject: letter one\r\n" +
		"Message-ID: <1@hospital.example>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nDear doctor,\r\nall is well.\r\n"
)

var imapAddress = hisp.Address{Local: "doctor", Domain: "clinic.example"}

// imapNode is the IMAP edge on a real store.
type imapNode struct {
	store *bolt.Store
	clear string // port with STARTTLS
	full  string // port with TLS
	ca    string // PEM file of the root
	pool  *x509.CertPool
}

func startIMAP(t *testing.T) *imapNode {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := bolt.Open(bolt.Options{Create: true, Dir: t.TempDir(), MasterKey: store.NewMasterKey()})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := store.HashPassword(imapPassword)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddDomain(ctx, store.Domain{Name: imapAddress.Domain}); err != nil {
		t.Fatal(err)
	}
	account := store.AccountRecord{Account: hisp.Account{Address: imapAddress}, PasswordHash: hash}
	if err := s.PutAccount(ctx, account); err != nil {
		t.Fatal(err)
	}
	root := testca.NewRoot("IMAP interop CA")
	leaf := root.Issue(testca.Spec{Name: "localhost", DNS: []string{"localhost"}, IP: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyKind: testca.P256})
	n := &imapNode{store: s, ca: filepath.Join(t.TempDir(), "ca.pem"), pool: x509.NewCertPool()}
	n.pool.AddCert(root.Cert)
	der := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Cert.Raw})
	if err := os.WriteFile(n.ca, der, 0o600); err != nil {
		t.Fatal(err)
	}
	srv, err := imapd.New(imapd.Config{Auth: s, Store: s, TLS: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	listen := func(serve func(context.Context, net.Listener) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			if err := serve(ctx, ln); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		return port
	}
	n.clear, n.full = listen(srv.Serve), listen(srv.ServeTLS)
	t.Cleanup(func() {
		cancel()
		group.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *imapNode) deliver(t *testing.T, folder, raw string, flags ...string) uint32 {
	t.Helper()
	_, info, err := n.store.Append(t.Context(), imapAddress, folder, hisp.NewMessage([]byte(raw)), flags, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return info.UID
}

// messages returns the flags of a folder's messages by their subjects.
func (n *imapNode) messages(t *testing.T, folder string) map[string]string {
	t.Helper()
	_, infos, err := n.store.ListMessages(t.Context(), imapAddress, folder)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, info := range infos {
		msg, err := n.store.ReadMessage(t.Context(), imapAddress, folder, info.UID)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(msg.Bytes()), "Subject: ")
		subject, _, _ := strings.Cut(rest, "\r\n")
		found[subject] = strings.Join(info.Flags, " ")
	}
	return found
}

// imapRun runs a tool with input and returns its output.
func imapRun(t *testing.T, dir, input, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out.String(), errs.String())
	}
	return out.String()
}

func TestIMAP_curl(t *testing.T) {
	curl := need.Tool(t, "curl")
	n := startIMAP(t)
	n.deliver(t, "INBOX", imapLetter)
	base := "imaps://localhost:" + n.full + "/"
	args := func(more ...string) []string {
		return append([]string{"-sS", "--cacert", n.ca, "--user", imapUser + ":" + imapPassword}, more...)
	}
	if got := imapRun(t, t.TempDir(), "", curl, args(base)...); !strings.Contains(got, `\Sent`) || !strings.Contains(got, "INBOX") {
		t.Errorf("LIST = %q", got)
	}
	if got := imapRun(t, t.TempDir(), "", curl, args(base+"INBOX;UID=1")...); got != imapLetter {
		t.Errorf("the message came back as %q", got)
	}
	file := filepath.Join(t.TempDir(), "letter.eml")
	if err := os.WriteFile(file, []byte(strings.Replace(imapLetter, "letter one", "appended", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	imapRun(t, t.TempDir(), "", curl, args("-T", file, base+"Sent")...)
	if got := n.messages(t, "Sent"); len(got) != 1 {
		t.Errorf("Sent has %v", got)
	}
	got := imapRun(t, t.TempDir(), "", curl, args("-X", "UID SEARCH SUBJECT one", base+"INBOX")...)
	if strings.TrimSpace(got) != "* SEARCH 1" {
		t.Errorf("SEARCH = %q", got)
	}
	clear := args("--ssl-reqd", "-X", "STATUS INBOX (MESSAGES)", "imap://localhost:"+n.clear+"/")
	if got := imapRun(t, t.TempDir(), "", curl, clear...); !strings.Contains(got, "MESSAGES 1") {
		t.Errorf("STATUS over STARTTLS = %q", got)
	}
}

// TestIMAP_mbsync keeps a maildir and the account the same in both
// directions: messages, flags and removals.
func TestIMAP_mbsync(t *testing.T) {
	mbsync := need.Tool(t, "mbsync")
	n := startIMAP(t)
	subject := func(s string) string { return strings.Replace(imapLetter, "letter one", s, 1) }
	n.deliver(t, "INBOX", subject("first"))
	n.deliver(t, "INBOX", subject("second"), `\Seen`)
	dir := t.TempDir()
	for _, d := range []string{"mail/INBOX/cur", "mail/INBOX/new", "mail/INBOX/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf(`IMAPAccount a
Host localhost
Port %s
User %s
Pass %s
SSLType IMAPS
CertificateFile %s

IMAPStore far
Account a

MaildirStore near
Path %s/mail/
Inbox %s/mail/INBOX
SubFolders Verbatim

Channel c
Far :far:
Near :near:
Patterns INBOX Sent Trash
Create Both
Expunge Both
Sync All
SyncState *
`, n.full, imapUser, imapPassword, n.ca, dir, dir)
	rc := filepath.Join(dir, "mbsyncrc")
	if err := os.WriteFile(rc, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sync := func() { t.Helper(); imapRun(t, dir, "", mbsync, "-q", "-c", rc, "c") }
	sync()
	fresh, _ := filepath.Glob(filepath.Join(dir, "mail/INBOX/new/*"))
	cur, _ := filepath.Glob(filepath.Join(dir, "mail/INBOX/cur/*"))
	if len(fresh) != 1 || len(cur) != 1 || !strings.HasSuffix(cur[0], ":2,S") {
		t.Fatalf("after the first sync: new %v, cur %v", fresh, cur)
	}
	// Near: read and flag the first, remove the second, write a third.
	read := filepath.Join(dir, "mail/INBOX/cur", filepath.Base(fresh[0]))
	read = strings.TrimSuffix(read, ":2,") + ":2,FS"
	if err := os.Rename(fresh[0], read); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(cur[0], strings.TrimSuffix(cur[0], "S")+"ST"); err != nil {
		t.Fatal(err)
	}
	third := filepath.Join(dir, "mail/INBOX/new/1.local")
	if err := os.WriteFile(third, []byte(strings.ReplaceAll(subject("third"), "\r", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	sync()
	want := map[string]string{"first": `\Flagged \Seen`, "third": ""}
	if got := n.messages(t, "INBOX"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("INBOX = %v, want %v", got, want)
	}
	// Far: answer the third, remove the first.
	if _, err := n.store.SetFlags(t.Context(), imapAddress, "INBOX", []uint32{1}, store.FlagsAdd, []string{`\Deleted`}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Expunge(t.Context(), imapAddress, "INBOX", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.SetFlags(t.Context(), imapAddress, "INBOX", []uint32{3}, store.FlagsAdd, []string{`\Answered`}); err != nil {
		t.Fatal(err)
	}
	sync()
	all, _ := filepath.Glob(filepath.Join(dir, "mail/INBOX/*/*"))
	if len(all) != 1 || !strings.Contains(all[0], ":2,R") {
		t.Errorf("the maildir has %v, want one answered message", all)
	}
}

// TestIMAP_mutt reads and files a message in batch mode.
func TestIMAP_mutt(t *testing.T) {
	mutt := need.Tool(t, "mutt")
	n := startIMAP(t)
	n.deliver(t, "INBOX", imapLetter)
	dir := t.TempDir()
	config := fmt.Sprintf(`set folder="imaps://localhost:%s/"
set spoolfile="+INBOX"
set imap_user="%s"
set imap_pass="%s"
set ssl_starttls=no ssl_force_tls=yes ssl_verify_host=no
set certificate_file="%s"
set header_cache="" message_cachedir="" record="" trash=""
set confirmappend=no delete=yes quit=yes mark_old=no move=no
push "<tag-pattern>~A<enter><tag-prefix><set-flag>!<tag-prefix><save-message>=Trash<enter><sync-mailbox><quit>"
`, n.full, imapUser, imapPassword, n.ca)
	rc := filepath.Join(dir, "muttrc")
	if err := os.WriteFile(rc, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	script := need.Tool(t, "script") // mutt wants a terminal
	imapRun(t, dir, "", script, "-qec", "TERM=xterm "+mutt+" -n -F "+rc, "/dev/null")
	if got := n.messages(t, "INBOX"); len(got) != 0 {
		t.Errorf("INBOX still has %v", got)
	}
	if got := n.messages(t, "Trash"); got["letter one"] != `\Flagged` && !strings.Contains(got["letter one"], `\Flagged`) {
		t.Errorf("Trash = %v", got)
	}
}

// TestIMAP_python does what a desktop client does in a day, with imaplib.
func TestIMAP_python(t *testing.T) {
	python := need.Tool(t, "python3")
	n := startIMAP(t)
	for range 3 {
		n.deliver(t, "INBOX", imapLetter)
	}
	script := fmt.Sprintf(`
import imaplib, ssl, sys
ctx = ssl.create_default_context(cafile=%q)
def check(r, want=None):
    assert r[0] == "OK", r
    if want is not None: assert want in repr(r[1]), (want, r)
    return r[1]
m = imaplib.IMAP4("localhost", %s)
assert "LOGINDISABLED" in m.capabilities and not [c for c in m.capabilities if c.startswith("AUTH=")], m.capabilities
try:
    m.login(%q, %q); sys.exit("login in clear text")
except imaplib.IMAP4.error: pass
check(m.starttls(ctx))
check(m.login(%q, %q))
check(m.namespace(), '"/"')
check(m.list('""', '"*"'), "Sent")
check(m.status("INBOX", "(MESSAGES UIDNEXT UNSEEN)"), "MESSAGES 3")
check(m.select("inbox"))
assert len(check(m.uid("FETCH", "1:*", "(FLAGS)"))) == 3
check(m.uid("FETCH", "1", "(UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (From To Subject Date Message-ID)])"), "letter one")
raw = check(m.uid("FETCH", "1", "(BODY.PEEK[])"))[0][1]
assert raw == %q.encode(), raw
check(m.append("Sent", "(\\Seen)", imaplib.Time2Internaldate(1790000000), raw))
check(m.uid("STORE", "2", "+FLAGS.SILENT", "(\\Deleted)"))
check(m.uid("MOVE", "1", "Trash"))
check(m.expunge())
check(m.status("Trash", "(MESSAGES)"), "MESSAGES 1")
check(m.uid("SEARCH", "CHARSET", "UTF-8", "SUBJECT", "letter"), "3")
m.send(b"i1 IDLE\r\n")
assert m.readline().startswith(b"+")
o = imaplib.IMAP4_SSL("localhost", %s, ssl_context=ctx)
check(o.login(%q, %q))
check(o.select("INBOX"))
check(o.append("INBOX", None, None, raw))
line = m.readline()
assert line == b"* 2 EXISTS\r\n", line
check(o.store("1", "+FLAGS", "\\Seen"))
line = m.readline()
assert b"FETCH (UID 3 FLAGS (\\Seen))" in line, line
m.send(b"DONE\r\n")
assert m.readline().startswith(b"i1 OK")
check(m.close()); m.logout(); o.logout()
print("done")
`, n.ca, n.clear, imapUser, imapPassword, imapUser, imapPassword, imapLetter, n.full, imapUser, imapPassword)
	file := filepath.Join(t.TempDir(), "day.py")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := imapRun(t, t.TempDir(), "", python, file); got != "done\n" {
		t.Errorf("the script ended with %q", got)
	}
}
