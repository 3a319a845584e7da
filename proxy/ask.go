package proxy

import (
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// asking is a worker's request that this client has been sent and has to answer.
type asking struct {
	call *call
	ask  *pool.Ask
}

// Ask sends a worker's request to the client, or to the sidecar with the client's rights.
func (k *call) Ask(batch *wire.Batch, ask *pool.Ask) {
	if m := k.conn.server.asked[string(ask.Method)]; m != nil {
		m(batch, k.conn.caller(k), ask.Params, func(b *wire.Batch, result any, err error) {
			var payload []byte
			if err == nil {
				payload, err = wire.Marshal(result)
			}
			ask.Answer(b, payload, true, err)
		})
		return
	}
	if err := k.conn.ask(batch, k, ask); err != nil {
		ask.Answer(batch, nil, true, err)
	}
}

// ask notes the request and sends it in one step, so that it never follows its own cancel.
func (c *conn) ask(batch *wire.Batch, k *call, ask *pool.Ask) *wire.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.calls[k.id] != k {
		return wire.Errorf(wire.CodeCancelled, "the call that asks has ended")
	}
	id := c.lastAsk + 1
	var scratch [256]byte
	head := wire.AppendRequest(scratch[:0], id, ask.Method, &wire.RequestMeta{TimeoutMS: ask.TimeoutMS, Call: k.id})
	if n := len(head) + len(ask.Params); n > c.maxFrame {
		return wire.Errorf(wire.CodeFrameTooLarge, "the request takes %d bytes, the client receives at most %d", n, c.maxFrame).
			With("limit", c.maxFrame).With("length", n)
	}
	c.lastAsk = id
	if c.asks == nil {
		c.asks = make(map[uint64]*asking)
	}
	c.asks[id] = &asking{call: k, ask: ask}
	ask.Cancelled = func(b *wire.Batch) { c.cancelAsk(b, id) }
	c.outbox.Append(batch, head, ask.Params, false)
	return nil
}

// answered takes the client's response to a worker's request back.
func (c *conn) answered(batch *wire.Batch, f *wire.Frame, owned bool) {
	c.mu.Lock()
	a := c.asks[f.ID]
	delete(c.asks, f.ID)
	if a == nil {
		c.ignored++
	}
	c.mu.Unlock()
	if a == nil {
		return
	}
	if f.Error == nil {
		a.ask.Answer(batch, f.Payload, owned, nil)
		return
	}
	var e wire.Error
	if err := wire.Unmarshal(f.Error, &e); err != nil {
		e = *wire.Errorf(wire.CodeInvalidFrame, "the client's error cannot be read: %v", err)
	}
	a.ask.Answer(batch, nil, true, &e)
}

// takeAsksLocked takes out the requests that serve a call which has ended: no answer to them means anything any more. Their ids
// are not used again.
func (c *conn) takeAsksLocked(k *call) map[uint64]*pool.Ask {
	var taken map[uint64]*pool.Ask
	for id, a := range c.asks {
		if a.call != k {
			continue
		}
		if taken == nil {
			taken = make(map[uint64]*pool.Ask)
		}
		taken[id] = a.ask
		delete(c.asks, id)
	}
	return taken
}

func (c *conn) cancelAsk(batch *wire.Batch, id uint64) {
	var scratch [64]byte
	c.outbox.Append(batch, wire.AppendCancel(scratch[:0], id, "the call that asks has ended"), nil, false)
}
