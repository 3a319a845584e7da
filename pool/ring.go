package pool

// ring holds the flows that wait for a slot, in fair turns: owners take turns, and within an owner its flows do.
type ring struct {
	owners []*ringOwner // turn order; the first is next
	byName map[*owner]*ringOwner
}

type ringOwner struct {
	owner      *owner
	head, tail *Flow
}

func (r *ring) empty() bool { return len(r.owners) == 0 }

// push puts a flow at the end of its owner's turns. It must be in no ring.
func (r *ring) push(f *Flow) {
	o := r.byName[f.owner]
	if o == nil {
		if r.byName == nil {
			r.byName = make(map[*owner]*ringOwner)
		}
		o = &ringOwner{owner: f.owner}
		r.byName[f.owner] = o
		r.owners = append(r.owners, o)
	}
	if o.head == nil {
		o.head = f
	} else {
		o.tail.nextInRing = f
	}
	o.tail = f
	f.ring = r
}

// pop takes the flow whose turn it is out of the ring, and moves its owner to the end.
func (r *ring) pop() *Flow {
	o := r.owners[0]
	r.owners = r.owners[1:]
	f := o.head
	o.head = f.nextInRing
	f.nextInRing, f.ring = nil, nil
	if o.head == nil {
		delete(r.byName, o.owner)
	} else {
		r.owners = append(r.owners, o)
	}
	return f
}

// remove takes f out, wherever it stands.
func (r *ring) remove(f *Flow) {
	o := r.byName[f.owner]
	var before *Flow
	for at := o.head; at != f; at = at.nextInRing {
		before = at
	}
	if before == nil {
		o.head = f.nextInRing
	} else {
		before.nextInRing = f.nextInRing
	}
	if o.tail == f {
		o.tail = before
	}
	f.nextInRing, f.ring = nil, nil
	if o.head != nil {
		return
	}
	delete(r.byName, o.owner)
	for i, other := range r.owners {
		if other == o {
			r.owners = append(r.owners[:i], r.owners[i+1:]...)
			return
		}
	}
}
