package hisp

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParseAddress(t *testing.T) {
	tests := []struct {
		in, want string
		bad      bool
	}{
		{in: "dr.house@Hospital.Example", want: "dr.house@hospital.example"},
		{in: "Dr.House@hospital.example.", want: "Dr.House@hospital.example"},
		{in: `"a b"@hospital.example`, want: `"a b"@hospital.example`},
		{in: `"a\"b"@hospital.example`, want: `"a\"b"@hospital.example`},
		{in: `"plain"@hospital.example`, want: `plain@hospital.example`},
		{in: "jürgen@klinik.example", want: "jürgen@klinik.example"},
		{in: "a@münchen.example", want: "a@xn--mnchen-3ya.example"},
		{in: "x\u00a0y@hospital.example", bad: true},
		{in: "\"x\u2028y\"@hospital.example", bad: true},
		{in: "x\u0085y@hospital.example", bad: true},
		{in: "x\xffy@hospital.example", bad: true},
		{in: "", bad: true},
		{in: "nobody", bad: true},
		{in: "@hospital.example", bad: true},
		{in: "a b@hospital.example", bad: true},
		{in: "a..b@hospital.example", bad: true},
		{in: "a@b@hospital.example", bad: true},
		{in: "a\r\nBcc: x@hospital.example", bad: true},
		{in: "\"a\r\n\"@hospital.example", bad: true},
		{in: `"a"b"@hospital.example`, bad: true},
		{in: "a@-bad-.example", bad: true},
		{in: strings.Repeat("a", 65) + "@hospital.example", bad: true},
		{in: "a@" + strings.Repeat("b.", 130) + "example", bad: true},
	}
	for _, tt := range tests {
		got, err := ParseAddress(tt.in)
		if tt.bad {
			if !errors.Is(err, Malformed) {
				t.Errorf("ParseAddress(%q) = %q, %v, want Malformed", tt.in, got.AddrSpec(), err)
			}
			if err != nil && tt.in != "" && strings.Contains(err.Error(), tt.in) {
				t.Errorf("ParseAddress(%q): the error repeats the address", tt.in)
			}
			continue
		}
		if err != nil || got.AddrSpec() != tt.want {
			t.Errorf("ParseAddress(%q) = %q, %v, want %q", tt.in, got.AddrSpec(), err, tt.want)
		}
	}
}

func TestAddress_comparison(t *testing.T) {
	a := Address{"Dr.House+ward", "hospital.example"}
	if !a.Equal(Address{"dr.house+WARD", "hospital.example"}) || a.Equal(Address{"dr.house", "hospital.example"}) {
		t.Error("Equal does not fold the case of the local part, or folds more")
	}
	if got := a.Base().AddrSpec(); got != "Dr.House@hospital.example" {
		t.Errorf("Base = %q", got)
	}
	if got := (Address{"+x", "d"}).Base().Local; got != "+x" {
		t.Errorf("Base of a local part that is only a tag = %q", got)
	}
}

// Nothing that prints an Address or a Message may show a local part or content.
func TestRedaction(t *testing.T) {
	const canary = "CanaryZebra"
	a := Address{canary, "hospital.example"}
	m := NewMessage([]byte("Subject: " + canary + "\r\n\r\n" + canary))
	var log bytes.Buffer
	l := slog.New(NewLogHandler(slog.NewJSONHandler(&log, nil)))
	env := Envelope{From: a, To: []Address{a, a}}
	l.With("with", []Address{a}).WithGroup("g").Info("x", "addr", a, "ptr", &a, "list", []Address{a}, "env", env,
		"msg", m, "item", Item{Message: m, Envelope: env}, "bytes", m.Bytes(), "rec", AuditRecord{Private: AuditPrivate{From: a}},
		slog.Group("sub", "list", []Address{a}), "err", &Error{Op: "x", Kind: Denied, Err: fmt.Errorf("to %v", a)},
		"id", NewID(time.Now()), "domain", a.Domain)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&log, verb, a)
		fmt.Fprintf(&log, verb, m)
		fmt.Fprintf(&log, verb, []Address{a})
		fmt.Fprintf(&log, verb, env)
		fmt.Fprintf(&log, verb, &Rejection{Recipient: a})
	}
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), fmt.Sprintf("%x", canary)) {
		t.Errorf("the canary shows in:\n%s", log.String())
	}
	if !strings.Contains(log.String(), "hospital.example") {
		t.Error("the domain should show")
	}
}

func TestError_isKind(t *testing.T) {
	err := fmt.Errorf("outer: %w", &Error{Op: "a.B", Kind: Untrusted, Err: &Error{Op: "c.D", Kind: Temporary, Hint: "wait"}})
	if !errors.Is(err, Untrusted) || KindOf(err) != Untrusted {
		t.Errorf("KindOf = %v, want untrusted", KindOf(err))
	}
	if got := HintOf(err); got != "wait" {
		t.Errorf("HintOf = %q, want the first hint inwards", got)
	}
	if KindOf(errors.New("x")) != Internal {
		t.Error("an unknown error is internal")
	}
}

func TestNewID_orderedAndUnique(t *testing.T) {
	now := time.Now()
	early, late := NewID(now), NewID(now.Add(time.Millisecond))
	if len(early) != 26 || early >= late {
		t.Errorf("NewID: %q, %q are not 26 characters in order of time", early, late)
	}
	if a, b := NewID(now), NewID(now); a == b {
		t.Error("NewID repeats itself")
	}
}
