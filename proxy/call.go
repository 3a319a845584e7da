package proxy

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// call is a client's call in flight: it takes what the pool says of it to the client.
type call struct {
	pool.Call
	conn   *conn
	id     uint64
	since  time.Time
	key    session.Key // of its session; no ID: none
	parent *call       // the call whose request the client answers while it makes this one
	stream *stream     // nil: no stream
}

// request admits a request, or answers it.
func (c *conn) request(batch *wire.Batch, f *wire.Frame, owned bool) {
	var m wire.RequestMeta
	if err := wire.ParseRequestMeta(f.Meta, &m); err != nil {
		if c.taken(f.ID) {
			c.protocolError(batch, f.ID, wire.CodeInvalidFrame, err.Error())
			return
		}
		c.refuse(batch, f.ID, wire.FromError(err))
		return
	}
	k := &call{conn: c, id: f.ID, since: time.Now()}
	if m.TimeoutMS >= 0 {
		k.Deadline = k.since.Add(time.Duration(m.TimeoutMS) * time.Millisecond)
	} else if d := c.server.cfg.DefaultTimeout; d > 0 {
		k.Deadline = k.since.Add(d)
	}
	if m.Session != nil {
		k.key = c.keyOf(string(m.Session), string(m.SessionToken))
	}
	own := c.server.methods[string(f.Method)]
	refused, again := c.enter(k, &m)
	switch {
	case again:
		c.protocolError(batch, f.ID, wire.CodeInvalidFrame, "a request with this id is in flight")
	case refused != nil:
		c.refuse(batch, f.ID, refused)
	case own != nil:
		c.callOwn(batch, own, k, f.Payload)
	default:
		c.submit(batch, k, f, &m, owned)
	}
}

// enter notes the call among those in flight, or says why it cannot be one.
func (c *conn) enter(k *call, m *wire.RequestMeta) (refused *wire.Error, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[k.id] != nil {
		return nil, true
	}
	if len(c.calls) >= c.server.cfg.MaxInFlight {
		return wire.Errorf(wire.CodeQueueFull, "%d calls of this connection are in flight", len(c.calls)).
			With("retry_after_ms", 10).With("limit", c.server.cfg.MaxInFlight), false
	}
	if m.Parent != 0 {
		a := c.asks[m.Parent]
		if a == nil {
			return wire.Errorf(wire.CodeInvalidParams, "meta.parent names no request of the sidecar's that is being answered"), false
		}
		k.parent, k.Nested = a.call, true
		for p := a.call; p != nil && k.key.ID != ""; p = p.parent {
			if p.key == k.key {
				return wire.Errorf(wire.CodeSessionBusy, "a call of session %q waits for this one", k.key.ID), false
			}
		}
	}
	c.calls[k.id] = k
	c.commands++
	return nil, false
}

// submit hands the call to its session or to the pool.
func (c *conn) submit(batch *wire.Batch, k *call, f *wire.Frame, m *wire.RequestMeta, owned bool) {
	if m.Pool != nil && string(m.Pool) != "default" {
		k.Settle(batch, &pool.Result{Err: wire.Errorf(wire.CodeInvalidParams, "no pool %q", m.Pool), Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}})
		return
	}
	k.Method, k.Params, k.Owned, k.Handler = f.Method, f.Payload, owned, k
	k.Meta = wire.RequestMeta{Traceparent: m.Traceparent, App: m.App, RetrySafe: m.RetrySafe}
	if m.Stream > 0 {
		k.stream = newStream(k, m.Stream)
		k.Meta.Stream = k.stream.begin()
	}
	if k.key.ID == "" {
		c.flow.Submit(batch, &k.Call)
		return
	}
	if err := c.server.cfg.Sessions.Submit(batch, k.key, &k.Call); err != nil {
		k.Settle(batch, &pool.Result{Err: wire.FromError(err), Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}})
	}
}

// Dispatch has nothing to add.
func (k *call) Dispatch(*pool.Target, *wire.RequestMeta) {}

// Change does not happen: only calls in a session change one.
func (k *call) Change([]byte) error {
	return wire.Errorf(wire.CodeInvalidFrame, "a change of a call without a session")
}

// Item sends an item of the stream.
func (k *call) Item(batch *wire.Batch, payload []byte, owned bool) {
	if k.stream == nil {
		return
	}
	var scratch [32]byte
	head := wire.AppendItem(scratch[:0], k.id)
	if n := len(head) + len(payload); n > k.conn.maxFrame {
		k.conn.server.cfg.Pool.Cancel(batch, &k.Call, wire.Errorf(wire.CodeFrameTooLarge,
			"an item takes %d bytes, the client receives at most %d", n, k.conn.maxFrame).With("limit", k.conn.maxFrame).With("length", n))
		return
	}
	k.conn.outbox.Append(batch, head, payload, owned)
	k.stream.sent(batch)
}

// Settle answers the client.
func (k *call) Settle(batch *wire.Batch, r *pool.Result) {
	c := k.conn
	if k.stream != nil {
		k.stream.end()
	}
	c.mu.Lock()
	delete(c.calls, k.id)
	cancels := c.asksOfLocked(k)
	c.mu.Unlock()
	c.cancelAsks(batch, cancels)
	c.respond(batch, k.id, r)
}

// Finish has nothing left to do.
func (k *call) Finish(*wire.Batch) {}
