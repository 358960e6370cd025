package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // the documents to send
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/mdn"
)

// The demo runs two complete nodes on loopback, set up with the commands an
// operator would type, and has a built-in mail client send a document from one
// to the other.

//go:embed demo/ccd.xml
var demoCCD []byte

//go:embed demo/referral.pdf
var demoPDF []byte

const (
	demoTimeout  = time.Minute // for everything to arrive
	demoPatience = time.Minute // until silence is a failure notice; an hour is long to watch
)

// demoSite is one of the two HISPs.
type demoSite struct {
	name     string // in the timeline
	domain   hisp.Domain
	user     hisp.Address
	password string
	dir      string
	config   string // file
	ports    map[string]int
	backend  *backend
	node     *node
}

func demoCommand(f *flag.FlagSet) func(c *call) error {
	once := f.Bool("once", false, "end when the message and both notices have arrived; exit code 0 only then")
	dir := f.String("dir", "", "`folder` to keep the two nodes in, to go on with next time; default is a temporary one")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		// A terminal that closes and a pipe nobody reads any more end the demo
		// in order too, or keys and mail would stay in the temporary folder.
		ctx, stop := signal.NotifyContext(c.ctx, syscall.SIGHUP, syscall.SIGPIPE)
		defer stop()
		c.ctx = ctx
		root, remove, err := demoFolder(*dir)
		if err != nil {
			return err
		}
		defer remove()
		d := &demo{call: c, sites: []*demoSite{
			{name: "hospital", domain: "hospital.example", user: hisp.Address{Local: "dr.adams", Domain: "hospital.example"}},
			{name: "clinic", domain: "clinic.example", user: hisp.Address{Local: "nurse.baker", Domain: "clinic.example"}},
		}}
		d.keep = *dir != ""
		return d.run(root, *once)
	}
}

func demoFolder(dir string) (string, func(), error) {
	if dir != "" {
		return dir, func() {}, os.MkdirAll(dir, 0o700)
	}
	dir, err := os.MkdirTemp("", "hisp-demo-")
	return dir, func() { os.RemoveAll(dir) }, err
}

// demo is one run of the command.
type demo struct {
	*call
	sites []*demoSite
	keep  bool // the folder stays
}

func (d *demo) run(root string, once bool) error {
	if err := d.setUp(root); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(d.ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	err := d.start(ctx, g)
	if err == nil {
		err = d.exchange(ctx)
	}
	if err == nil && !once {
		d.settings(root)
		<-ctx.Done()
	}
	stop()
	err = errors.Join(err, g.Wait())
	for _, s := range d.sites {
		if s.backend != nil {
			err = errors.Join(err, s.backend.Close())
		}
	}
	return err
}

// setUp makes both nodes with the commands that "hisp help" lists, or goes on
// with those that an earlier demo left in the folder.
func (d *demo) setUp(root string) error {
	again := true
	for _, s := range d.sites {
		s.dir = filepath.Join(root, s.name)
		s.config = filepath.Join(s.dir, configDefault)
		_, err := os.Stat(s.config)
		again = again && err == nil
	}
	begin, prepare := "Setting up two HISPs under", d.makeSite
	if again {
		begin, prepare = "Going on with the two HISPs under", d.reuseSite
	}
	fmt.Fprintf(d.stdout, "%s %s\n", begin, root)
	if err := d.choosePorts(); err != nil {
		return err
	}
	for _, s := range d.sites {
		if err := prepare(s); err != nil {
			return err
		}
	}
	for i, s := range d.sites {
		peer := d.sites[1-i]
		if err := s.editConfig(peer); err != nil {
			return err
		}
		if again {
			continue
		}
		if _, err := d.hisp(s, "anchor", "add", string(s.domain), filepath.Join(peer.dir, trialCertFile)); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) makeSite(s *demoSite) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fileError(err)
	}
	out, err := d.hisp(s, "init", "-domain", string(s.domain), "-account", s.user.AddrSpec(), "-trial")
	s.password = wordAfter(out, "password")
	return err
}

// reuseSite gives the user a new password, as only a hash of the old is known.
func (d *demo) reuseSite(s *demoSite) error {
	cfg, err := loadConfig(s.config)
	if err != nil {
		return err
	}
	if conn, err := net.Dial("unix", filepath.Join(cfg.resolve(cfg.Data), controlSocket)); err == nil {
		return hint(errors.Join(fmt.Errorf("a node is running in %s", s.dir), conn.Close()), "end it, or give another -dir")
	}
	out, err := d.hisp(s, "account", "password", s.user.AddrSpec(), "-generate")
	s.password = strings.TrimSpace(out)
	return err
}

// hisp runs one command line for a site and returns its output.
func (d *demo) hisp(s *demoSite, args ...string) (string, error) {
	var out, errs bytes.Buffer
	if code := run(d.ctx, append([]string{"-config", s.config}, args...), d.front, &out, &errs); code != exitOK {
		return "", fmt.Errorf("hisp %s: %s", strings.Join(args, " "), strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// wordAfter finds the line of an output that begins with label.
func wordAfter(out, label string) string {
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == label {
			return f[1]
		}
	}
	return ""
}

// choosePorts finds free ports. They stay open until all are chosen, so that
// none is chosen twice.
func (d *demo) choosePorts() error {
	var open []io.Closer
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for i, s := range d.sites {
		s.ports = map[string]int{}
		for offset, name := range []string{listenerSubmissionTLS, listenerSubmission, listenerBackbone, listenerIMAPS, listenerIMAP, listenerDNS} {
			// The same ports every time if they are free: a mail client set up once works again.
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10460+100*i+offset))
			if err != nil {
				ln, err = net.Listen("tcp", "127.0.0.1:0")
			}
			if err != nil {
				return err
			}
			open = append(open, ln)
			s.ports[name] = ln.Addr().(*net.TCPAddr).Port
		}
	}
	return nil
}

func (s *demoSite) address(name string) string { return fmt.Sprintf("127.0.0.1:%d", s.ports[name]) }

// editConfig changes what init wrote: loopback ports, each other's name server,
// each other's CA for TLS, and the port of the other's backbone.
func (s *demoSite) editConfig(peer *demoSite) error {
	raw, err := os.ReadFile(s.config)
	if err != nil {
		return fileError(err)
	}
	text := string(raw)
	set := func(key, value string) {
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, key+" = ") {
				lines[i] = key + " = " + value
			}
		}
		text = strings.Join(lines, "\n")
	}
	for name := range s.ports {
		set(name, fmt.Sprintf("%q", s.address(name)))
	}
	set("servers", fmt.Sprintf("[%q, %q]", s.address(listenerDNS), peer.address(listenerDNS)))
	set("addresses", `["127.0.0.1"]`)
	set("timeout", fmt.Sprintf("%q", demoPatience))
	set("roots", fmt.Sprintf("[%q]", filepath.Join("..", peer.name, trialCertFile)))
	head, port := fmt.Sprintf("\n[peer.%q]\nport = ", peer.domain), strconv.Itoa(peer.ports[listenerBackbone])
	before, after, _ := strings.Cut(text, head)
	_, after, _ = strings.Cut(after, "\n") // the port of the last demo
	text = before + head + port + "\n" + after
	return os.WriteFile(s.config, []byte(text), 0o600)
}

// start opens both stores and serves.
func (d *demo) start(ctx context.Context, g *errgroup.Group) error {
	log := slog.New(hisp.NewLogHandler(slog.NewTextHandler(d.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	for _, s := range d.sites {
		cfg, err := loadConfig(s.config)
		if err != nil {
			return err
		}
		if s.backend, err = openBackend(cfg, log, time.Now); err != nil {
			return err
		}
		if s.node, err = newNode(ctx, s.backend, log, &slog.LevelVar{}); err != nil {
			return err
		}
		g.Go(func() error { return s.node.run(ctx) })
	}
	return nil
}

// client is the mail client of the site's user. It trusts the site's own CA.
func (s *demoSite) client() (mailClient, error) {
	pem, err := os.ReadFile(filepath.Join(s.dir, trialCertFile))
	if err != nil {
		return mailClient{}, fileError(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return mailClient{
		addr: s.user, password: s.password, submission: s.address(listenerSubmissionTLS), imaps: s.address(listenerIMAPS),
		tls: &tls.Config{RootCAs: roots, ServerName: "mail." + string(s.domain), MinVersion: tls.VersionTLS12},
	}, nil
}

// exchange sends the document and waits until it and both notices are there.
func (d *demo) exchange(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	sender, receiver := d.sites[0], d.sites[1]
	from, err := sender.client()
	if err != nil {
		return err
	}
	to, err := receiver.client()
	if err != nil {
		return err
	}
	l := letter{
		from: sender.user, to: []hisp.Address{receiver.user}, dispatched: true,
		subject: "Referral: summary of care", text: "Please see this patient within 7 days.\n\nAlex Adams, MD\n",
		attachments: []attachment{{"ccd.xml", "text/xml", demoCCD}, {"referral.pdf", "application/pdf", demoPDF}},
	}
	msg, err := compose(l, "mail."+string(sender.domain), time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintf(d.stdout, "\n%s writes to %s:\na summary of care (C-CDA, %d octets) and a letter (PDF, %d octets)\n\n",
		sender.user.AddrSpec(), receiver.user.AddrSpec(), len(demoCCD), len(demoPDF))
	t := &timeline{out: d.stdout, start: time.Now()}
	follow, stopFollowing := context.WithCancel(ctx)
	var followers errgroup.Group
	for _, s := range d.sites {
		next, err := s.backend.store.AuditHead(ctx)
		if err != nil {
			stopFollowing()
			return err
		}
		followers.Go(func() error { return t.follow(follow, s.name, s.backend.store, next.Seq+1) })
	}
	err = d.watch(ctx, t, from, to, msg)
	stopFollowing()
	return errors.Join(err, followers.Wait())
}

// watch is what the two people see in their mail clients.
func (d *demo) watch(ctx context.Context, t *timeline, from, to mailClient, msg hisp.Message) error {
	if err := from.send(msg, to.addr); err != nil {
		return err
	}
	t.line(from.addr.Local, "sent: the mail client has its 250")
	original, err := mail.ReadMessage(bytes.NewReader(msg.Bytes()))
	if err != nil {
		return err
	}
	id := original.Header.Get("Message-Id")
	got, err := to.wait(ctx, func(m *mail.Message) bool { return m.Header.Get("Message-Id") == id })
	if err != nil {
		return fmt.Errorf("the message did not reach %s: %w", to.addr.Domain, err)
	}
	// In front stand the trace fields of submission and delivery, no more.
	if !bytes.HasSuffix(got, msg.Bytes()) {
		return errors.New("the message did not arrive as it was sent")
	}
	if err := sameAttachments(got); err != nil {
		return err
	}
	t.line(to.addr.Local, "read over IMAP: message and attachments identical, octet for octet")
	notice, err := from.wait(ctx, isNotice(mdn.Dispatched, id))
	if err != nil {
		return fmt.Errorf("no dispatched notice came back: %w", err)
	}
	report, err := mdn.Parse(notice)
	if err != nil || report.Notice == nil || report.Notice.OriginalMessageID != id {
		return errors.New("the dispatched notice is about another message")
	}
	t.line(from.addr.Local, "read over IMAP: notice of delivery to the mailbox")
	track, err := d.sites[0].backend.store.Track(ctx, id, to.addr)
	if err != nil {
		return err
	}
	if track.Final != hisp.Succeeded {
		return fmt.Errorf("the exchange is not complete: %s", track.Outcome())
	}
	if err := d.bothNotices(ctx, track.Message); err != nil {
		return err
	}
	fmt.Fprintf(d.stdout, "\nArrived, identical, processed and dispatched: the exchange is complete.\n")
	return nil
}

// bothNotices waits until the trail of the sender's node has both notices about
// a message. They are sealed side by side, so either may come first.
func (d *demo) bothNotices(ctx context.Context, id hisp.ID) error {
	tick := time.NewTicker(timelinePoll)
	defer tick.Stop()
	for {
		entries, err := d.sites[0].backend.store.MessageAudit(ctx, id)
		if err != nil {
			return err
		}
		came := map[string]bool{}
		for _, e := range entries {
			if e.Record.Event == hisp.AuditNotify && e.Record.Outcome == hisp.OutcomeOK {
				came[e.Record.Kind] = true
			}
		}
		if came[string(mdn.Processed)] && came[string(mdn.Dispatched)] {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the processed and the dispatched notice did not both come back")
		case <-tick.C:
		}
	}
}

// isNotice finds the notice about one message; a folder used again has others.
func isNotice(want mdn.Disposition, id string) func(*mail.Message) bool {
	return func(m *mail.Message) bool {
		return strings.TrimSpace(m.Header.Get("In-Reply-To")) == id && strings.HasPrefix(strings.ToLower(m.Header.Get("Subject")), string(want)+":")
	}
}

func sameAttachments(raw []byte) error {
	found, err := attachmentsOf(raw)
	if err != nil {
		return err
	}
	for name, want := range map[string][]byte{"ccd.xml": demoCCD, "referral.pdf": demoPDF} {
		if !bytes.Equal(found[name], want) {
			return fmt.Errorf("%s did not arrive as it was sent", name)
		}
	}
	return nil
}

// settings tells a person how to join in.
func (d *demo) settings(root string) {
	program, err := os.Executable() // after "go run" it is not in the PATH
	if err != nil {
		program = "hisp"
	}
	fmt.Fprintf(d.stdout, "\nBoth nodes go on. Connect a mail client (it will ask about the trial certificate):\n")
	for _, s := range d.sites {
		fmt.Fprintf(d.stdout, "\n  %s\n    password    %s\n    IMAP        127.0.0.1 port %d, SSL/TLS  (or %d, STARTTLS)\n    SMTP        127.0.0.1 port %d, SSL/TLS  (or %d, STARTTLS)\n    CA          %s\n    operate     %s -config %s audit list\n    DNS         dig @127.0.0.1 -p %d %s CERT\n",
			s.user.AddrSpec(), s.password, s.ports[listenerIMAPS], s.ports[listenerIMAP], s.ports[listenerSubmissionTLS], s.ports[listenerSubmission],
			filepath.Join(s.dir, trialCertFile), program, s.config, s.ports[listenerDNS], s.domain)
	}
	end := "removes " + root
	if d.keep {
		end = "leaves both nodes in " + root
	}
	fmt.Fprintf(d.stdout, "\nAn address that does not answer gets you a failure notice after %v.\nCtrl-C ends the demo and %s.\n", demoPatience, end)
}
