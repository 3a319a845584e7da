package session

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// once is a call with an idempotency key, on behalf of all that ask for it. Between the pool and it stands the session's own handler.
type once struct {
	table   *Table
	session *session
	key     store.AnswerKey
	payer   string // who began it
	size    int    // of its params
	call    pool.Call

	// Guarded by Table.mu.
	waiters  []*Ticket
	refused  *wire.Error // why it must not begin
	over     bool        // it has ended without having run
	detached bool        // all that asked for it have gone
}

// Ticket is one client's part in a call with an idempotency key.
type Ticket struct {
	once    *once
	handler pool.Handler
	timer   *time.Timer // its own deadline; nil: that of the call
}

// SubmitOnce hands in a call that a client made with an idempotency key: it joins the one that runs, or gets the answer that was kept,
// or begins. The handler's Settle and Finish are called as for any call; instead of canceling it in the pool its client leaves. A call
// without a session has its payer's keys.
func (t *Table) SubmitOnce(batch *wire.Batch, key Key, payer, idempotencyKey string, c *pool.Call) (*Ticket, error) {
	s, err := t.keeperOf(batch, key, payer)
	if err != nil {
		return nil, err
	}
	ledger, refused := t.ledgerFor(batch, payer)
	if refused != nil {
		t.leave(s)
		return nil, refused
	}
	ticket := &Ticket{handler: c.Handler}
	o := &once{
		table: t, session: s, key: store.AnswerKey{Method: string(c.Method), Key: idempotencyKey}, payer: payer, size: len(c.Params),
		waiters: []*Ticket{ticket},
	}
	params := sha256.Sum256(c.Params)
	t.mu.Lock()
	mark, outcome, refused := o.placeLocked(ticket, params, c.Deadline)
	if mark == nil {
		t.leaveLocked(s)
		if ledger != nil {
			t.leaveLocked(ledger)
		}
	}
	t.mu.Unlock()
	switch {
	case refused != nil:
		return nil, refused
	case mark != nil:
		t.runOnce(batch, o, mark, ledger, c)
	case ticket.once == nil:
		replay(batch, outcome, c.Handler)
	}
	return ticket, nil
}

// placeLocked finds out what becomes of a request: it begins, and mark has to be stored first; or the ticket joins another; or the
// outcome was kept.
func (o *once) placeLocked(ticket *Ticket, params [32]byte, deadline time.Time) (mark *store.Change, outcome []byte, refused *wire.Error) {
	t := o.table
	a := o.session.answers[o.key]
	switch {
	case a == nil, a.running == nil && !time.Now().Before(a.expires):
		mark, refused = t.beginLocked(o, params)
		if refused == nil {
			ticket.once = o
		}
	case a.params != params:
		refused = wire.Errorf(wire.CodeInvalidParams, "the idempotency key %q was used for %s with other params", o.key.Key, o.key.Method)
	case a.running == nil:
		outcome = a.outcome
	case a.running.refused != nil:
		refused = wire.Errorf(wire.CodeSessionBusy, "the call with the idempotency key %q is being stopped; ask again", o.key.Key)
	default:
		ticket.once = a.running
		a.running.attachLocked()
		a.running.waiters = append(a.running.waiters, ticket)
		if !deadline.IsZero() {
			ticket.timer = time.AfterFunc(time.Until(deadline), ticket.expired)
		}
	}
	return mark, outcome, refused
}

// keeperOf is the session that keeps the answers of calls in key; it has been told of one more call.
func (t *Table) keeperOf(batch *wire.Batch, key Key, payer string) (*session, error) {
	if key.ID != "" {
		return t.use(batch, key, payer)
	}
	s, refused := t.ledgerOf(batch, payer)
	if refused != nil {
		return nil, refused
	}
	return s, nil
}

// runOnce has the store note that a call begins, and lets it come. In a session the note takes its turn right before the call.
func (t *Table) runOnce(batch *wire.Batch, o *once, mark *store.Change, ledger *session, c *pool.Call) {
	s := o.session
	o.call = pool.Call{
		Method: bytes.Clone(c.Method), Params: bytes.Clone(c.Params), Owned: true, Meta: c.Meta, Deadline: c.Deadline, Nested: c.Nested,
		Connection: c.Connection, Request: c.Request,
	}
	o.call.Meta.Traceparent, o.call.Meta.App = bytes.Clone(c.Meta.Traceparent), bytes.Clone(c.Meta.App)
	o.call.Handler = &call{table: t, session: s, flow: s.flow, pool: &o.call, inner: o, once: o, ledger: ledger}
	if s.ledger {
		begin := func(b *wire.Batch, err error) {
			o.begun(err)
			s.flow.Submit(b, &o.call)
		}
		if now, err := t.cfg.Store.Commit(mark, later(begin)); now {
			begin(batch, err)
		}
		return
	}
	u := &turn{table: t, session: s, method: "session.begin", beside: true, change: *mark, once: o}
	u.done = func(_ *wire.Batch, _ uint64, err error) { o.begun(err) }
	u.take(batch, c.Deadline)
	s.flow.Submit(batch, &o.call)
}

// begun is told whether the store has noted that the call begins. Where it has not, the call is refused when its turn comes.
func (o *once) begun(err error) {
	if err == nil {
		return
	}
	o.table.mu.Lock()
	defer o.table.mu.Unlock()
	if o.refused != nil {
		return
	}
	if o.refused = wire.FromError(err); o.refused.Code == wire.CodeInternal {
		o.refused = notStored(err)
	}
}

// Call is the call that runs; nil where an answer was kept.
func (k *Ticket) Call() *pool.Call {
	if k.once == nil {
		return nil
	}
	return &k.once.call
}

// Leave ends a client's part before the call has ended: its handler is told why. With stop the call is stopped where nobody else waits for it;
// without, as when the client's connection is lost, it goes on, so that the client finds its answer later.
func (k *Ticket) Leave(batch *wire.Batch, why *wire.Error, stop bool) {
	o := k.once
	if o == nil {
		return
	}
	o.table.mu.Lock()
	at := slices.Index(o.waiters, k)
	if at >= 0 {
		o.waiters = slices.Delete(o.waiters, at, at+1)
	}
	stopped := at >= 0 && len(o.waiters) == 0 && (stop || !o.detachLocked())
	if stopped && o.refused == nil {
		o.refused = why // it must not begin any more, and nobody joins it
	}
	o.table.mu.Unlock()
	if at < 0 {
		return
	}
	k.settle(batch, pool.Refused(why))
	if stopped {
		o.table.cfg.Pool.Cancel(batch, &o.call, why)
	}
}

// What goes on for nobody is limited for each payer, in number and in bytes of its params.
const (
	maxDetached      = 256
	maxDetachedBytes = 64 << 20
)

// detachLocked lets the call go on though nobody waits for it, if that may be.
func (o *once) detachLocked() bool {
	d := o.table.detached[o.payer]
	if d.calls >= maxDetached || d.bytes+o.size > maxDetachedBytes {
		return false
	}
	o.detached = true
	o.table.detached[o.payer] = detached{d.calls + 1, d.bytes + o.size}
	return true
}

// attachLocked ends that.
func (o *once) attachLocked() {
	if !o.detached {
		return
	}
	o.detached = false
	d := o.table.detached[o.payer]
	if d = (detached{d.calls - 1, d.bytes - o.size}); d.calls == 0 {
		delete(o.table.detached, o.payer)
	} else {
		o.table.detached[o.payer] = d
	}
}

// detached are the calls that go on for nobody.
type detached struct{ calls, bytes int }

func (k *Ticket) expired() {
	var batch wire.Batch
	k.Leave(&batch, wire.Errorf(wire.CodeDeadlineExceeded, "the deadline passed; the call that has this idempotency key goes on"), false)
	batch.Flush()
}

func (k *Ticket) settle(batch *wire.Batch, r *pool.Result) {
	if k.timer != nil {
		k.timer.Stop()
	}
	k.handler.Settle(batch, r)
	k.handler.Finish(batch, nil)
}

// Dispatch refuses a call whose beginning is not in the store.
func (o *once) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error {
	o.table.mu.Lock()
	defer o.table.mu.Unlock()
	return o.refused
}

// Item does not happen: a stream has no idempotency key.
func (o *once) Item(*wire.Batch, []byte, bool) {}

// Change does not happen: the session's own handler takes it.
func (o *once) Change([]byte) error { return nil }

// Ask goes to the client that has waited longest.
func (o *once) Ask(batch *wire.Batch, ask *pool.Ask) {
	o.table.mu.Lock()
	var first *Ticket
	if len(o.waiters) > 0 {
		first = o.waiters[0]
	}
	o.table.mu.Unlock()
	if first == nil {
		ask.Answer(batch, nil, true, wire.Errorf(wire.CodeConnectionLost, "the client left"))
		return
	}
	first.handler.Ask(batch, ask)
}

// Settle answers all that wait.
func (o *once) Settle(batch *wire.Batch, r *pool.Result) {
	o.table.mu.Lock()
	waiters := o.waiters
	o.waiters = nil
	o.attachLocked()
	o.table.mu.Unlock()
	for _, k := range waiters {
		k.settle(batch, r)
	}
}

// Finish has nothing to give back.
func (o *once) Finish(*wire.Batch, []byte) {}
