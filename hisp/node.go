package hisp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// Config is what a Node is made of. The parts are required; zero settings mean
// the defaults named beside them.
type Config struct {
	Hostname  string // of this node, in notices
	Clock     Clock  // time.Now
	Log       *slog.Logger
	Agent     Agent
	Queue     Queue
	Tracker   Tracker
	Auditor   Auditor
	Directory Directory
	Keys      KeyStore
	Transport Transport

	MaxMessage    int64         // octets of one submission, 36 MiB; see MaxSealed for what partners send
	MaxRecipients int           // of one message, 100
	Retry         RetryPolicy   //
	TrackTimeout  time.Duration // silence becomes failure, 1 h (row DN-09)
	KeepTracks    time.Duration // late notices are suppressed so long, 7 days (row DN-17)
	// ForwardProcessed also puts processed MDNs into the sender's mailbox;
	// otherwise the node keeps them (row DN-14).
	ForwardProcessed bool

	SealWorkers  int // 4 for each of GOMAXPROCS
	OpenWorkers  int // 4 for each of GOMAXPROCS
	RelayWorkers int // 16
	PerDomain    int // relays under way to one domain, 4
}

// Defaults of Config.
const (
	defaultMaxMessage    = 36 << 20 // octets: 25 MiB of attachments in base64
	defaultMaxRecipients = 100
	defaultTrackTimeout  = time.Hour
	defaultKeepTracks    = 7 * 24 * time.Hour
	defaultRelayWorkers  = 16
	defaultPerDomain     = 4
	// workersPerCore: while one worker waits for its commit, others compute,
	// and those that wait share the syncs of one commit.
	workersPerCore = 4
)

const (
	// maxInWork bounds the octets of messages being sealed or opened at one
	// time; each costs a small multiple of its size in memory. Relays wait for
	// peers and are bounded by their number.
	maxInWork = 256 << 20
	// drainGrace is how long work under way may go on after Run is told to stop.
	drainGrace = 8 * time.Second
)

// Node is the running service. It is safe for concurrent use.
type Node struct {
	Config
	room     *semaphore.Weighted // octets of messages in work
	throttle *throttle
}

// New checks c, fills in its defaults and returns a node that accepts
// messages; Run makes it work on them.
func New(c Config) (*Node, error) {
	if c.Agent == nil || c.Queue == nil || c.Tracker == nil || c.Auditor == nil ||
		c.Directory == nil || c.Keys == nil || c.Transport == nil || c.Log == nil {
		return nil, &Error{Op: "hisp.New", Kind: Internal, Hint: "a part of the node is missing"}
	}
	setDefault(&c.MaxMessage, defaultMaxMessage)
	setDefault(&c.MaxRecipients, defaultMaxRecipients)
	setDefault(&c.TrackTimeout, defaultTrackTimeout)
	setDefault(&c.KeepTracks, defaultKeepTracks)
	setDefault(&c.SealWorkers, workersPerCore*runtime.GOMAXPROCS(0))
	setDefault(&c.OpenWorkers, workersPerCore*runtime.GOMAXPROCS(0))
	setDefault(&c.RelayWorkers, defaultRelayWorkers)
	setDefault(&c.PerDomain, defaultPerDomain)
	c.Retry.setDefaults()
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return &Node{Config: c, room: semaphore.NewWeighted(maxInWork), throttle: newThrottle()}, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (n *Node) now() time.Time { return n.Clock().UTC() }

// Run works on the queue until ctx ends. Then it leases nothing more, gives
// work under way a grace of some seconds and returns nil. What was not
// finished is in the queue for the next Run.
func (n *Node) Run(ctx context.Context) error {
	drain, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainGrace, stop) })()

	g, lease := errgroup.WithContext(ctx)
	start := func(count int, r LeaseRequest, handle func(context.Context, Item) error) {
		for range count {
			g.Go(func() error { return n.work(lease, drain, r, handle) })
		}
	}
	start(n.SealWorkers, LeaseRequest{Work: WorkSeal}, n.seal)
	start(n.RelayWorkers, LeaseRequest{Work: WorkRelay, PerDomain: n.PerDomain}, n.relay)
	start(n.OpenWorkers, LeaseRequest{Work: WorkOpen}, n.open)
	g.Go(func() error { return n.every(lease, overdueInterval, n.expireTracks) })
	g.Go(func() error { return n.every(lease, forgetInterval, n.forget) })
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// work leases items and handles them until lease ends.
func (n *Node) work(lease, drain context.Context, r LeaseRequest, handle func(context.Context, Item) error) error {
	for {
		item, err := n.Queue.Lease(lease, r)
		if err != nil {
			return err
		}
		n.handle(drain, item, handle)
	}
}

// handle runs one item and, when it neither finished nor was put back, puts it
// back. A bug that panics on one message must not stop the others.
func (n *Node) handle(ctx context.Context, item Item, handle func(context.Context, Item) error) {
	if item.Work != WorkRelay { // a relay waits for a peer, who must not hold up the others
		size := min(item.Message.Size(), maxInWork)
		if n.room.Acquire(ctx, size) != nil {
			n.Queue.Release(item.ID)
			return
		}
		defer n.room.Release(size)
	}
	err := contain(func() error { return handle(ctx, item) })
	if err == nil {
		return
	}
	if ctx.Err() != nil {
		n.Queue.Release(item.ID)
		return
	}
	n.putOff(ctx, item, err)
	if KindOf(err) == Internal {
		n.Log.Error("work failed", "id", item.Envelope.ID, "op", item.Work.String(), "attempt", item.Attempt+1, "err", err)
		return
	}
	n.Log.Info("work put off", "id", item.Envelope.ID, "op", item.Work.String(), "kind", KindOf(err).Error(), "attempt", item.Attempt+1, "err", err)
}

// contain turns a panic of fn into an Internal error.
func contain(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			// The value of a panic may quote input; its type cannot.
			stack := make([]byte, 4096)
			stack = stack[:runtime.Stack(stack, false)]
			err = &Error{Op: "hisp.Node", Kind: Internal, Err: fmt.Errorf("panic of type %T\n%s", v, stack)}
		}
	}()
	return fn()
}

// putOff retries item later, or gives it up when it is too old.
func (n *Node) putOff(ctx context.Context, item Item, cause error) {
	if n.Retry.expired(item.Created, n.now()) {
		if err := n.giveUp(ctx, item, cause); err == nil {
			return
		}
	}
	due := n.now().Add(n.Retry.delay(item.Attempt))
	rec := n.auditRecord(retryEvent(item.Work), item.Envelope, OutcomeRetry)
	rec.Kind, rec.Detail, rec.Domain = KindOf(cause).Error(), HintOf(cause), item.Domain
	err := n.Queue.Retry(context.WithoutCancel(ctx), item.ID, due, reasonOf(cause), []AuditRecord{rec})
	if err != nil {
		n.Log.Error("retry not stored", "id", item.Envelope.ID, "err", err)
		n.Queue.Release(item.ID)
	}
}

// reasonOf is what the operator reads about a failed try: the kind and what is
// wrong, both without PHI.
func reasonOf(err error) string {
	if hint := HintOf(err); hint != "" {
		return KindOf(err).Error() + ": " + hint
	}
	return KindOf(err).Error()
}

// MaxSealed is how large a message may be once it is sealed, when its plain
// form may have n octets: signed and encrypted it grows by its second base64.
func MaxSealed(n int64) int64 { return n/5*7 + 1<<20 }

// giveUp ends an item that could not be worked on within the retry age.
func (n *Node) giveUp(ctx context.Context, item Item, cause error) error {
	if item.Work == WorkOpen {
		return n.rejectOpen(ctx, item, cause)
	}
	failed := make([]failure, len(item.Envelope.To))
	for i, rcpt := range item.Envelope.To {
		failed[i] = failure{rcpt: rcpt, err: &Error{Kind: Temporary, Err: cause}, status: statusExpired}
	}
	return n.finishFailed(ctx, item, failed)
}

// Drop ends a leased item by the operator's decision. The sender gets a failure
// notice for each recipient, as if the node had given up by itself; an item
// that waits to be opened ends in silence, as a refused one does.
func (n *Node) Drop(ctx context.Context, item Item) error {
	cause := &Error{Op: "hisp.Drop", Kind: Denied, Hint: "the operator of the HISP ended the delivery"}
	if item.Work == WorkOpen {
		return n.rejectOpen(ctx, item, cause)
	}
	return n.finishFailed(ctx, item, allFailed(item.Envelope.To, cause))
}

func retryEvent(w Work) AuditEvent {
	switch w {
	case WorkSeal:
		return AuditSeal
	case WorkRelay:
		return AuditSend
	default:
		return AuditOpen
	}
}

// every calls fn at each interval until ctx ends. Its errors are logged: the
// next turn tries again.
func (n *Node) every(ctx context.Context, interval time.Duration, fn func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := contain(func() error { return fn(ctx) })
		if err != nil && !errors.Is(err, context.Canceled) {
			n.Log.Error("housekeeping failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// auditRecord fills in what every record about env has.
func (n *Node) auditRecord(event AuditEvent, env Envelope, outcome AuditOutcome) AuditRecord {
	return AuditRecord{
		Time: n.now(), Event: event, Message: env.ID, Outcome: outcome,
		Private: AuditPrivate{From: env.From, To: env.To, Account: env.Account, Auth: env.Auth, Peer: env.Peer},
	}
}

// commit stores s even if ctx was cancelled meanwhile: work that is done must
// be written down.
func (n *Node) commit(ctx context.Context, s Step) error {
	return n.Queue.Commit(context.WithoutCancel(ctx), s)
}
