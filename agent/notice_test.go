package agent

import (
	"strings"
	"testing"

	"github.com/hispnode/hisp/hisp"
)

// Row TR-05: a partner trusted for sending only may still answer.
func TestOpen_outgoingAnchorsForNotices(t *testing.T) {
	oneWay := func(w *world) {
		w.outgoing["clinic.example"] = w.incoming["clinic.example"]
		w.incoming["clinic.example"] = nil
	}
	either := func(c *Config) { c.Notices = EitherAnchors }
	mdn := func(*world) forge { return forge{inner: notice()} }
	run(t, []openTest{
		{name: "MDN, allowed", setup: oneWay, forge: mdn, cfg: either, env: envelope("", bob), want: accepted, noticeOnly: true},
		{name: "MDN, not allowed", setup: oneWay, forge: mdn, env: envelope("", bob), want: hisp.Untrusted},
		{name: "message", setup: oneWay, cfg: either, want: hisp.Untrusted},
		{name: "report of another type", setup: oneWay, cfg: either, forge: func(*world) forge {
			return forge{inner: strings.Replace(notice(), "disposition-notification", "feedback-report", 1)}
		}, want: hisp.Untrusted},
	})
}
