package wire

import (
	"slices"
	"time"
)

// Batch collects the outboxes that one goroutine has appended to while it handled what it had read, so that each gets
// one write. The zero value is ready.
type Batch struct {
	dirty []*Outbox
	since time.Time
}

// maxWait is how long a frame waits for others of its batch.
const maxWait = 200 * time.Microsecond

func (b *Batch) add(o *Outbox) {
	if slices.Contains(b.dirty, o) {
		return
	}
	if len(b.dirty) == 0 {
		b.since = time.Now()
	}
	b.dirty = append(b.dirty, o)
}

// Flush writes all that the batch holds. No lock that an outbox's owner needs may be held.
func (b *Batch) Flush() {
	for i, o := range b.dirty {
		o.Flush()
		b.dirty[i] = nil
	}
	b.dirty = b.dirty[:0]
}

// FlushIfDue writes when the oldest frame of the batch has waited long enough.
func (b *Batch) FlushIfDue() {
	if len(b.dirty) > 0 && time.Since(b.since) > maxWait {
		b.Flush()
	}
}
