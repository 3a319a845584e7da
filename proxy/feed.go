package proxy

import (
	"context"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// Feed is one of the sidecar's own methods that streams: it runs in a goroutine of its own until it returns, which it does soon after ctx is done. send waits for the
// client's credit.
type Feed func(ctx context.Context, who *Caller, params []byte, send func(item any) error) (result any, err error)

// HandleFeed adds a method that streams; before Serve only. It has no deadline unless its caller gives one, and waits for credit as long as that takes.
func (s *Server) HandleFeed(name string, f Feed) {
	s.methods[name] = ownMethod{feed: f, count: s.metrics.Add(name)}
}

// feeding is the credit of such a stream, and its end.
type feeding struct {
	ctx   context.Context //nolint:containedctx // the call's own life, which begins before the goroutine that serves it
	stop  context.CancelCauseFunc
	admin bool // it began for an administrator

	mu     sync.Mutex // guards what follows
	credit uint64
	more   chan struct{} // closed, and made anew, when there is more to send with
}

// beginFeeding lets the call get credit, and be cancelled.
func (k *call) beginFeeding(credit uint32, admin bool) {
	f := &feeding{admin: admin, credit: uint64(credit), more: make(chan struct{})}
	f.ctx, f.stop = context.WithCancelCause(context.Background())
	c := k.conn
	c.mu.Lock()
	k.feeding = f
	ending := c.ending
	c.mu.Unlock()
	if ending { // who cancels the calls has passed this one by
		f.stop(wire.Errorf(wire.CodeCancelled, "the sidecar is ending"))
	}
}

// feed runs a method that streams.
func (c *conn) feed(f Feed, k *call, params []byte, credit uint32, deadline bool) {
	who := c.caller(k)
	k.beginFeeding(credit, who.Admin)
	params = append([]byte(nil), params...)
	limit := time.Time{}
	if deadline {
		limit = k.Deadline
	}
	c.runFeed(k, limit, func(ctx context.Context, send func(any) error) (any, error) { return f(ctx, who, params, send) })
}

// runFeed answers a call with what is made in a goroutine of its own.
func (c *conn) runFeed(k *call, deadline time.Time, made func(ctx context.Context, send func(any) error) (any, error)) {
	c.server.tasks.Go(func() {
		ctx := k.feeding.ctx
		defer k.feeding.stop(nil)
		if !deadline.IsZero() {
			var cancel context.CancelFunc
			late := wire.Errorf(wire.CodeDeadlineExceeded, "the deadline passed while the call was running").With("ended_by", "task")
			ctx, cancel = context.WithDeadlineCause(ctx, deadline, late)
			defer cancel()
		}
		result, err := made(ctx, func(item any) error { return k.send(ctx, item) })
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		var batch wire.Batch
		k.ended(&batch, result, err)
		batch.Flush()
	})
}

// ended answers a call of one of the sidecar's own methods.
func (k *call) ended(batch *wire.Batch, result any, err error) {
	r := &pool.Result{Meta: noTimes, Owned: true}
	if of, is := result.(*pool.Result); is && err == nil { // of a run
		k.Settle(batch, of)
		k.Finish(batch, nil)
		return
	}
	if err == nil {
		r.Payload, err = wire.Marshal(result)
	}
	if err != nil {
		r.Payload, r.Err = nil, wire.FromError(err)
	}
	k.Settle(batch, r)
	k.Finish(batch, nil)
}

// permitted says whether the caller may have what it was permitted at first: such a stream has no end of its own.
func (k *call) permitted() error {
	l, uid := k.conn.server.limits.Load(), k.conn.uid
	if !l.admits(uid) || k.feeding.admin && !l.administers(uid) {
		return wire.Errorf(wire.CodePermissionDenied, "uid %d has not the rights any more that the stream began with: see listen.allow_uids and admin_uids", uid)
	}
	return nil
}

// send sends an item when there is credit for it, and little waits to be written.
func (k *call) send(ctx context.Context, item any) error {
	payload, err := wire.Marshal(item)
	if err != nil {
		return err
	}
	c, f := k.conn, k.feeding
	head := wire.AppendItem(nil, k.id)
	if n := len(head) + len(payload); n > c.maxFrame {
		return wire.Errorf(wire.CodeFrameTooLarge, "an item takes %d bytes, the client receives at most %d", n, c.maxFrame).
			With("limit", c.maxFrame).With("length", n)
	}
	for ctx.Err() == nil {
		f.mu.Lock()
		more, granted := f.more, f.credit > 0
		f.mu.Unlock()
		if granted && c.keepsUp(k) {
			break
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil { // what is sent to a client that has gone costs no time
		return context.Cause(ctx)
	}
	if err := k.permitted(); err != nil {
		return err
	}
	f.mu.Lock()
	f.credit--
	f.mu.Unlock()
	c.server.metrics.Items.Inc()
	c.server.metrics.Sent.Add(len(head) + len(payload))
	var batch wire.Batch
	c.outbox.Append(&batch, head, payload, true)
	batch.Flush()
	return nil
}

// grant adds credit, and lets who waits look again.
func (f *feeding) grant(n uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.credit = min(f.credit+uint64(n), wire.MaxCredit)
	close(f.more)
	f.more = make(chan struct{})
}
