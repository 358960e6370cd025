package bolt

import (
	"testing"

	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := Open(Options{Dir: t.TempDir(), Create: true, MasterKey: store.NewMasterKey(), Reserve: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
