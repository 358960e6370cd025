package test

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// claim is one row of docs/conformance.md or docs/security.md.
type claim struct {
	page, id, level, status string
	line                    int
	tests                   []string
}

func (c claim) String() string { return fmt.Sprintf("%s:%d: %s", c.page, c.line, c.id) }

var (
	claimID = regexp.MustCompile(`^[A-Z]+-?\d+$`)
	// claimStatus is what a status may be. The areas are those that
	// docs/conformance.md names.
	claimStatus = regexp.MustCompile(`^(yes|partly: .+|not applicable: .+|not yet \((discovery and trust|edges|devices|documents)\))$`)
	claimTest   = regexp.MustCompile("`([a-z0-9/]+\\.(?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+(?:/[a-z_]+)?)`")
	pageLink    = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`) // not one to elsewhere
	// rowID is how code, tests and pages cite a row of docs/conformance.md.
	rowID = regexp.MustCompile(`\b(BB|TLS|SM|CRT|DISC|TR|MDN|DN|ED|XD|CX|AU|SC)-(\d\d)\b`)
)

// levels of docs/conformance.md.
var levels = []string{"must", "should", "may", "none"}

// conformanceRows is how many rows each part of docs/conformance.md has, so
// that none gets lost.
var conformanceRows = map[string]int{
	"BB": 21, "TLS": 7, "SM": 24, "CRT": 14, "DISC": 17, "TR": 14, "MDN": 17, "DN": 20, "ED": 16, "XD": 12, "CX": 8, "AU": 5, "SC": 11,
}

// securityRows is the same for docs/security.md.
var securityRows = map[string]int{"T": 12, "M": 5, "S": 17, "D": 6, "E": 3, "X": 4, "A": 3, "I": 6}

// TestConformancePage: docs/conformance.md has every row once, each with a
// level and a status, what it says is proven has a test that exists, and the
// compliance statement counts right (row SC-11).
func TestConformancePage(t *testing.T) {
	claims := readClaims(t, "docs/conformance.md", 6)
	checkRows(t, claims, conformanceRows, "%s-%02d")
	for _, c := range claims {
		if !slices.Contains(levels, c.level) {
			t.Errorf("%v: level %q is none of %q", c, c.level, levels)
		}
	}
	page := readLines(t, "docs/conformance.md")
	for _, level := range levels {
		if want := countLine(claims, level); !slices.Contains(page, want) {
			t.Errorf("the compliance statement lacks the line\n%s", want)
		}
	}
}

// countLine is the line of the compliance statement for one level.
func countLine(claims []claim, level string) string {
	kinds := []string{"yes", "partly", "not yet", "not applicable"}
	rows, count := 0, make([]int, len(kinds))
	for _, c := range claims {
		if c.level != level {
			continue
		}
		rows++
		for i, k := range kinds {
			if strings.HasPrefix(c.status, k) {
				count[i]++
			}
		}
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d |", level, rows, count[0], count[1], count[2], count[3])
}

// TestSecurityPage is the same for the threats of docs/security.md (row SC-01).
func TestSecurityPage(t *testing.T) {
	checkRows(t, readClaims(t, "docs/security.md", 5), securityRows, "%s%d")
}

// TestRowsCited: a row that code or a page cites is in docs/conformance.md.
func TestRowsCited(t *testing.T) {
	known := map[string]bool{}
	for _, c := range readClaims(t, "docs/conformance.md", 6) {
		known[c.id] = true
	}
	walk(t, func(path string) {
		switch filepath.Ext(path) {
		case ".go", ".md", ".txtar", ".toml":
		default:
			return
		}
		for i, line := range readLines(t, path) {
			for _, id := range rowID.FindAllString(line, -1) {
				if !known[id] {
					t.Errorf("%s:%d: no row %s in docs/conformance.md", path, i+1, id)
				}
			}
		}
	})
}

// TestLinks: what a page links to is in the tree.
func TestLinks(t *testing.T) {
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		for i, line := range readLines(t, path) {
			for _, m := range pageLink.FindAllStringSubmatch(line, -1) {
				if _, err := os.Stat(filepath.Join("..", filepath.Dir(path), m[1])); err != nil {
					t.Errorf("%s:%d: %v", path, i+1, err)
				}
			}
		}
	})
}

// checkRows wants the numbered rows of each part, each once and sound.
func checkRows(t *testing.T, claims []claim, rows map[string]int, format string) {
	t.Helper()
	seen := map[string]int{}
	for _, c := range claims {
		seen[c.id]++
		if seen[c.id] == 2 {
			t.Errorf("%v is there twice", c)
		}
	}
	total := 0
	for part, n := range rows {
		total += n
		for i := 1; i <= n; i++ {
			if id := fmt.Sprintf(format, part, i); seen[id] == 0 {
				t.Errorf("no row %s", id)
			}
		}
	}
	if len(seen) != total {
		t.Errorf("%d rows, want %d", len(seen), total)
	}
	proofs := listTests(t)
	for _, c := range claims {
		c.check(t, proofs)
	}
}

// check holds one row to the rules of docs/conformance.md.
func (c claim) check(t *testing.T, proofs map[string]bool) {
	t.Helper()
	if !claimStatus.MatchString(c.status) {
		t.Errorf("%v: status %q is none that the page knows", c, c.status)
	}
	proven := c.status == "yes" || strings.HasPrefix(c.status, "partly")
	switch {
	case c.status == "yes" && len(c.tests) == 0:
		t.Errorf("%v says yes without a test", c)
	case strings.HasPrefix(c.status, "partly") && len(c.tests) == 0 && !strings.Contains(c.status, "untested"):
		t.Errorf("%v has neither a test nor the word untested", c)
	case !proven && len(c.tests) > 0:
		t.Errorf("%v names a test, but its status is %q", c, c.status)
	}
	for _, ref := range c.tests {
		if !proofs[ref] {
			t.Errorf("%v: there is no test %s", c, ref)
		}
	}
}

// readClaims returns the rows of all tables of a page that begin with an id.
// Of the columns the last two are status and tests; the second of six is the
// level.
func readClaims(t *testing.T, page string, columns int) []claim {
	t.Helper()
	var claims []claim
	for i, line := range readLines(t, page) {
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		for n := range cells {
			cells[n] = strings.TrimSpace(cells[n])
		}
		if !strings.HasPrefix(line, "|") || !claimID.MatchString(cells[0]) {
			continue
		}
		c := claim{page: page, line: i + 1, id: cells[0]}
		if len(cells) != columns {
			t.Errorf("%v has %d columns, want %d", c, len(cells), columns)
			continue
		}
		tests := cells[columns-1]
		c.level, c.status = cells[1], cells[columns-2]
		for _, m := range claimTest.FindAllStringSubmatch(tests, -1) {
			c.tests = append(c.tests, m[1])
		}
		if rest := strings.TrimSpace(claimTest.ReplaceAllString(tests, "")); rest != "" {
			t.Errorf("%v: %q is not the name of a test", c, rest)
		}
		claims = append(claims, c)
	}
	return claims
}

// listTests returns what a row may name as its proof: every test, fuzz target
// and benchmark of the tree as folder.Name, and each story as a part of
// cmd/hisp.TestScript.
func listTests(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	walk(t, func(path string) {
		dir := filepath.ToSlash(filepath.Dir(path))
		switch {
		case strings.HasSuffix(path, "_test.go"):
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", path), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && isProof(f) {
					found[dir+"."+f.Name.Name] = true
				}
			}
		case strings.HasSuffix(path, ".txtar"):
			found["cmd/hisp.TestScript/"+strings.TrimSuffix(filepath.Base(path), ".txtar")] = true
		}
	})
	return found
}

// isProof tells whether f is run by go test: TestMain is not.
func isProof(f *ast.FuncDecl) bool {
	if f.Recv != nil || f.Name.Name == "TestMain" || len(f.Type.Params.List) != 1 {
		return false
	}
	return slices.ContainsFunc([]string{"Test", "Fuzz", "Benchmark"}, func(p string) bool { return strings.HasPrefix(f.Name.Name, p) })
}

// walk calls visit for each file of the tree with its path from the root.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() != ".." && strings.HasPrefix(d.Name(), "."), d.IsDir() && d.Name() == "bin":
			return filepath.SkipDir
		case d.Type().IsRegular():
			rel, err := filepath.Rel("..", path)
			if err != nil {
				return err
			}
			visit(rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readLines reads a file by its path from the root.
func readLines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	if err := s.Err(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return lines
}
