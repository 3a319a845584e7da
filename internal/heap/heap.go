// Package heap owns a priority queue whose items know their place in it, so that any of them can be moved or taken out.
// It has no lock and no clock: those are its users'.
package heap

import (
	"iter"
	"slices"
)

// Heap holds items in no order but for the first, which no other is less than. Make it with New.
type Heap[T any] struct {
	less  func(a, b T) bool
	place func(T) *int
	items []T
}

// New makes an empty heap. place points to where an item keeps its place: from 1, and 0 while it is in no heap. An item is in
// one heap at most, and nobody else writes its place.
func New[T any](less func(a, b T) bool, place func(T) *int) Heap[T] {
	return Heap[T]{less: less, place: place}
}

// Len is the number of items.
func (h *Heap[T]) Len() int { return len(h.items) }

// First is the least item; the zero T where there is none.
func (h *Heap[T]) First() (t T) {
	if len(h.items) > 0 {
		t = h.items[0]
	}
	return t
}

// All gives the items, in no order. The heap is not changed meanwhile.
func (h *Heap[T]) All() iter.Seq[T] { return slices.Values(h.items) }

// Put adds an item, or finds its new place after it has changed.
func (h *Heap[T]) Put(t T) {
	at := *h.place(t)
	if at == 0 {
		h.items = append(h.items, t)
		at = len(h.items)
		*h.place(t) = at
	}
	h.settle(at - 1)
}

// Remove takes an item out, if it is in.
func (h *Heap[T]) Remove(t T) {
	at := *h.place(t) - 1
	if at < 0 {
		return
	}
	*h.place(t) = 0
	var none T
	last := len(h.items) - 1
	moved := h.items[last]
	h.items[last] = none // not held on to
	h.items = h.items[:last]
	if at < last {
		h.set(at, moved)
		h.settle(at)
	}
}

func (h *Heap[T]) set(i int, t T) {
	h.items[i] = t
	*h.place(t) = i + 1
}

// settle moves the item at i up or down to where it belongs.
func (h *Heap[T]) settle(i int) {
	t := h.items[i]
	for i > 0 && h.less(t, h.items[(i-1)/2]) {
		h.set(i, h.items[(i-1)/2])
		i = (i - 1) / 2
	}
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		if !h.less(h.items[child], t) {
			break
		}
		h.set(i, h.items[child])
		i = child
	}
	h.set(i, t)
}
