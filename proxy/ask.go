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

// Ask sends a worker's request to the client.
func (k *call) Ask(batch *wire.Batch, ask *pool.Ask) {
	c := k.conn
	c.mu.Lock()
	gone := c.closed || c.calls[k.id] != k
	var id uint64
	if !gone {
		c.lastAsk++
		id = c.lastAsk
		if c.asks == nil {
			c.asks = make(map[uint64]*asking)
		}
		c.asks[id] = &asking{call: k, ask: ask}
	}
	c.mu.Unlock()
	if gone {
		ask.Answer(batch, nil, true, wire.Errorf(wire.CodeCancelled, "the call that asks has ended"))
		return
	}
	ask.Cancelled = func(b *wire.Batch) { c.cancelAsks(b, []uint64{id}) }
	var scratch [256]byte
	meta := wire.RequestMeta{TimeoutMS: ask.TimeoutMS, Call: k.id}
	c.outbox.Append(batch, wire.AppendRequest(scratch[:0], id, ask.Method, &meta), ask.Params, false)
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

// asksOfLocked are the requests that serve a call. They stay in flight until the client answers.
func (c *conn) asksOfLocked(k *call) []uint64 {
	var ids []uint64
	for id, a := range c.asks {
		if a.call == k {
			ids = append(ids, id)
		}
	}
	return ids
}

func (c *conn) cancelAsks(batch *wire.Batch, ids []uint64) {
	for _, id := range ids {
		var scratch [64]byte
		c.outbox.Append(batch, wire.AppendCancel(scratch[:0], id, "the call that asks has ended"), nil, false)
	}
}
