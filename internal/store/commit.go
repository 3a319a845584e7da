package store

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	maxGroup   = 4 << 20 // bytes after which a group takes no more operations
	maxRecords = tailSlots / 4
	noteEvery  = 1 << 20 // bytes of the journal
	maxBackoff = 5 * time.Second
)

// group is what is written and synced at once: it is in force as a whole, or not at all.
type group struct {
	buf     []byte
	records []written
	states  map[uint64]state // sessions, as they will be when what is in buf is in force
	spent   map[uint64]*op   // changes that are not in buf yet, of nothing but what a session has spent: a newer one takes their place
	copies  []copied
	noted   uint64 // the sequence number of its note
}

func newGroup(buf []byte) *group {
	return &group{buf: buf, states: map[uint64]state{}, spent: map[uint64]*op{}}
}

// state is what the next record of a session has to follow from.
type state struct {
	there         bool
	damage        string
	version, last uint64
}

// written is a record of a group.
type written struct{ seq, number uint64 }

// copied is a session of which the group holds all.
type copied struct {
	*kept

	seq uint64
}

func (g *group) full() bool {
	return len(g.buf) >= maxGroup || len(g.records)+len(g.spent) >= maxRecords
}

// run is the committer.
func (f *File) run() {
	defer close(f.finished)
	var waiting []op
	for {
		if len(waiting) == 0 {
			var closed bool
			if waiting, closed = f.take(); len(waiting) == 0 && !f.wantsCopies() {
				if closed {
					f.finish()
					return
				}
				<-f.wake
				continue
			}
		}
		waiting = waiting[f.round(waiting):]
	}
}

func (f *File) take() (ops []op, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops, f.queue = f.queue, nil
	return ops, f.closed
}

// round settles as many operations as fit into one group, and returns how many.
func (f *File) round(ops []op) int {
	if err := f.writable(); err != nil {
		for i := range ops {
			f.end(&ops[i], err)
		}
		return len(ops)
	}
	before := f.seq
	g := newGroup(f.buf[:0])
	f.addCopies(g)
	n := 0
	for n < len(ops) && !g.full() {
		f.add(g, &ops[n])
		n++
	}
	f.addSpent(g)
	if f.unnoted > noteEvery || len(f.touched) > tailSlots/4 {
		f.addNote(g)
	}
	err := f.write(g)
	if err != nil {
		f.seq, f.copyAgain = before, time.Now().Add(tryAgain)
	} else {
		f.inForce(g, ops[:n])
	}
	for i := range ops[:n] {
		f.end(&ops[i], err)
	}
	if err == nil {
		f.housekeep()
	}
	return n
}

// end tells of an operation's outcome: why it failed, or why its group did.
func (f *File) end(o *op, err error) {
	if o.err == nil {
		o.err = err
	}
	if o.kind == kindLeft {
		f.leftKnown = o.err == nil
	}
	o.done(o.err)
}

// state is a session as it is when the group is in force.
func (f *File) state(g *group, number uint64) state {
	s, known := g.states[number]
	if k := f.sessions[number]; !known && k != nil {
		s = state{there: true, damage: k.damage, version: k.version, last: k.last}
	}
	return s
}

// add encodes an operation, or finds out why it cannot be.
func (f *File) add(g *group, o *op) {
	s := f.state(g, o.number)
	switch o.kind {
	case kindCreate:
		if s.there {
			o.err = fmt.Errorf("session store: session %d is there already", o.number)
			return
		}
		o.kept = f.sealer.keep(o.record)
		before := len(g.buf)
		o.seq, o.err = f.record(g, kindCreate, o.number, state{there: true, version: o.kept.version}, o.kept.appendTo)
		o.kept.size = len(g.buf) - before
	case kindChange:
		if o.err = s.expected(o.change); o.err != nil {
			return
		}
		o.delta = f.sealer.change(o.change)
		if o.change.onlySpent() {
			g.spent[o.number] = o
			return
		}
		f.addSpentOf(g, o.number)
		f.addChange(g, o)
	case kindDelete:
		if !s.there {
			return
		}
		f.addSpentOf(g, o.number)
		o.seq, o.err = f.record(g, kindDelete, o.number, f.state(g, o.number), func(b []byte) []byte { return b })
		g.states[o.number] = state{}
	default:
		f.addSpent(g)
		o.seq, o.err = f.record(g, kindLeft, 0, state{}, func(b []byte) []byte { return appendLefts(b, o.left) })
	}
}

func (f *File) addChange(g *group, o *op) {
	s := f.state(g, o.number)
	if v := o.change.Version; v != 0 {
		s.version = v
	}
	o.seq, o.err = f.record(g, kindChange, o.number, s, o.delta.appendTo)
}

// addSpentOf encodes the newest of what a session has spent.
func (f *File) addSpentOf(g *group, number uint64) {
	if o := g.spent[number]; o != nil {
		delete(g.spent, number)
		f.addChange(g, o)
	}
}

func (f *File) addSpent(g *group) {
	for _, number := range slices.Sorted(maps.Keys(g.spent)) {
		f.addSpentOf(g, number)
	}
}

func (s *state) expected(c *Change) error {
	switch {
	case !s.there:
		return fmt.Errorf("session store: session %d is not there", c.Number)
	case s.damage != "":
		return fmt.Errorf("session store: session %d is damaged: %s", c.Number, s.damage)
	case c.Version != 0 && c.Expected != s.version:
		return fmt.Errorf("session store: session %d is at version %d, and a change of version %d came", c.Number, s.version, c.Expected)
	}
	return nil
}

// onlySpent says whether the change is of nothing but what was spent, of which the newest is all there is to keep.
func (c *Change) onlySpent() bool {
	return c.Spent != nil && c.Version == 0 && !c.Reset && !c.Started &&
		len(c.Set)+len(c.Delete)+len(c.Secrets)+len(c.Answers)+len(c.Forget) == 0
}

// record adds one to the group. It follows from after.last, and the session, where it is of one, is as after says then.
func (f *File) record(g *group, what kind, number uint64, after state, body func([]byte) []byte) (seq uint64, err error) {
	begin := len(g.buf)
	at := begin + recordHeader
	s := f.current()
	b := body(append(g.buf, make([]byte, recordHeader)...))
	h := head{kind: what, seq: f.seq + 1, number: number, prev: after.last, synced: f.seq - uint64(len(g.records))}
	if err := finishRecord(b, at, s.number, s.size+int64(begin), h); err != nil {
		return 0, fmt.Errorf("session store: session %d: %w", number, err)
	}
	g.buf = b
	f.seq++
	g.records = append(g.records, written{f.seq, number})
	if number != 0 {
		after.last = f.seq
		g.states[number] = after
	}
	return f.seq, nil
}

func (f *File) addNote(g *group) {
	n := note{start: f.start, from: f.from, touched: maps.Clone(f.touched)}
	for _, w := range g.records {
		if w.number != 0 {
			n.touched[w.number] = w.seq
		}
	}
	g.noted, _ = f.record(g, kindNote, 0, state{}, n.appendTo)
}

// write makes the group durable. Where it cannot, nothing of it is left to be read.
func (f *File) write(g *group) error {
	if len(g.buf) == 0 {
		return nil
	}
	s := f.current()
	_, err := f.out.WriteAt(g.buf, s.size)
	if err == nil {
		if err = f.out.Sync(); err == nil {
			f.onDisk(g)
			return nil
		}
		// What is on disk is not known after a failed sync, and another sync would not tell.
		f.giveUp(err)
	} else if undo := f.cut(); undo != nil {
		f.giveUp(undo)
	}
	return fmt.Errorf("session store: %s: %w", s.path, err)
}

// onDisk counts the group.
func (f *File) onDisk(g *group) {
	f.current().size += int64(len(g.buf))
	f.total += int64(len(g.buf))
	f.unnoted += int64(len(g.buf))
	if cap(g.buf) <= 2*maxGroup {
		f.buf = g.buf
	}
	if err := f.tail.note(g.records); err != nil {
		f.log.Warn("the session store cannot note what is on disk: a cut of its journal would not be noticed", "error", err)
	}
}

// cut removes what was written and is not in force.
func (f *File) cut() error {
	if err := f.out.Truncate(f.current().size); err != nil {
		return err
	}
	return f.out.Sync()
}

// giveUp leaves the segment; the next one says where this one ends.
func (f *File) giveUp(why error) {
	s := f.current()
	f.log.Error("the session store cannot write; it goes on in another file when it can", "file", s.path, "error", why)
	if err := f.out.Truncate(s.size); err != nil {
		f.log.Error("the session store cannot remove what failed", "file", s.path, "error", err)
	}
	f.out.Close()
	f.out, f.failed, f.backoff, f.retry = nil, why, 0, time.Time{}
}

// writable tries again after a failure, at growing intervals.
func (f *File) writable() error {
	if f.out != nil {
		return nil
	}
	now := time.Now()
	if now.After(f.retry) {
		if err := f.openSegment(); err != nil {
			f.failed, f.backoff = err, min(max(2*f.backoff, 50*time.Millisecond), maxBackoff)
			f.retry = now.Add(f.backoff)
		} else {
			f.log.Info("the session store can write again", "file", f.current().path)
			f.failed = nil
			return nil
		}
	}
	return fmt.Errorf("session store: it could not write, and tries again soon: %w", f.failed)
}
