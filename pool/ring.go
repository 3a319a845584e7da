package pool

// ring holds the flows that wait for a slot, in fair turns: owners take turns, and within an owner its flows do. A worker fills its slots
// from two rings at once, that of the flows which are pinned to it and that of the others; so that nobody has more turns for standing in one
// and not in the other, an owner or a flow that comes to the end of its turns gets a number there, and the lowest is next.
type ring struct {
	first, last *ringOwner // in turn order
	byName      map[*owner]*ringOwner
}

// ringOwner is an owner with flows in a ring.
type ringOwner struct {
	owner      *owner
	turn       uint64 // when it came to the end
	head, tail *Flow
	next, prev *ringOwner
}

func (r *ring) empty() bool { return r.first == nil }

// push puts a flow at the end of its owner's turns. It must be in no ring.
func (r *ring) push(f *Flow, turn uint64) {
	o := r.byName[f.owner]
	if o == nil {
		if r.byName == nil {
			r.byName = make(map[*owner]*ringOwner)
		}
		o = &ringOwner{owner: f.owner}
		r.byName[f.owner] = o
		r.append(o, turn)
	}
	f.ring, f.ringTurn, f.prevInRing = r, turn, o.tail
	if o.tail == nil {
		o.head = f
	} else {
		o.tail.nextInRing = f
	}
	o.tail = f
}

// remove takes f out, wherever it stands.
func (r *ring) remove(f *Flow) {
	o := r.byName[f.owner]
	if f.prevInRing == nil {
		o.head = f.nextInRing
	} else {
		f.prevInRing.nextInRing = f.nextInRing
	}
	if f.nextInRing == nil {
		o.tail = f.prevInRing
	} else {
		f.nextInRing.prevInRing = f.prevInRing
	}
	f.nextInRing, f.prevInRing, f.ring = nil, nil, nil
	if o.head == nil {
		delete(r.byName, o.owner)
		r.unlink(o)
	}
}

// next is the flow whose turn it is in two rings together; nil where both are empty. It stays where it is.
func next(a, b *ring) *Flow {
	o := a.first
	if o == nil || b.first != nil && b.first.turn < o.turn {
		o = b.first
	}
	if o == nil {
		return nil
	}
	f := (*Flow)(nil)
	for _, r := range []*ring{a, b} {
		if in := r.byName[o.owner]; in != nil && (f == nil || in.head.ringTurn < f.ringTurn) {
			f = in.head
		}
	}
	return f
}

// toEnd moves an owner that had its turn to the end, if it is still there.
func (r *ring) toEnd(o *owner, turn uint64) {
	if in := r.byName[o]; in != nil {
		r.unlink(in)
		r.append(in, turn)
	}
}

func (r *ring) append(o *ringOwner, turn uint64) {
	o.turn, o.prev, o.next = turn, r.last, nil
	if r.last == nil {
		r.first = o
	} else {
		r.last.next = o
	}
	r.last = o
}

func (r *ring) unlink(o *ringOwner) {
	if o.prev == nil {
		r.first = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		r.last = o.prev
	} else {
		o.next.prev = o.prev
	}
}
