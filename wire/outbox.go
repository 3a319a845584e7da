package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSlowReader is a peer that lets more wait to be written than the limit, or reads nothing for the write time limit.
var ErrSlowReader = errors.New("the peer does not read what is sent to it")

// writePiece is the most that one write of the blocking path sends, so that its deadline measures progress.
const writePiece = 256 << 10

// Outbox is the one writer of a connection. Frames are appended by any goroutine and written by whoever flushes first;
// only when the socket is full does a goroutine of its own go on. What is appended is sent in order.
type Outbox struct {
	conn    *net.UnixConn
	raw     syscall.RawConn
	limit   int
	timeout time.Duration

	writer  sync.WaitGroup
	drained func() // called, without the lock, when the outbox has become empty after having been full

	mu      sync.Mutex // guards what follows
	pending [][]byte   // segments to write; the last one may be appended to where tail is not nil
	tail    *[bufferSize]byte
	used    []*[bufferSize]byte // buffers under pending
	size    int                 // bytes appended and not yet written
	writing bool                // somebody writes
	ending  bool                // close the connection when all is written
	err     error               // set once: nothing is appended or written any more
}

// NewOutbox makes the outbox of conn. limit bounds the bytes that wait (0: no bound), timeout how long a write may make no progress
// (0: for ever). drained may be nil.
func NewOutbox(conn *net.UnixConn, limit int, timeout time.Duration, drained func()) (*Outbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("writing to a connection: %w", err)
	}
	return &Outbox{conn: conn, raw: raw, limit: limit, timeout: timeout, drained: drained}, nil
}

// Append adds a frame of head and payload to what is to be sent, and o to the batch, whose owner flushes it. A payload
// whose memory nobody reuses (owned) is sent from where it is when it is large.
func (o *Outbox) Append(batch *Batch, head, payload []byte, owned bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || o.ending {
		return
	}
	n := len(head) + len(payload)
	if o.limit > 0 && o.size > 0 && o.size+n > o.limit {
		o.failLocked(ErrSlowReader)
		return
	}
	o.size += n + headerSize
	var prefix [headerSize]byte
	binary.BigEndian.PutUint32(prefix[:], uint32(n)) //nolint:gosec // bounded by the frame limit
	o.copyLocked(prefix[:])
	o.copyLocked(head)
	if owned && len(payload) >= ownFrom {
		o.pending = append(o.pending, payload)
		o.tail = nil
	} else {
		o.copyLocked(payload)
	}
	batch.add(o)
}

func (o *Outbox) copyLocked(b []byte) {
	for len(b) > 0 {
		if o.tail == nil || len(o.pending[len(o.pending)-1]) == bufferSize {
			o.tail, _ = buffers.Get().(*[bufferSize]byte)
			o.used = append(o.used, o.tail)
			o.pending = append(o.pending, o.tail[:0])
		}
		last := &o.pending[len(o.pending)-1]
		n := min(len(b), bufferSize-len(*last))
		*last = append(*last, b[:n]...)
		b = b[n:]
	}
}

// Size is the number of bytes that wait to be written.
func (o *Outbox) Size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size
}

// Err says why the outbox takes nothing any more; nil while it does.
func (o *Outbox) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// Flush writes what it can without waiting and leaves the rest to a goroutine.
func (o *Outbox) Flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || o.err != nil {
		return
	}
	for o.size > 0 {
		o.writing = true
		pending, used := o.takeLocked()
		o.mu.Unlock()
		n, rest, err := o.writeNow(pending)
		o.mu.Lock()
		o.size -= n
		if err != nil || o.err != nil {
			o.writing = false
			o.failLocked(err)
			return
		}
		if len(rest) > 0 {
			o.writer.Go(func() { o.writeRest(rest, used) })
			return
		}
		release(used)
	}
	o.writing = false
	o.endLocked()
}

func (o *Outbox) takeLocked() ([][]byte, []*[bufferSize]byte) {
	pending, used := o.pending, o.used
	o.pending, o.used, o.tail = nil, nil, nil
	return pending, used
}

// writeNow writes as much as the socket takes at once.
func (o *Outbox) writeNow(pending [][]byte) (written int, rest [][]byte, err error) {
	werr := o.raw.Write(func(fd uintptr) bool {
		for len(pending) > 0 {
			var n int
			if len(pending) == 1 {
				n, err = unix.Write(int(fd), pending[0])
			} else {
				n, err = unix.Writev(int(fd), pending[:min(len(pending), 64)])
			}
			if errors.Is(err, unix.EINTR) {
				err = nil
				continue
			}
			if err != nil {
				break
			}
			written += n
			pending = consume(pending, n)
		}
		return true
	})
	switch {
	case werr != nil:
		return written, pending, fmt.Errorf("writing frames: %w", werr)
	case err != nil && !errors.Is(err, unix.EAGAIN):
		return written, pending, fmt.Errorf("writing frames: %w", err)
	}
	return written, pending, nil
}

// writeRest goes on where the socket was full, until nothing waits.
func (o *Outbox) writeRest(rest [][]byte, used []*[bufferSize]byte) {
	for {
		err := o.writeWaiting(rest)
		release(used)
		o.mu.Lock()
		if err != nil || o.err != nil {
			o.writing = false
			o.failLocked(err)
			o.mu.Unlock()
			return
		}
		if o.size == 0 {
			o.writing = false
			o.endLocked()
			o.mu.Unlock()
			if o.drained != nil {
				o.drained()
			}
			return
		}
		rest, used = o.takeLocked()
		o.mu.Unlock()
	}
}

func (o *Outbox) writeWaiting(rest [][]byte) error {
	for len(rest) > 0 {
		if o.timeout > 0 {
			if err := o.conn.SetWriteDeadline(time.Now().Add(o.timeout)); err != nil {
				return fmt.Errorf("setting a write deadline: %w", err)
			}
		}
		piece := rest[0][:min(len(rest[0]), writePiece)]
		n, err := o.conn.Write(piece)
		o.mu.Lock()
		o.size -= n
		o.mu.Unlock()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return ErrSlowReader
			}
			return fmt.Errorf("writing frames: %w", err)
		}
		rest = consume(rest, n)
	}
	return nil
}

// Fail closes the connection at once; what waits is dropped.
func (o *Outbox) Fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failLocked(err)
}

// failLocked keeps the first reason.
func (o *Outbox) failLocked(err error) {
	if o.err != nil {
		return
	}
	o.err = err
	release(o.used)
	o.pending, o.used, o.tail, o.size = nil, nil, nil, 0
	_ = o.conn.Close() // its reader learns of it
}

// End closes the connection when what waits has been written, and takes nothing more.
func (o *Outbox) End() {
	o.mu.Lock()
	o.ending = true
	o.mu.Unlock()
	o.Flush()
}

func (o *Outbox) endLocked() {
	if o.ending && o.err == nil {
		o.err = net.ErrClosed
		_ = o.conn.Close() // its reader learns of it
	}
}

// Wait returns when the outbox's goroutine, if it has one, has ended. The connection must be closed or closing.
func (o *Outbox) Wait() { o.writer.Wait() }

func consume(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

func release(used []*[bufferSize]byte) {
	for _, b := range used {
		buffers.Put(b)
	}
}

// Batch collects the outboxes that one goroutine has appended to while it handled what it had read, so that each gets
// one write. The zero value is ready.
type Batch struct {
	dirty []*Outbox
	since time.Time
}

// maxWait is how long a frame waits for others of its batch.
const maxWait = 200 * time.Microsecond

func (b *Batch) add(o *Outbox) {
	for _, d := range b.dirty {
		if d == o {
			return
		}
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
