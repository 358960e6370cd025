package bolt

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// snapshots are the database files of a store after a crash, without the list
// of free pages, and after Close, with it.
func snapshots(t *testing.T) (o Options, files map[string][]byte) {
	t.Helper()
	o = testOptions(t)
	s := filled(t, o, "bob")
	bob := hisp.Address{Local: "bob", Domain: "hospital.example"}
	for range 20 { // trees of more than a page
		_, _, err := s.Append(t.Context(), bob, "Trash", hisp.NewMessage(make([]byte, 10<<10)), nil, s.now())
		ok(t, err)
	}
	path := filepath.Join(o.Dir, dbName)
	crashed, err := os.ReadFile(path)
	ok(t, err)
	ok(t, s.Close())
	closed, err := os.ReadFile(path)
	ok(t, err)
	return o, map[string][]byte{"after a crash": crashed, "closed": closed}
}

// bbolt ends the process, partly from goroutines of its own, when it meets a
// damaged page or the end of a file that was cut.
func TestOpen_damagedPages(t *testing.T) {
	o, files := snapshots(t)
	pageSize, random := os.Getpagesize(), rand.New(rand.NewSource(1))
	for name, whole := range files {
		p, err := openPages(bytes.NewReader(whole), int64(len(whole)))
		ok(t, err)
		ok(t, p.checkAll())
		var used []int
		for id, in := range p.seen {
			if in && p.isPage(id) {
				used = append(used, id)
			}
		}
		for i := 0; i < len(used); i += max(1, len(used)/6) {
			raw := bytes.Clone(whole)
			random.Read(raw[used[i]*pageSize:][:64])
			if !openDamaged(t, o, raw) {
				t.Errorf("%s: page %d is damaged, and it opens and verifies", name, used[i])
			}
		}
		for _, size := range []int{0, pageSize, 10*pageSize + 7} {
			if !openDamaged(t, o, whole[:size]) {
				t.Errorf("%s: cut to %d octets it opens and verifies", name, size)
			}
		}
		if openDamaged(t, o, whole) {
			t.Errorf("%s: it does not verify though it is whole", name)
		}
	}
}

// isPage tells whether a page in use begins here, not only the overflow of one.
func (p *pageFile) isPage(id int) bool {
	_, _, err := p.page(uint64(id))
	return err == nil
}

// openDamaged tells whether Open or Verify notices, in the operator's words.
func openDamaged(t *testing.T, o Options, raw []byte) bool {
	t.Helper()
	ok(t, os.WriteFile(filepath.Join(o.Dir, dbName), raw, fileMode))
	s, err := Open(o)
	if err != nil {
		if !errors.Is(err, hisp.Malformed) && !errors.Is(err, hisp.Internal) || hisp.HintOf(err) == "" {
			t.Errorf("Open = %v, hint %q", err, hisp.HintOf(err))
		}
		return true
	}
	defer func() { ok(t, s.Close()) }()
	report, err := s.Verify(t.Context())
	ok(t, err)
	for _, f := range report.Findings {
		if f.Area == areaDatabase && !strings.Contains(f.Text, "restore a backup") {
			t.Errorf("finding = %q, want what to do", f.Text)
		}
	}
	return !report.OK()
}

// A page that breaks while the node runs ends it with a reason, not a stack.
func TestStore_damagedWhileOpen(t *testing.T) {
	o, files := snapshots(t)
	ok(t, os.WriteFile(filepath.Join(o.Dir, dbName), files["closed"], fileMode))
	var fatal error
	o.Fatal = func(err error) { fatal = err }
	s, err := Open(o)
	ok(t, err)
	ok(t, os.Truncate(filepath.Join(o.Dir, dbName), int64(2*os.Getpagesize())))
	_, err = s.ListDomains(t.Context())
	if fatal == nil || !isDamage(fatal) || err == nil {
		t.Errorf("ListDomains = %v, fatal = %v; want both to say that the file is damaged", err, fatal)
	}
	ok(t, errors.Join(s.db.Close(), s.lock.Close()))
}

// guard does not hide a bug of the node's own as a damaged file.
func TestGuard_ownPanics(t *testing.T) {
	for name, fn := range map[string]func() error{
		"bounds": func() error { return make([]error, 0)[len(t.Name())] },
		"nil":    func() error { var o *op; return o.err },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			_ = guard(fn)
		}()
	}
	if err := guard(func() error { (*bbolt.Bucket)(nil).Cursor(); return nil }); !isDamage(err) {
		t.Errorf("a panic within bbolt = %v, want damage", err)
	}
}

// FuzzPages reads database files as whoever broke the disk left them.
func FuzzPages(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(Options{Dir: dir, Create: true, MasterKey: store.MasterKey{1}, Reserve: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, dbName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, uint32(8192), []byte("xxxx"))
	f.Fuzz(func(t *testing.T, raw []byte, at uint32, patch []byte) {
		if int(at) < len(raw) {
			raw = bytes.Clone(raw)
			copy(raw[at:], patch)
		}
		p, err := openPages(bytes.NewReader(raw), int64(len(raw)))
		if err == nil {
			err = errors.Join(p.check(), p.checkAll())
		}
		if err != nil && !isDamage(err) && !errors.Is(err, io.EOF) {
			t.Errorf("error = %v, want damage", err)
		}
	})
}
