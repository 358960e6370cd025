package mimetree

import (
	"strings"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
)

func TestAddresses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", ""},
		{"one", "a@x.example", "a@x.example"},
		{"several, empty members", "a@x , ,<b@y>,", "a@x b@y"},
		{"display names", `John Q. Public <a@x>, "Doe, Jane" <b@y>`, "a@x b@y"},
		{"address in a display name", `"evil@z" <a@x>`, "a@x"},
		{"encoded word", "=?utf-8?Q?J=C3=BCrgen?= <a@x>", "a@x"},
		{"comments", "(c,d) a (x\\)@y) @ (e(f)) x.example (g@h), <(i)b@y(j)>", "a@x.example b@y"},
		{"group", "Team: a@x, B <b@y>;, c@z", "a@x b@y c@z"},
		{"empty group", "undisclosed-recipients:;", ""},
		{"quoted local part", `"a b\"c"@x, "d@e" <"f@g"@h>`, `"a b\"c"@x "f@g"@h`},
		{"plus and case", "A.b+C@X.Example", "A.b+C@X.Example"},
		{"UTF-8", "Jürgen <jürgen@bücher.example>", "jürgen@bücher.example"},
		{"domain literal", "a@[192.0.2.1]", "a@[192.0.2.1]"},
		{"latin-1 name", "J\xfcrgen <a@x>", "a@x"},

		{"no address", "John", "!"},
		{"words before bare address", "John a@x", "!"},
		{"two angle", "<a@x> <b@y>", "!"},
		{"bare then angle", "a@x <b@y>", "!"},
		{"route", "<@r:a@x>", "!"},
		{"two at", "a@x@y", "!"},
		{"blank in local part", "a . b@x", "!"},
		{"dots", "a..b@x", "!"},
		{"dot last", "a.@x", "!"},
		{"domain dot", "a@.x", "!"},
		{"quoted domain", `a@"x"`, "!"},
		{"empty angle", "<>", "!"},
		{"open angle", "<a@x", "!"},
		{"open quote", `"a <b@x>`, "!"},
		{"open comment", "a@x (b", "!"},
		{"open group", "g: a@x", "!"},
		{"nested group", "g: h: a@x;;", "!"},
		{"semicolon without group", "a@x;", "!"},
		{"group without name", ": a@x;", "!"},
		{"word behind group", "g:a@x; b@y", "!"},
		{"angle then word", "<a@x> b", "!"},
		{"newline", "a@x\n, b@y", "!"},
		{"NUL", "a\x00@x", "!"},
		{"NUL quoted", "\"a\x00\"@x", "!"},
		{"escaped newline", "\"a\\\n\"@x", "!"},
		{"latin-1 address", "j\xfc@x", "!"},
		{"percent hack stays", "a%b@x", "a%b@x"},
		{"long", strings.Repeat("a", 600) + "@x", "!"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := Addresses(tt.in)
			got := strings.Join(list, " ")
			if err != nil {
				got = "!"
			}
			if got != tt.want {
				t.Errorf("Addresses(%q) = %q (%v), want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

// Security row S6: a sender is one mailbox, never a group or a list.
func TestMailbox(t *testing.T) {
	for _, in := range []string{"", "a@x, b@y", "g: a@x;", "g:;", "g:;, a@x", "John"} {
		if got, err := Mailbox(in); err == nil {
			t.Errorf("Mailbox(%q) = %q, want an error", in, got)
		}
	}
	if got, err := Mailbox(`"b@y" <a@x> (b@y)`); err != nil || got != "a@x" {
		t.Errorf("Mailbox = %q, %v, want a@x", got, err)
	}
}

// Security row M2: the quadratic paths of other parsers.
func TestAddresses_linear(t *testing.T) {
	const size = 256 << 10
	rep := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for _, in := range []string{
		"a@[" + rep("1"), rep("a@["), rep("("), rep("()") + "a@x", rep("\""), rep("a "), rep("a@x,"), rep("<"), rep("a.") + "@x",
		rep("g:;,"), rep(","), rep("\\"), rep("a@[]"),
	} {
		need.CPU(t, time.Second, func() {
			_, _ = Addresses(in)
		})
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add(`John Q. Public <a@x>, "Doe, Jane" <b@y>`)
	f.Add(`g: (c) "a b"@x, =?utf-8?Q?J=C3=BCrgen?= <c@[1.2.3.4]>;, d@e`)
	f.Fuzz(func(t *testing.T, in string) {
		list, err := Addresses(in)
		if err != nil {
			return
		}
		// What was found is found again when it is written plainly.
		again, err := Addresses(strings.Join(list, ", "))
		if err != nil || strings.Join(again, " ") != strings.Join(list, " ") {
			t.Fatalf("%q gave %q, then %q (%v)", in, list, again, err)
		}
		if one, err := Mailbox(in); err == nil && (len(list) != 1 || list[0] != one) {
			t.Fatalf("Mailbox(%q) = %q beside %q", in, one, list)
		}
	})
}
