package pool

import (
	"bytes"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Call is one request on its way to a worker and back. The caller fills in the exported fields, hands it to Flow.Submit, and does
// not touch them after that. A call is settled once (its outcome is known) and finished once (no worker works on it
// any more); with a deadline or a cancel the first comes before the second.
type Call struct {
	Method  []byte
	Params  []byte
	Owned   bool             // nobody reuses the memory of Method, Params and Meta
	Meta    wire.RequestMeta // what goes to the worker, but for timeout_ms
	Handler Handler
	// Deadline settles the call wherever it is; the zero time means none.
	Deadline time.Time
	// Nested is a call that a client makes while it answers one: it is admitted during a drain.
	Nested bool
	// Connection and Request are who made it and its id there, for people.
	Connection string
	Request    uint64
	// Local, where set, runs in place of a worker when the call's turn has come.
	Local func(*wire.Batch)

	// Guarded by Pool.mu.
	state    state
	flow     *Flow
	worker   *Worker
	id       uint64 // on the worker's channel
	method   *Method
	queued   time.Time // admitted
	turn     time.Time // its turn had come, and no slot was free
	sent     time.Time
	checkout time.Time // when waiting for a slot ends; zero while it waits for its turn
	settleBy time.Time // a stopping call is settled then, whether the worker has answered or not
	killBy   time.Time // a stopping call's worker is killed then
	stopped  time.Time // told to stop
	why      *wire.Error
	told     bool   // settled
	telling  bool   // Settle has not returned, of a call that a worker still works on, or did when it was settled
	late     []byte // the usage that came meanwhile
	admitted bool   // into the pool, at least to wait
	touched  bool   // the client has seen or answered something of it: it is not run again
	safe     bool   // it may be run again when its worker dies
	waits    bool   // its worker died before it had taken what was sent ahead: the call has not begun
	asked    bool   // the worker has asked its client something
	inTurn   bool
	reader   bool      // its turn is shared with other read-only calls
	reruns   int       // after a worker's death
	stale    int       // after a worker said that it holds another version of the session
	number   uint64    // in its flow, by when it was submitted
	writes   bool      // its worker said that it does, though its method is read-only
	timer    int       // place in the timer heap, from 1
	at       time.Time // due, as the heap has it
	next     *Call
	prev     *Call
}

// state is where a call is; the table of legal changes is in setStateLocked.
type state uint8

const (
	callNew      state = iota
	callQueued         // in its flow's queue: waits for its turn or for a slot
	callRunning        // at a worker, or Local
	callStopping       // at a worker, which has been told to stop it
	callFinished
)

func (s state) String() string {
	return [...]string{"new", "queued", "running", "stopping", "finished"}[s]
}

// legal says which states may follow which.
var legal = [...][]state{ //nolint:gochecknoglobals // a constant table
	callNew:      {callQueued, callFinished},
	callQueued:   {callRunning, callFinished},
	callRunning:  {callQueued, callStopping, callFinished}, // back to the queue: to be run again
	callStopping: {callFinished},
	callFinished: {},
}

func (c *Call) setStateLocked(to state) {
	if !slices.Contains(legal[c.state], to) {
		panic("pool: a call cannot go from " + c.state.String() + " to " + to.String())
	}
	c.state = to
}

// own makes the call independent of the memory that it was read into.
func (c *Call) own() {
	if c.Owned {
		return
	}
	c.Owned = true
	c.Method = bytes.Clone(c.Method)
	c.Params = bytes.Clone(c.Params)
	m := &c.Meta
	for _, b := range []*[]byte{&m.Session, &m.SessionToken, &m.Pool, &m.Traceparent, &m.App} {
		*b = bytes.Clone(*b)
	}
}

// Handler learns what becomes of a call. Its methods are called in the order Dispatch, Item, Change and Ask as often as
// they happen, Settle, Finish; never two at a time for one call, but for Settle on a deadline or a cancel, which may come
// beside an Item, a Change or an Ask. Finish is called when Settle has returned. None of them may block.
type Handler interface {
	// Dispatch is called under the pool's lock when the call is to go to a worker. It may add to meta and send frames ahead, or say why
	// the call is not to run after all; then it has sent nothing. It must not call the pool.
	Dispatch(to *Target, meta *wire.RequestMeta) *wire.Error
	// Item passes on an item of a stream; payload is borrowed unless owned.
	Item(batch *wire.Batch, payload []byte, owned bool)
	// Change passes on a change frame's payload, borrowed. An error means that the worker has broken the protocol.
	Change(payload []byte) error
	// Ask passes on a request of the worker to the client.
	Ask(batch *wire.Batch, ask *Ask)
	// Settle brings the outcome.
	Settle(batch *wire.Batch, r *Result)
	// Finish says that no worker works on the call any more. usage is what the worker said of it (meta.usage) after it was settled, borrowed; nil where it
	// said nothing, or Settle had it. For a call of a serial flow the handler then ends
	// its turn with Flow.EndTurn, at once or later.
	Finish(batch *wire.Batch, usage []byte)
}

// Meter is a Handler that hears what its call uses while it runs.
type Meter interface {
	// Used is told all that the call has used so far (meta.usage), borrowed. An error stops the call, whose outcome it is.
	Used(usage []byte) *wire.Error
}

// Refused is the outcome of a call that was at no worker.
func Refused(err *wire.Error) *Result {
	return &Result{Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}, Err: err}
}

// Result is the outcome of a call: Err, or Payload.
type Result struct {
	Meta    wire.ResponseMeta
	Payload []byte // borrowed unless Owned
	Owned   bool
	Err     *wire.Error
}
