package bolt

import (
	"fmt"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

func keyIDs(t *testing.T, s *Store, owner hisp.Address) string {
	t.Helper()
	list, err := s.ListKeys(t.Context(), owner)
	ok(t, err)
	ids := ""
	for _, k := range list {
		ids += k.ID
	}
	return ids
}

// The index of owners follows every change and a restart.
func TestListKeys_changes(t *testing.T) {
	bob, amy := hisp.Address{Local: "bob", Domain: "hospital.example"}, hisp.Address{Local: "amy", Domain: "hospital.example"}
	o := testOptions(t)
	s, err := Open(o)
	ok(t, err)
	check := func(when, ofBob, ofAmy string) {
		t.Helper()
		if b, a := keyIDs(t, s, bob), keyIDs(t, s, amy); b != ofBob || a != ofAmy {
			t.Errorf("%s: keys of bob %q and amy %q, want %q and %q", when, b, a, ofBob, ofAmy)
		}
	}
	ok(t, s.PutKey(t.Context(), store.Key{ID: "k", Owner: bob, PKCS8: []byte("x")}))
	check("put", "k", "")
	ok(t, s.PutKey(t.Context(), store.Key{ID: "k", Owner: amy, PKCS8: []byte("x")}))
	check("another owner", "", "k")
	ok(t, s.Close())
	s = open(t, o)
	check("after a restart", "", "k")
	ok(t, s.RemoveKey(t.Context(), "k"))
	check("removed", "", "")
}

// While a key cannot be read, nobody is told that they have none: mail waits
// instead of being refused for good.
func TestListKeys_damaged(t *testing.T) {
	o := testOptions(t)
	s, err := Open(o)
	ok(t, err)
	ok(t, s.PutKey(t.Context(), store.Key{ID: "k", Owner: hisp.Address{Local: "bob", Domain: "hospital.example"}, PKCS8: []byte("x")}))
	ok(t, s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(s.b.keys.name).Put([]byte("k"), make([]byte, 100)) }))
	ok(t, s.Close())
	s = open(t, o)
	if _, err := s.ListKeys(t.Context(), hisp.Address{Local: "amy", Domain: "hospital.example"}); hisp.KindOf(err) != hisp.Internal {
		t.Errorf("error = %v, want internal", err)
	}
}

// What was read before a change is not kept after it.
func TestAnchorCache_stale(t *testing.T) {
	c := newAnchorCache()
	_, changes, _ := c.get("hospital.example")
	c.changed()
	c.put("hospital.example", []store.Anchor{{}}, changes)
	if _, _, kept := c.get("hospital.example"); kept {
		t.Error("a list read before a change was kept")
	}
}

// BenchmarkListKeys finds the keys of one address among many.
func BenchmarkListKeys(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			s, err := Open(Options{Dir: b.TempDir(), Create: true, MasterKey: store.NewMasterKey(), Reserve: 1 << 20})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for i := range n {
				owner := hisp.Address{Local: fmt.Sprint("u", i), Domain: "hospital.example"}
				if err := s.PutKey(b.Context(), store.Key{ID: fmt.Sprint("k", i), Owner: owner, PKCS8: make([]byte, 1200)}); err != nil {
					b.Fatal(err)
				}
			}
			owner := hisp.Address{Local: "u0", Domain: "hospital.example"}
			for b.Loop() {
				if list, err := s.ListKeys(b.Context(), owner); err != nil || len(list) != 1 {
					b.Fatal(len(list), err)
				}
			}
		})
	}
}
