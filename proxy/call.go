package proxy

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// call is a client's call in flight: it takes what the pool says of it to the client.
type call struct {
	pool.Call
	conn    *conn
	id      uint64
	since   time.Time
	key     session.Key     // of its session; no ID: none
	parent  *call           // the call whose request the client answers while it makes this one
	stream  *stream         // nil: no stream
	ticket  *session.Ticket // its part in a call with an idempotency key; nil: it has none; guarded by conn.mu
	feeding *feeding        // of a stream of the sidecar's own; nil: it is none; guarded by conn.mu
	size    int             // of its request; guarded by conn.mu, 0 once the call is finished
	timed   bool            // its deadline is its caller's, and not the default
	detach  bool            // it is to be a run that goes on when its client leaves
	apart   bool            // the pool of runs serves it; guarded by conn.mu
	run     *runs.Run       // which it follows; nil: none; guarded by conn.mu
	count   *metrics.Method // nil: its method was not known when it came, and is name
	name    string
}

// maxApp is how long meta.app may be: with what the sidecar adds, the head that a worker gets has to stay within its limit.
const maxApp = wire.MaxHead - 2<<10

// request admits a request, or answers it.
func (c *conn) request(batch *wire.Batch, f *wire.Frame, owned bool) {
	var m wire.RequestMeta
	err := wire.ParseRequestMeta(f.Meta, &m)
	if err == nil && len(m.App) > maxApp {
		err = wire.Errorf(wire.CodeInvalidFrame, "\"app\" in meta takes %d bytes, and may take %d", len(m.App), maxApp)
	}
	if err != nil && c.taken(f.ID) {
		c.protocolError(batch, f.ID, wire.CodeInvalidFrame, err.Error())
		return
	}
	if err != nil {
		c.refuse(batch, f.ID, wire.FromError(err))
		return
	}
	k := &call{conn: c, id: f.ID, since: time.Now(), size: len(f.Method) + len(f.Meta) + len(f.Payload), timed: m.TimeoutMS >= 0, detach: m.Detach}
	if k.timed {
		k.Deadline = k.since.Add(time.Duration(m.TimeoutMS) * time.Millisecond)
	} else if d := c.server.limits.Load().DefaultTimeout; d > 0 {
		k.Deadline = k.since.Add(d)
	}
	if m.Session != nil || m.SessionToken != nil {
		k.key = c.keyOf(string(m.Session), string(m.SessionToken))
	}
	own, isOwn := c.server.methods[string(f.Method)]
	k.count = own.count
	if !isOwn {
		k.countAs(f.Method)
	}
	if c.server.cfg.Events.FramesHeard() {
		k.trace("request", true, len(f.Payload), "method", string(f.Method), "timeout_ms", m.TimeoutMS, "stream", m.Stream)
	}
	refused, again := c.enter(k, &m, isOwn)
	switch {
	case again:
		c.protocolError(batch, f.ID, wire.CodeInvalidFrame, "a request with this id is in flight")
	case refused != nil:
		k.counted(refused, &noTimes)
		c.refuse(batch, f.ID, refused)
	case isOwn && m.Stream == 0 && own.feed != nil:
		k.end(batch, wire.Errorf(wire.CodeInvalidParams, "%s streams: call it with meta.stream", f.Method))
	case isOwn && m.Stream > 0 && own.feed == nil:
		k.end(batch, wire.Errorf(wire.CodeInvalidParams, "%s does not stream: call it without meta.stream", f.Method))
	case isOwn && m.IdempotencyKey != nil:
		k.end(batch, wire.Errorf(wire.CodeInvalidParams, "%s takes no idempotency key", f.Method))
	case isOwn && own.feed != nil:
		c.feed(own.feed, k, f.Payload, m.Stream, m.TimeoutMS >= 0)
	case isOwn:
		c.callOwn(batch, own, k, f.Payload)
	default:
		c.submit(batch, k, f, &m, owned)
	}
}

// enter notes the call among those in flight, or says why it cannot be one. What the sidecar itself answers is served to the end.
func (c *conn) enter(k *call, m *wire.RequestMeta, own bool) (refused *wire.Error, again bool) {
	limits := c.server.limits.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[k.id] != nil {
		return nil, true
	}
	if limits != c.limits && !limits.admits(c.uid) {
		return wire.Errorf(wire.CodePermissionDenied, "uid %d may not connect any more: see listen.allow_uids", c.uid), false
	}
	if c.leaving && m.Parent == 0 && !own {
		return wire.Errorf(wire.CodeDraining, "the sidecar is ending"), false
	}
	if len(c.calls) >= c.limits.MaxInFlight {
		return wire.Errorf(wire.CodeQueueFull, "%d calls of this connection are in flight", len(c.calls)).
			With("retry_after_ms", 10).With("limit", c.limits.MaxInFlight), false
	}
	if limit := max(limits.MaxInFlightBytes, c.limits.MaxFrame); c.bytes+k.size > limit {
		return wire.Errorf(wire.CodeQueueFull, "calls of this connection hold %d bytes; with this one's %d there are more than %d (listen.max_in_flight_bytes)",
			c.bytes, k.size, limit).With("retry_after_ms", 10).With("limit", limit), false
	}
	if limit := limits.MaxInFlightUID; limit > 0 && c.ofUID.Load() >= int64(limit) {
		return wire.Errorf(wire.CodeQueueFull, "%d calls of uid %d are in flight (listen.max_in_flight_uid)", limit, c.uid).
			With("retry_after_ms", 10).With("limit", limit), false
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
	c.ofUID.Add(1)
	c.bytes += k.size
	c.commands++
	return nil, false
}

// submit hands the call to its session or to the pool.
func (c *conn) submit(batch *wire.Batch, k *call, f *wire.Frame, m *wire.RequestMeta, owned bool) {
	if m.Pool != nil && string(m.Pool) != "default" {
		k.end(batch, wire.Errorf(wire.CodeInvalidParams, "no pool %q", m.Pool))
		return
	}
	k.Method, k.Params, k.Owned, k.Handler = f.Method, f.Payload, owned, k
	k.Connection, k.Request = c.id, k.id
	k.Meta = wire.RequestMeta{Traceparent: m.Traceparent, App: m.App, RetrySafe: m.RetrySafe}
	if m.Stream > 0 {
		k.stream = newStream(k, m.Stream)
		k.Meta.Stream = k.stream.begin()
	}
	sessions := c.server.cfg.Sessions
	var err error
	switch {
	case c.server.cfg.Runs != nil && c.server.cfg.Pool.Apart(f.Method):
		err = c.submitRun(batch, k, m.IdempotencyKey != nil)
	case k.detach && c.server.cfg.Pool.Methods() != nil:
		err = wire.Errorf(wire.CodeInvalidParams, "meta.detach is for methods that have a process of their own")
	case m.IdempotencyKey != nil:
		err = c.submitOnce(batch, k, string(m.IdempotencyKey))
	case k.key.ID == "":
		err = sessions.SubmitFree(batch, c.owner, c.flow, &k.Call)
	default:
		err = sessions.Submit(batch, k.key, c.owner, &k.Call)
	}
	if err != nil {
		k.end(batch, wire.FromError(err))
	}
}

// submitOnce hands in a call that has an idempotency key.
func (c *conn) submitOnce(batch *wire.Batch, k *call, idempotencyKey string) error {
	if k.stream != nil {
		return wire.Errorf(wire.CodeInvalidParams, "a stream takes no idempotency key: what it has sent cannot be sent again")
	}
	ticket, err := c.server.cfg.Sessions.SubmitOnce(batch, k.key, c.owner, idempotencyKey, &k.Call)
	c.mu.Lock()
	k.ticket = ticket
	c.mu.Unlock()
	return err
}

// cancel stops the call. A client that is gone has its calls stopped as well, but for those that it can ask for again.
func (k *call) cancel(batch *wire.Batch, why *wire.Error, gone bool) {
	k.conn.mu.Lock()
	ticket, feeding, run := k.ticket, k.feeding, k.run
	k.conn.mu.Unlock()
	if run != nil && !gone {
		run.Cancel(batch, why)
		return
	}
	if feeding != nil {
		feeding.stop(why.With("ended_by", "task"))
		return
	}
	if ticket != nil {
		ticket.Leave(batch, why, !gone)
		return
	}
	k.pool().Cancel(batch, &k.Call, why)
}

// pool is the one that the call is in.
func (k *call) pool() *pool.Pool {
	k.conn.mu.Lock()
	defer k.conn.mu.Unlock()
	if k.apart {
		return k.conn.server.cfg.Runs.Pool()
	}
	return k.conn.server.cfg.Pool
}

// end settles and finishes a call that never came to the pool.
func (k *call) end(batch *wire.Batch, err *wire.Error) {
	k.Settle(batch, pool.Refused(err))
	k.Finish(batch, nil)
}

// Dispatch has nothing to add.
func (k *call) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error { return nil }

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
		k.pool().Cancel(batch, &k.Call, wire.Errorf(wire.CodeFrameTooLarge,
			"an item takes %d bytes, the client receives at most %d", n, k.conn.maxFrame).With("limit", k.conn.maxFrame).With("length", n))
		return
	}
	k.conn.server.metrics.Items.Inc()
	k.trace("item", false, len(payload))
	k.stream.pass(batch, head, payload, owned)
}

// Settle answers the client.
func (k *call) Settle(batch *wire.Batch, r *pool.Result) {
	c := k.conn
	if r.Err == pool.ErrOwnProcess && c.server.cfg.Runs != nil {
		k.again(batch)
		return
	}
	k.counted(r.Err, &r.Meta)
	if c.server.cfg.Events.FramesHeard() {
		code := "ok"
		if r.Err != nil {
			code = string(r.Err.Code)
		}
		k.trace("response", false, len(r.Payload), "code", code, "worker", r.Meta.Worker, "queue_us", r.Meta.QueueUS, "run_us", r.Meta.RunUS)
	}
	if k.stream != nil {
		k.stream.end()
	}
	c.ofUID.Add(-1)
	c.mu.Lock()
	delete(c.calls, k.id)
	asks := c.takeAsksLocked(k)
	for id := range asks {
		c.cancelAsk(batch, id)
	}
	c.respond(batch, k.id, r) // under the lock: with the last call gone the connection may be ended by another goroutine
	last := c.ending && len(c.calls) == 0
	c.mu.Unlock()
	for _, ask := range asks {
		ask.Answer(batch, nil, true, wire.Errorf(wire.CodeCancelled, "the call that asks has ended"))
	}
	if last {
		c.outbox.End()
	}
}

// Finish gives back what the call held: until now a worker may have been working on it, settled or not.
func (k *call) Finish(*wire.Batch, []byte) {
	c := k.conn
	c.mu.Lock()
	c.bytes -= k.size
	k.size = 0
	c.mu.Unlock()
}
