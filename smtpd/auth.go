package smtpd

import (
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/hispnode/hisp/hisp"
)

const edgeName = "submission" // Credentials.Edge

// AuthMechanisms implements smtp.AuthSession. Nothing is offered in the clear.
func (s *session) AuthMechanisms() []string {
	if s.srv.sub == nil || s.gate.tls == nil || !s.acct.Address.IsZero() {
		return nil
	}
	if len(s.gate.tls.PeerCertificates) > 0 {
		return []string{sasl.Plain, sasl.Login, sasl.External}
	}
	return []string{sasl.Plain, sasl.Login}
}

// Auth implements smtp.AuthSession.
func (s *session) Auth(mech string) (sasl.Server, error) {
	if s.srv.sub == nil || s.gate.tls == nil {
		return nil, needTLS()
	}
	if !s.acct.Address.IsZero() {
		return nil, status(503, 5, 5, 1, "you are logged in")
	}
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(s.loginPlain), nil
	case sasl.Login:
		return &loginServer{check: s.loginPassword}, nil
	case sasl.External:
		if len(s.gate.tls.PeerCertificates) > 0 {
			return sasl.NewExternalServer(s.loginExternal), nil
		}
		return nil, status(504, 5, 7, 4, "EXTERNAL needs a TLS client certificate, and none was presented")
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

func (s *session) loginPlain(identity, username, password string) error {
	if identity != "" && identity != username {
		return renderLogin(&hisp.Error{Op: "smtpd.login", Kind: hisp.Denied}) // nobody acts for another
	}
	return s.loginPassword(username, password)
}

func (s *session) loginPassword(username, password string) (err error) {
	defer s.contain(&err)
	return s.login(hisp.Credentials{Username: username, Password: password}, hisp.AuthPassword)
}

// loginExternal takes the TLS client certificate (RFC 4422 appendix A). An
// authorization identity must be the certificate's own account.
func (s *session) loginExternal(identity string) (err error) {
	defer s.contain(&err)
	if err := s.login(hisp.Credentials{Cert: s.gate.tls.PeerCertificates[0]}, hisp.AuthCertificate); err != nil {
		return err
	}
	if identity == "" {
		return nil
	}
	if addr, err := hisp.ParseAddress(identity); err != nil || !addr.Equal(s.acct.Address) {
		s.acct, s.how = hisp.Account{}, hisp.AuthNone
		return renderLogin(&hisp.Error{Op: "smtpd.login", Kind: hisp.Denied})
	}
	return nil
}

// loginByCertificate logs in a client that presented a certificate and goes
// straight to MAIL, as devices do (row TLS-07). It is tried once; a certificate
// of no account is the same as none.
func (s *session) loginByCertificate() error {
	if !s.acct.Address.IsZero() || s.triedCert || len(s.gate.tls.PeerCertificates) == 0 {
		return nil
	}
	s.triedCert = true
	acct, err := s.srv.sub.Authenticator.Authenticate(s.gate.ctx, s.credentials(hisp.Credentials{Cert: s.gate.tls.PeerCertificates[0]}))
	if err == nil {
		s.acct, s.how = acct, hisp.AuthCertificate
		return nil
	}
	switch hisp.KindOf(err) {
	case hisp.Denied, hisp.UnknownRecipient, hisp.NotFound:
		return nil
	}
	s.triedCert = false
	return s.render(err)
}

func (s *session) login(c hisp.Credentials, how hisp.AuthKind) error {
	acct, err := s.srv.sub.Authenticator.Authenticate(s.gate.ctx, s.credentials(c))
	if err != nil {
		return renderLogin(err)
	}
	s.acct, s.how = acct, how
	return nil
}

func (s *session) credentials(c hisp.Credentials) hisp.Credentials {
	c.Peer, c.Edge = s.gate.peer, edgeName
	return c
}

// loginServer is the server side of LOGIN, which go-sasl lacks: two challenges,
// the first of which an initial response may answer (draft-murchison-sasl-login).
type loginServer struct {
	check    func(username, password string) error
	username *string
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil:
		return []byte("Username:"), false, nil
	case l.username == nil:
		name := string(response)
		l.username = &name
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(*l.username, string(response))
}
