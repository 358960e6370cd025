package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Hints of the parts name commands in quotes; the parts cannot see the table.
func TestHints_nameCommands(t *testing.T) {
	quoted := regexp.MustCompile(`'hisp ([a-z]+(?: [a-z]+)*)`)
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
			found++
			if _, _, err := findCommand(strings.Fields(m[1])); err != nil {
				t.Errorf("%s: no command %q", path, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no hint names a command")
	}
}
