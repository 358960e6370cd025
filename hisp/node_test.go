package hisp_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/hisp"
)

const (
	house = "house@hospital.example"
	nurse = "nurse@clinic.example"
)

// twoSites gives a hospital and a clinic joined by a wire.
func twoSites(t *testing.T) (hospital, clinic *site, w *wire, c *clock) {
	w = &wire{sites: map[hisp.Domain]*site{}, fail: map[string]error{}}
	c = &clock{now: time.Now().UTC()}
	hospital = newSite(t, w, c, "hospital.example", "house", "keyless")
	clinic = newSite(t, w, c, "clinic.example", "nurse", "doctor")
	t.Cleanup(func() {
		for _, s := range []*site{hospital, clinic} {
			s.stop()
		}
		for _, s := range []*site{hospital, clinic} {
			for _, canary := range []string{"house", "nurse", "CanarySubject", "CanaryBody", "@client"} {
				if strings.Contains(s.log.String(), canary) {
					t.Errorf("PHI %q in the log:\n%s", canary, s.log.String())
				}
			}
		}
		if len(w.bad) > 0 {
			t.Errorf("refused on the backbone: %v", w.bad)
		}
	})
	return hospital, clinic, w, c
}

func track(t *testing.T, s *site, msg hisp.Message, rcpt string) hisp.Track {
	t.Helper()
	_, rest, _ := strings.Cut(string(msg.Bytes()), "Message-ID: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	tr, err := s.store.Track(t.Context(), id, addr(rcpt))
	if err != nil && !errors.Is(err, hisp.NotFound) {
		t.Fatal(err)
	}
	return tr
}

func TestNode_dispatchedRoundTrip(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	msg := letter(house, nurse, askDispatched)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "track succeeds", func() bool { return track(t, hospital, msg, nurse).Final == hisp.Succeeded })
	quiet(t, hospital, clinic)
	if got := clinic.inbox(nurse); len(got) != 1 || got[0] != "Return-Path: <"+house+">\r\n"+string(msg.Bytes()) {
		t.Errorf("the clinic has %d messages, want the one sent, octet for octet behind its Return-Path", len(got))
	}
	got := hospital.inbox(house)
	if len(got) == 1 && !strings.HasPrefix(got[0], "Return-Path: <>\r\n") {
		t.Errorf("the notice begins with %.40q, want the null sender", got[0])
	}
	if len(got) != 1 || !strings.Contains(got[0], "automatic-action/MDN-sent-automatically;dispatched\r\n") ||
		!strings.Contains(got[0], "X-DIRECT-FINAL-DESTINATION-DELIVERY") {
		t.Errorf("the sender's mailbox has %d messages, want the dispatched notice only: %q", len(got), got)
	}
	if tr := track(t, hospital, msg, nurse); tr.Processed.IsZero() {
		t.Error("processed was not seen")
	}
}

func TestNode_processedOnlyWithoutRequest(t *testing.T) {
	hospital, clinic, w, _ := twoSites(t)
	msg := letter(house, nurse)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "track succeeds", func() bool { return track(t, hospital, msg, nurse).Final == hisp.Succeeded })
	quiet(t, hospital, clinic)
	if got := hospital.inbox(house); len(got) != 0 {
		t.Errorf("the sender got %d notices, want none: processed stays in the node (row DN-14)", len(got))
	}
	if w.count() != 2 {
		t.Errorf("%d messages crossed, want the message and one MDN", w.count())
	}
}

// BB-18, BB-19: +tags and other case reach the account, and its notices find
// their way back.
func TestNode_tagAndCase(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	for i, to := range []string{"nurse+ward7@clinic.example", "NURSE@clinic.example"} {
		msg := letter(house, to, askDispatched)
		must(t, hospital.submit(msg, house, to))
		eventually(t, "track succeeds", func() bool { return track(t, hospital, msg, to).Final == hisp.Succeeded })
		if got := clinic.inbox(nurse); len(got) != i+1 {
			t.Errorf("%d messages for %s", len(got), to)
		}
		notice := hospital.inbox(house)[i]
		if !strings.Contains(notice, "From: <nurse@clinic.example>\r\n") && !strings.Contains(notice, "From: nurse@clinic.example\r\n") {
			t.Errorf("the notice is not from the account's own address:\n%s", notice)
		}
	}
}

// DN-16: same node, same notices.
func TestNode_localToLocal(t *testing.T) {
	_, clinic, w, _ := twoSites(t)
	msg := letter("doctor@clinic.example", nurse, askDispatched)
	must(t, clinic.submit(msg, "doctor@clinic.example", nurse))
	eventually(t, "track succeeds", func() bool { return track(t, clinic, msg, nurse).Final == hisp.Succeeded })
	quiet(t, clinic)
	if len(clinic.inbox(nurse)) != 1 || len(clinic.inbox("doctor@clinic.example")) != 1 || w.count() != 0 {
		t.Errorf("nurse %d, doctor %d, wire %d; want 1, 1, 0", len(clinic.inbox(nurse)), len(clinic.inbox("doctor@clinic.example")), w.count())
	}
}

// BB-13, DN-08: the good recipient is served, the bad ones are named in one
// notice that says what to do.
func TestNode_mixedRecipients(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	a, b := "a@nocert.example", "b@untrusted.example"
	msg := letter(house, nurse+", "+a+", "+b)
	must(t, hospital.submit(msg, house, nurse, a, b))
	eventually(t, "nurse has it", func() bool { return len(clinic.inbox(nurse)) == 1 })
	eventually(t, "the notice", func() bool { return len(hospital.inbox(house)) == 1 })
	quiet(t, hospital, clinic)
	got := hospital.inbox(house)
	if len(got) != 1 {
		t.Fatalf("%d notices, want one for both", len(got))
	}
	for _, want := range []string{"report-type=delivery-status", "X-Original-Message-ID:", "Action: failed",
		"rfc822;" + a, "rfc822;" + b, "Status: 5.7.5", "Status: 5.7.1", "anchor", "certificate"} {
		if !strings.Contains(strings.ReplaceAll(got[0], "rfc822; ", "rfc822;"), want) {
			t.Errorf("the failure notice lacks %q:\n%s", want, got[0])
		}
	}
	if strings.Contains(got[0], "rfc822;"+nurse) {
		t.Error("the notice names the good recipient")
	}
}

func TestNode_relayRetriesThenSucceeds(t *testing.T) {
	hospital, clinic, w, _ := twoSites(t)
	w.set("clinic.example", &hisp.Error{Op: "relay", Kind: hisp.Temporary})
	msg := letter(house, nurse)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "the relay is put off", func() bool {
		items, err := hospital.store.ListItems(t.Context())
		must(t, err)
		return len(items) == 1 && items[0].Work == hisp.WorkRelay && items[0].Attempt == 1
	})
	w.set("clinic.example", nil)
	eventually(t, "nurse has it", func() bool { hospital.retryNow(); return len(clinic.inbox(nurse)) == 1 })
}

// A client that did not see its 250 hands the same message in again: it
// arrives, once where the octets are the same, and is answered once. One that
// failed and is handed in again is tried and, if need be, refused again.
func TestNode_handedInAgain(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	msg := letter(house, nurse, askDispatched)
	bad := letter(house, "a@nocert.example")
	for range 2 {
		must(t, hospital.submit(msg, house, nurse))
		must(t, hospital.submit(bad, house, "a@nocert.example"))
		quiet(t, hospital, clinic, hospital, clinic)
	}
	eventually(t, "nothing is left in the queues", func() bool {
		a, err := hospital.store.ListItems(t.Context())
		must(t, err)
		b, err := clinic.store.ListItems(t.Context())
		must(t, err)
		return len(a)+len(b) == 0
	})
	if got := clinic.inbox(nurse); len(got) != 1 {
		t.Errorf("%d copies, want 1", len(got))
	}
	failed, dispatched := 0, 0
	for _, m := range hospital.inbox(house) {
		if strings.Contains(m, "Action: failed") {
			failed++
		}
		if strings.Contains(m, ";dispatched") {
			dispatched++
		}
	}
	if failed != 2 || dispatched != 1 {
		t.Errorf("%d failure and %d dispatched notices, want 2 and 1", failed, dispatched)
	}
}

func TestNode_refusedByPeer(t *testing.T) {
	hospital, clinic, w, _ := twoSites(t)
	w.set(nurse, &hisp.Error{Op: "relay", Kind: hisp.UnknownRecipient})
	to := nurse + ", doctor@clinic.example"
	msg := letter(house, to)
	must(t, hospital.submit(msg, house, nurse, "doctor@clinic.example"))
	eventually(t, "the notice", func() bool { return len(hospital.inbox(house)) == 1 })
	eventually(t, "the doctor has it", func() bool { return len(clinic.inbox("doctor@clinic.example")) == 1 })
	if tr := track(t, hospital, msg, nurse); tr.Final != hisp.Failed || tr.Reason != "5.1.1" {
		t.Errorf("track = %s", tr.Outcome())
	}
}

// A peer that answers for some recipients and then hangs up, as many do after a
// row of unknown ones, is asked for the others at once and only then by the
// schedule.
func TestNode_relayGoesOnAfterProgress(t *testing.T) {
	hospital, _, w, _ := twoSites(t)
	w.set(nurse, &hisp.Error{Op: "relay", Kind: hisp.UnknownRecipient})
	w.set("doctor@clinic.example", &hisp.Error{Op: "relay", Kind: hisp.Temporary, Hint: "too many errors"})
	must(t, hospital.submit(letter(house, nurse+", doctor@clinic.example"), house, nurse, "doctor@clinic.example"))
	var waiting []hisp.Item
	eventually(t, "the rest waits by the schedule", func() bool {
		var err error
		waiting, err = hospital.store.ListItems(t.Context())
		must(t, err)
		return len(waiting) == 1 && waiting[0].Attempt == 1
	})
	w.mu.Lock()
	calls := w.calls
	w.mu.Unlock()
	if calls != 2 {
		t.Errorf("%d tries, want the first and one at once", calls)
	}
	if got := waiting[0].LastErr; got != "temporary: too many errors" {
		t.Errorf("the operator reads %q", got)
	}
}

// DN-09, DN-10, DN-11, DN-15: not before the deadline, once, and a restart in
// between changes nothing; what arrives late is suppressed.
func TestNode_timeoutSurvivesRestart(t *testing.T) {
	hospital, clinic, w, c := twoSites(t)
	w.set("hospital.example", &hisp.Error{Op: "relay", Kind: hisp.Temporary}) // the notices do not come back
	msg := letter(house, nurse, askDispatched)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "nurse has it", func() bool { return len(clinic.inbox(nurse)) == 1 })
	quiet(t, hospital)
	c.advance(59 * time.Minute)
	must(t, hospital.node.ExpireTracks(t.Context()))
	hospital.stop()
	hospital.start()
	if got := hospital.inbox(house); len(got) != 0 {
		t.Fatalf("%d notices before the deadline", len(got))
	}
	c.advance(time.Minute + time.Second)
	for range 3 {
		must(t, hospital.node.ExpireTracks(t.Context()))
	}
	got := hospital.inbox(house)
	if len(got) != 1 || !strings.Contains(got[0], "Status: 5.4.7") {
		t.Fatalf("%d notices after the deadline, want one with 5.4.7: %q", len(got), got)
	}
	w.set("hospital.example", nil)
	eventually(t, "the clinic's notices are out", func() bool {
		clinic.retryNow()
		items, err := clinic.store.ListItems(t.Context())
		must(t, err)
		return len(items) == 0
	})
	quiet(t, hospital)
	if got := hospital.inbox(house); len(got) != 1 {
		t.Errorf("%d notices, want the late ones suppressed", len(got))
	}
	if tr := track(t, hospital, msg, nurse); tr.Final != hisp.TimedOut {
		t.Errorf("track = %s", tr.Outcome())
	}
}

// A message whose sender was told it failed must not arrive afterwards.
func TestNode_notSentAfterFailureNotice(t *testing.T) {
	hospital, clinic, w, c := twoSites(t)
	w.set("clinic.example", &hisp.Error{Op: "relay", Kind: hisp.Temporary})
	msg := letter(house, nurse)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "the relay is put off", func() bool {
		items, _ := hospital.store.ListItems(t.Context())
		return len(items) == 1 && items[0].Attempt == 1
	})
	c.advance(time.Hour + time.Second)
	must(t, hospital.node.ExpireTracks(t.Context()))
	w.set("clinic.example", nil)
	eventually(t, "the queue is empty", func() bool {
		hospital.retryNow()
		items, _ := hospital.store.ListItems(t.Context())
		return len(items) == 0
	})
	quiet(t, clinic)
	if got := clinic.inbox(nurse); len(got) != 0 {
		t.Error("the message arrived after its failure notice")
	}
	if got := hospital.inbox(house); len(got) != 1 {
		t.Errorf("%d notices, want 1", len(got))
	}
}

// expireNow lets the deadlines of all tracks pass.
func expireNow(t *testing.T, s *site, c *clock) {
	t.Helper()
	c.advance(time.Hour + time.Second)
	must(t, s.node.ExpireTracks(t.Context()))
}

// DN-09: a message that cannot even be sealed has its failure notice in time.
func TestNode_timeoutBeforeSealing(t *testing.T) {
	hospital, _, _, c := twoSites(t)
	to := "x@lost.example"
	must(t, hospital.submit(letter(house, to), house, to))
	eventually(t, "sealing is put off", func() bool {
		items, err := hospital.store.ListItems(t.Context())
		must(t, err)
		return len(items) == 1 && items[0].Attempt == 1
	})
	expireNow(t, hospital, c)
	if got := hospital.inbox(house); len(got) != 1 {
		t.Errorf("%d failure notices, want 1", len(got))
	}
	eventually(t, "the item ends", func() bool {
		hospital.retryNow()
		items, err := hospital.store.ListItems(t.Context())
		must(t, err)
		return len(items) == 0
	})
	if got := hospital.inbox(house); len(got) != 1 {
		t.Errorf("%d failure notices, want 1", len(got))
	}
}

// A sender whose account is gone must not keep the others from their notices.
func TestNode_timeoutOfRemovedAccount(t *testing.T) {
	hospital, _, _, c := twoSites(t)
	hospital.account(hisp.Account{Address: addr("leaver@hospital.example")})
	to := "x@lost.example"
	must(t, hospital.submit(letter("leaver@hospital.example", to), "leaver@hospital.example", to))
	must(t, hospital.submit(letter(house, to), house, to))
	must(t, hospital.store.RemoveAccount(t.Context(), addr("leaver@hospital.example")))
	expireNow(t, hospital, c)
	if got := hospital.inbox(house); len(got) != 1 {
		t.Errorf("%d failure notices, want 1", len(got))
	}
	if left, err := hospital.store.Overdue(t.Context(), c.Now(), 10); err != nil || len(left) != 0 {
		t.Errorf("%d tracks are still overdue (%v)", len(left), err)
	}
}

// What a peer took is never sent to it again because something else failed.
func TestNode_partlySentToRemovedSender(t *testing.T) {
	hospital, clinic, w, _ := twoSites(t)
	leaver := "leaver@hospital.example"
	hospital.account(hisp.Account{Address: addr(leaver)})
	w.set("clinic.example", &hisp.Error{Op: "relay", Kind: hisp.Temporary})
	must(t, hospital.submit(letter(leaver, nurse+", doctor@clinic.example"), leaver, nurse, "doctor@clinic.example"))
	eventually(t, "the relay is put off", func() bool {
		items, err := hospital.store.ListItems(t.Context())
		must(t, err)
		return len(items) == 1 && items[0].Work == hisp.WorkRelay && items[0].Attempt == 1
	})
	must(t, hospital.store.RemoveAccount(t.Context(), addr(leaver)))
	w.set("clinic.example", nil)
	w.set("doctor@clinic.example", &hisp.Error{Op: "relay", Kind: hisp.UnknownRecipient})
	eventually(t, "nothing is left", func() bool {
		hospital.retryNow()
		items, err := hospital.store.ListItems(t.Context())
		must(t, err)
		return len(items) == 0
	})
	quiet(t, hospital, clinic)
	if w.count() > 2 {
		t.Errorf("%d messages crossed, want the message and one notice", w.count())
	}
}

// TR-02, TR-05: a partner we only send to can answer about a message of ours
// and do nothing else.
func TestNode_noticeOnlyTrust(t *testing.T) {
	hospital, _, _, _ := twoSites(t)
	partner := "p@oneway.example"
	report := func(id, disposition string) hisp.Message {
		return letter(partner, house, "MIME-Version: 1.0", `Content-Type: multipart/report; report-type=disposition-notification; boundary="b"`,
			"", "--b", "", "read", "--b", "Content-Type: message/disposition-notification", "",
			"Final-Recipient: rfc822; "+partner, "Original-Message-ID: "+id, "X-DIRECT-FINAL-DESTINATION-DELIVERY:", "Disposition: automatic-action/MDN-sent-automatically;"+disposition, "", "--b--")
	}
	fake := letter(partner, house, "MIME-Version: 1.0", `Content-Type: multipart/report; report-type=disposition-notification; boundary="b"`, "", "--b", "Content-Type: text/html", "", "<b>pay me</b>", "--b--")
	for name, msg := range map[string]hisp.Message{
		"plain": letter(partner, house), "fake report": fake,
		"unknown message": report("<nobody@knows>", "processed"), "displayed": report("<nobody@knows>", "displayed"),
	} {
		env := hisp.Envelope{Origin: hisp.Backbone, From: addr(partner), To: []hisp.Address{addr(house)}}
		must(t, hospital.node.Receive(t.Context(), env, pack(msg)))
		quiet(t, hospital)
		if got := hospital.inbox(house); len(got) != 0 {
			t.Fatalf("%s: %d messages from a partner without incoming trust", name, len(got))
		}
	}
}

// I3, SC-07: the same message many times at once is one message.
func TestNode_replayAtOnce(t *testing.T) {
	_, clinic, w, _ := twoSites(t)
	for i := range 5 {
		sealed := pack(letter(house, nurse))
		env := hisp.Envelope{Origin: hisp.Backbone, From: addr(house), To: []hisp.Address{addr(nurse)}}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := clinic.node.Receive(t.Context(), env, sealed); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		quiet(t, clinic)
		if got := clinic.inbox(nurse); len(got) != i+1 {
			t.Fatalf("round %d: %d copies, want %d", i, len(got), i+1)
		}
	}
	eventually(t, "the notices are out", func() bool { return w.count() >= 5 })
	quiet(t, clinic)
	if w.count() != 5 {
		t.Errorf("%d notices, want 5", w.count())
	}
}

// SC-07: the same message again is neither delivered nor answered again.
func TestNode_replay(t *testing.T) {
	_, clinic, w, _ := twoSites(t)
	sealed := pack(letter(house, nurse, askDispatched))
	env := hisp.Envelope{Origin: hisp.Backbone, From: addr(house), To: []hisp.Address{addr(nurse)}}
	for range 3 {
		must(t, clinic.node.Receive(t.Context(), env, sealed))
		quiet(t, clinic)
	}
	if got := clinic.inbox(nurse); len(got) != 1 {
		t.Errorf("%d copies, want 1", len(got))
	}
	if w.count() != 2 {
		t.Errorf("%d notices, want processed and dispatched once", w.count())
	}
}

// MDN-03: radio silence.
func TestNode_untrustedGetsSilence(t *testing.T) {
	_, clinic, w, _ := twoSites(t)
	for _, msg := range []hisp.Message{
		pack(letter("x@untrusted.example", nurse, askDispatched)),
		hisp.NewMessage([]byte("From: x@untrusted.example\r\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\n!!!\r\n")),
	} {
		env := hisp.Envelope{Origin: hisp.Backbone, From: addr("x@untrusted.example"), To: []hisp.Address{addr(nurse)}}
		must(t, clinic.node.Receive(t.Context(), env, msg))
	}
	quiet(t, clinic)
	if got := clinic.inbox(nurse); len(got) != 0 || w.count() != 0 {
		t.Errorf("%d delivered, %d sent; want silence", len(got), w.count())
	}
}

// DN-06, official test MT 41: accepted but not deliverable is processed and
// then failed, asked or not.
func TestNode_mailboxFull(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	clinic.account(hisp.Account{Address: addr(nurse), Quota: 10})
	msg := letter(house, nurse)
	must(t, hospital.submit(msg, house, nurse))
	eventually(t, "the failure notice", func() bool { return len(hospital.inbox(house)) == 1 })
	quiet(t, hospital, clinic)
	if tr := track(t, hospital, msg, nurse); tr.Final != hisp.Failed {
		t.Errorf("track = %s, want failed", tr.Outcome())
	}
	if got := clinic.inbox(nurse); len(got) != 0 {
		t.Error("delivered over quota")
	}
}

// BB-06: who holds the keys gets the sealed message as it came, and no notice
// is sent for them.
func TestNode_passThrough(t *testing.T) {
	_, clinic, w, _ := twoSites(t)
	clinic.account(hisp.Account{Address: addr(nurse), PassThrough: true})
	sealed := pack(letter(house, nurse))
	env := hisp.Envelope{Origin: hisp.Backbone, From: addr(house), To: []hisp.Address{addr(nurse)}}
	must(t, clinic.node.Receive(t.Context(), env, sealed))
	quiet(t, clinic)
	if got := clinic.inbox(nurse); len(got) != 1 || got[0] != string(sealed.Bytes()) || w.count() != 0 {
		t.Errorf("%d delivered, %d sent; want the sealed bytes and silence", len(got), w.count())
	}
}

// MDN-10, BB-16: a notice is never answered.
func TestNode_noNoticeForNotice(t *testing.T) {
	_, clinic, w, _ := twoSites(t)
	report := letter(house, nurse, "MIME-Version: 1.0", `Content-Type: multipart/report; report-type=disposition-notification; boundary="b"`, "Disposition-Notification-To: "+house)
	env := hisp.Envelope{Origin: hisp.Backbone, To: []hisp.Address{addr(nurse)}}
	must(t, clinic.node.Receive(t.Context(), env, pack(report)))
	quiet(t, clinic)
	if w.count() != 0 {
		t.Errorf("%d answers to a notice", w.count())
	}
}

// MDN-13: a read receipt from a mail client leaves with the null sender and
// reaches the person who wrote.
func TestNode_displayedReceipt(t *testing.T) {
	hospital, clinic, _, _ := twoSites(t)
	receipt := letter(nurse, house, "MIME-Version: 1.0", `Content-Type: multipart/report; report-type=disposition-notification; boundary="b"`,
		"", "--b", "", "read", "--b", "Content-Type: message/disposition-notification", "",
		"Final-Recipient: rfc822; "+nurse, "Original-Message-ID: <1@hospital>", "Disposition: manual-action/MDN-sent-manually; displayed", "", "--b--")
	env := hisp.Envelope{Origin: hisp.Edge, Account: addr(nurse), To: []hisp.Address{addr(house)}}
	must(t, clinic.node.Submit(t.Context(), env, receipt))
	eventually(t, "the sender has the receipt", func() bool { return len(hospital.inbox(house)) == 1 })
	quiet(t, hospital, clinic)
	if got := clinic.inbox(nurse); len(got) != 0 {
		t.Error("a read receipt was answered")
	}
}
