package store

import (
	"fmt"
	"maps"
	"time"
)

const (
	maxGroup   = 4 << 20 // bytes after which a group takes no more operations
	maxRecords = tailSlots / 4
	noteEvery  = 1 << 20 // bytes of the journal
	maxBackoff = 5 * time.Second
)

// group is what is written and synced at once. A session is in it once, so that what is written follows from what is in force.
type group struct {
	buf      []byte
	records  []written
	sessions map[uint64]bool
	copies   []copied
	noted    uint64 // the sequence number of its note
}

// written is a record of a group.
type written struct{ seq, number uint64 }

// copied is a session of which the group holds all.
type copied struct {
	*kept

	seq uint64
}

func (g *group) full() bool { return len(g.buf) >= maxGroup || len(g.records) >= maxRecords }

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
		for _, o := range ops {
			o.done(err)
		}
		return len(ops)
	}
	before := f.seq
	g := &group{sessions: map[uint64]bool{}, buf: f.buf[:0]}
	f.addCopies(g)
	n := 0
	for n < len(ops) && !g.full() && !g.sessions[ops[n].number] {
		f.add(g, &ops[n])
		n++
	}
	if f.unnoted > noteEvery || len(f.touched) > tailSlots/4 {
		f.addNote(g)
	}
	err := f.write(g)
	if err != nil {
		f.seq, f.copyAgain = before, time.Now().Add(tryAgain)
	} else {
		f.inForce(g, ops[:n])
	}
	for _, o := range ops[:n] {
		if o.err == nil {
			o.err = err
		}
		o.done(o.err)
	}
	if err == nil {
		f.housekeep()
	}
	return n
}

// add encodes an operation, or finds out why it cannot be.
func (f *File) add(g *group, o *op) {
	k := f.sessions[o.number]
	switch o.kind {
	case kindCreate:
		if k != nil {
			o.err = fmt.Errorf("session store: session %d is there already", o.number)
			return
		}
		o.kept = f.sealer.keep(o.record)
		before := len(g.buf)
		o.seq, o.err = f.record(g, kindCreate, o.kept, o.kept.appendTo)
		o.kept.size = len(g.buf) - before
	case kindChange:
		if o.err = f.expected(k, o.change); o.err != nil {
			return
		}
		o.delta = f.sealer.change(o.change)
		o.seq, o.err = f.record(g, kindChange, k, o.delta.appendTo)
	case kindDelete:
		if k == nil {
			return
		}
		o.seq, o.err = f.record(g, kindDelete, k, func(b []byte) []byte { return b })
	default:
		o.seq, o.err = f.record(g, kindLeft, &kept{}, func(b []byte) []byte { return appendLefts(b, o.left) })
	}
}

func (f *File) expected(k *kept, c *Change) error {
	switch {
	case k == nil:
		return fmt.Errorf("session store: session %d is not there", c.Number)
	case k.damage != "":
		return fmt.Errorf("session store: session %d is damaged: %s", c.Number, k.damage)
	case c.Version != 0 && c.Expected != k.version:
		return fmt.Errorf("session store: session %d is at version %d, and a change of version %d came", c.Number, k.version, c.Expected)
	}
	return nil
}

// record adds one to the group.
func (f *File) record(g *group, what kind, k *kept, body func([]byte) []byte) (seq uint64, err error) {
	begin := len(g.buf)
	at := begin + recordHeader
	s := f.current()
	b := body(append(g.buf, make([]byte, recordHeader)...))
	h := head{kind: what, seq: f.seq + 1, number: k.number, prev: k.last, synced: f.seq - uint64(len(g.records))}
	if err := finishRecord(b, at, s.number, s.size+int64(begin), h); err != nil {
		return 0, fmt.Errorf("session store: session %d: %w", k.number, err)
	}
	g.buf = b
	f.seq++
	g.records = append(g.records, written{f.seq, k.number})
	if k.number != 0 {
		g.sessions[k.number] = true
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
	g.noted, _ = f.record(g, kindNote, &kept{}, n.appendTo)
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
