package pool

import (
	"fmt"

	"github.com/dspex/dspex-sidecar/wire"
)

// Ask is a request that a worker makes to the client of a call, in flight until it is answered.
type Ask struct {
	Method, Params []byte // borrowed
	TimeoutMS      int64
	// Cancelled is set by the handler: the worker does not want the answer any more. It is called without a lock.
	Cancelled func(batch *wire.Batch)

	worker *Worker
	call   *Call
	id     uint64
}

// asking handles a request of the worker's: to the client of a call, or, where it serves none, to the sidecar.
func (w *Worker) asking(f *wire.Frame, batch *wire.Batch) error {
	var m wire.RequestMeta
	if err := wire.ParseRequestMeta(f.Meta, &m); err != nil {
		return err
	}
	if m.Call == 0 {
		w.askSidecar(f, batch)
		return nil
	}
	p := w.pool
	p.mu.Lock()
	if w.asks[f.ID] != nil {
		p.mu.Unlock()
		return fmt.Errorf("a second request with the id %d", f.ID)
	}
	c := w.calls[m.Call]
	ask := &Ask{Method: f.Method, Params: f.Payload, TimeoutMS: m.TimeoutMS, worker: w, id: f.ID}
	running := c != nil && c.state == callRunning
	if running {
		c.touched, c.asked = true, true
		ask.call = c
		w.asks[f.ID] = ask
	}
	p.mu.Unlock()
	if !running {
		w.answerAsk(batch, f.ID, nil, wire.Errorf(wire.CodeCancelled, "the call that asks has ended"))
		return nil
	}
	c.Handler.Ask(batch, ask)
	return nil
}

// dropAsksLocked answers what is open of the requests that a call made: it has ended, and its client may never answer.
func (w *Worker) dropAsksLocked(c *Call, batch *wire.Batch) {
	for id, ask := range w.asks {
		if ask.call == c {
			delete(w.asks, id)
			w.answerAsk(batch, id, nil, wire.Errorf(wire.CodeCancelled, "the call that asks has ended"))
		}
	}
}

// askSidecar handles what a worker asks by itself: of the pool's own concerns, or in the background.
func (w *Worker) askSidecar(f *wire.Frame, batch *wire.Batch) {
	if string(f.Method) == "call.unsafe" {
		w.answerAsk(batch, f.ID, []byte{0x80}, w.noteUnsafe(f.Payload))
		return
	}
	if w.pool.cfg.Background == nil {
		w.answerAsk(batch, f.ID, nil, wire.Errorf(wire.CodeUnknownMethod, "no method %q for workers", f.Method))
		return
	}
	id := f.ID
	w.pool.cfg.Background(w.id, f.Method, f.Payload, func(b *wire.Batch, result []byte, err error) {
		w.answerAsk(b, id, result, err)
	})
}

// noteUnsafe notes that a call does from now on what may not be done twice. What its client said of it counts for more.
func (w *Worker) noteUnsafe(params []byte) error {
	var p struct {
		Call uint64 `msgpack:"call"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return err
	}
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	if c := w.calls[p.Call]; c != nil {
		c.safe = c.Meta.RetrySafe
	}
	return nil
}

// Answer settles the ask with the client's result, or with an error. Only the first answer counts.
func (a *Ask) Answer(batch *wire.Batch, result []byte, owned bool, err error) {
	p := a.worker.pool
	p.mu.Lock()
	open := a.worker.asks[a.id] == a
	delete(a.worker.asks, a.id)
	p.mu.Unlock()
	if open {
		a.worker.answerAskOwned(batch, a.id, result, owned, err)
	}
}

func (w *Worker) answerAsk(batch *wire.Batch, id uint64, result []byte, err error) {
	w.answerAskOwned(batch, id, result, true, err)
}

func (w *Worker) answerAskOwned(batch *wire.Batch, id uint64, result []byte, owned bool, err error) {
	var scratch [64]byte
	if err == nil {
		w.outbox.Append(batch, wire.AppendResponse(scratch[:0], id, nil), result, owned)
		return
	}
	w.outbox.Append(batch, wire.AppendError(scratch[:0], id, nil, wire.FromError(err)), nil, false)
}

func (w *Worker) cancelAsk(id uint64, batch *wire.Batch) {
	p := w.pool
	p.mu.Lock()
	ask := w.asks[id]
	p.mu.Unlock()
	if ask != nil && ask.Cancelled != nil {
		ask.Cancelled(batch)
	}
}
