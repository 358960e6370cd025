package imapd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-sasl"

	"github.com/hispnode/hisp/hisp"
)

// edgeName is Credentials.Edge of this edge.
const edgeName = "imap"

// maxLogins is how many wrong logins one connection may make. The throttle
// proper is in the Authenticator.
const maxLogins = 5

// session is one client. go-imap calls it from one goroutine, and from a
// second one during IDLE, which may outlast the command.
type session struct {
	srv    *Server
	gate   *gate
	conn   *imapserver.Conn
	ctx    context.Context // of the connection: go-imap passes none
	cancel context.CancelFunc

	acct    hisp.Account
	entered bool
	wrong   int

	mu     sync.Mutex
	closed bool
	sel    *selection
}

// selection is the selected folder as the client knows it.
type selection struct {
	view     *view
	readOnly bool
	known    *snapshot         // message numbers of the client
	told     map[uint32]uint64 // modification sequences told since known
	saved    []uint32          // UIDs of SEARCH RETURN (SAVE), ascending
}

var _ imapserver.SessionIMAP4rev2 = (*session)(nil)

func (s *Server) newSession(c *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
	g, ok := c.NetConn().(*gate)
	if !ok {
		return nil, nil, errors.New("imapd: a connection without gate")
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &session{srv: s, gate: g, conn: c, ctx: ctx, cancel: cancel}, &imapserver.GreetingData{}, nil
}

// Close ends the session.
func (s *session) Close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.deselect()
	if s.entered {
		s.srv.conns.leave(s.acct.Address)
		s.entered = false
	}
	return nil
}

// AppendLimit implements imapserver.SessionAppendLimit (RFC 7889).
func (s *session) AppendLimit() uint32 { return uint32(s.srv.limits.MessageSize) }

// Login implements LOGIN.
func (s *session) Login(username, password string) error {
	return s.login(hisp.Credentials{Username: username, Password: password})
}

// AuthenticateMechanisms implements imapserver.SessionSASL. EXTERNAL is
// offered to who proved possession of a certificate.
func (s *session) AuthenticateMechanisms() []string {
	if s.gate.cert != nil {
		return []string{sasl.Plain, sasl.External}
	}
	return []string{sasl.Plain}
}

// Authenticate implements AUTHENTICATE.
func (s *session) Authenticate(mech string) (sasl.Server, error) {
	switch {
	case mech == sasl.Plain:
		return sasl.NewPlainServer(s.loginPlain), nil
	case mech == sasl.External && s.gate.cert != nil:
		return sasl.NewExternalServer(func(identity string) error {
			return s.login(hisp.Credentials{Username: identity, Cert: s.gate.cert})
		}), nil
	}
	return nil, no(imap.ResponseCodeCannot, "this mechanism is not offered here")
}

func (s *session) loginPlain(identity, username, password string) error {
	if identity != "" && !strings.EqualFold(identity, username) {
		return no(imap.ResponseCodeAuthorizationFailed, "an account cannot act for another one")
	}
	return s.Login(username, password)
}

func (s *session) login(c hisp.Credentials) error {
	c.Peer, c.Edge = s.gate.peer, edgeName
	ctx, cancel := context.WithTimeout(s.ctx, s.srv.limits.PreAuthTime)
	defer cancel()
	acct, err := s.srv.auth.Authenticate(ctx, c)
	if err == nil && acct.Disabled {
		err = hisp.Denied
	}
	switch {
	case errors.Is(err, hisp.Denied):
		if s.wrong++; s.wrong >= maxLogins {
			defer s.gate.shut(textLogins)
		}
		return no(imap.ResponseCodeAuthenticationFailed, "the address or the password is wrong")
	case err != nil:
		return s.refuse("imapd.login", err)
	case !s.srv.conns.enter(acct.Address):
		return no(imap.ResponseCodeLimit, "this account has too many connections open")
	}
	s.acct, s.entered = acct, true
	s.gate.admitLogin()
	return nil
}

// Namespace implements NAMESPACE: one personal namespace (RFC 9051 §6.3.10).
func (s *session) Namespace() (*imap.NamespaceData, error) {
	return &imap.NamespaceData{Personal: []imap.NamespaceDescriptor{{Prefix: "", Delim: delimiter}}}, nil
}

// Poll implements the updates that end each command.
func (s *session) Poll(w *imapserver.UpdateWriter, allowExpunge bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sel == nil {
		return nil
	}
	switch s.gate.currentVerb() {
	case verbDelete, verbRename: // perhaps of this folder: the next command will tell
		return nil
	}
	return s.update(w, allowExpunge)
}

// Idle implements IDLE (RFC 2177): each change of the folder is told at once,
// but looking for changes takes no more than a tenth of the time.
func (s *session) Idle(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	for {
		wakeup, rest, err := s.idleUpdate(w)
		if err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		case <-wakeup: // never, if nothing is selected
		}
		if rest <= 0 {
			continue
		}
		timer := time.NewTimer(rest)
		select {
		case <-stop:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (s *session) idleUpdate(w *imapserver.UpdateWriter) (<-chan struct{}, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sel == nil || s.closed {
		return nil, 0, nil
	}
	wakeup, rest := s.sel.view.changed()
	return wakeup, rest, s.update(w, true)
}

// update tells the client what changed. Without allowExpunge message numbers
// must not change (RFC 9051 §7.5.1): then only flags are told, and arrivals if
// nothing was removed.
func (s *session) update(w *imapserver.UpdateWriter, allowExpunge bool) error {
	sel := s.sel
	now, err := sel.view.now(s.ctx)
	switch {
	case errors.Is(err, hisp.NotFound), err == nil && now.folder.UIDValidity != sel.known.folder.UIDValidity:
		return s.gate.bye("the selected folder was deleted or renamed")
	case err != nil:
		_ = s.refuse("imapd.update", err) // logged; the client learns it at the next try
		return nil
	case now == sel.known:
		return nil
	}
	c := diff(sel.known, now)
	hold := !allowExpunge && len(c.expunged) > 0
	if !hold {
		for i := len(c.expunged) - 1; i >= 0; i-- { // from the end, so that numbers stay right
			if err := w.WriteExpunge(c.expunged[i]); err != nil {
				return err
			}
		}
		if c.added {
			if err := w.WriteNumMessages(uint32(len(now.list))); err != nil {
				return err
			}
		}
	}
	for _, i := range c.flags {
		e := &now.list[i]
		if sel.told[e.uid] >= e.modSeq {
			continue
		}
		num := uint32(i + 1)
		if hold {
			known, _ := sel.known.find(e.uid)
			num = uint32(known + 1)
			sel.tell(e.uid, e.modSeq)
		}
		if err := w.WriteMessageFlags(num, imap.UID(e.uid), e.flags); err != nil {
			return err
		}
	}
	if !hold {
		sel.known, sel.told = now, nil
	}
	return nil
}

// tell notes that the client knows the flags of uid as of modSeq.
func (sel *selection) tell(uid uint32, modSeq uint64) {
	if sel.told == nil {
		sel.told = make(map[uint32]uint64)
	}
	sel.told[uid] = modSeq
}

// deselect leaves the selected folder.
func (s *session) deselect() {
	if s.sel != nil {
		s.srv.views.release(s.sel.view)
		s.sel = nil
	}
}
