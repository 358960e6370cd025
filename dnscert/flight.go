package dnscert

import (
	"context"
	"sync"
)

// question is what is asked and cached; name is canonical.
type question struct {
	name  string
	qtype uint16
}

// flights lets identical questions asked at the same time be one question.
// The first asker does the work in its own goroutine; when it gives up because
// of its own context, one of the others takes over.
type flights struct {
	mu  sync.Mutex
	fly map[question]*flight
}

type flight struct {
	done  chan struct{}
	ans   *answer
	err   error
	ended bool // the asker's context ended: err says nothing about the question
}

func newFlights() *flights { return &flights{fly: make(map[question]*flight)} }

func (f *flights) do(ctx context.Context, q question, ask func(context.Context) (*answer, error)) (*answer, error) {
	for {
		f.mu.Lock()
		other := f.fly[q]
		if other == nil {
			return f.lead(ctx, q, ask)
		}
		f.mu.Unlock()
		select {
		case <-other.done:
			if !other.ended {
				return other.ans, other.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lead is called with f.mu held and gives it up.
func (f *flights) lead(ctx context.Context, q question, ask func(context.Context) (*answer, error)) (*answer, error) {
	mine := &flight{done: make(chan struct{}), ended: true}
	f.fly[q] = mine
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.fly, q)
		f.mu.Unlock()
		close(mine.done)
	}()
	mine.ans, mine.err = ask(ctx)
	mine.ended = mine.err != nil && ctx.Err() != nil
	return mine.ans, mine.err
}
