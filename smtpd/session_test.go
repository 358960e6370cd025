package smtpd

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

const body = "From: <a@b.example>\r\nSubject: x\r\n\r\nhello\r\n..dot\r\n"

func TestBackbone_takesMessage(t *testing.T) {
	h := backbone(t)
	p := h.ready()
	p.cmd("MAIL FROM:<Sender@clinic.example> SIZE=100 BODY=8BITMIME", "250 2.1.0 sender ok")
	p.cmd("RCPT TO:<"+canary+"@Hospital.Example>", "250 2.1.5 recipient ok")
	p.cmd("RCPT TO:<other@hospital.example>", "250 ")
	p.cmd("RCPT TO:<OTHER@hospital.example>", "250 ")
	p.cmd("DATA", "354 ")
	p.send(strings.ReplaceAll(body, "\r\n.", "\r\n..") + ".\r\n")
	reply := p.want("250 2.0.0 queued as ")
	p.cmd("QUIT", "221 ")
	p.wantClosed()

	got := h.messages()
	if len(got) != 1 {
		t.Fatalf("messages = %d, want 1", len(got))
	}
	env := got[0].env
	if env.Origin != hisp.Backbone || env.From.AddrSpec() != "Sender@clinic.example" || len(env.To) != 2 || !env.TLS {
		t.Errorf("envelope = %+v, want backbone, Sender@, two recipients, TLS", env)
	}
	if !strings.HasSuffix(reply, string(env.ID)) {
		t.Errorf("reply = %q, want the id %s", reply, env.ID)
	}
	trace, rest, _ := strings.Cut(got[0].raw, "From:")
	if "From:"+rest != body {
		t.Errorf("content = %q, want %q", "From:"+rest, body)
	}
	for _, part := range []string{"Received: from client.example ([127.0.0.1])\r\n", "by " + testHost + " with ESMTPS\r\n",
		"(TLS1.3 ", "id " + string(env.ID) + ";", "Sun, 22 Nov 2026 12:00:00 +0000\r\n"} {
		if !strings.Contains(trace, part) {
			t.Errorf("trace = %q, want %q in it", trace, part)
		}
	}
	if strings.Contains(trace, canary) {
		t.Errorf("trace = %q names a recipient", trace)
	}
}

func TestSubmission_takesMessage(t *testing.T) {
	h := submission(t)
	p := h.ready()
	p.cmd("MAIL FROM:<"+strings.ToUpper(canary)+"@hospital.example>", "250 ")
	p.cmd("RCPT TO:<anyone@clinic.example>", "250 ")
	p.cmd("DATA", "354 ")
	p.send(body + ".\r\n")
	p.want("250 ")
	got := h.messages()[0]
	if got.env.Origin != hisp.Edge || got.env.Auth != hisp.AuthPassword || got.env.Account.Local != canary {
		t.Errorf("envelope = %+v, want edge, password, the account", got.env)
	}
	if !strings.HasPrefix(got.raw, "Received: from submission.invalid\r\n") || !strings.Contains(got.raw, "ESMTPSA") {
		t.Errorf("message = %q, want a trace without the client", got.raw)
	}
	if strings.Contains(got.raw, "127.0.0.1") || strings.Contains(got.raw, "client.example") {
		t.Errorf("message = %q names the client", got.raw)
	}
}

// step is what a peer says and how the answer begins.
type step struct{ say, want string }

func (p *peer) play(steps []step) {
	p.t.Helper()
	for _, s := range steps {
		p.cmd(s.say, s.want)
	}
}

func TestDialogue(t *testing.T) {
	const needTLS = "530 5.7.0 Must issue a STARTTLS command first"
	cases := []struct {
		name  string
		back  bool // the backbone, else submission
		tls   bool // after STARTTLS and EHLO
		steps []step
	}{
		{"SMTP 11a: RCPT without MAIL", true, true, []step{{"RCPT TO:<other@hospital.example>", "503 5.5.1"}}},
		{"SMTP 11b: DATA without MAIL", true, true, []step{{"DATA", "503 5.5.1"}}},
		{"DATA without RCPT", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"DATA", "503 5.5.1"}}},
		{"DATA after refused RCPT", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"RCPT TO:<x@far.example>", "550 5.7.1"}, {"DATA", "503 5.5.1"}}},
		{"MAIL twice", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"MAIL FROM:<a@clinic.example>", "503 5.5.1"}}},
		{"MAIL before EHLO", true, false, []step{{"MAIL FROM:<a@clinic.example>", "503 5.5.1"}}},
		{"state is gone after RSET", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"RCPT TO:<other@hospital.example>", "250"}, {"RSET", "250"}, {"DATA", "503"}}},
		{"state is gone after EHLO", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"RCPT TO:<other@hospital.example>", "250"}, {"EHLO x.example", "250"}, {"DATA", "503"}}},
		{"SMTP 17: STARTTLS with argument", true, false, []step{{"HELO x.example", "250 " + testHost}, {"STARTTLS abcd", "501 5.5.4"}}},
		{"STARTTLSabcd", true, false, []step{{"STARTTLSabcd", "500"}}},
		{"STARTTLS within TLS", true, true, []step{{"STARTTLS", "503 5.5.1"}}},
		{"HELO without name", true, false, []step{{"HELO", "501"}, {"EHLO ", "501"}, {"EHLO [IPv6:::1]", "250"}, {"helo x", "250"}}},
		{"backbone MAIL before TLS", true, false, []step{{"EHLO x.example", "250"}, {"MAIL FROM:<a@clinic.example>", needTLS}}},
		{"backbone null sender before TLS", true, false, []step{{"EHLO mx.clinic.example", "250"}, {"MAIL FROM:<>", needTLS}}},
		{"backbone has no AUTH", true, true, []step{{"AUTH PLAIN " + plain("x", "y"), "502 5.5.1"}}},
		{"null sender on the backbone, row BB-17", true, true, []step{{"MAIL FROM:<>", "250"}, {"RCPT TO:<other@hospital.example>", "250"}}},
		{"unknown recipient", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"RCPT TO:<nobody@hospital.example>", "550 5.1.1"}}},
		{"recipient twice", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"RCPT TO:<other@hospital.example>", "250"}, {"RCPT TO:<other@hospital.example>", "250"}}},
		{"SIZE over the limit", true, true, []step{{"MAIL FROM:<a@clinic.example> SIZE=52428801", "552 5.3.4 a message has at most 52428800 octets"}}},
		{"SIZE beyond 64 bits", true, true, []step{{"MAIL FROM:<a@clinic.example> SIZE=99999999999999999999", "552 5.3.4"}}},
		{"SIZE that is no number", true, true, []step{{"MAIL FROM:<a@clinic.example> SIZE=x", "501 5.5.4"}}},
		{"unknown parameter", true, true, []step{{"MAIL FROM:<a@clinic.example> FOO=1", "555 5.5.4"}}},
		{"BINARYMIME is not offered", true, true, []step{{"MAIL FROM:<a@clinic.example> BODY=BINARYMIME", "504"}}},
		{"UTF-8 address without SMTPUTF8", true, true, []step{{"MAIL FROM:<ä@clinic.example>", "553 5.6.7"}, {"MAIL FROM:<ä@clinic.example> SMTPUTF8", "250"}}},
		{"VRFY and EXPN tell nothing", true, true, []step{{"VRFY other", "252"}, {"VRFY nobody", "252"}, {"EXPN other", "502"}, {"HELP", "502"}}},
		{"unknown command", true, true, []step{{"XYZZY", "500 5.5.2"}, {"GET / HTTP/1.1", "500"}}},
		{"SMTP 10: form feed", true, true, []step{{"MAIL FROM:<a@clinic.example>", "250"}, {"RCPT TO:<other@hospital.example>", "250"}, {"DATA \f", "500 5.5.2"}}},
		{"CR within a command", true, true, []step{{"NOOP\rNOOP", "500 5.5.2"}}},
		{"submission AUTH before TLS", false, false, []step{{"EHLO x.example", "250"}, {"AUTH PLAIN " + plain(canary+"@hospital.example", "s3cret"), needTLS}, {"AUTH LOGIN", needTLS}}},
		{"submission MAIL before TLS", false, false, []step{{"EHLO x.example", "250"}, {"MAIL FROM:<a@hospital.example>", needTLS}}},
		{"submission MAIL before AUTH", false, true, []step{{"MAIL FROM:<" + canary + "@hospital.example>", "530 5.7.0"}, {"RCPT TO:<x@far.example>", "503"}}},
		{"SMTP 22: wrong password", false, true, []step{{"AUTH PLAIN " + plain(canary+"@hospital.example", "no"), "535 5.7.8"}, {"MAIL FROM:<" + canary + "@hospital.example>", "530"}}},
		{"throttled", false, true, []step{{"AUTH PLAIN " + plain("throttled@hospital.example", "no"), "454 4.7.0"}}},
		{"three wrong passwords end it", false, true, []step{{"AUTH PLAIN " + plain("x", "1"), "535"}, {"AUTH PLAIN " + plain("x", "2"), "535"}, {"AUTH PLAIN " + plain("x", "3"), "535"}, {"", "421 4.7.0"}}},
		{"AUTH PLAIN in two steps", false, true, []step{{"AUTH PLAIN", "334 "}, {plain(canary+"@hospital.example", "s3cret"), "235 "}, {"AUTH PLAIN", "503"}}},
		{"AUTH PLAIN for another", false, true, []step{{"AUTH PLAIN " + b64("other@hospital.example\x00"+canary+"@hospital.example\x00s3cret"), "535"}}},
		{"AUTH PLAIN garbage", false, true, []step{{"AUTH PLAIN !!!", "501 5.5.2"}, {"AUTH PLAIN " + b64("no nul"), "501 5.5.2"}, {"AUTH XYZ", "504 5.7.4"}, {"AUTH", "501 5.5.4"}}},
		{"AUTH cancelled", false, true, []step{{"AUTH LOGIN", "334 VXNlcm5hbWU6"}, {"*", "501"}, {"NOOP", "250"}}},
		{"AUTH line with control characters", false, true, []step{{"AUTH LOGIN", "334 "}, {"a\x00b", "501"}, {"NOOP", "250"}}},
		{"AUTH LOGIN", false, true, []step{{"AUTH LOGIN", "334 VXNlcm5hbWU6"}, {b64(canary + "@hospital.example"), "334 UGFzc3dvcmQ6"}, {b64("s3cret"), "235"}}},
		{"AUTH LOGIN with initial response", false, true, []step{{"AUTH LOGIN " + b64(canary+"@hospital.example"), "334 UGFzc3dvcmQ6"}, {b64("s3cret"), "235"}}},
		{"AUTH EXTERNAL without certificate", false, true, []step{{"AUTH EXTERNAL =", "504"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := submission
			if c.back {
				h = backbone
			}
			p := h(t).dial()
			if c.tls {
				p.cmd("EHLO client.example", "250")
				p.startTLS()
				p.cmd("EHLO client.example", "250")
			}
			for _, s := range c.steps {
				if s.say != "" {
					p.send(s.say + "\r\n")
				}
				p.want(s.want)
			}
		})
	}
}

func TestEHLO_offers(t *testing.T) {
	offered := func(p *peer) string { return p.cmd("EHLO client.example", "250-"+testHost+"\n") + "\n" }
	for _, c := range []struct {
		name     string
		open     func(testing.TB, ...option) *house
		auth     bool
		extended string
	}{
		{"submission", submission, true, "250-AUTH PLAIN LOGIN\n"},
		{"backbone", backbone, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.open(t).dial()
			clear := offered(p)
			if strings.Contains(clear, "AUTH") || !strings.Contains(clear, "250-STARTTLS\n") {
				t.Errorf("in the clear = %q, want STARTTLS and no AUTH", clear)
			}
			p.startTLS()
			got := offered(p)
			for _, want := range []string{"PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING"} {
				if !strings.Contains(got, "250-"+want+"\n") {
					t.Errorf("in TLS = %q, want %s", got, want)
				}
			}
			if strings.Contains(got, "STARTTLS") || strings.Contains(got, "AUTH") != c.auth || !strings.Contains(got, c.extended) {
				t.Errorf("in TLS = %q, want no STARTTLS and AUTH only at submission", got)
			}
		})
	}
}

// Threat T6: what comes before TLS is not even looked at.
func TestAuth_beforeTLSNotChecked(t *testing.T) {
	h := submission(t)
	p := h.dial()
	p.cmd("EHLO x.example", "250")
	p.cmd("AUTH PLAIN "+plain(canary+"@hospital.example", "s3cret"), "530 5.7.0")
	if len(h.logins) != 0 {
		t.Errorf("logins = %d, want 0", len(h.logins))
	}
	if !h.audited("AUTH before TLS") {
		t.Error("the attempt was not audited")
	}
}

func TestMail_onlyOwnAddress(t *testing.T) {
	h := submission(t)
	p := h.ready()
	p.cmd("MAIL FROM:<other@hospital.example>", "550 5.7.1")
	p.cmd("MAIL FROM:<"+canary+"@clinic.example>", "550 5.7.1")
	p.cmd("MAIL FROM:<>", "250") // a read receipt; what is none the submitter refuses
	p.cmd("RSET", "250")
	p.cmd("MAIL FROM:<"+canary+"@hospital.example>", "250")
	p.cmd("RCPT TO:<nobody@hospital.example>", "550 5.1.1")
	if !h.audited("sender is not the account") || !h.audited("unknown recipient") {
		t.Errorf("audit = %v, want the two refusals", h.records)
	}
}

// Row BB-18: the +tag of the own address does not count, as in From; but an
// account whose own name has a + belongs to another (threat T8).
func TestMail_ownAddressWithTag(t *testing.T) {
	h := submission(t)
	h.accounts[hisp.Address{Local: canary + "+desk", Domain: "hospital.example"}] = "another's"
	p := h.ready()
	p.cmd("MAIL FROM:<"+canary+"+lab@hospital.example>", "250")
	p.cmd("RSET", "250")
	p.cmd("MAIL FROM:<"+canary+"+desk@hospital.example>", "550 5.7.1")
	p.cmd("MAIL FROM:<other+"+canary+"@hospital.example>", "550 5.7.1")
	p.cmd("MAIL FROM:<+"+canary+"@hospital.example>", "550 5.7.1")
	p.cmd("MAIL FROM:<"+canary+"+lab@clinic.example>", "550 5.7.1")
}

// Row AU-01: a declared size over the limit is a refused attempt too.
func TestMail_sizeOverLimitAudited(t *testing.T) {
	for _, c := range []struct {
		name, arg string
		from      hisp.Address
	}{
		{"over", "FROM:<a@clinic.example> SIZE=52428801", hisp.Address{Local: "a", Domain: "clinic.example"}},
		{"beyond 64 bits", "from: <a@clinic.example> SIZE=99999999999999999999", hisp.Address{Local: "a", Domain: "clinic.example"}},
		{"no address", "FROM:<a@@> SIZE=52428801", hisp.Address{}},
		{"no path", "SIZE=52428801", hisp.Address{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := backbone(t)
			p := h.ready()
			p.cmd("MAIL "+c.arg, "552 5.3.4")
			records := h.trail(errors.New("disk"))
			if len(records) != 1 {
				t.Fatalf("%d audit records, want 1", len(records))
			}
			r := records[0]
			if r.Event != hisp.AuditReject || r.Kind != hisp.TooLarge.Error() || r.Domain != c.from.Domain || r.Private.From != c.from {
				t.Errorf("audit = %+v, want the size and the sender", r)
			}
			p.cmd("MAIL "+c.arg, "451 4.3.0")
		})
	}
}

func TestMail_plainPeers(t *testing.T) {
	h := backbone(t, func(_ *SubmissionConfig, b *BackboneConfig) {
		b.AllowPlain = func(d hisp.Domain) bool { return d == "old.example" }
	})
	p := h.dial()
	p.cmd("EHLO mx1.old.example", "250")
	p.cmd("MAIL FROM:<a@clinic.example>", "530 5.7.0")
	p.cmd("MAIL FROM:<>", "250")
	p.cmd("RSET", "250")
	p.cmd("MAIL FROM:<a@old.example>", "250")
	p.cmd("RCPT TO:<other@hospital.example>", "250")
	p.cmd("DATA", "354")
	p.send(body + ".\r\n")
	p.want("250")
	if got := h.messages()[0].env; got.TLS {
		t.Error("TLS = true, want false")
	}
	// A transaction begun in the clear does not survive the handshake.
	p.cmd("MAIL FROM:<a@old.example>", "250")
	p.cmd("RCPT TO:<other@hospital.example>", "250")
	p.startTLS()
	p.cmd("DATA", "503")
	p.cmd("EHLO mx1.old.example", "250")
	p.cmd("DATA", "503")
}

// Threat T5: 24 ways to ask for relaying, none of which is granted.
func TestRcpt_relayDenied(t *testing.T) {
	forms := []string{
		"<a@far.example>", "a@far.example", "<@hospital.example:a@far.example>",
		"<@hospital.example,@x.example:a@far.example>", "<a%far.example@hospital.example>", "<a%far.example>",
		`<"a@far.example"@hospital.example>`, `<"a@far.example">`, `<"a%far.example"@hospital.example>`,
		"<far.example!a@hospital.example>", "<far.example!a>", "<hospital.example!a@far.example>",
		"<a@far.example@hospital.example>", "<a@hospital.example@far.example>", "<a@[127.0.0.1]>",
		"<a@127.0.0.1>", "<a@[IPv6:::1]>", "<a@hospital.example.>x", "<a@hospital.example.far.example>",
		"<a@far.example%hospital.example>", `<a\@far.example@hospital.example>`, "<a@sub.hospital.example>",
		"<>", "<other@hospital.example\u0000>",
	}
	for _, from := range []string{"<>", "<a@clinic.example>", "<other@hospital.example>"} {
		h := backbone(t, limits(Limits{Errors: 100}))
		p := h.ready()
		p.cmd("MAIL FROM:"+from, "250")
		for _, f := range forms {
			p.cmd("RCPT TO:"+f, "5")
		}
		p.cmd("DATA", "503")
		if !h.audited("relay attempt") {
			t.Error("no relay attempt was audited")
		}
	}
}

// Disabled means that nobody logs in; what others send still arrives.
func TestRcpt_disabledAccount(t *testing.T) {
	for _, open := range []func(testing.TB, ...option) *house{backbone, submission} {
		h := open(t)
		h.disabled = map[hisp.Address]bool{{Local: "other", Domain: "hospital.example"}: true}
		p := h.ready()
		p.cmd("MAIL FROM:<"+canary+"@hospital.example>", "250")
		p.cmd("RCPT TO:<other@hospital.example>", "250")
	}
}

func TestRcpt_limit(t *testing.T) {
	h := backbone(t, limits(Limits{Recipients: 2}))
	p := h.ready()
	p.cmd("MAIL FROM:<a@clinic.example>", "250")
	p.cmd("RCPT TO:<other@hospital.example>", "250")
	p.cmd("RCPT TO:<"+canary+"@hospital.example>", "250")
	p.cmd(`RCPT TO:<"with space"@hospital.example>`, "452 4.5.3")
}

func TestClientCertificate(t *testing.T) {
	cert, _ := testCert(t, "device.hospital.example")
	stranger, _ := testCert(t, "stranger.example")
	account := hisp.Address{Local: canary, Domain: "hospital.example"}
	for _, c := range []struct {
		name  string
		cert  tls.Certificate
		steps []step
	}{
		{"straight to MAIL", cert, []step{{"MAIL FROM:<" + account.AddrSpec() + ">", "250"}}},
		{"not as another", cert, []step{{"MAIL FROM:<other@hospital.example>", "550 5.7.1"}}},
		{"EXTERNAL", cert, []step{{"AUTH EXTERNAL =", "235"}, {"MAIL FROM:<" + account.AddrSpec() + ">", "250"}}},
		{"EXTERNAL with its name", cert, []step{{"AUTH EXTERNAL " + b64(account.AddrSpec()), "235"}}},
		{"EXTERNAL with another name", cert, []step{{"AUTH EXTERNAL " + b64("other@hospital.example"), "535"}}},
		{"stranger", stranger, []step{{"AUTH EXTERNAL =", "535"}, {"MAIL FROM:<" + account.AddrSpec() + ">", "530"}, {"AUTH PLAIN " + plain(account.AddrSpec(), "s3cret"), "235"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := submission(t)
			h.certs[string(cert.Certificate[0])] = account
			p := h.dial()
			p.cfg = h.client.Clone()
			p.cfg.Certificates = []tls.Certificate{c.cert}
			p.cmd("EHLO device.example", "250")
			p.startTLS()
			if got := p.cmd("EHLO device.example", "250"); !strings.Contains(got, "AUTH PLAIN LOGIN EXTERNAL") {
				t.Errorf("EHLO = %q, want EXTERNAL", got)
			}
			p.play(c.steps)
		})
	}
}

func TestImplicitTLS(t *testing.T) {
	h := submission(t)
	addr := h.listen(h.srv.ServeTLS)
	c, err := tls.Dial("tcp", addr, h.client)
	if err != nil {
		t.Fatal(err)
	}
	p := h.peer(c)
	p.cmd("EHLO x.example", "250")
	p.cmd("STARTTLS", "503")
	p.cmd("AUTH PLAIN "+plain(canary+"@hospital.example", "s3cret"), "235")
	p.envelope()
	// A peer that speaks in the clear to the TLS port gets nothing.
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write([]byte("EHLO x.example\r\nQUIT\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, _ := raw.Read(buf); strings.HasPrefix(string(buf[:n]), "220") {
		t.Errorf("clear text on the TLS port got %q", buf[:n])
	}
}

func TestKinds_rendered(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&hisp.Error{Kind: hisp.Malformed, Hint: "no From field"}, "554 5.6.0 the message is not well formed: no From field"},
		{&hisp.Error{Kind: hisp.TooLarge}, "552 5.3.4"},
		{&hisp.Error{Kind: hisp.UnknownRecipient}, "550 5.1.1"},
		{&hisp.Error{Kind: hisp.NoKey}, "554 5.7.5"},
		{&hisp.Error{Kind: hisp.Denied, Hint: "line\r\n250 injected"}, "550 5.7.1 not allowed: line250 injected"},
		{&hisp.Error{Kind: hisp.Full}, "452 4.3.1"},
		{&hisp.Error{Kind: hisp.Temporary}, "451 4.3.0"},
		{&hisp.Error{Kind: hisp.Conflict}, "451 4.3.0"},
		{&hisp.Error{Kind: hisp.Throttled}, "451 4.7.0"},
		{&hisp.Error{Kind: hisp.Unprotected, Hint: "send it enveloped"}, "554 5.7.4"},
		{errors.New(canary), "451 4.3.0 internal error, try again later"},
		{&hisp.Error{Kind: hisp.CannotDecrypt, Hint: "why"}, "554 5.7.1 the message is not acceptable"},
	} {
		t.Run(c.want, func(t *testing.T) {
			h := backbone(t)
			h.answer = func(hisp.Envelope, hisp.Message) error { return c.err }
			p := h.ready()
			p.envelope()
			p.cmd("DATA", "354")
			p.send(body + ".\r\n")
			got := p.want(c.want)
			if strings.Contains(got, canary) || strings.Contains(got, "why") {
				t.Errorf("reply = %q tells too much", got)
			}
			p.cmd("NOOP", "250")
		})
	}
}

// Every decryption outcome reads the same on the backbone (threat S3).
func TestKinds_noOracle(t *testing.T) {
	first := codes(hisp.CannotDecrypt)
	for _, k := range []hisp.Kind{hisp.BadSignature, hisp.Untrusted, hisp.Tampered} {
		if codes(k) != first {
			t.Errorf("%v renders as %v, want %v", k, codes(k), first)
		}
	}
}

func TestPanic_contained(t *testing.T) {
	h := backbone(t)
	h.answer = func(hisp.Envelope, hisp.Message) error { panic(canary) }
	p := h.ready()
	p.envelope()
	p.cmd("DATA", "354")
	p.send(body + ".\r\n")
	p.want("421 4.3.0")
	p.wantClosed()
	h.mu.Lock()
	h.answer = nil
	h.mu.Unlock()
	if !strings.Contains(h.log.String(), "panic contained") {
		t.Error("the panic was not logged")
	}
	p = h.ready()
	p.envelope()
	p.cmd("DATA", "354")
	p.send(body + ".\r\n")
	p.want("250")
}

func TestAudit_failureStopsTheAct(t *testing.T) {
	h := backbone(t)
	h.auditErr = errors.New("disk full")
	p := h.ready()
	p.cmd("MAIL FROM:<a@clinic.example>", "250")
	p.cmd("RCPT TO:<a@far.example>", "451 4.3.0")
}

func TestErrors_limit(t *testing.T) {
	h := backbone(t, limits(Limits{Errors: 3}))
	p := h.dial()
	for range 3 {
		p.cmd("XYZZY", "500")
	}
	p.send("XYZZY\r\n")
	p.want("500")
	p.want("421 4.7.0")
	p.wantClosed()
}

func TestIdle_limit(t *testing.T) {
	h := backbone(t, limits(Limits{Idle: 5}))
	p := h.dial()
	for range 5 {
		p.cmd("NOOP", "250")
	}
	p.cmd("EHLO x.example", "421 4.7.0")
	p.wantClosed()
}

func TestCommand_tooLong(t *testing.T) {
	h := backbone(t)
	p := h.dial()
	p.send("NOOP " + strings.Repeat("x", 10000) + "\r\n")
	p.want("500 5.5.2")
}

func TestNew_missing(t *testing.T) {
	_, sub, back := configs(t)
	sub.Submitter = nil
	if _, err := NewSubmission(sub); hisp.KindOf(err) != hisp.Malformed {
		t.Errorf("NewSubmission = %v, want malformed", err)
	}
	back.Hostname = ""
	if _, err := NewBackbone(back); hisp.KindOf(err) != hisp.Malformed {
		t.Errorf("NewBackbone = %v, want malformed", err)
	}
}

func TestServe_endsWithContext(t *testing.T) {
	_, _, back := configs(t)
	srv, err := NewBackbone(back)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := srv.Serve(ctx, ln); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}
