package bolt

import (
	"context"
	"slices"
	"sync"

	"github.com/hispnode/hisp/hisp"
)

// watchKey names a folder somebody watches.
type watchKey struct {
	acct   acctKey
	folder string
}

type watchers struct {
	mu  sync.Mutex
	all map[watchKey][]chan struct{}
}

func newWatchers() *watchers { return &watchers{all: map[watchKey][]chan struct{}{}} }

// Watch returns a channel that gets a value after each change of the folder
// until ctx ends; it is never closed. Changes while the reader is busy are one.
func (s *Store) Watch(ctx context.Context, acct hisp.Address, folder string) <-chan struct{} {
	k := watchKey{s.b.account(acct), folderName(folder)}
	ch := make(chan struct{}, 1)
	s.watch.mu.Lock()
	s.watch.all[k] = append(s.watch.all[k], ch)
	s.watch.mu.Unlock()
	context.AfterFunc(ctx, func() { s.watch.remove(k, ch) })
	return ch
}

func (w *watchers) remove(k watchKey, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[k] = slices.DeleteFunc(w.all[k], func(o chan struct{}) bool { return o == ch })
	if len(w.all[k]) == 0 {
		delete(w.all, k)
	}
}

func (w *watchers) notify(k watchKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.all[k] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
