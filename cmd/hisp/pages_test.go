package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every command line that the pages show is one: the command exists and has
// the flags.
func TestPages_commandsExist(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range commandLines(string(text)) {
			found++
			if _, err := parseInvocation(words[1:], io.Discard); err != nil {
				t.Errorf("%s: %q: %v", page, strings.Join(words, " "), err)
			}
		}
	}
	if found < 20 {
		t.Errorf("%d command lines found; are the pages still read?", found)
	}
}

var (
	codeBlock = regexp.MustCompile("(?s)```.*?```")
	codeSpan  = regexp.MustCompile("`(hisp [^`]+)`")
	lineEnd   = regexp.MustCompile(`[#>].*`) // comment or redirection
)

// commandLines returns the words of each call of hisp in the code of a page,
// but for help.
func commandLines(page string) [][]string {
	code := strings.Join(codeBlock.FindAllString(page, -1), "\n")
	for _, m := range codeSpan.FindAllStringSubmatch(codeBlock.ReplaceAllString(page, ""), -1) {
		code += "\n" + m[1]
	}
	code = strings.NewReplacer("&&", "\n", "go run ./cmd/hisp", "hisp").Replace(code)
	var calls [][]string
	for line := range strings.SplitSeq(code, "\n") {
		words := strings.Fields(lineEnd.ReplaceAllString(line, ""))
		if len(words) > 1 && words[0] == "hisp" && words[1] != "help" {
			calls = append(calls, words)
		}
	}
	return calls
}
