// Package need lets a test ask for a program that is not part of Go. Without
// it the test is skipped with the reason; in CI nothing may be skipped, so
// there the test fails.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Tool returns the path of the first of names that is installed.
func Tool(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		for _, candidate := range []string{name, "/usr/sbin/" + name} {
			if path, err := exec.LookPath(candidate); err == nil {
				return path
			}
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%v: not installed, and in CI no test may be skipped; run make tools", names)
	}
	t.Skipf("%v: not installed; run make tools to run this test", names)
	return ""
}
