package store

import (
	"fmt"
	"os"
	"time"
)

const (
	copyBytes = 256 << 10 // that are copied beside a group, or at once while nothing waits
	moreFiles = 8         // than the bytes need: each start of a process begins one
	tryAgain  = time.Second
)

func (f *File) current() *segment { return f.segments[len(f.segments)-1] }

// openSegment begins the next file of the journal, with what is needed so that no earlier file has to stay for it: the note, and what
// is damaged. It may be called while there is one to write to, which is then left as it is.
func (f *File) openSegment() error {
	s := &segment{number: f.next, first: f.seq + 1, store: f.store, path: segmentPath(f.dir, f.next)}
	f.next++ // used up in any case: a file that cannot be removed does no harm, since the one after it says where it ends
	out, err := f.opts.open(s.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("session store: %w", err)
	}
	before := f.seq
	f.segments = append(f.segments, s)
	g := newGroup(s.header())
	f.addNote(g)
	for _, k := range f.fresh {
		if k.damage != "" && f.sessions[k.number] == k {
			f.addCopy(g, k)
		}
	}
	if _, err = out.WriteAt(g.buf, 0); err == nil {
		if err = out.Sync(); err == nil {
			err = syncDir(f.dir)
		}
	}
	if err != nil {
		out.Close()
		os.Remove(s.path) //nolint:errcheck // see above
		f.seq, f.segments = before, f.segments[:len(f.segments)-1]
		return fmt.Errorf("session store: %s: %w", s.path, err)
	}
	if f.out != nil {
		f.out.Close()
	}
	f.out, f.fresh = out, nil
	f.onDisk(g)
	f.inForce(g, nil)
	return nil
}

// wantsCopies says whether the oldest segment is to go while it still holds the only copy of a session: then there is twice as much
// as is in force, and more than two segments of it. A byte that is kept is so written about twice.
func (f *File) wantsCopies() bool {
	if f.out == nil || len(f.segments) < 2 || !f.oldestNeeded() || time.Now().Before(f.copyAgain) {
		return false
	}
	many := int64(len(f.segments)) > moreFiles+2*f.total/f.opts.SegmentBytes
	return many || f.total > 2*(f.list.size+f.opts.SegmentBytes)
}

func (f *File) oldestNeeded() bool {
	return f.list.first != nil && (len(f.segments) < 2 || f.list.first.base < f.segments[1].first)
}

// addCopies writes sessions of the oldest segment again, a few at a time: commits are never behind more than that.
func (f *File) addCopies(g *group) {
	if !f.wantsCopies() {
		return
	}
	for k := f.list.first; k != nil && k.base < f.segments[1].first && len(g.buf) < copyBytes && !g.full(); k = k.after {
		f.addCopy(g, k)
	}
}

func (f *File) addCopy(g *group, k *kept) {
	what, body := kindCopy, k.appendTo
	if k.damage != "" {
		report := k.report()
		what, body = kindDamage, report.appendTo
	}
	if seq, err := f.record(g, what, k.number, f.state(g, k.number), body); err == nil {
		g.copies = append(g.copies, copied{k, seq})
	}
}

// inForce puts in memory what is on disk now.
func (f *File) inForce(g *group, ops []op) {
	for _, c := range g.copies {
		f.list.remove(c.kept)
		c.last = c.seq
		f.list.append(c.kept, c.seq)
	}
	for i := range ops {
		if o := &ops[i]; o.seq != 0 {
			f.settle(o)
		}
	}
	for _, w := range g.records {
		if w.number != 0 {
			f.touched[w.number] = w.seq
		}
	}
	if g.noted != 0 {
		clear(f.touched)
		f.from, f.unnoted = g.noted, 0
	}
}

func (f *File) settle(o *op) {
	k := f.sessions[o.number]
	switch o.kind {
	case kindCreate:
		f.keep(o.kept, o.seq)
	case kindChange:
		f.change(k, o.delta, o.seq)
	case kindDelete:
		f.drop(k)
	default:
		f.setLeft(o.left)
	}
}

// housekeep follows a group: it begins a new segment where the one that is written to is full, and removes what nothing needs.
func (f *File) housekeep() {
	if now := time.Now(); f.current().size >= f.opts.SegmentBytes && now.After(f.retry) {
		if err := f.openSegment(); err != nil {
			f.retry = now.Add(tryAgain)
			f.log.Warn("the session store cannot begin another file, and goes on in the old one", "error", err)
		}
	}
	if !f.oldestNeeded() && len(f.segments) > 1 {
		f.retire()
	}
}

// retire removes the oldest segments that no session needs, when that they are not missing is on disk.
func (f *File) retire() {
	n := 1
	for n < len(f.segments)-1 && (f.list.first == nil || f.list.first.base >= f.segments[n+1].first) {
		n++
	}
	start, before := f.start, f.seq
	f.start = f.segments[n].first
	g := newGroup(nil)
	f.addNote(g)
	if err := f.write(g); err != nil {
		f.start, f.seq = start, before
		return
	}
	f.inForce(g, nil)
	f.discard(n)
}

// discard removes the n oldest segments. One that stays is removed at the next start.
func (f *File) discard(n int) {
	for _, s := range f.segments[:n] {
		if err := os.Remove(s.path); err != nil {
			f.log.Warn("the session store cannot remove an old file", "error", err)
		}
		f.total -= s.size
	}
	f.segments = append([]*segment(nil), f.segments[n:]...)
}

// finish writes down what makes the next start's work easier, and, as the last record, that it was the end. The next process's first
// record takes that back.
func (f *File) finish() {
	if f.out == nil {
		return
	}
	g := newGroup(nil)
	before := f.seq
	if len(f.touched) > 0 {
		f.addNote(g)
	}
	if f.leftKnown {
		_, _ = f.record(g, kindEnd, 0, state{}, func(b []byte) []byte { return b }) // an empty body is never too long
	}
	if err := f.write(g); err != nil {
		f.seq = before
	}
}
