package runs

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// State is where a run is; the table of legal changes is in setLocked.
type State string

// The states of a run.
const (
	Queued    State = "queued" // waits for a process
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled" // by its client, an administrator, its deadline or the sidecar's end
	Lost      State = "lost"      // its process died
)

// Run is one of them. Between the pool, or the session, and the handler of who waits for it, it takes down what happens.
type Run struct {
	table    *Table
	number   int
	id       string
	by       By
	method   string
	asked    time.Time
	detached int // bytes of its request, where it goes on for nobody; 0: it does not, or is over
	call     *pool.Call
	flow     *pool.Flow
	inner    pool.Handler // nil: it goes on whoever follows it

	// Guarded by Table.mu.
	state    State
	worker   string
	started  time.Time
	ended    time.Time
	items    uint64
	progress []byte // the last item, unless that was too long
	usage    []byte
	result   *pool.Result  // of one that has ended
	changed  chan struct{} // closed, and made anew, when there is something new
}

// Info is what is known of a run.
type Info struct {
	number                int
	ID, Method, Worker    string
	By                    By
	State                 State
	Detached              bool
	Asked, Started, Ended time.Time // zero: not yet
	Progress, Usage       []byte    // encoded; nil: none
	Err                   *wire.Error
}

// Info is what is known of it now.
func (r *Run) Info() Info {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	return r.infoLocked()
}

func (r *Run) infoLocked() Info {
	i := Info{
		number: r.number, ID: r.id, By: r.by, Method: r.method, Worker: r.worker, State: r.state, Detached: r.inner == nil,
		Asked: r.asked, Started: r.started, Ended: r.ended, Progress: r.progress, Usage: r.usage,
	}
	if r.result != nil {
		i.Err = r.result.Err
	}
	return i
}

// bytes is what it keeps when it has ended.
func (r *Run) bytes() int { return len(r.result.Payload) + len(r.progress) + 1024 }

// Cancel stops it.
func (r *Run) Cancel(batch *wire.Batch, why *wire.Error) { r.table.cfg.Pool.Cancel(batch, r.call, why) }

// Follow hands send the run's last item, then each further one for which there is time, the last one in any case, and returns what became of the run.
func (r *Run) Follow(ctx context.Context, send func(item []byte) error) (*pool.Result, error) {
	seen := uint64(0)
	for {
		r.table.mu.Lock()
		items, item, result, changed := r.items, r.progress, r.result, r.changed
		r.table.mu.Unlock()
		switch {
		case items > seen:
			seen = items
			if item != nil {
				if err := send(item); err != nil {
					return nil, err
				}
			}
		case result != nil:
			return result, nil
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

// legal says which states may follow which.
var legal = map[State][]State{ //nolint:gochecknoglobals // a constant table
	Queued:  {Running, Failed, Cancelled, Lost},
	Running: {Running, Succeeded, Failed, Cancelled, Lost}, // again: where it is safe, its process having died
}

func (r *Run) setLocked(to State) {
	if !slices.Contains(legal[r.state], to) {
		panic("runs: a run cannot go from " + string(r.state) + " to " + string(to))
	}
	r.state = to
	r.changedLocked()
}

func (r *Run) changedLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Dispatch notes that the run has a process.
func (r *Run) Dispatch(to *pool.Target, meta *wire.RequestMeta) *wire.Error {
	if r.inner != nil {
		if err := r.inner.Dispatch(to, meta); err != nil {
			return err
		}
	}
	t := r.table
	t.mu.Lock()
	r.setLocked(Running)
	r.worker, r.started = to.Worker().ID(), time.Now()
	t.mu.Unlock()
	r.tell()
	return nil
}

// Item keeps the last item.
func (r *Run) Item(batch *wire.Batch, payload []byte, owned bool) {
	var kept []byte
	if len(payload) <= maxProgress {
		kept = bytes.Clone(payload)
	}
	r.table.mu.Lock()
	r.items++
	r.progress = kept
	r.changedLocked()
	r.table.mu.Unlock()
	if r.inner != nil {
		r.inner.Item(batch, payload, owned)
	}
}

// Change does not happen: the session's own handler takes it.
func (r *Run) Change([]byte) error {
	return wire.Errorf(wire.CodeInvalidFrame, "a change of a call without a session")
}

// Ask goes to the client that waits for the run.
func (r *Run) Ask(batch *wire.Batch, ask *pool.Ask) {
	if r.inner == nil {
		ask.Answer(batch, nil, true, wire.Errorf(wire.CodeConnectionLost, "the run is detached: there is no client to ask"))
		return
	}
	r.inner.Ask(batch, ask)
}

// Used keeps what the run has used.
func (r *Run) Used(usage []byte) *wire.Error {
	r.table.mu.Lock()
	r.usage = bytes.Clone(usage)
	r.table.mu.Unlock()
	return nil
}

// outcome is the state of a run that ended so.
func outcome(err *wire.Error) State {
	switch {
	case err == nil:
		return Succeeded
	case err.Code == wire.CodeCancelled, err.Code == wire.CodeDeadlineExceeded:
		return Cancelled
	case err.Code == wire.CodeWorkerLost:
		return Lost
	}
	return Failed
}

// Settle keeps what became of the run, and passes it on.
func (r *Run) Settle(batch *wire.Batch, res *pool.Result) {
	r.conclude(res)
	if r.inner != nil {
		r.inner.Settle(batch, res)
	}
}

// conclude keeps what became of the run.
func (r *Run) conclude(res *pool.Result) {
	kept := *res
	if !res.Owned {
		kept.Payload, kept.Owned = bytes.Clone(res.Payload), true
	}
	kept.Meta.App, kept.Meta.Usage = bytes.Clone(res.Meta.App), bytes.Clone(res.Meta.Usage)
	t := r.table
	t.mu.Lock()
	r.result, r.ended = &kept, time.Now()
	if kept.Meta.Usage != nil {
		r.usage = kept.Meta.Usage
	}
	r.setLocked(outcome(res.Err))
	t.detached -= r.detached
	t.keepLocked(r)
	t.mu.Unlock()
	t.cfg.Metrics.RunEnds(string(outcome(res.Err))).Inc()
	log := []any{"run", r.id, "method", r.method, "state", string(outcome(res.Err)), "took_ms", kept.Meta.RunUS / 1000}
	if res.Meta.Worker != "" {
		log = append(log, "worker_id", res.Meta.Worker)
	}
	if r.by.Key.ID != "" {
		log = append(log, "session_id", r.by.Key.ID)
	}
	if res.Err != nil {
		log = append(log, "reason", res.Err.Message)
	}
	t.cfg.Log.Info("run ended", log...)
	r.tell()
}

var errOver = wire.Errorf(wire.CodeInternal, "the run has ended")

// Finish clears up.
func (r *Run) Finish(batch *wire.Batch, usage []byte) {
	r.flow.Close(batch, errOver)
	if r.inner != nil {
		r.inner.Finish(batch, usage)
	}
}

// tell publishes how the run stands.
func (r *Run) tell() {
	hub := r.table.cfg.Events
	if !hub.Heard() {
		return
	}
	i := r.Info()
	code := ""
	if i.Err != nil {
		code = string(i.Err.Code)
	}
	hub.Publish(events.Event{Kind: "run", Owner: i.By.Key.Owner, Fields: map[string]any{
		"run": i.ID, "method": i.Method, "session": wire.OrNil(i.By.Key.ID), "state": string(i.State), "worker": wire.OrNil(i.Worker), "code": wire.OrNil(code),
	}})
}
