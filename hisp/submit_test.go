package hisp_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
)

// ED-08, T8: a +tag of the own address is one's own, unless it is somebody.
func TestSubmit_tagOfOwnAddress(t *testing.T) {
	hospital, _, _, _ := twoSites(t)
	hospital.account(hisp.Account{Address: addr("house+boss@hospital.example")})
	for from, want := range map[string]error{"house+ward@hospital.example": nil, "house+boss@hospital.example": hisp.Denied} {
		env := hisp.Envelope{Origin: hisp.Edge, From: addr(house), Account: addr(house), To: []hisp.Address{addr(nurse)}}
		if err := hospital.node.Submit(t.Context(), env, letter(from, nurse)); !errors.Is(err, want) {
			t.Errorf("From %s: %v, want %v", from, err, want)
		}
	}
}

// The Message-ID tells notices apart: another sender cannot use it meanwhile.
func TestSubmit_messageIDOfAnother(t *testing.T) {
	hospital, _, _, _ := twoSites(t)
	hospital.account(hisp.Account{Address: addr("cuddy@hospital.example")})
	msg := letter(house, nurse)
	must(t, hospital.submit(msg, house, nurse))
	again := hisp.NewMessage([]byte(strings.Replace(string(msg.Bytes()), house, "cuddy@hospital.example", 1)))
	if err := hospital.submit(again, "cuddy@hospital.example", nurse); !errors.Is(err, hisp.Denied) || !strings.Contains(hisp.HintOf(err), "Message-ID") {
		t.Errorf("Submit = %v, want Denied with a hint", err)
	}
}

// BB-05: what is not enveloped is refused at the door.
func TestReceive_unprotected(t *testing.T) {
	_, clinic, _, _ := twoSites(t)
	for name, msg := range map[string]string{
		"plain":  "From: " + house + "\r\n\r\nhello\r\n",
		"signed": "From: " + house + "\r\nContent-Type: multipart/signed; boundary=b; protocol=\"application/pkcs7-signature\"\r\n\r\n--b\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--\r\n",
		"opaque": "From: " + house + "\r\nContent-Type: application/pkcs7-mime; smime-type=signed-data\r\n\r\nAAAA\r\n",
		"twice":  "From: " + house + "\r\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\r\nContent-Type: text/plain\r\n\r\nAAAA\r\n",
	} {
		env := hisp.Envelope{Origin: hisp.Backbone, From: addr(house), To: []hisp.Address{addr(nurse)}}
		if err := clinic.node.Receive(t.Context(), env, hisp.NewMessage([]byte(msg))); !errors.Is(err, hisp.Unprotected) || hisp.HintOf(err) == "" {
			t.Errorf("%s: %v, want Unprotected with a hint", name, err)
		}
	}
}

func TestSubmit_refusals(t *testing.T) {
	hospital, _, _, _ := twoSites(t)
	html := "MIME-Version: 1.0"
	tests := []struct {
		name string
		from string
		to   []string
		msg  hisp.Message
		kind hisp.Kind
		hint string
	}{
		{"spoofed From", house, []string{nurse}, letter("cuddy@hospital.example", nurse), hisp.Denied, "From address"},
		{"two From fields", house, []string{nurse}, letter(house, nurse, "From: "+house), hisp.Malformed, "occurs twice"},
		{"two From addresses", house, []string{nurse}, letter(house+", x@y.example", nurse), hisp.Malformed, "exactly one From"},
		{"From group", house, []string{nurse}, letter("g:"+house+";", nurse), hisp.Malformed, "exactly one From"},
		{"spoofed Sender", house, []string{nurse}, letter(house, nurse, "Sender: boss@hospital.example"), hisp.Denied, "Sender"},
		{"Bcc", house, []string{nurse}, letter(house, nurse, "Bcc: "+nurse), hisp.Denied, "Bcc"},
		{"hidden recipient", house, []string{nurse, "x@clinic.example"}, letter(house, nurse), hisp.Denied, "recipient 2"},
		{"no recipient", house, nil, letter(house, nurse), hisp.Malformed, "no recipient"},
		{"unknown local recipient", house, []string{"nobody@hospital.example"}, letter(house, "nobody@hospital.example"), hisp.UnknownRecipient, ""},
		{"no key", "keyless@hospital.example", []string{nurse}, letter("keyless@hospital.example", nurse), hisp.NoKey, "hisp key list"},
		{"bare LF", house, []string{nurse}, hisp.NewMessage([]byte("From: " + house + "\r\nTo: " + nurse + "\r\n\r\na\nb\r\n")), hisp.Malformed, "bare LF in line 4"},
		{"bare CR", house, []string{nurse}, hisp.NewMessage([]byte("From: " + house + "\r\nTo: " + nurse + "\r\n\r\na\rb\r\n")), hisp.Malformed, "bare CR"},
		{"CR at the end", house, []string{nurse}, hisp.NewMessage([]byte("From: " + house + "\r\nTo: " + nurse + "\r\n\r\na\r")), hisp.Malformed, "bare CR"},
		{"NUL", house, []string{nurse}, hisp.NewMessage([]byte("From: " + house + "\r\nTo: " + nurse + "\r\n\r\na\x00b\r\n")), hisp.Malformed, "NUL"},
		{"too large", house, []string{nurse}, letter(house, nurse, "X: "+strings.Repeat("x", 2<<20)), hisp.TooLarge, "limit is 1048576"},
		{"unclosed multipart", house, []string{nurse}, letter(house, nurse, html, "Content-Type: multipart/mixed; boundary=b", "", "--b", "", "x"), hisp.Malformed, "boundary"},
		{"ready-made with a long line", house, []string{nurse}, hisp.NewMessage([]byte("From: " + house + "\r\nTo: " + nurse + "\r\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\r\nContent-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat("A", 2000) + "\r\n")), hisp.Malformed, "998"},
		{"null sender without notice", "", []string{nurse}, letter(house, nurse), hisp.Denied, "notices only"},
		{"notices to a stranger", house, []string{nurse}, letter(house, nurse, "Disposition-Notification-To: x@clinic.example"), hisp.Denied, "your own domain"},
		{"notices to nobody", house, []string{nurse}, letter(house, nurse, "Disposition-Notification-To: nobody@hospital.example"), hisp.Denied, "does not exist"},
		{"bad date", house, []string{nurse}, hisp.NewMessage([]byte("From: " + house + "\r\nTo: " + nurse + "\r\nDate: tomorrow\r\n\r\na\r\n")), hisp.Malformed, "Date"},
	}
	hospital.stop()
	hospital.edit = func(c *hisp.Config) { c.MaxMessage = 1 << 20 }
	hospital.start()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := hisp.Envelope{Origin: hisp.Edge, Account: addr(house), Auth: hisp.AuthPassword}
			if tt.from != "" {
				env.From, env.Account = addr(tt.from), addr(tt.from)
			}
			for _, a := range tt.to {
				env.To = append(env.To, addr(a))
			}
			err := hospital.node.Submit(t.Context(), env, tt.msg)
			if !errors.Is(err, tt.kind) || !strings.Contains(hisp.HintOf(err), tt.hint) {
				t.Errorf("Submit = %v, want %v with %q", err, tt.kind, tt.hint)
			}
			if err != nil && (strings.Contains(err.Error(), "nobody") || strings.Contains(err.Error(), "house@")) {
				t.Errorf("the error names a local part: %v", err)
			}
		})
	}
	items, err := hospital.store.ListItems(t.Context())
	must(t, err)
	if len(items) != 0 {
		t.Errorf("%d refused messages are queued", len(items))
	}
}

// DN-18: a message without Message-ID and Date gets them; one with keeps them.
func TestSubmit_completesHeader(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	must(t, hospital.submit(hisp.NewMessage([]byte("From: "+house+"\r\nTo: "+nurse+"\r\n\r\nhi\r\n")), house, nurse))
	eventually(t, "nurse has it", func() bool { return len(clinic.inbox(nurse)) == 1 })
	got := clinic.inbox(nurse)[0]
	if !strings.HasPrefix(got, "Return-Path: <"+house+">\r\nMessage-ID: <") || !strings.Contains(got, "\r\nDate: ") || !strings.HasSuffix(got, "\r\n\r\nhi\r\n") {
		t.Errorf("delivered %q", got)
	}
}
