package proxy

import (
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// itemWindow is the credit that a worker has at most: what the client granted beyond it is passed on as items leave.
	itemWindow = 256
	// byteWindow is how much may wait to be written to a client before its streams get no more credit.
	byteWindow = 256 << 10
)

// stream is the credit of one stream: what the client granted and the worker may not use yet, and what the worker has.
type stream struct {
	call *call

	mu    sync.Mutex // guards what follows
	held  uint32     // granted by the client, not yet passed on
	out   uint32     // passed on, not yet used
	stall *time.Timer
	ended bool
}

func newStream(k *call, credit uint32) *stream { return &stream{call: k, held: credit} }

// begin takes the credit that goes with the request.
func (s *stream) begin() uint32 {
	s.out = min(s.held, itemWindow)
	s.held -= s.out
	return s.out
}

// all is the credit that has not been used.
func (s *stream) all() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held + s.out
}

// credit adds what the client grants.
func (k *call) credit(batch *wire.Batch, n uint32) {
	s := k.stream
	s.mu.Lock()
	s.held = uint32(min(uint64(s.held)+uint64(n), wire.MaxCredit))
	if s.stall != nil {
		s.stall.Stop()
	}
	s.mu.Unlock()
	s.topUp(batch)
}

// pass puts an item into the client's outbox, unless the stream has ended: nothing may follow the response, whose id the client
// may have given to another call.
func (s *stream) pass(batch *wire.Batch, head, payload []byte, owned bool) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.call.conn.server.metrics.Sent.Add(len(head) + len(payload))
	s.call.conn.outbox.Append(batch, head, payload, owned)
	if s.out > 0 {
		s.out--
	}
	low := s.out <= itemWindow/2
	if s.out == 0 && s.held == 0 {
		s.watchStallLocked()
	}
	s.mu.Unlock()
	if low {
		s.topUp(batch)
	}
}

// topUp passes credit on, unless the client does not keep up with what is sent to it.
func (s *stream) topUp(batch *wire.Batch) {
	if !s.call.conn.keepsUp(s.call) {
		return
	}
	s.mu.Lock()
	n := min(s.held, itemWindow-min(s.out, itemWindow))
	if s.ended || n == 0 || s.out > itemWindow/2 {
		s.mu.Unlock()
		return
	}
	s.held -= n
	s.out += n
	s.mu.Unlock()
	s.call.pool().Grant(batch, &s.call.Call, n)
}

// watchStallLocked cancels the stream when the client grants nothing for too long.
func (s *stream) watchStallLocked() {
	limit := s.call.conn.server.limits.Load().StreamStall
	if limit <= 0 || s.ended {
		return
	}
	if s.stall != nil {
		s.stall.Reset(limit)
		return
	}
	s.stall = time.AfterFunc(limit, func() {
		s.mu.Lock()
		stalled := !s.ended && s.out == 0 && s.held == 0
		s.mu.Unlock()
		if stalled {
			var batch wire.Batch
			s.call.pool().Cancel(&batch, &s.call.Call,
				wire.Errorf(wire.CodeCancelled, "the stream got no credit for %s", limit))
			batch.Flush()
		}
	})
}

func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.stall != nil {
		s.stall.Stop()
	}
}

// keepsUp says whether little waits to be written. Where much does, the call is looked at again when nothing waits any more.
func (c *conn) keepsUp(k *call) bool {
	if c.outbox.Size() < byteWindow {
		return true
	}
	c.mu.Lock()
	c.stalled[k] = struct{}{} // before it is asked for: drained may be called at once
	c.mu.Unlock()
	if !c.outbox.Below(byteWindow) {
		return false
	}
	c.mu.Lock()
	delete(c.stalled, k)
	c.mu.Unlock()
	return true
}

// drained is called when nothing waits to be written any more, and keepsUp has asked for that.
func (c *conn) drained() {
	c.mu.Lock()
	stalled := c.stalled
	c.stalled = make(map[*call]struct{})
	c.mu.Unlock()
	var batch wire.Batch
	for k := range stalled {
		if k.feeding != nil {
			k.feeding.grant(0)
		} else {
			k.stream.topUp(&batch)
		}
	}
	batch.Flush()
}
