package smtpd

import (
	"errors"
	"io"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/hispnode/hisp/hisp"
)

// session is one peer's dialogue, in the terms of go-smtp. All of it runs in
// the connection's goroutine.
type session struct {
	srv  *Server
	gate *gate

	acct      hisp.Account // who logged in; submission only
	how       hisp.AuthKind
	triedCert bool

	open bool // MAIL was accepted
	env  hisp.Envelope
	utf8 bool
}

func (s *Server) newSession(c *smtp.Conn) (smtp.Session, error) {
	g, ok := c.Conn().(*gate)
	if !ok {
		return nil, codes(hisp.Internal).error("")
	}
	g.sess = &session{srv: s, gate: g}
	return g.sess, nil
}

// Reset implements smtp.Session: the message under way is forgotten.
func (s *session) Reset() {
	s.open, s.env, s.utf8 = false, hisp.Envelope{}, false
	s.gate.body.drop(s.gate)
}

// Logout implements smtp.Session.
func (s *session) Logout() error {
	s.gate.body.drop(s.gate)
	return nil
}

// ready tells whether content may come now.
func (s *session) ready() bool { return s.open && len(s.env.To) > 0 }

// Mail implements smtp.Session.
func (s *session) Mail(from string, opts *smtp.MailOptions) (err error) {
	defer s.contain(&err)
	if s.open {
		return status(503, 5, 5, 1, "one message at a time; send RSET first")
	}
	addr, err := parsePath(from, opts.UTF8)
	if err != nil {
		return err
	}
	if s.srv.sub != nil {
		err = s.mailFromAccount(addr)
	} else {
		err = s.mailFromPeer(addr)
	}
	if err != nil {
		return err
	}
	now := s.srv.cfg.Clock().UTC()
	s.open, s.utf8 = true, opts.UTF8
	s.env = hisp.Envelope{
		ID: hisp.NewID(now), Origin: s.origin(), From: addr, Received: now,
		Account: s.acct.Address, Auth: s.how, Peer: s.gate.peer, TLS: s.gate.tls != nil,
	}
	return nil
}

func (s *session) origin() hisp.Origin {
	if s.srv.sub != nil {
		return hisp.Edge
	}
	return hisp.Backbone
}

// mailFromAccount lets a logged-in account use its own address, with or without
// a +tag (row BB-18), and no other (row ED-08, threat T8).
func (s *session) mailFromAccount(from hisp.Address) error {
	if s.gate.tls == nil {
		return s.refuse(hisp.Denied, "", "submission before TLS", from, needTLS())
	}
	if err := s.loginByCertificate(); err != nil {
		return err
	}
	if s.acct.Address.IsZero() {
		return s.refuse(hisp.Denied, "", "submission without login", from,
			status(530, 5, 7, 0, "log in first, with AUTH or a client certificate that belongs to an account"))
	}
	// A displayed MDN of the mail client has the null sender (RFC 8098
	// §2.1); the submitter refuses it for anything but a notice.
	own, err := s.own(from)
	if err != nil {
		return s.failed("account", err)
	}
	if !own && !from.IsZero() {
		return s.refuse(hisp.Denied, from.Domain, "sender is not the account", from,
			status(550, 5, 7, 1, "you may send only as the address you logged in with"))
	}
	return nil
}

// own tells whether from is the account's address. One with a +tag is, unless
// it is another account's own.
func (s *session) own(from hisp.Address) (bool, error) {
	if from.Equal(s.acct.Address) || !from.Base().Equal(s.acct.Address) {
		return from.Equal(s.acct.Address), nil
	}
	acct, err := s.srv.cfg.Directory.Account(s.gate.ctx, from)
	if errors.Is(err, hisp.UnknownRecipient) {
		return false, nil
	}
	return err == nil && acct.Address.Equal(s.acct.Address), err
}

// mailFromPeer wants TLS unless the peer's domain is exempt. For the null
// sender the EHLO name stands in, as exchangers are named below the domain
// they serve.
func (s *session) mailFromPeer(from hisp.Address) error {
	if s.gate.tls != nil {
		return nil
	}
	if !from.IsZero() {
		if s.srv.back.AllowPlain(from.Domain) {
			return nil
		}
		return s.refuse(hisp.Denied, from.Domain, "message before TLS", from, needTLS())
	}
	name, err := hisp.ParseDomain(s.gate.helo)
	for err == nil && strings.Contains(string(name), ".") {
		if s.srv.back.AllowPlain(name) {
			return nil
		}
		_, parent, _ := strings.Cut(string(name), ".")
		name = hisp.Domain(parent)
	}
	return s.refuse(hisp.Denied, "", "notice before TLS", from, needTLS())
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) (err error) {
	defer s.contain(&err)
	addr, err := parsePath(to, s.utf8)
	if err != nil {
		_ = s.srv.audit(s.gate, hisp.Malformed, "", "recipient is no address", s.private())
		return err
	}
	ctx, dir := s.gate.ctx, s.srv.cfg.Directory
	hosted, err := dir.Hosted(ctx, addr.Domain)
	if err != nil {
		return s.failed("hosted", err)
	}
	if !hosted {
		if s.srv.sub == nil {
			return s.refuseRcpt(hisp.Denied, addr, "relay attempt",
				status(550, 5, 7, 1, "relay denied: this domain is not served here"))
		}
		return s.addRcpt(addr)
	}
	// A disabled account still gets its mail: only its logins end.
	_, err = dir.Account(ctx, addr)
	switch {
	case errors.Is(err, hisp.UnknownRecipient):
		return s.refuseRcpt(hisp.UnknownRecipient, addr, "unknown recipient",
			status(550, 5, 1, 1, "no such recipient here: check the address"))
	case err != nil:
		return s.failed("account", err)
	}
	return s.addRcpt(addr)
}

// addRcpt keeps a recipient; naming one twice gives one copy.
func (s *session) addRcpt(addr hisp.Address) error {
	for _, have := range s.env.To {
		if have.Equal(addr) {
			return nil
		}
	}
	s.env.To = append(s.env.To, addr)
	return nil
}

// Data implements smtp.Session. The reader is the gate's signal that content
// comes; the octets are in the gate. A reply of success is given only after
// the node has the message on disk.
func (s *session) Data(r io.Reader) (err error) {
	defer s.contain(&err)
	if _, err := io.Copy(io.Discard, r); err != nil {
		return codes(hisp.Temporary).error("")
	}
	body := &s.gate.body
	if !body.whole {
		return codes(hisp.Temporary).error("")
	}
	if body.verdict != verdictOK {
		return parseReply(s.srv.verdictReply(s.gate, body.verdict))
	}
	if hops(body.buf) > maxHops {
		if err := s.auditMessage(hisp.Malformed, "mail loop"); err != nil {
			return codes(hisp.Temporary).error("")
		}
		return status(554, 5, 4, 6, "the message has too many Received fields; it is in a loop")
	}
	msg := hisp.NewMessage(body.buf)
	body.buf = nil // the message owns it now
	start := s.srv.cfg.Clock()
	if s.srv.sub != nil {
		err = s.srv.sub.Submitter.Submit(s.gate.ctx, s.env, msg)
	} else {
		err = s.srv.back.Receiver.Receive(s.gate.ctx, s.env, msg)
	}
	log := s.srv.cfg.Log.With("id", string(s.env.ID), "octets", msg.Size(), "dur", s.srv.cfg.Clock().Sub(start))
	if err != nil {
		log.Debug("message not taken", "kind", hisp.KindOf(err).Error())
		return s.render(err)
	}
	log.Debug("message taken")
	s.gate.idle = 0
	return status(250, 2, 0, 0, "queued as "+string(s.env.ID))
}

// contain turns a panic into a 421 for this peer.
func (s *session) contain(err *error) {
	if v := recover(); v != nil {
		s.srv.logPanic(v)
		*err = status(421, 4, 3, 0, textInternal)
	}
}

// parsePath makes an address from what go-smtp read between the brackets, where
// a quoted local part has lost its quotes. One that holds an @ is refused
// rather than guessed at: it is how relays are tricked (threat T5), and no
// certificate can name it.
func parsePath(path string, utf8 bool) (hisp.Address, error) {
	if path == "" {
		return hisp.Address{}, nil
	}
	bad := func(text string) (hisp.Address, error) {
		return hisp.Address{}, status(553, 5, 1, 3, text)
	}
	local, domain, _ := strings.Cut(path, "@")
	if strings.Contains(domain, "@") {
		return bad("an address has one @")
	}
	if !utf8 && !isASCII(path) {
		return hisp.Address{}, status(553, 5, 6, 7, "an address beyond ASCII needs SMTPUTF8")
	}
	d, err := hisp.ParseDomain(domain)
	if err != nil {
		return bad("the part after the @ is not a domain name")
	}
	const maxLocal = 64 // octets, RFC 5321 §4.5.3.1.1
	if local == "" || len(local) > maxLocal {
		return bad("the part before the @ has 1 to 64 octets")
	}
	addr := hisp.Address{Local: local, Domain: d}
	// go-smtp has taken the quotes away; what cannot be quoted again cannot be
	// written into a header or a notice.
	if _, err := hisp.ParseAddress(addr.AddrSpec()); err != nil {
		return bad("the part before the @ has a character that no address may have")
	}
	return addr, nil
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func (s *session) private() hisp.AuditPrivate {
	return hisp.AuditPrivate{From: s.env.From, To: s.env.To, Account: s.acct.Address, Auth: s.how, Peer: s.gate.peer}
}

// refuse records a refused sender and returns the reply.
func (s *session) refuse(k hisp.Kind, d hisp.Domain, detail string, from hisp.Address, reply error) error {
	p := s.private()
	p.From = from
	if err := s.srv.audit(s.gate, k, d, detail, p); err != nil {
		return codes(hisp.Temporary).error("")
	}
	return reply
}

// refuseRcpt records a refused recipient and returns the reply.
func (s *session) refuseRcpt(k hisp.Kind, to hisp.Address, detail string, reply error) error {
	p := s.private()
	p.To = []hisp.Address{to}
	d := to.Domain
	if s.srv.back != nil {
		d = s.env.From.Domain // the other side
	}
	if err := s.srv.audit(s.gate, k, d, detail, p); err != nil {
		return codes(hisp.Temporary).error("")
	}
	return reply
}

func (s *session) auditMessage(k hisp.Kind, detail string) error {
	p := s.private()
	return s.srv.audit(s.gate, k, s.srv.otherSide(p), detail, p)
}

// otherSide is the domain a message of ours goes to, or one of others' is from.
func (s *Server) otherSide(p hisp.AuditPrivate) hisp.Domain {
	switch {
	case s.sub == nil:
		return p.From.Domain
	case len(p.To) > 0:
		return p.To[0].Domain
	}
	return ""
}

// audit records a refused attempt (row AU-01). What the node refuses in Submit
// and Receive, the node records.
func (s *Server) audit(g *gate, k hisp.Kind, d hisp.Domain, detail string, p hisp.AuditPrivate) error {
	p.Peer = g.peer
	rec := hisp.AuditRecord{
		Time: s.cfg.Clock().UTC(), Event: hisp.AuditReject, Domain: d,
		Outcome: hisp.OutcomeRefused, Kind: k.Error(), Detail: detail, Private: p,
	}
	if g.sess != nil {
		rec.Message = g.sess.env.ID
	}
	if err := s.cfg.Audit.Record(g.ctx, rec); err != nil {
		s.cfg.Log.Error("audit not written", "op", "smtpd", "err", err)
		return err
	}
	return nil
}

// failed is a Directory that could not answer.
func (s *session) failed(op string, err error) error {
	s.srv.cfg.Log.Warn("directory failed", "op", op, "kind", hisp.KindOf(err).Error(), "err", err)
	return codes(hisp.Temporary).error("")
}
