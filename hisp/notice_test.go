package hisp_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/mdn"
	"github.com/hispnode/hisp/store"
)

const (
	desk   = "desk@hospital.example"
	doctor = "doctor@clinic.example"
)

// receive lets a site take a sealed message from the backbone.
func (s *site) receive(msg hisp.Message, from string, to ...string) {
	s.t.Helper()
	env := hisp.Envelope{Origin: hisp.Backbone, To: addrs(to...)}
	if from != "" {
		env.From = addr(from)
	}
	must(s.t, s.node.Receive(s.t.Context(), env, pack(msg)))
}

func addrs(list ...string) (out []hisp.Address) {
	for _, a := range list {
		out = append(out, addr(a))
	}
	return out
}

// notices reads the MDNs in a mailbox as "disposition of final recipient from
// sender", sorted.
func (s *site) notices(who string) []string {
	s.t.Helper()
	var out []string
	for _, raw := range s.inbox(who) {
		r, err := mdn.Parse([]byte(raw))
		if err != nil || r.Notice == nil {
			s.t.Fatalf("not an MDN (%v): %s", err, raw)
		}
		_, from, _ := strings.Cut(raw, "From: ")
		from, _, _ = strings.Cut(from, "\r\n")
		out = append(out, fmt.Sprintf("%s of %s from %s about %s", r.Notice.Disposition, r.Notice.FinalRecipient, from, r.Notice.OriginalMessageID))
	}
	slices.Sort(out)
	return out
}

// MDN-02, MDN-09, MDN-11, MDN-12: one processed notice for each recipient, from
// their address, to Disposition-Notification-To, about the inner Message-ID.
// The hospital does not know the message, so it shows the notices to the user.
func TestNode_noticeAddresses(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	hospital.account(hisp.Account{Address: addr(desk)})
	msg := letter(house, nurse+", "+doctor, "Disposition-Notification-To: Front Desk <"+desk+">")
	id := between(string(msg.Bytes()), "Message-ID: ", "\r\n")
	clinic.receive(msg, house, nurse, doctor)
	eventually(t, "two notices", func() bool { return len(hospital.inbox(desk)) == 2 })
	quiet(t, hospital, clinic)
	want := []string{"processed of " + doctor + " from " + doctor + " about " + id, "processed of " + nurse + " from " + nurse + " about " + id}
	if got := hospital.notices(desk); !slices.Equal(got, want) {
		t.Errorf("notices %q, want %q", got, want)
	}
	if got := hospital.inbox(house); len(got) != 0 {
		t.Errorf("From got %d notices too", len(got))
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// DN-07, official test MT 40: a malformed request is none; processed still
// goes out and dispatched does not.
func TestNode_malformedRequest(t *testing.T) {
	hospital, clinic, w, _ := twoSites(t)
	clinic.receive(letter(house, nurse, "Disposition-Notification-Options: X-XXXX-FINAL-X-DELXXXX=optioXXX,tXX"), house, nurse)
	eventually(t, "a notice", func() bool { return len(hospital.inbox(house)) == 1 })
	quiet(t, hospital, clinic)
	if got := hospital.notices(house); w.count() != 1 || !strings.HasPrefix(got[0], "processed ") {
		t.Errorf("%d messages crossed, notices %q; want processed alone", w.count(), got)
	}
}

// DN-05: asked or not, a mailbox that does not take the message yields no
// dispatched.
func TestNode_mailboxFullAndAsked(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	clinic.account(hisp.Account{Address: addr(nurse), Quota: 10})
	clinic.receive(letter(house, nurse, askDispatched), house, nurse)
	eventually(t, "two notices", func() bool { return len(hospital.inbox(house)) == 2 })
	quiet(t, hospital, clinic)
	got := hospital.notices(house)
	if !strings.HasPrefix(got[0], "failed ") || !strings.HasPrefix(got[1], "processed ") {
		t.Errorf("notices %q, want processed and failed", got)
	}
}

// MDN-13: a read receipt reaches the sender, also after dispatched, and ends
// nothing.
func TestNode_displayedReachesSender(t *testing.T) {
	hospital, clinic, _, c := twoSites(t)
	msg := letter(house, nurse, askDispatched)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "track succeeds", func() bool { return track(t, hospital, msg, nurse).Final == hisp.Succeeded })
	raw, err := mdn.Compose(mdn.Header{From: nurse, To: house, MessageID: "<r1@client>", Date: c.Now()},
		mdn.Notice{ReportingUA: "client", FinalRecipient: nurse, Disposition: mdn.Displayed,
			OriginalMessageID: between(string(msg.Bytes()), "Message-ID: ", "\r\n")}, "")
	must(t, err)
	must(t, clinic.submit(hisp.NewMessage(raw), nurse, house))
	eventually(t, "dispatched and displayed", func() bool { return len(hospital.inbox(house)) == 2 })
	quiet(t, hospital, clinic)
	got := hospital.notices(house)
	if !strings.HasPrefix(got[0], "dispatched ") || !strings.HasPrefix(got[1], "displayed ") {
		t.Errorf("notices %q, want dispatched and displayed", got)
	}
	if len(clinic.inbox(nurse)) != 1 {
		t.Error("the read receipt was answered")
	}
}

// DN-14: processed reaches the sender where the setting says so.
func TestNode_processedForwarded(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	hospital.stop()
	hospital.edit = func(c *hisp.Config) { c.ForwardProcessed = true }
	hospital.start()
	must(t, hospital.submit(letter(house, nurse), house, nurse))
	eventually(t, "the notice", func() bool { return len(hospital.inbox(house)) == 1 })
	quiet(t, hospital, clinic)
	if got := hospital.notices(house); !strings.HasPrefix(got[0], "processed ") {
		t.Errorf("notices %q, want processed", got)
	}
}

// DN-17: for seven days a track, and that a message was here, are remembered.
func TestNode_remembersSevenDays(t *testing.T) {
	hospital, clinic, w, c := twoSites(t)
	msg := letter(house, nurse)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "track succeeds", func() bool { return track(t, hospital, msg, nurse).Final == hisp.Succeeded })
	quiet(t, hospital, clinic)
	again := func() {
		t.Helper()
		for _, s := range []*site{hospital, clinic} {
			must(t, s.node.ForgetTracks(t.Context()))
		}
		clinic.receive(msg, house, nurse)
		quiet(t, hospital, clinic)
	}
	before := w.count()
	c.advance(7*24*time.Hour - time.Minute)
	again()
	if len(clinic.inbox(nurse)) != 1 || w.count() != before || track(t, hospital, msg, nurse).Final != hisp.Succeeded {
		t.Error("forgotten before seven days")
	}
	c.advance(2 * time.Minute)
	again()
	if len(clinic.inbox(nurse)) != 2 || track(t, hospital, msg, nurse).Final == hisp.Succeeded {
		t.Error("remembered beyond seven days")
	}
}

// AU-01, AU-03: who sent what to whom, how they came in, each step, each notice
// and each refusal with its reason are on record, at both ends.
func TestNode_auditTrail(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	bad := "b@untrusted.example"
	msg := letter(house, nurse+", "+bad, askDispatched)
	id := between(string(msg.Bytes()), "Message-ID: ", "\r\n")
	must(t, hospital.submit(msg, house, nurse, bad))
	eventually(t, "track succeeds", func() bool { return track(t, hospital, msg, nurse).Final == hisp.Succeeded })
	if err := hospital.submit(letter("cuddy@hospital.example", nurse), house, nurse); err == nil {
		t.Fatal("a spoofed From was accepted")
	}
	clinic.receive(letter("x@untrusted.example", nurse), "x@untrusted.example", nurse)
	quiet(t, hospital, clinic)

	trail := hospital.audit()
	for _, want := range []string{
		"accept ok from " + house + " to " + nurse + " " + bad + " account " + house + " by password about " + id,
		"seal refused untrusted", "seal ok", "send ok", "notify ok processed received: ", "notify ok dispatched received: applied",
		"notify ok failed failure notice to the sender", "reject refused denied accept from " + house + " to " + nurse + " account " + house,
	} {
		if !strings.Contains(trail, want) {
			t.Errorf("the hospital has no record %q in\n%s", want, trail)
		}
	}
	trail = clinic.audit()
	for _, want := range []string{
		"receive ok from " + house + " to " + nurse, "open ok", "deliver ok from " + house + " to " + nurse,
		"notify ok processed composed from " + nurse + " to " + house, "notify ok dispatched composed", "reject refused untrusted",
	} {
		if !strings.Contains(trail, want) {
			t.Errorf("the clinic has no record %q in\n%s", want, trail)
		}
	}
}

// audit returns the trail, a line for each record.
func (s *site) audit() string {
	s.t.Helper()
	var b strings.Builder
	must(s.t, s.store.ReadAudit(s.t.Context(), 1, func(e store.AuditEntry) bool {
		r := e.Record
		words := []string{string(r.Event), string(r.Outcome), r.Kind, r.Detail}
		if p := r.Private; !p.From.IsZero() || len(p.To) > 0 {
			words = append(words, "from", p.From.AddrSpec(), "to")
			for _, a := range p.To {
				words = append(words, a.AddrSpec())
			}
			if !p.Account.IsZero() {
				words = append(words, "account", p.Account.AddrSpec(), "by", fmt.Sprint(p.Auth))
			}
			words = append(words, "about", p.MessageID)
		}
		fmt.Fprintln(&b, strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "))
		return true
	}))
	return b.String()
}
