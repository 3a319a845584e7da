package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrSlowReader is a peer that lets more wait to be written than the limit, or reads nothing for the write time limit.
var ErrSlowReader = errors.New("the peer does not read what is sent to it")

// Outbox is the one writer of a connection. Frames are appended by any goroutine and written by whoever flushes first;
// only when the socket is full does a goroutine of its own go on. What is appended is sent in order.
type Outbox struct {
	conn    *net.UnixConn
	raw     syscall.RawConn
	limit   int
	timeout time.Duration
	drained func()

	writer sync.WaitGroup

	mu      sync.Mutex // guards what follows
	rested  sync.Cond  // writing has become false
	in      segments   // appended and not yet taken
	size    int        // bytes appended and not yet written
	awaited bool       // drained is to be called when size becomes 0
	writing bool       // somebody writes: what stands under "the writer's" is its own
	ending  bool       // close the connection when all is written
	readOn  bool       // a write that fails does not close it
	err     error      // set once: nothing is appended or written any more

	// The writer's, without the lock.
	out      segments // taken from in
	rest     [][]byte // of out: what is still to be written
	wait     bool     // wait until the socket takes something
	n        int
	writeErr error
	tryOnce  func(fd uintptr) bool // made once: a closure a write would be an allocation a write
}

// NewOutbox makes the outbox of conn. limit bounds the bytes that wait (0: no bound), timeout how long a write may make no progress
// (0: for ever). drained is what Below promises to call, by whoever wrote the last byte and without a lock; it may be nil where
// Below is not used.
func NewOutbox(conn *net.UnixConn, limit int, timeout time.Duration, drained func()) (*Outbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("writing to a connection: %w", err)
	}
	o := &Outbox{conn: conn, raw: raw, limit: limit, timeout: timeout, drained: drained}
	o.rested.L, o.tryOnce = &o.mu, o.tryWrite
	return o, nil
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
	if o.limit > 0 && o.size > 0 && o.size+headerSize+n > o.limit {
		o.failLocked(ErrSlowReader)
		return
	}
	o.size += headerSize + n
	var prefix [headerSize]byte
	binary.BigEndian.PutUint32(prefix[:], uint32(n)) //nolint:gosec // bounded by the frame limit
	o.in.copy(prefix[:])
	o.in.copy(head)
	if owned && len(payload) >= ownFrom {
		o.in.add(payload)
	} else {
		o.in.copy(payload)
	}
	batch.add(o)
}

// Size is the number of bytes that wait to be written.
func (o *Outbox) Size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size
}

// Below says whether fewer than n bytes wait to be written. Where it says no, drained is called once, when nothing waits any
// more, unless the connection ends first.
func (o *Outbox) Below(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size < n || o.err != nil {
		return true
	}
	o.awaited = true
	return false
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
	all := o.flushLocked()
	o.unlock(all)
}

// flushLocked says whether it has written all that waited.
func (o *Outbox) flushLocked() (all bool) {
	if o.writing || o.err != nil {
		return false
	}
	if all = o.writeLocked(false); !all {
		o.writer.Go(o.writeRest)
	}
	return all
}

// writeRest goes on where the socket was full, until nothing waits.
func (o *Outbox) writeRest() {
	o.mu.Lock()
	o.writeLocked(true)
	o.unlock(true)
}

// unlock releases the lock, and where all has been written tells whom Below has promised it to.
func (o *Outbox) unlock(all bool) {
	tell := all && o.awaited && o.err == nil
	if tell {
		o.awaited = false
	}
	o.mu.Unlock()
	if tell {
		o.drained()
	}
}

// writeLocked writes until nothing waits, and releases the lock while it writes. Without wait it returns false where the socket
// is full, and the right to write passes on to the caller.
func (o *Outbox) writeLocked(wait bool) (all bool) {
	o.writing = true
	for o.size > 0 && o.err == nil {
		if len(o.rest) == 0 {
			o.out.reset()
			o.in, o.out = o.out, o.in
			o.rest = o.out.list
		}
		o.mu.Unlock()
		n, err := o.write(wait)
		o.mu.Lock()
		if o.err != nil {
			break
		}
		o.size -= n
		if err != nil {
			o.brokeLocked(err)
		} else if len(o.rest) > 0 && !wait {
			return false
		}
	}
	o.out.reset()
	o.rest = nil
	if wait && o.timeout > 0 {
		_ = o.conn.SetWriteDeadline(time.Time{}) // a closed connection says so at the next write
	}
	if o.ending && o.err == nil {
		o.failLocked(net.ErrClosed)
	}
	o.writing = false
	o.rested.Broadcast()
	return true
}

// write writes rest: as much as the socket takes at once, and with wait at least something.
func (o *Outbox) write(wait bool) (int, error) {
	if wait && o.timeout > 0 {
		if err := o.conn.SetWriteDeadline(time.Now().Add(o.timeout)); err != nil {
			return 0, fmt.Errorf("setting a write deadline: %w", err)
		}
	}
	o.wait, o.n, o.writeErr = wait, 0, nil
	err := o.raw.Write(o.tryOnce)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The kernel calls a socket writable only when most of it is free: the peer may have read some.
		_ = o.conn.SetWriteDeadline(time.Time{}) // a closed connection says so below
		o.wait = false
		if err = o.raw.Write(o.tryOnce); err == nil && o.writeErr == nil && o.n == 0 {
			return 0, ErrSlowReader
		}
	}
	switch {
	case err != nil:
		return o.n, fmt.Errorf("writing frames: %w", err)
	case o.writeErr != nil:
		return o.n, fmt.Errorf("writing frames: %w", o.writeErr)
	}
	return o.n, nil
}

// tryWrite is what the poller calls: false means that the socket is full and has taken nothing.
func (o *Outbox) tryWrite(fd uintptr) bool {
	for len(o.rest) > 0 {
		var n int
		var err error
		if len(o.rest) == 1 {
			n, err = writeNow(fd, o.rest[0])
		} else {
			n, err = writev(fd, o.rest)
		}
		switch {
		case err == nil:
			o.n += n
			o.rest = consume(o.rest, n)
		case errors.Is(err, syscall.EAGAIN):
			return o.n > 0 || !o.wait
		case !errors.Is(err, syscall.EINTR):
			o.writeErr = err
			return true
		}
	}
	return true
}

// Fail closes the connection at once; what waits is dropped.
func (o *Outbox) Fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failLocked(err)
}

// failLocked keeps the first reason.
func (o *Outbox) failLocked(err error) {
	o.dropLocked(err)
	_ = o.conn.Close() // its reader learns of it
}

func (o *Outbox) dropLocked(err error) (first bool) {
	if o.err != nil {
		return false
	}
	if o.err = err; err == nil {
		o.err = net.ErrClosed
	}
	o.in.reset()
	o.size = 0
	return true
}

// ReadOn has a write that fails leave the connection open for a moment: what the peer had sent before it went is still read.
func (o *Outbox) ReadOn() {
	o.mu.Lock()
	o.readOn = true
	o.mu.Unlock()
}

// lastReads is how long a peer that takes nothing any more is read from: what it had sent is there, and so, as a rule, is its end.
const lastReads = time.Second

// brokeLocked notes that the peer takes nothing any more.
func (o *Outbox) brokeLocked(err error) {
	if !o.readOn {
		o.failLocked(err)
	} else if o.dropLocked(err) {
		_ = o.conn.SetReadDeadline(time.Now().Add(lastReads)) // one that is closed is not read from
	}
}

// End closes the connection when what waits has been written, and takes nothing more.
func (o *Outbox) End() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ending = true
	if o.size == 0 && !o.writing {
		o.failLocked(net.ErrClosed)
		return
	}
	o.flushLocked()
}

// Wait returns when nobody writes any more. The connection must be closed or closing, or be told to End.
func (o *Outbox) Wait() {
	o.mu.Lock()
	for o.writing {
		o.rested.Wait()
	}
	o.mu.Unlock()
	o.writer.Wait()
}
