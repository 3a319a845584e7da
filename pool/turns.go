package pool

import "github.com/dspex/dspex-sidecar/internal/heap"

// maxWeight is the most turns that a flow has for one of another.
const maxWeight = 100

// turns holds the flows that wait for a slot, in fair turns: owners take turns, and within an owner its flows do, each as many at a time as
// its weight says (deficit round robin; a call costs one). A worker fills its slots from two of these at once, that of the flows which are pinned to it and
// that of the others; so that nobody has more for standing in one and not in the other, an owner or a flow that comes to the end of its turns gets
// a number, higher than all before it in the pool, and the lowest is next. docs/adr/0012 says why.
type turns struct {
	owners  heap.Heap[*turnOwner]
	byOwner map[*owner]*turnOwner
	spare   *turnOwner  // one that has left, to be used again
	left    func(*Flow) // is told of each flow that leaves; nil: nobody is
}

// turnOwner is an owner with flows that wait.
type turnOwner struct {
	owner  *owner
	number uint64 // drawn when it came to the end
	place  int
	flows  heap.Heap[*Flow]
}

// flowTurn is a flow's place in its turns. It keeps it until it has had as many calls sent as its weight says, or has none that waits.
type flowTurn struct {
	weight int
	in     *turns // nil where it has nothing that waits for a slot
	number uint64 // drawn when it came to the end
	left   int    // calls to be sent before it goes to the end again; 0: number means nothing
	place  int
}

func newTurns() turns {
	return turns{
		owners:  heap.New(func(a, b *turnOwner) bool { return a.number < b.number }, func(o *turnOwner) *int { return &o.place }),
		byOwner: make(map[*owner]*turnOwner),
	}
}

func (t *turns) empty() bool { return t.owners.Len() == 0 }

// push lets a flow wait, which does nowhere. number is for who comes to the end with that.
func (t *turns) push(f *Flow, number uint64) {
	o := t.byOwner[f.owner]
	if o == nil {
		if o, t.spare = t.spare, nil; o == nil {
			o = &turnOwner{flows: heap.New(func(a, b *Flow) bool { return a.turn.number < b.turn.number }, func(f *Flow) *int { return &f.turn.place })}
		}
		o.owner, o.number = f.owner, number
		t.byOwner[f.owner] = o
		t.owners.Put(o)
	}
	f.turn.in = t
	if f.turn.left == 0 {
		f.turn.number, f.turn.left = number, f.turn.weight
	}
	o.flows.Put(f)
}

// leaveLocked takes a flow out, if it waits.
func (f *Flow) leaveLocked() {
	t := f.turn.in
	if t == nil {
		return
	}
	f.turn.in = nil
	o := t.byOwner[f.owner]
	o.flows.Remove(f)
	if o.flows.Len() == 0 {
		delete(t.byOwner, o.owner)
		t.owners.Remove(o)
		o.owner, t.spare = nil, o
	}
	if t.left != nil {
		t.left(f)
	}
}

// next is the flow whose turn it is in both together; nil where both are empty. It stays where it is.
func next(a, b *turns) (f *Flow) {
	o := a.owners.First()
	if other := b.owners.First(); o == nil || other != nil && other.number < o.number {
		o = other
	}
	if o == nil {
		return nil
	}
	for _, t := range []*turns{a, b} {
		if in := t.byOwner[o.owner]; in != nil && (f == nil || in.flows.First().turn.number < f.turn.number) {
			f = in.flows.First()
		}
	}
	return f
}

// take is next, and lets the flow have its turn: it leaves, and its owner goes to the end.
func take(a, b *turns, number uint64) *Flow {
	f := next(a, b)
	if f != nil {
		hadTurn(f, a, b, number)
	}
	return f
}

// hadTurn lets a flow that waits have its turn out of order.
func hadTurn(f *Flow, a, b *turns, number uint64) {
	f.leaveLocked()
	f.turn.left--
	for _, t := range []*turns{a, b} {
		if in := t.byOwner[f.owner]; in != nil {
			in.number = number
			t.owners.Put(in)
		}
	}
}
