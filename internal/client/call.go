package client

import (
	"context"
	"errors"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Request is one call.
type Request struct {
	Method  string
	Session string // "" for none
	Params  any    // a map or a struct; nil for none
	Detach  bool   // of a method with a process for each call: it goes on when this connection ends

	// Item asks for a stream and gets its items, in order, in the goroutine of the call. An error of its own cancels the
	// call and becomes the call's error. Nil: no stream.
	Item func(item any) error

	// Meta gets what the sidecar says of the call, with its response, also where that is an error. Nil: nobody asks.
	Meta func(m Meta)
}

// Meta is what the sidecar says of a call that a worker ran.
type Meta struct {
	Worker     string         // "" where none ran it
	Queue, Run time.Duration  // what it waited and ran; -1 where that is not said
	Usage      map[string]any // of LMs; nil where there was none
}

// Call makes a call and returns its result: nil, bool, int64 (uint64 beyond it), float64, string, []byte, time.Time,
// []any or map[string]any. The context's deadline goes to the sidecar with the call; when the context is cancelled the
// call is cancelled there. The sidecar's own verdict is waited for shortly in both cases, so that a call that ended
// nevertheless is reported as it ended. Errors are *wire.Error, or what Item returned.
func (c *Conn) Call(ctx context.Context, r Request) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire.FromError(err)
	}
	k := &call{conn: c, item: r.Item, meta: r.Meta, events: make(chan event, window+1)}
	if err := k.begin(ctx, r); err != nil {
		return nil, err
	}
	defer k.forget()
	for {
		select {
		case e := <-k.events:
			if done, result, err := k.take(e); done {
				return result, err
			}
		case <-c.ended:
			return k.lost()
		case <-ctx.Done():
			return k.giveUp(ctx)
		}
	}
}

// call is one call in flight.
type call struct {
	conn   *Conn
	id     uint64
	item   func(any) error
	meta   func(Meta)
	used   uint32     // items taken whose credit has not been granted again
	events chan event // has room for all that the sidecar may send
}

// event is an item, or with last the outcome.
type event struct {
	value any
	err   error
	last  bool
	meta  Meta // with the last
}

func (k *call) begin(ctx context.Context, r Request) error {
	params := wire.Nil
	if r.Params != nil {
		var err error
		if params, err = wire.Marshal(r.Params); err != nil {
			return wire.Errorf(wire.CodeInvalidParams, "%v", err)
		}
	}
	meta := wire.RequestMeta{TimeoutMS: -1, Detach: r.Detach}
	if deadline, ok := ctx.Deadline(); ok {
		meta.TimeoutMS = max(0, int64((time.Until(deadline)+time.Millisecond-1)/time.Millisecond))
	}
	if r.Session != "" {
		meta.Session = []byte(r.Session)
	}
	if r.Item != nil {
		meta.Stream = window
	}
	c := k.conn
	c.mu.Lock()
	c.last++
	k.id = c.last
	c.calls[k.id] = k
	c.mu.Unlock()
	head := wire.AppendRequest(nil, k.id, []byte(r.Method), &meta)
	if n := len(head) + len(params); n > c.maxFrame {
		k.forget()
		return wire.Errorf(wire.CodeFrameTooLarge, "a request of %d bytes: the sidecar receives at most %d", n, c.maxFrame).
			With("limit", c.maxFrame).With("length", n)
	}
	c.send(head, params)
	return nil
}

// forget leaves the id unused from here on, so that an answer that comes yet reaches no other call.
func (k *call) forget() {
	k.conn.mu.Lock()
	delete(k.conn.calls, k.id)
	k.conn.mu.Unlock()
}

// deliver takes an item or the response from the connection's reader. It never waits.
func (k *call) deliver(f *wire.Frame) error {
	e := event{last: f.Kind == wire.KindResponse}
	if f.Error != nil {
		e.err = remote(f.Error)
	} else if err := wire.Unmarshal(f.Payload, &e.value); err != nil {
		e.err = err
	}
	if e.last && k.meta != nil {
		var err error
		if e.meta, err = metaOf(f.Meta); err != nil {
			return err
		}
	}
	select {
	case k.events <- e:
		return nil
	default:
		return wire.Errorf(wire.CodeInvalidFrame, "the sidecar sent more than was asked for")
	}
}

// metaOf reads the meta of a response.
func metaOf(raw []byte) (Meta, error) {
	var m wire.ResponseMeta
	if err := wire.ParseResponseMeta(raw, &m); err != nil {
		return Meta{}, err
	}
	meta := Meta{Worker: m.Worker, Queue: micros(m.QueueUS), Run: micros(m.RunUS)}
	if m.Usage == nil {
		return meta, nil
	}
	return meta, wire.Unmarshal(m.Usage, &meta.Usage)
}

func micros(n int64) time.Duration {
	if n < 0 {
		return -1
	}
	return time.Duration(n) * time.Microsecond
}

// remote reads the error of a response.
func remote(raw []byte) error {
	var e wire.Error
	if err := wire.Unmarshal(raw, &e); err != nil {
		return wire.Errorf(wire.CodeInvalidFrame, "the error of a response cannot be read: %v", err)
	}
	return &e
}

// take handles one event. Done means that the call is over, by its outcome or because an item cannot be used.
func (k *call) take(e event) (done bool, result any, err error) {
	if e.last && k.meta != nil {
		k.meta(e.meta)
	}
	switch {
	case e.last:
		return true, e.value, e.err
	case e.err != nil:
		err = e.err
	case k.item == nil:
		err = wire.Errorf(wire.CodeInvalidFrame, "the sidecar sent an item to a call that asked for no stream")
	default:
		err = k.item(e.value)
	}
	if err != nil {
		k.cancel("the client cannot use the item")
		return true, nil, err
	}
	if k.used++; k.used >= window/2 {
		k.conn.send(wire.AppendCredit(nil, k.id, k.used), nil)
		k.used = 0
	}
	return false, nil, nil
}

func (k *call) cancel(reason string) { k.conn.send(wire.AppendCancel(nil, k.id, reason), nil) }

// lost is the outcome where the connection ended: what had come before that counts.
func (k *call) lost() (any, error) {
	for {
		select {
		case e := <-k.events:
			if done, result, err := k.take(e); done {
				return result, err
			}
		default:
			return nil, k.conn.err
		}
	}
}

// giveUp is the outcome where the context is done: the sidecar's own, if it comes soon. A deadline passes there too.
func (k *call) giveUp(ctx context.Context) (any, error) {
	deadline := errors.Is(ctx.Err(), context.DeadlineExceeded)
	if !deadline {
		k.cancel("interrupted")
	}
	wait := grace
	if k.id == helloID { // what becomes of it is no outcome that anybody must know
		wait = 0
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case e := <-k.events:
			if done, result, err := k.take(e); done {
				return result, err
			}
		case <-k.conn.ended:
			return k.lost()
		case <-timer.C:
			if deadline {
				k.cancel("the deadline passed")
			}
			return nil, wire.FromError(ctx.Err())
		}
	}
}
