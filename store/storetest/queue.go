package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
)

// RunQueue tests hisp.Queue and store.QueueAdmin.
func RunQueue(t *testing.T, open func(t *testing.T) store.Store) {
	runAll(t, open, []test[store.Store]{
		{"an item comes back as it was queued", testItemRoundTrip},
		{"finish, successors and audit are one step", testStepWhole},
		{"a step refused changes nothing", testStepRefused},
		{"only a leased item can be finished", testFinishNotLeased},
		{"lease takes by due, then by ID", testLeaseOrder},
		{"lease waits until due", testLeaseWaitsDue},
		{"lease waits for a commit", testLeaseWaitsCommit},
		{"lease ends with its context", testLeaseContext},
		{"lease ends when the store closes", testLeaseClose},
		{"lease honours the limit per domain", testLeasePerDomain},
		{"a dead domain does not hold others", testLeaseDeadDomain},
		{"retry counts and waits, the message stays", testRetry},
		{"release puts back at once", testRelease},
		{"reschedule", testReschedule},
		{"take", testTake},
		{"delivery is idempotent", testDeliverOnce},
		{"delivery of one message to many", testDeliverShared},
		{"delivery to nobody", testDeliverUnknown},
		{"seen digests expire", testSeen},
		{"each item is leased once among many workers", testWorkers},
		{"steps that fail do not disturb others in the same moment", testMixedSteps},
	})
}

var sealWork = hisp.LeaseRequest{Work: hisp.WorkSeal}

// poll takes an item that must be due now.
func poll(t *testing.T, s hisp.Queue, r hisp.LeaseRequest) hisp.Item {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	it, err := s.Lease(ctx, r)
	if err != nil {
		t.Fatalf("Lease = %v, want an item that is due", err)
	}
	return it
}

// none checks that no item is due now.
func none(t *testing.T, s hisp.Queue, r hisp.LeaseRequest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	it, err := s.Lease(ctx, r)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Lease = item %q, %v, want none", it.ID, err)
	}
}

func testItemRoundTrip(t *testing.T, s store.Store) {
	for n, size := range []int{0, 300, 64 << 10, 64<<10 + 1, 3<<20 + 17} {
		it := item(hisp.WorkRelay, other, n)
		it.Message = hisp.Message{}
		if size > 0 {
			it.Message = message("round trip", size)
		}
		it.Envelope.Peer = netip.MustParseAddr("2001:db8::7")
		it.Due, it.Created = it.Due.UTC().Round(0), it.Created.UTC().Round(0)
		it.Envelope.Received = it.Envelope.Received.Round(0)
		it.Attempt, it.LastErr = 3, "451 later"
		ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}))
		got := poll(t, s, hisp.LeaseRequest{Work: hisp.WorkRelay})
		sameMessage(t, got.Message, it.Message)
		got.Message, it.Message = hisp.Message{}, hisp.Message{}
		if !reflect.DeepEqual(got, it) {
			t.Errorf("item = %+v, want %+v", got, it)
		}
		ok(t, s.Commit(t.Context(), hisp.Step{Finish: got.ID}))
	}
}

func testStepWhole(t *testing.T, s store.Store) {
	bob := people(t, s, "bob")[0]
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkSeal, "", 1)}}))
	it := poll(t, s, sealWork)
	tr := hisp.Track{Message: "M", MessageID: "<1@a>", Recipient: bob, Deadline: time.Now()}
	ok(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID,
		Queue:   []hisp.Item{item(hisp.WorkRelay, other, 2), item(hisp.WorkRelay, home, 3)},
		Deliver: []hisp.Delivery{{ID: "D", Recipient: bob, Message: message("d", 100)}},
		Track:   []hisp.Track{tr},
		Seen:    []hisp.Seen{{Digest: [32]byte{1}, Expires: time.Now().Add(time.Hour)}},
		Audit:   []hisp.AuditRecord{{Event: hisp.AuditSeal, Message: "M"}}}))
	items, err := s.ListItems(t.Context())
	ok(t, err)
	equal(t, "items", len(items), 2)
	_, infos, err := s.ListMessages(t.Context(), bob, "INBOX")
	ok(t, err)
	equal(t, "messages", len(infos), 1)
	_, err = s.Track(t.Context(), "<1@a>", bob)
	ok(t, err)
	seen, err := s.Seen(t.Context(), [32]byte{1})
	ok(t, err)
	equal(t, "seen", seen, true)
	es, err := s.MessageAudit(t.Context(), "M")
	ok(t, err)
	equal(t, "audit entries", len(es), 1)
	none(t, s, sealWork)
}

func testStepRefused(t *testing.T, s store.Store) {
	bob := people(t, s, "bob")[0]
	ok(t, s.Commit(t.Context(), hisp.Step{Track: []hisp.Track{{MessageID: "<1@a>", Recipient: bob}}}))
	before, err := s.AuditHead(t.Context())
	ok(t, err)
	want(t, s.Commit(t.Context(), hisp.Step{
		Queue:   []hisp.Item{item(hisp.WorkRelay, other, 2)},
		Deliver: []hisp.Delivery{{ID: "D", Recipient: bob, Message: message("d", 100<<10)}},
		Track:   []hisp.Track{{MessageID: "<1@a>", Recipient: bob}}, // version 0, but 1 is stored
		Seen:    []hisp.Seen{{Digest: [32]byte{1}, Expires: time.Now().Add(time.Hour)}},
		Audit:   []hisp.AuditRecord{{Event: hisp.AuditSeal}}}), hisp.Conflict)
	items, err := s.ListItems(t.Context())
	ok(t, err)
	equal(t, "items", len(items), 0)
	none(t, s, hisp.LeaseRequest{Work: hisp.WorkRelay})
	f, _, err := s.ListMessages(t.Context(), bob, "INBOX")
	ok(t, err)
	equal(t, "messages", f.Messages, 0)
	seen, err := s.Seen(t.Context(), [32]byte{1})
	ok(t, err)
	equal(t, "seen", seen, false)
	after, err := s.AuditHead(t.Context())
	ok(t, err)
	equal(t, "audit head", after, before)
	want(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkSeal, "", 1), item(hisp.WorkSeal, "", 1)}}), hisp.Conflict)
}

func testFinishNotLeased(t *testing.T, s store.Store) {
	it := item(hisp.WorkSeal, "", 1)
	want(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}), hisp.Conflict)
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}))
	want(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}), hisp.Conflict)
	want(t, s.Retry(t.Context(), it.ID, time.Now(), "", nil), hisp.Conflict)
	want(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}), hisp.Conflict)
	poll(t, s, sealWork)
	ok(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}))
	want(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}), hisp.Conflict)
	s.Release(it.ID) // of an item that is gone: nothing
	none(t, s, sealWork)
}

func testLeaseOrder(t *testing.T, s store.Store) {
	now := time.Now()
	var items []hisp.Item
	for i, due := range []int{2, 1, 1, 0, 2} {
		it := item(hisp.WorkRelay, hisp.Domain([]string{"a.example", "b.example"}[i%2]), 9-i)
		it.Due = now.Add(time.Duration(due-2) * time.Second)
		items = append(items, it)
	}
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: items}))
	listed, err := s.ListItems(t.Context())
	ok(t, err)
	for i, n := range []int{6, 7, 8, 5, 9} {
		id := hisp.ID(fmt.Sprintf("ITEM-%08d", n))
		equal(t, "leased", poll(t, s, hisp.LeaseRequest{Work: hisp.WorkRelay}).ID, id)
		equal(t, "listed due", listed[i].Due.Equal(now.Add(time.Duration([]int{-2, -1, -1, 0, 0}[i])*time.Second)), true)
	}
	none(t, s, hisp.LeaseRequest{Work: hisp.WorkSeal})
}

func testLeaseWaitsDue(t *testing.T, s store.Store) {
	start := time.Now()
	late, later := item(hisp.WorkSeal, "", 1), item(hisp.WorkSeal, "", 2)
	late.Due, later.Due = start.Add(time.Hour), start.Add(2*time.Hour)
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{later, late}}))
	for i, id := range []hisp.ID{late.ID, later.ID} {
		it, err := s.Lease(t.Context(), sealWork)
		ok(t, err)
		equal(t, "item", it.ID, id)
		equal(t, "waited", time.Since(start), time.Duration(i+1)*time.Hour)
	}
}

func testLeaseWaitsCommit(t *testing.T, s store.Store) {
	got := make(chan hisp.ID)
	go func() {
		it, err := s.Lease(t.Context(), sealWork)
		if err != nil {
			t.Errorf("Lease = %v", err)
		}
		got <- it.ID
	}()
	synctest.Wait()
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkRelay, other, 1)}})) // other work
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkSeal, "", 2)}}))
	equal(t, "item", <-got, "ITEM-00000002")
}

func testLeaseContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := s.Lease(ctx, sealWork); !errors.Is(err, context.Canceled) {
				t.Errorf("Lease = %v, want the context's error", err)
			}
		})
	}
	synctest.Wait()
	cancel()
	wg.Wait()
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkSeal, "", 1)}}))
	poll(t, s, sealWork) // none of those who left took it along
}

func testLeaseClose(t *testing.T, s store.Store) {
	done := make(chan error)
	go func() {
		_, err := s.Lease(t.Context(), sealWork)
		done <- err
	}()
	synctest.Wait()
	ok(t, s.Close())
	want(t, <-done, hisp.Temporary)
	want(t, s.Commit(t.Context(), hisp.Step{}), hisp.Temporary)
	_, err := s.Lease(t.Context(), sealWork)
	want(t, err, hisp.Temporary)
	_, err = s.ListItems(t.Context())
	want(t, err, hisp.Temporary)
}

func testLeasePerDomain(t *testing.T, s store.Store) {
	var items []hisp.Item
	for n := range 4 {
		items = append(items, item(hisp.WorkRelay, "slow.example", n))
	}
	items = append(items, item(hisp.WorkRelay, "fast.example", 9))
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: items}))
	r := hisp.LeaseRequest{Work: hisp.WorkRelay, PerDomain: 2}
	first := poll(t, s, r)
	poll(t, s, r)
	equal(t, "third", poll(t, s, r).Domain, "fast.example")
	none(t, s, r)
	got := make(chan hisp.Item)
	go func() {
		it, err := s.Lease(t.Context(), r)
		if err != nil {
			t.Errorf("Lease = %v", err)
		}
		got <- it
	}()
	synctest.Wait()
	ok(t, s.Commit(t.Context(), hisp.Step{Finish: first.ID}))
	equal(t, "after a finish", (<-got).Domain, "slow.example")
	equal(t, "without limit", poll(t, s, hisp.LeaseRequest{Work: hisp.WorkRelay}).Domain, "slow.example")
}

func testLeaseDeadDomain(t *testing.T, s store.Store) {
	var items []hisp.Item
	for n := range 300 {
		items = append(items, item(hisp.WorkRelay, "dead.example", n))
	}
	for n := range 3 {
		it := item(hisp.WorkRelay, "good.example", 1000+n)
		it.Due = it.Due.Add(time.Duration(n) * time.Minute)
		items = append(items, it)
	}
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: items}))
	r := hisp.LeaseRequest{Work: hisp.WorkRelay, PerDomain: 1}
	equal(t, "first", poll(t, s, r).Domain, "dead.example")
	start := time.Now()
	for n := range 3 {
		it, err := s.Lease(t.Context(), r)
		ok(t, err)
		equal(t, "domain", it.Domain, "good.example")
		equal(t, "waited", time.Since(start), time.Duration(n)*time.Minute)
		ok(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}))
	}
}

func testRetry(t *testing.T, s store.Store) {
	it := item(hisp.WorkSeal, "", 1)
	it.Message = message("large", 200<<10)
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}))
	poll(t, s, sealWork)
	start := time.Now()
	ok(t, s.Retry(t.Context(), it.ID, start.Add(time.Minute), "451 later", []hisp.AuditRecord{{Event: hisp.AuditSend, Message: "M"}}))
	none(t, s, sealWork)
	got, err := s.Lease(t.Context(), sealWork)
	ok(t, err)
	equal(t, "waited", time.Since(start) >= time.Minute, true)
	equal(t, "attempt", got.Attempt, 1)
	equal(t, "reason", got.LastErr, "451 later")
	equal(t, "created", got.Created.Equal(it.Created), true)
	sameMessage(t, got.Message, it.Message)
	es, err := s.MessageAudit(t.Context(), "M")
	ok(t, err)
	equal(t, "audit entries", len(es), 1)
}

func testRelease(t *testing.T, s store.Store) {
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkSeal, "", 1)}}))
	it := poll(t, s, sealWork)
	none(t, s, sealWork)
	s.Release(it.ID)
	s.Release(it.ID) // not leased any more: nothing
	again := poll(t, s, sealWork)
	equal(t, "attempt", again.Attempt, 0)
	none(t, s, sealWork)
	ok(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}))
}

func testReschedule(t *testing.T, s store.Store) {
	it := item(hisp.WorkSeal, "", 1)
	it.Due = it.Due.Add(24 * time.Hour)
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}))
	want(t, s.Reschedule(t.Context(), "NONE", time.Now()), hisp.NotFound)
	none(t, s, sealWork)
	ok(t, s.Reschedule(t.Context(), it.ID, time.Now()))
	got := poll(t, s, sealWork)
	equal(t, "attempt", got.Attempt, 0)
	want(t, s.Reschedule(t.Context(), it.ID, time.Now()), hisp.Conflict)
}

func testTake(t *testing.T, s store.Store) {
	it := item(hisp.WorkRelay, other, 1)
	it.Due = it.Due.Add(time.Hour)
	ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}))
	got, err := s.Take(t.Context(), it.ID)
	ok(t, err)
	sameMessage(t, got.Message, it.Message)
	_, err = s.Take(t.Context(), it.ID)
	want(t, err, hisp.Conflict)
	_, err = s.Take(t.Context(), "NONE")
	want(t, err, hisp.NotFound)
	s.Release(it.ID)
	_, err = s.Take(t.Context(), it.ID)
	ok(t, err)
	ok(t, s.Commit(t.Context(), hisp.Step{Finish: it.ID}))
	_, err = s.Take(t.Context(), it.ID)
	want(t, err, hisp.NotFound)
}

func testDeliverOnce(t *testing.T, s store.Store) {
	as := people(t, s, "bob", "eve")
	d := hisp.Delivery{ID: "D1", Recipient: as[0], Message: message("one", 500), Received: time.Now()}
	for range 3 {
		ok(t, s.Commit(t.Context(), hisp.Step{Deliver: []hisp.Delivery{d}}))
		d.Recipient = addr("BOB", home) // the same person
	}
	ok(t, s.Commit(t.Context(), hisp.Step{Deliver: []hisp.Delivery{d, {ID: "D1", Recipient: as[1], Message: d.Message}, {ID: "D2", Recipient: as[0], Message: d.Message}}}))
	for i, n := range []int{2, 1} {
		f, infos, err := s.ListMessages(t.Context(), as[i], "INBOX")
		ok(t, err)
		equal(t, "messages", len(infos), n)
		equal(t, "unseen", f.Unseen, uint32(n))
	}
	got, err := s.ReadMessage(t.Context(), as[0], "INBOX", 1)
	ok(t, err)
	sameMessage(t, got, d.Message)
	ok(t, s.Forget(t.Context(), time.Now().Add(time.Second)))
	ok(t, s.Commit(t.Context(), hisp.Step{Deliver: []hisp.Delivery{d}}))
	f, _, err := s.ListMessages(t.Context(), as[0], "INBOX")
	ok(t, err)
	equal(t, "messages after the marker was forgotten", f.Messages, 3)
}

// One body for the queue, three mailboxes and a copy: each reads it until the
// last of them is gone.
func testDeliverShared(t *testing.T, s store.Store) {
	as := people(t, s, "bob", "eve", "tom")
	for n, size := range []int{1000, 300 << 10} {
		it := item(hisp.WorkOpen, "", n)
		it.Message = message("shared", size)
		ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{it}}))
		leased := poll(t, s, hisp.LeaseRequest{Work: hisp.WorkOpen})
		var ds []hisp.Delivery
		for _, a := range as {
			ds = append(ds, hisp.Delivery{ID: hisp.ID(fmt.Sprint("D", n)), Recipient: a, Message: leased.Message})
		}
		ok(t, s.Commit(t.Context(), hisp.Step{Finish: leased.ID, Deliver: ds}))
		uid := uint32(n + 1)
		_, _, err := s.CopyMessages(t.Context(), as[0], "INBOX", []uint32{uid}, "Trash", store.Copy)
		ok(t, err)
		for _, a := range as {
			got, err := s.ReadMessage(t.Context(), a, "INBOX", uid)
			ok(t, err)
			sameMessage(t, got, it.Message)
			_, err = s.SetFlags(t.Context(), a, "INBOX", []uint32{uid}, store.FlagsAdd, []string{`\Deleted`})
			ok(t, err)
			_, err = s.Expunge(t.Context(), a, "INBOX", nil)
			ok(t, err)
		}
		got, err := s.ReadMessage(t.Context(), as[0], "Trash", uid)
		ok(t, err)
		sameMessage(t, got, it.Message)
	}
}

func testDeliverUnknown(t *testing.T, s store.Store) {
	people(t, s, "bob")
	want(t, s.Commit(t.Context(), hisp.Step{Deliver: []hisp.Delivery{{ID: "D", Recipient: addr("nobody", home), Message: message("m", 10)}}}),
		hisp.UnknownRecipient)
	ok(t, s.Commit(t.Context(), hisp.Step{Deliver: []hisp.Delivery{
		{ID: "D", Recipient: addr("bob+tag", home), Message: message("m", 10)},
		{ID: "E", Recipient: addr("bob", home), Mailbox: "Sent", Message: message("m", 10)},
		{ID: "F", Recipient: addr("bob", home), Mailbox: "deleted since", Message: message("m", 10)}}}))
	for folder, n := range map[string]uint32{"INBOX": 2, "Sent": 1} {
		f, _, err := s.ListMessages(t.Context(), addr("bob", home), folder)
		ok(t, err)
		equal(t, folder, f.Messages, n)
	}
}

func testSeen(t *testing.T, s store.Store) {
	d := [32]byte{7}
	step := hisp.Step{Seen: []hisp.Seen{{Digest: d, Expires: time.Now().Add(time.Hour)}}}
	// Of many steps that say they saw it first, at the same moment or later,
	// one is right.
	var first atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := s.Commit(t.Context(), step)
			if err == nil {
				first.Add(1)
			} else if !errors.Is(err, hisp.Conflict) {
				t.Errorf("Commit = %v, want nil or Conflict", err)
			}
		})
	}
	wg.Wait()
	equal(t, "steps that saw it first", first.Load(), int32(1))
	for _, step := range []struct {
		wait time.Duration
		want bool
	}{{0, true}, {59 * time.Minute, true}, {2 * time.Minute, false}} {
		time.Sleep(step.wait) // fake time of the bubble
		ok(t, s.Forget(t.Context(), time.Now().Add(-24*time.Hour)))
		got, err := s.Seen(t.Context(), d)
		ok(t, err)
		equal(t, fmt.Sprint("seen after ", step.wait), got, step.want)
	}
}

func testWorkers(t *testing.T, s store.Store) {
	const items, workers = 200, 8
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	times := map[hisp.ID]int{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				it, err := s.Lease(ctx, hisp.LeaseRequest{Work: hisp.WorkRelay, PerDomain: 3})
				if err != nil {
					return
				}
				mu.Lock()
				times[it.ID]++
				n := times[it.ID]
				mu.Unlock()
				switch {
				case n == 1 && it.ID[len(it.ID)-1] == '3':
					s.Release(it.ID)
					continue
				case n == 1 && it.ID[len(it.ID)-1] == '7':
					err = s.Retry(ctx, it.ID, time.Now().Add(time.Second), "later", nil)
				default:
					err = s.Commit(ctx, hisp.Step{Finish: it.ID})
				}
				if err != nil {
					t.Errorf("item %s: %v", it.ID, err)
				}
			}
		})
	}
	for n := range items {
		ok(t, s.Commit(t.Context(), hisp.Step{Queue: []hisp.Item{item(hisp.WorkRelay, hisp.Domain(fmt.Sprintf("d%d.example", n%5)), n)}}))
	}
	time.Sleep(time.Minute) // fake: all retries are due and done
	left, err := s.ListItems(t.Context())
	ok(t, err)
	equal(t, "items left", len(left), 0)
	cancel()
	wg.Wait()
	for id, n := range times {
		want := 1
		if last := id[len(id)-1]; last == '3' || last == '7' {
			want = 2
		}
		equal(t, "leases of "+string(id), n, want)
	}
	equal(t, "items seen", len(times), items)
}

func testMixedSteps(t *testing.T, s store.Store) {
	const n = 60
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			st := hisp.Step{Queue: []hisp.Item{item(hisp.WorkSeal, "", i)}, Audit: []hisp.AuditRecord{{Event: hisp.AuditAccept}}}
			if i%3 == 0 {
				st.Track = []hisp.Track{{MessageID: "<x@a>", Recipient: addr("a", other), Version: 99}}
			}
			err := s.Commit(t.Context(), st)
			if i%3 == 0 && !errors.Is(err, hisp.Conflict) || i%3 != 0 && err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	items, err := s.ListItems(t.Context())
	ok(t, err)
	equal(t, "items", len(items), n*2/3)
	head, err := s.AuditHead(t.Context())
	ok(t, err)
	equal(t, "audit entries", head.Seq, n*2/3)
}
