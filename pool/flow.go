package pool

import "github.com/dspex/dspex-sidecar/wire"

// Flow is a queue of calls whose order is kept: a session's, whose calls take turns, or a connection's. Fair turns and
// shares go by owner, then by flow.
type Flow struct {
	pool   *Pool
	owner  *owner
	serial bool // one call at a time, read-only ones beside each other

	// Guarded by Pool.mu.
	head, tail *Call
	waiting    int
	submitted  uint64
	running    int  // calls at workers
	shared     bool // read-only calls may run beside each other
	readers    int  // read-only calls whose turn it is
	writer     bool
	pin        *Worker
	stays      bool    // it was moved by hand, and is not to spread pins
	moveTo     *Worker // where its pin goes when its turn has ended; no turn begins before
	turn       flowTurn
	dead       *wire.Error // what new calls are told; set by Close
	suspect    bool        // it may have killed a worker
	deaths     int         // of workers, that it alone may have caused
	lost       *wire.Error // it did: its calls are refused
}

// owner groups the flows of one user of the pool.
type owner struct {
	name    string
	flows   int
	waiting int
	shares  shares[*Flow]
}

// NewFlow makes a flow for one owner. In a serial flow calls take turns, and go to the worker that the flow is pinned to.
func (p *Pool) NewFlow(ownerName string, serial bool) *Flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.owners[ownerName]
	if o == nil {
		o = &owner{name: ownerName}
		p.owners[ownerName] = o
	}
	o.flows++
	return &Flow{pool: p, owner: o, serial: serial, turn: flowTurn{weight: 1}}
}

// SetWeight gives the flow n turns, 1 to 100, for each that a flow of weight 1 and the same owner has, where both wait for a slot. It has them one after the other.
func (f *Flow) SetWeight(n int) {
	f.pool.mu.Lock()
	f.turn.weight = min(max(n, 1), maxWeight)
	f.pool.mu.Unlock()
}

// Worker is the id of the worker that the flow is pinned to; empty where it is not.
func (f *Flow) Worker() string {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	if f.pin == nil || f.pin.state == workerDead {
		return ""
	}
	return f.pin.id
}

// Waiting is the number of its calls that wait, and whether one is at a worker.
func (f *Flow) Waiting() (waiting int, running bool) {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return f.waiting, f.busyLocked()
}

// busyLocked says whether a call has the turn in a serial flow.
func (f *Flow) busyLocked() bool { return f.writer || f.readers > 0 }

// inFlightLocked counts the calls of a serial flow that wait or have their turn.
func (f *Flow) inFlightLocked() int {
	n := f.waiting + f.readers
	if f.writer {
		n++
	}
	return n
}

// Close settles the calls that wait in the flow with reason, stops those that run, and refuses new ones.
func (f *Flow) Close(batch *wire.Batch, reason *wire.Error) {
	p := f.pool
	p.mu.Lock()
	if f.dead != nil {
		p.unlock(batch)
		return
	}
	f.dead = reason
	for f.head != nil {
		p.failLocked(f.head, reason)
	}
	if f.running > 0 {
		for _, w := range p.workers {
			for _, c := range w.calls {
				if c.flow == f {
					p.stopLocked(c, reason, true, batch)
				}
			}
		}
	}
	f.unpinLocked()
	f.moveTo = nil
	if f.owner.flows--; f.owner.flows == 0 {
		delete(p.owners, f.owner.name)
	}
	p.unlock(batch)
}

// EndTurn ends the turn of a call of a serial flow, after Handler.Finish or when its Local is done.
func (f *Flow) EndTurn(batch *wire.Batch, c *Call) {
	p := f.pool
	p.mu.Lock()
	local := c.state == callRunning && c.Local != nil
	if local {
		p.endLocked(c, false)
	}
	f.endTurnLocked(c)
	p.offerLocked(f, batch)
	p.unlock(batch)
	if local {
		p.closeOne()
	}
}

// Share says whether read-only calls run beside each other from now on. Before the first time, every call takes its turn alone.
func (f *Flow) Share(on bool) {
	f.pool.mu.Lock()
	f.shared = on
	f.pool.mu.Unlock()
}

func (f *Flow) beginTurnLocked(c *Call) {
	c.inTurn = true
	f.pool.open.Add(1)
	if c.reader = f.shared && c.readOnly(c.method); c.reader {
		f.readers++
	} else {
		f.writer = true
	}
}

func (f *Flow) endTurnLocked(c *Call) {
	if !c.inTurn { // it failed before its turn came
		return
	}
	c.inTurn = false
	if c.reader {
		f.readers--
	} else {
		f.writer = false
	}
	f.moveLocked()
	if f.pool.open.Add(-1) == 0 && f.pool.draining.Load() {
		f.pool.changedLocked()
	}
}

// readOnly says whether a call of method m may run beside others of its flow.
func (c *Call) readOnly(m *Method) bool { return c.Local == nil && !c.writes && m != nil && m.ReadOnly }

// readyLocked says whether the first waiting call may go: its turn has come.
func (f *Flow) readyLocked() bool {
	switch {
	case f.head == nil:
		return false
	case !f.serial || !f.busyLocked():
		return true
	default:
		return f.shared && !f.writer && f.moveTo == nil && f.head.readOnly(f.pool.methods[string(f.head.Method)])
	}
}

// pushLocked puts a call in its place by number: a new one is the last, one that comes back is before all that came after it.
func (f *Flow) pushLocked(c *Call) {
	f.waiting++
	f.owner.waiting++
	f.pool.waiting++
	f.owner.shares.add(f, 1)
	f.pool.shares.add(f.owner, 1)
	c.prev = f.tail
	if c.prev != nil && c.prev.number > c.number {
		c.next = f.head
		for c.next.number < c.number {
			c.next = c.next.next
		}
		c.prev = c.next.prev
	}
	if c.prev != nil {
		c.prev.next = c
	} else {
		f.head = c
	}
	if c.next != nil {
		c.next.prev = c
	} else {
		f.tail = c
	}
}

// dropLocked takes a call out that will not be sent. Where it was the one that the flow waited for a slot for, the flow leaves,
// or waits in the same place for the next.
func (f *Flow) dropLocked(c *Call) {
	first := f.head == c
	f.removeLocked(c)
	switch {
	case !first || f.turn.in == nil:
	case !f.readyLocked() || f.head.Local != nil:
		f.leaveLocked()
	default:
		f.pool.startCheckoutLocked(f.head)
	}
}

func (f *Flow) removeLocked(c *Call) {
	f.waiting--
	f.owner.waiting--
	f.pool.waiting--
	f.owner.shares.add(f, -1)
	f.pool.shares.add(f.owner, -1)
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		f.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		f.tail = c.prev
	}
	c.next, c.prev = nil, nil
	if f.head == nil { // it saves nothing up
		f.turn.left = 0
	}
}
