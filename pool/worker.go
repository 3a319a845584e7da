package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// workerState is where a worker is in its life; legalWorker is the table of changes.
type workerState uint8

const (
	workerStarting workerState = iota
	workerPrepared             // ready, and taking no call until its generation takes over
	workerReady
	workerDraining // takes no new call
	workerDead
)

func (s workerState) String() string {
	return [...]string{"starting", "prepared", "ready", "draining", "dead"}[s]
}

var legalWorker = [...][]workerState{ //nolint:gochecknoglobals // a constant table
	workerStarting: {workerPrepared, workerReady, workerDead},
	workerPrepared: {workerReady, workerDead},
	workerReady:    {workerDraining, workerDead},
	workerDraining: {workerDead},
	workerDead:     {},
}

// Worker is one worker process. All but what is set once at its start is guarded by Pool.mu.
type Worker struct {
	pool *Pool
	id   string
	log  *slog.Logger
	gen  *generation
	stop context.CancelCauseFunc // gives up on its start

	state    workerState
	place    int  // from 1: the lowest that no other worker of its generation had that stays
	overflow bool // one beyond Size
	slots    int
	proc     Process
	outbox   *wire.Outbox
	calls    map[uint64]*Call
	requests map[uint64]func(*wire.Frame, error) // the sidecar's own, in flight
	asks     map[uint64]*Ask                     // the worker's, that a client has to answer
	lastID   uint64
	ahead    map[*Flow]int // what was sent ahead of calls and has not been answered
	alone    *Flow         // a suspect that nothing may begin beside: what it sent ahead is on its way, or the worker is held for it

	waiting turns // flows that are pinned to it and wait for a slot
	pins    int
	invites int // pins that it may take over from others

	started  time.Time
	ready    time.Time
	idle     time.Time // since when no call is in it
	total    uint64
	errors   uint64
	versions map[string]any
	maxFrame int           // the longest body that it takes
	spread   float64       // its limits are the configured ones times this
	memory   int64         // when it was last looked at
	overSoft int           // samples in a row in which its memory was over RecycleMemory
	recycle  string        // why it is to be replaced; empty: it is not
	replaced bool          // its replacement has been asked for
	vacant   chan struct{} // closed when a retired worker has no call left
	endBy    time.Time     // when it is killed, where its only call was told to stop; zero: it was not
	why      string        // why it is made to end
	end      endReason     // and of which kind that is
	stacks   string        // where it was when it was killed
	heard    uint64        // the last notice that its hello is as new as
	told     bool          // it was asked to end: what is written to it now breaks its channel, and cuts its stop hooks off

	unreported []*Call  // of which the client is to be told that they go on
	reporting  bool     // somebody does that
	inquiry    *inquiry // the last one; of who reports

	quiet chan struct{} // closed when a condemned worker has only calls left that were told to stop
	gone  chan struct{} // closed when it is dead
}

func (w *Worker) setStateLocked(to workerState) {
	if !slices.Contains(legalWorker[w.state], to) {
		panic("pool: a worker cannot go from " + w.state.String() + " to " + to.String())
	}
	w.state = to
	if to == workerReady || to == workerDraining {
		w.tell(to.String(), cmp.Or(w.why, w.recycle))
	}
	if to != workerReady {
		w.inviteLocked(0)
		if w.pool.held == w {
			w.pool.letGoLocked()
		}
	}
}

// heardLocked says whether what is sent to the worker arrives.
func (w *Worker) heardLocked() bool {
	return !w.told && (w.state == workerReady || w.state == workerDraining)
}

// Target is the worker that a call is about to go to, for Handler.Dispatch.
type Target struct {
	worker *Worker
	flow   *Flow
	batch  *wire.Batch
	// Again: the call was sent before; what was sent ahead of it then may not have arrived.
	Again    bool
	readOnly bool
}

// Worker tells workers apart; it stays the same for the life of one process.
func (t *Target) Worker() *Worker { return t.worker }

// Request sends a request of the sidecar's own ahead of the call; a refusal is logged.
func (t *Target) Request(method string, params []byte) {
	t.worker.sendAheadLocked(t.flow, t, method, params)
}

// Forget notifies another worker, if it is there.
func (t *Target) Forget(w *Worker, method string, params []byte) {
	w.notifyLocked(t.batch, method, params)
}

// ReadOnly says whether the call's method may run beside others of its session.
func (t *Target) ReadOnly() bool { return t.readOnly }

// MaxFrame is the longest body that the worker takes.
func (t *Target) MaxFrame() int { return t.worker.maxFrame }

// ID is the worker's name.
func (w *Worker) ID() string { return w.id }

// Notify sends a notification, if the worker is there.
func (w *Worker) Notify(batch *wire.Batch, method string, params []byte) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	w.notifyLocked(batch, method, params)
}

func (w *Worker) notifyLocked(batch *wire.Batch, method string, params []byte) {
	if w.heardLocked() {
		var scratch [128]byte
		w.outbox.Append(batch, wire.AppendNotification(scratch[:0], method), params, true)
	}
}

// requestLocked sends a request; done is called once, without the lock, with the response or with the error that ended the worker.
func (w *Worker) requestLocked(batch *wire.Batch, method string, params []byte, done func(*wire.Frame, error)) {
	w.lastID++
	w.requests[w.lastID] = done
	var scratch [128]byte
	w.outbox.Append(batch, wire.AppendRequest(scratch[:0], w.lastID, []byte(method), &wire.RequestMeta{TimeoutMS: -1}), params, true)
}

// read handles the worker's frames until its channel ends, and says why it did.
func (w *Worker) read(r *wire.Reader) error {
	var batch wire.Batch
	defer batch.Flush()
	for {
		if !r.Ready() {
			batch.Flush()
		}
		if err := w.handleNext(r, &batch); err != nil {
			return err
		}
		batch.FlushIfDue()
	}
}

func (w *Worker) handleNext(r *wire.Reader, batch *wire.Batch) error {
	body, owned, err := r.Next()
	var long *wire.TooLongError
	switch {
	case errors.As(err, &long):
		err = w.tooLong(long, batch)
	case err != nil && !errors.Is(err, wire.ErrStructure):
		return err
	case err == nil:
		var f wire.Frame
		if f, err = wire.Parse(body); err == nil {
			err = w.handle(&f, owned, batch)
		}
	}
	if err != nil {
		return fmt.Errorf("it broke the protocol: %w", err)
	}
	return nil
}

// tooLong settles the call that a frame belongs to which is too long to be taken.
func (w *Worker) tooLong(long *wire.TooLongError, batch *wire.Batch) error {
	kind, id := long.Subject()
	e := wire.FromError(long)
	p := w.pool
	p.mu.Lock()
	defer p.unlock(batch)
	c := w.calls[id]
	switch {
	case kind == wire.KindRequest:
		w.answerAsk(batch, id, nil, e)
	case c == nil:
		return long
	case kind == wire.KindResponse:
		if p.takeAnswerLocked(w, c, &Result{Err: e, Meta: wire.ResponseMeta{RunUS: -1}}, batch) {
			p.tellLocked(c, false, &Result{Err: e, Meta: c.metaAt(w)})
		}
		p.todo = append(p.todo, func(b *wire.Batch) { p.refill(w, b) })
	default: // an item or a change
		p.stopLocked(c, e, true, batch)
	}
	return nil
}

func (w *Worker) handle(f *wire.Frame, owned bool, batch *wire.Batch) error {
	switch f.Kind {
	case wire.KindResponse:
		return w.answered(f, owned, batch)
	case wire.KindItem:
		c, err := w.deliverable(f.ID, true)
		if c != nil {
			c.Handler.Item(batch, f.Payload, owned)
		}
		return err
	case wire.KindChange:
		c, err := w.deliverable(f.ID, false)
		if c != nil {
			return c.Handler.Change(f.Payload)
		}
		return err
	case wire.KindRequest:
		return w.asking(f, batch)
	case wire.KindNotification:
		if string(f.Method) == "call.usage" {
			return w.used(f.Payload, batch)
		}
		if notified := w.pool.cfg.Notified; notified != nil {
			return notified(w.id, w.gen.number, f.Method, f.Payload)
		}
	case wire.KindCancel:
		w.cancelAsk(f.ID, batch)
	case wire.KindCredit, wire.KindUnknown:
	}
	return nil
}

// deliverable is the call that a frame belongs to; nil where nobody wants the frame any more.
func (w *Worker) deliverable(id uint64, touches bool) (*Call, error) {
	p := w.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	c := w.calls[id]
	if c == nil {
		return nil, fmt.Errorf("a frame for the call %d, which it does not run", id)
	}
	if c.state != callRunning {
		return nil, nil
	}
	c.touched = c.touched || touches
	return c, nil
}

// used passes on what a call has used so far, and stops one that may not go on.
func (w *Worker) used(payload []byte, batch *wire.Batch) error {
	parts, err := wire.SplitMap(payload)
	if err != nil {
		return err
	}
	var id uint64
	if err := wire.Unmarshal(parts["call"], &id); err != nil {
		return err
	}
	p := w.pool
	p.mu.Lock()
	c := w.calls[id]
	running := c != nil && c.state == callRunning
	p.mu.Unlock()
	if !running { // it has ended meanwhile
		return nil
	}
	if meter, is := c.Handler.(Meter); is {
		if stop := meter.Used(parts["usage"]); stop != nil {
			p.Cancel(batch, c, stop)
		}
	}
	return nil
}

// answered handles a response: the call's, or one to a request of the sidecar's own.
func (w *Worker) answered(f *wire.Frame, owned bool, batch *wire.Batch) error {
	p := w.pool
	p.mu.Lock()
	c := w.calls[f.ID]
	if c == nil {
		done := w.requests[f.ID]
		delete(w.requests, f.ID)
		p.unlock(batch)
		if done == nil {
			return fmt.Errorf("a response to %d, which it was not asked", f.ID)
		}
		done(f, nil)
		return nil
	}
	r := Result{Payload: f.Payload, Owned: owned}
	if err := wire.ParseResponseMeta(f.Meta, &r.Meta); err != nil {
		p.unlock(batch)
		return err
	}
	if f.Error != nil {
		r.Err = decodeError(f.Error)
		r.Payload = nil
	}
	settle := p.takeAnswerLocked(w, c, &r, batch)
	waited := !w.waiting.empty() || !p.waitingAny.empty() || !p.suspects.empty()
	p.unlock(batch)
	if settle {
		c.Handler.Settle(batch, &r)
		c.Handler.Finish(batch, nil)
		p.closeOne()
	}
	if waited {
		p.refill(w, batch)
	}
	return nil
}

// refill gives free slots to those that wait. It is left for after the call has finished, so that its session's next call has waited by then,
// and has its turn among the others.
func (p *Pool) refill(w *Worker, batch *wire.Batch) {
	p.mu.Lock()
	p.fillLocked(w, batch)
	p.unlock(batch)
}

// takeAnswerLocked frees the slot, which refill gives away, and decides what the answer means; true: r settles the call.
func (p *Pool) takeAnswerLocked(w *Worker, c *Call, r *Result, batch *wire.Batch) (settle bool) {
	now := time.Now()
	delete(w.calls, c.id)
	c.flow.running--
	if c.asked {
		w.dropAsksLocked(c, batch)
	}
	wanted := r.Err != nil && r.Err.Code == wire.CodeTurnWanted && c.flow.serial && !c.writes && !c.touched
	if r.Err != nil && !wanted {
		w.errors++
	}
	ran := now.Sub(c.sent)
	p.runTime += (ran - p.runTime) / 16
	r.Meta.Worker, r.Meta.QueueUS = w.id, c.sent.Sub(c.queued).Microseconds()
	if r.Meta.RunUS < 0 {
		r.Meta.RunUS = ran.Microseconds()
	}
	stale := r.Err != nil && r.Err.Code == wire.CodeStaleSession
	if stale && !c.flow.serial { // a code of the channel's alone
		stale, r.Err = false, wire.Errorf(wire.CodeInternal, "worker %s answered stale_session to a call without a session", w.id)
	}
	switch {
	case c.state == callStopping:
		p.finishStoppedLocked(c, r)
	case stale && c.stale < 2 && !c.touched:
		c.stale++
		p.againLocked(c, batch)
	case wanted:
		c.writes = true
		p.againLocked(c, batch)
	default:
		if stale {
			r.Err = wire.Errorf(wire.CodeSessionLost, "worker %s cannot hold the session's state", w.id).With("reason", r.Err.Message)
		} else if r.Err != nil && r.Err.Code == wire.CodeTurnWanted { // a code of the channel's alone, too
			r.Err = wire.Errorf(wire.CodeInternal, "worker %s wants a turn for a call that has one, or has begun", w.id)
		}
		p.endLocked(c, r.Err != nil)
		settle = true
	}
	w.settleDownLocked(now)
	p.countLocked(w, batch)
	return settle
}

// againLocked puts a call that has not run back to its place in its flow.
func (p *Pool) againLocked(c *Call, batch *wire.Batch) {
	f := c.flow
	f.endTurnLocked(c)
	c.setStateLocked(callQueued)
	c.worker, c.turn, c.checkout = nil, time.Time{}, time.Time{}
	p.timeLocked(c)
	f.leaveLocked()
	f.pushLocked(c)
	p.offerLocked(f, batch)
}

// settleDownLocked notes that a call has left the worker.
func (w *Worker) settleDownLocked(now time.Time) {
	if len(w.calls) == 0 {
		w.idle = now
		if w.vacant != nil {
			close(w.vacant)
			w.vacant = nil
		}
	}
	if w.quiet == nil {
		return
	}
	for _, c := range w.calls {
		if c.state == callRunning {
			return
		}
	}
	select {
	case <-w.quiet:
	default:
		close(w.quiet)
	}
}

func decodeError(raw []byte) *wire.Error {
	var e wire.Error
	if err := wire.Unmarshal(raw, &e); err != nil || e.Code == "" {
		return wire.Errorf(wire.CodeInternal, "the worker sent an error that cannot be read: %v", err)
	}
	return &e
}
