package hisp

import (
	"testing"
	"time"

	"github.com/hispnode/hisp/mdn"
)

// The rows of the official tests 2.4 and of the delivery notification guide,
// as what one track makes of a series of notices.
func TestTrack_verdicts(t *testing.T) {
	rcpt := Address{"nurse", "clinic.example"}
	postmaster := Address{"postmaster", "clinic.example"}
	other := Address{"mallory", "clinic.example"}
	stranger := Address{"nurse", "evil.example"}
	type step struct {
		from Address
		v    verdict
		want string
	}
	processed := verdict{rcpt: rcpt, disposition: mdn.Processed}
	dispatched := verdict{rcpt: rcpt, disposition: mdn.Dispatched, final: true}
	failed := verdict{rcpt: rcpt, disposition: mdn.Failed}
	tests := []struct {
		name      string
		requested bool
		steps     []step
		final     TrackState
	}{
		{"processedonly5, requested", true, []step{{rcpt, processed, noticeApplied}}, Waiting},
		{"processed, not requested", false, []step{{rcpt, processed, noticeApplied}}, Succeeded},
		{"processeddispatched6", true, []step{{rcpt, processed, noticeApplied}, {rcpt, dispatched, noticeApplied}}, Succeeded},
		{"dispatched overtakes processed", true, []step{{rcpt, dispatched, noticeApplied}, {rcpt, processed, noticeLate}}, Succeeded},
		{"dispatched without the X-DIRECT field", true, []step{{rcpt, verdict{rcpt: rcpt, disposition: mdn.Dispatched}, noticeApplied}}, Waiting},
		{"noaddressfailure9", true, []step{{rcpt, failed, noticeApplied}}, Failed},
		{"processedfailure, requested", true, []step{{rcpt, processed, noticeApplied}, {rcpt, failed, noticeApplied}}, Failed},
		{"processedfailure, not requested", false, []step{{rcpt, processed, noticeApplied}, {rcpt, failed, noticeApplied}}, Failed},
		{"failed after dispatched", true, []step{{rcpt, dispatched, noticeApplied}, {rcpt, failed, noticeLate}}, Succeeded},
		{"success after failed", true, []step{{rcpt, failed, noticeApplied}, {rcpt, dispatched, noticeLate}}, Failed},
		{"two failures", true, []step{{rcpt, failed, noticeApplied}, {rcpt, failed, noticeLate}}, Failed},
		{"missing_disposition", true, []step{{rcpt, verdict{rcpt: rcpt}, noticeNoEffect}}, Waiting},
		{"deleted", false, []step{{rcpt, verdict{rcpt: rcpt, disposition: mdn.Deleted}, noticeNoEffect}}, Waiting},
		{"displayed is a receipt", false, []step{{rcpt, verdict{rcpt: rcpt, disposition: mdn.Displayed}, noticeReceipt}}, Waiting},
		{"displayed from another", false, []step{{stranger, verdict{rcpt: rcpt, disposition: mdn.Displayed}, noticeForged}}, Waiting},
		{"different_sender, success", true, []step{{other, dispatched, noticeForged}}, Waiting},
		{"postmaster says success", true, []step{{postmaster, dispatched, noticeForged}}, Waiting},
		{"postmaster says failure", true, []step{{postmaster, failed, noticeApplied}}, Failed},
		{"other domain says failure", true, []step{{stranger, failed, noticeForged}}, Waiting},
	}
	now := time.Now()
	n := &Node{}
	n.Clock = func() time.Time { return now }
	sender := Address{"house", "hospital.example"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			track := Track{Sender: sender, Recipient: rcpt, Requested: tt.requested}
			for i, s := range tt.steps {
				got := judge(track, true, s.v, Opened{From: s.from, Trusted: []Address{sender}})
				if got != s.want {
					t.Errorf("notice %d: %s, want %s", i, got, s.want)
				}
				if got == noticeApplied {
					n.advance(&track, s.v)
				}
			}
			if track.Final != tt.final {
				t.Errorf("Final = %v, want %v", track.Final, tt.final)
			}
			if (track.Final == Waiting) != track.Ended.IsZero() {
				t.Errorf("Ended = %v for %v", track.Ended, track.Final)
			}
		})
	}
}

// A notice that came to another domain than the sender's is no evidence; one to
// a colleague is, because the sender may have asked for that.
func TestJudge_cameHome(t *testing.T) {
	rcpt := Address{"nurse", "clinic.example"}
	track := Track{Sender: Address{"house", "hospital.example"}, Recipient: rcpt}
	v := verdict{rcpt: rcpt, disposition: mdn.Processed}
	if got := judge(track, true, v, Opened{From: rcpt, Trusted: []Address{{"cuddy", "other.example"}}}); got != noticeForged {
		t.Errorf("judge = %s, want forged", got)
	}
	if got := judge(track, true, v, Opened{From: rcpt, Trusted: []Address{{"cuddy", "hospital.example"}}}); got != noticeApplied {
		t.Errorf("judge = %s, want applied", got)
	}
}

func TestReadReport(t *testing.T) {
	id, vs := readReport(mdn.Report{Status: &mdn.Status{OriginalMessageID: "<1@x>", Recipients: []mdn.RecipientStatus{
		{FinalRecipient: "a@clinic.example", Action: mdn.ActionFailed, Status: "5.1.1"},
		{FinalRecipient: "b@clinic.example", Action: mdn.ActionDelayed, Status: "4.4.1"},
		{FinalRecipient: "c@clinic.example", Action: mdn.ActionDelivered, Status: "2.0.0"},
		{FinalRecipient: "not an address", Action: mdn.ActionFailed},
	}}})
	if id != "<1@x>" || len(vs) != 1 || vs[0].status != "5.1.1" {
		t.Errorf("readReport = %q, %d verdicts, want the failed one only", id, len(vs))
	}
	_, vs = readReport(mdn.Report{Notice: &mdn.Notice{FinalRecipient: "a@clinic.example", Disposition: mdn.Processed, Error: []string{"E"}}})
	if len(vs) != 1 || vs[0].disposition != mdn.Failed {
		t.Error("processed with an Error field must count as failure")
	}
}

func TestRetryPolicy(t *testing.T) {
	var p RetryPolicy
	p.setDefaults()
	var total time.Duration
	last := time.Duration(0)
	for i := range 100 {
		d := p.delay(i)
		if d < last || d > p.Max || d <= 0 {
			t.Fatalf("delay(%d) = %v after %v", i, d, last)
		}
		last = d
		total += d
	}
	if p.delay(0) != 30*time.Second || p.delay(1) != time.Minute || p.delay(1000) != time.Hour {
		t.Errorf("delays are %v, %v … %v", p.delay(0), p.delay(1), p.delay(1000))
	}
	start := time.Now()
	if p.expired(start, start.Add(p.MaxAge-1)) || !p.expired(start, start.Add(p.MaxAge)) {
		t.Error("expired does not turn at MaxAge")
	}
}
