// Package events owns who hears of what happens in the sidecar: a hub with readers that never hold up whoever tells. It knows no
// event's meaning, and writes to nobody.
package events

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Event is something that happened. Whoever gets it does not change it.
type Event struct {
	Kind   string // "worker", "session", "reload", "health", "pool", "run", "frame"
	Owner  string // of the session, or run, that it is about; "" where it is about none
	Topic  string // what readers may choose by, beside the kind; for a frame its session
	Fields map[string]any
	Public map[string]any // what those are told of it who are no administrators; nil: all of Fields
}

// For is what a reader is told of it.
func (e *Event) For(admin bool) map[string]any {
	if admin || e.Public == nil {
		return e.Fields
	}
	return e.Public
}

// Hub passes events on. The zero Hub is ready; a nil one has no readers.
type Hub struct {
	count  atomic.Int32 // of readers
	frames atomic.Int32 // of those that want frames

	mu      sync.Mutex // guards what follows
	readers map[*Reader]struct{}
}

// Heard says whether anybody reads: where nobody does, an event need not be made.
func (h *Hub) Heard() bool { return h != nil && h.count.Load() > 0 }

// FramesHeard says whether anybody reads frames, of which there are many.
func (h *Hub) FramesHeard() bool { return h != nil && h.frames.Load() > 0 }

// Publish tells the readers. It never waits, and may be called under any lock but those of a reader's filter.
func (h *Hub) Publish(e Event) {
	if !h.Heard() {
		return
	}
	now := time.Now()
	for _, fields := range []*map[string]any{&e.Fields, &e.Public} {
		if _, timed := (*fields)["at"]; *fields != nil && !timed {
			whole := make(map[string]any, len(*fields)+2)
			maps.Copy(whole, *fields)
			whole["event"], whole["at"] = e.Kind, now
			*fields = whole
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		if r.wants(&e) {
			r.put(e)
		}
	}
}

// Reader gets the events that it wants. One goroutine reads.
type Reader struct {
	hub    *Hub
	wants  func(*Event) bool
	frames bool
	queue  chan Event
	lost   atomic.Uint64
	onLost func()
}

// Read makes a reader, for which so many events wait at most. wants is called with each event, quickly and without locks of its own; frames says whether
// it may want any; onLost is called with each event that is lost. Close ends it.
func (h *Hub) Read(limit int, frames bool, wants func(*Event) bool, onLost func()) *Reader {
	r := &Reader{hub: h, wants: wants, frames: frames, queue: make(chan Event, limit), onLost: onLost}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers == nil {
		h.readers = make(map[*Reader]struct{})
	}
	h.readers[r] = struct{}{}
	h.count.Add(1)
	if frames {
		h.frames.Add(1)
	}
	return r
}

func (r *Reader) put(e Event) {
	select {
	case r.queue <- e:
	default:
		r.lost.Add(1)
		r.onLost()
	}
}

// Events gives the events in their order.
func (r *Reader) Events() <-chan Event { return r.queue }

// Lost is how many events were lost since it was asked last.
func (r *Reader) Lost() uint64 { return r.lost.Swap(0) }

// Close ends the reader.
func (r *Reader) Close() {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if _, open := r.hub.readers[r]; !open {
		return
	}
	delete(r.hub.readers, r)
	r.hub.count.Add(-1)
	if r.frames {
		r.hub.frames.Add(-1)
	}
}
