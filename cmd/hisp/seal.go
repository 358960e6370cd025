package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hispnode/hisp/agent"
	"github.com/hispnode/hisp/hisp"
)

// addressList is a flag that may be given several times, or with commas.
type addressList []hisp.Address

// String implements flag.Value.
func (l *addressList) String() string { return "" }

// Set implements flag.Value.
func (l *addressList) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		addr, err := hisp.ParseAddress(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("%q is not an address", part)
		}
		*l = append(*l, addr)
	}
	return nil
}

// verdict is what seal and open say on stderr.
type verdict struct {
	Op       string             `json:"op"`
	Result   string             `json:"result"` // ok, partly, refused
	Kind     string             `json:"kind,omitempty"`
	Reason   string             `json:"reason,omitempty"`
	Cause    string             `json:"cause,omitempty"`
	From     string             `json:"from,omitempty"`
	Signer   *certInfo          `json:"signer,omitempty"`
	Accepted []string           `json:"accepted,omitempty"`
	Rejected []recipientVerdict `json:"rejected,omitempty"`
}

type recipientVerdict struct {
	Recipient string `json:"recipient"`
	Kind      string `json:"kind"`
	Reason    string `json:"reason,omitempty"`
	Cause     string `json:"cause,omitempty"`
}

func (v *verdict) refuse(err error) {
	v.Result, v.Kind, v.Reason, v.Cause = "refused", hisp.KindOf(err).Error(), hisp.HintOf(err), causeOf(err)
}

func (v *verdict) reject(list []hisp.Rejection) {
	for _, r := range list {
		v.Rejected = append(v.Rejected, recipientVerdict{r.Recipient.AddrSpec(), hisp.KindOf(r.Err).Error(), hisp.HintOf(r.Err), causeOf(r.Err)})
	}
}

// open notes what came out of a message and who may read it.
func (v *verdict) open(opened hisp.Opened, now time.Time) {
	v.From = opened.From.AddrSpec()
	v.reject(opened.Rejected)
	if opened.Signer != nil {
		signer := describe(opened.Signer, opened.From, now)
		signer.Usable, signer.Reason = true, "" // it signs; whether it can be encrypted to is not asked
		v.Signer = &signer
	}
	for _, rcpt := range opened.Trusted {
		v.Accepted = append(v.Accepted, rcpt.AddrSpec())
	}
}

// causeOf is the innermost text, such as why each path to an anchor failed.
func causeOf(err error) string {
	var e *hisp.Error
	if !errors.As(err, &e) || e.Err == nil {
		return ""
	}
	return trustReason(e.Err)
}

// finish sets the result, prints the verdict and returns exit code 1 when
// anything was refused.
func (v *verdict) finish(c *call) error {
	switch {
	case v.Result != "":
	case len(v.Rejected) == 0:
		v.Result = "ok"
	case len(v.Accepted) == 0:
		v.Result = "refused"
	default:
		v.Result = "partly"
	}
	if err := json.NewEncoder(c.stderr).Encode(v); err != nil {
		return err
	}
	if v.Result != "ok" {
		return exitCode(exitFailed)
	}
	return nil
}

func sealCommand(f *flag.FlagSet) func(c *call) error {
	var from, to addressList
	f.Var(&from, "from", "sender `address`, ours")
	f.Var(&to, "to", "recipient `address`; may be repeated")
	return func(c *call) error {
		env, msg, err := c.envelope(from, to)
		if err != nil {
			return err
		}
		env.Origin = hisp.Edge
		msg = hisp.NewMessage(crlf(msg.Bytes()))
		for _, rcpt := range env.To {
			if rcpt.Domain != env.To[0].Domain {
				return hint(usagef("recipients in several domains make several messages"), "seal for one domain at a time")
			}
		}
		v := verdict{Op: "seal", From: env.From.AddrSpec()}
		err = c.audited("seal", env.From.Domain, env.From, func() error {
			sealed, err := c.agent.Seal(c.ctx, env, msg)
			if err != nil {
				v.refuse(err)
				return nil
			}
			v.reject(sealed.Rejected)
			for _, copied := range sealed.Copies {
				for _, rcpt := range copied.To {
					v.Accepted = append(v.Accepted, rcpt.AddrSpec())
				}
				if _, err := c.stdout.Write(copied.Message.Bytes()); err != nil {
					return err
				}
			}
			return nil
		})
		return errors.Join(err, v.finish(c))
	}
}

func openCommand(f *flag.FlagSet) func(c *call) error {
	var from, to addressList
	f.Var(&from, "from", "envelope sender `address`; left out means the null sender")
	f.Var(&to, "to", "recipient `address`, ours; may be repeated")
	at := f.String("at", "", "judge certificates as of this `time` (RFC 3339) instead of now")
	return func(c *call) error {
		clock, err := c.clockAt(*at)
		if err != nil {
			return err
		}
		if len(from) == 0 {
			from = addressList{{}}
		}
		env, msg, err := c.envelope(from, to)
		if err != nil {
			return err
		}
		env.Origin = hisp.Backbone
		opener, err := agent.New(c.agentConfig(c.config, clock))
		if err != nil {
			return err
		}
		v := verdict{Op: "open"}
		err = c.audited("open", env.To[0].Domain, env.To[0], func() error {
			opened, err := opener.Open(c.ctx, env, msg)
			if err != nil {
				v.refuse(err)
				return nil
			}
			v.open(opened, clock())
			if len(opened.Trusted) == 0 {
				return nil // nobody may read it
			}
			_, err = c.stdout.Write(opened.Message.Bytes())
			return err
		})
		return errors.Join(err, v.finish(c))
	}
}

// clockAt stands still at a time in RFC 3339 form; "" is the node's clock.
func (c *call) clockAt(at string) (hisp.Clock, error) {
	if at == "" {
		return c.clock, nil
	}
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return nil, usagef("-at: %q is not a time such as 2026-01-31T12:00:00Z", at)
	}
	return func() time.Time { return t }, nil
}

// envelope reads the message of seal and open from standard input.
func (c *call) envelope(from, to addressList) (hisp.Envelope, hisp.Message, error) {
	var env hisp.Envelope
	if err := c.argN(); err != nil {
		return env, hisp.Message{}, err
	}
	switch {
	case len(from) != 1:
		return env, hisp.Message{}, usagef("give one -from and at least one -to")
	case len(to) == 0:
		return env, hisp.Message{}, usagef("give at least one -to")
	}
	limit := c.config.Limits.MessageSize
	raw, err := io.ReadAll(io.LimitReader(c.front, limit+1))
	if err != nil {
		return env, hisp.Message{}, err
	}
	if int64(len(raw)) > limit {
		return env, hisp.Message{}, fmt.Errorf("the message is larger than limits.message_size, %d octets", limit)
	}
	if len(raw) == 0 {
		return env, hisp.Message{}, usagef("no message on standard input")
	}
	now := c.clock().UTC()
	env = hisp.Envelope{ID: hisp.NewID(now), From: from[0], To: to, Received: now, Auth: hisp.AuthLocal}
	return env, hisp.NewMessage(raw), nil
}

// crlf gives a file with LF line ends the CRLF of RFC 5322; one that has any
// CRLF is left as it is.
func crlf(msg []byte) []byte {
	if bytes.Contains(msg, []byte("\r\n")) {
		return msg
	}
	return bytes.ReplaceAll(msg, []byte("\n"), []byte("\r\n"))
}
