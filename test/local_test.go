package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hispnode/hisp/test/testdns"
	"github.com/hispnode/hisp/test/testnet"
)

// TestLocalMail: two users of one domain write to each other before the domain
// is in DNS at all and without its own CA among the anchors.
func TestLocalMail(t *testing.T) {
	n := testnet.Prepare(t)
	dns := testdns.New(t) // knows no name
	s := n.Hospital
	s.Set(t, "dns.servers", fmt.Sprintf("[%q]", dns.Addr()))
	for _, line := range strings.Split(strings.TrimSpace(s.CLI(t, "", "anchor", "list", s.Domain)), "\n")[1:] {
		s.CLI(t, "", "anchor", "remove", s.Domain, strings.Fields(line)[3])
	}
	fromPass, toPass := s.Account(t, "canary.sender"), s.Account(t, "canary.rcpt")
	s.Start(t)
	from, to := "canary.sender@"+s.Domain, "canary.rcpt@"+s.Domain
	raw := testnet.Message(from, to, "CanarySubject", "CanaryBody", testnet.AskDispatched)
	if err := s.Submit(t, "canary.sender", fromPass, raw, to); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, wait, "the colleague has it and the sender the notice", func() bool {
		return len(s.Inbox(t, "canary.rcpt", toPass)) == 1 && len(s.Inbox(t, "canary.sender", fromPass)) == 1
	})
	if got := s.Inbox(t, "canary.sender", fromPass)[0]; !strings.Contains(got, ";dispatched") {
		t.Errorf("the sender got\n%s", got)
	}
	s.CheckCanaries(t, canaries...)
}
