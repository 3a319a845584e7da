package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	bufferSize = 64 << 10
	// ownFrom is the length from which a body is read into memory of its own, so that its payload can be passed on
	// without a copy.
	ownFrom = 32 << 10
	// growFrom bounds what a length prefix alone makes the reader allocate; longer bodies grow as their bytes come.
	growFrom = 2 << 20
	// lookAt holds the widest encodings of a frame's array header, its kind and its id.
	lookAt = 5 + 9 + 9
)

// buffers holds what readers and outboxes use while bytes are on their way; an idle connection holds none.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }} //nolint:gochecknoglobals // a cache without state

// ErrFrameTimeout is a frame that stayed incomplete for too long.
var ErrFrameTimeout = errors.New("a frame stayed incomplete beyond the frame time limit")

// TooLongError is a frame over the limit. The reader passes over the rest of it at its next call.
type TooLongError struct {
	Length uint32
	Limit  uint32
	Head   []byte // its first bytes, enough for kind and id
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("a frame of %d bytes, where at most %d are taken", e.Length, e.Limit)
}

// RequestID is the id of the request that the frame is; 0 where it is none or the id cannot be read.
func (e *TooLongError) RequestID() uint64 {
	kind, id := e.Subject()
	if kind != KindRequest {
		return 0
	}
	return id
}

// Subject is the kind of the frame and its id; KindUnknown and 0 where they cannot be read.
func (e *TooLongError) Subject() (Kind, uint64) {
	h, err := headerAt(e.Head, 0)
	if err != nil || h.class != classArray {
		return KindUnknown, 0
	}
	p := parser{b: e.Head, pos: h.size}
	kind, ok := p.uint()
	if !ok || kind >= uint64(kinds) {
		return KindUnknown, 0
	}
	if Kind(kind) == KindNotification {
		return KindNotification, 0
	}
	id, ok := p.uint()
	if !ok || id > MaxID {
		return KindUnknown, 0
	}
	return Kind(kind), id
}

// Reader splits a connection into bodies. One goroutine uses it.
type Reader struct {
	conn    *net.UnixConn
	raw     syscall.RawConn
	max     uint32
	timeout time.Duration
	absurd  uint64 // lengths over it are refused; 0: none is

	buf   *[bufferSize]byte // nil while idle
	r, w  int               // buf[r:w] has been read and not yet returned
	skip  int               // bytes of an overlong frame still to be passed over
	until time.Time         // of Until; zero: none
	timed bool              // a deadline is set, for a frame that has begun

	readOnce func(fd uintptr) bool // made once: a closure a read would be an allocation a read
	dst      []byte
	n        int
	err      error
}

// NewReader makes a reader. A body is at most limit bytes; one that has begun must be complete within timeout (0: no limit).
func NewReader(conn *net.UnixConn, limit int, timeout time.Duration) (*Reader, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reading from a connection: %w", err)
	}
	r := &Reader{conn: conn, raw: raw, max: uint32(limit), timeout: timeout} //nolint:gosec // configured, below 4 GiB
	r.readOnce = r.tryRead
	return r, nil
}

// Refuse makes a length over this one break the framing, at once: no frame of the other side's can be so long, and to read past it might take
// for ever. Without it, as many bytes are awaited as say which call the frame is for.
func (r *Reader) Refuse(over int) { r.absurd = uint64(over) } //nolint:gosec // not negative

// Until bounds all reading from now on by an instant, whatever the time limit of a frame would allow; the zero time takes
// that back. It is called between frames.
func (r *Reader) Until(t time.Time) error {
	r.until, r.timed = t, false
	return r.setDeadline(t)
}

func (r *Reader) setDeadline(t time.Time) error {
	if err := r.conn.SetReadDeadline(t); err != nil {
		return fmt.Errorf("setting a read deadline: %w", err)
	}
	return nil
}

// Next returns the next body. Where owned is false, the body is valid until the next call. Errors: io.EOF between frames,
// *TooLongError (reading can go on), ErrStructure, ErrFrameTimeout, or what the connection says.
func (r *Reader) Next() (body []byte, owned bool, err error) {
	if err := r.passOver(); err != nil {
		return nil, false, err
	}
	if err := r.need(headerSize); err != nil {
		return nil, false, err
	}
	length := binary.BigEndian.Uint32(r.buf[r.r:])
	switch {
	case length == 0:
		return nil, false, structure("a frame of length 0")
	case r.absurd > 0 && uint64(length) > r.absurd:
		return nil, false, structure(fmt.Sprintf("a length of %d bytes, where frames of at most %d are taken", length, r.max))
	case length > r.max:
		return nil, false, r.tooLong(length)
	case length >= ownFrom:
		body, err := r.large(int(length))
		return body, true, err
	}
	if err := r.need(headerSize + int(length)); err != nil {
		return nil, false, err
	}
	body = r.buf[r.r+headerSize : r.r+headerSize+int(length)]
	r.r += headerSize + int(length)
	r.settled()
	return body, false, nil
}

// Ready says whether Next has a whole frame and will not read.
func (r *Reader) Ready() bool {
	if r.skip > 0 || r.w-r.r < headerSize {
		return false
	}
	length := binary.BigEndian.Uint32(r.buf[r.r:])
	if length > r.max {
		length = min(length, lookAt)
	}
	return length < ownFrom && r.w-r.r >= headerSize+int(length)
}

// need reads until n bytes stand in the buffer.
func (r *Reader) need(n int) error {
	for r.w-r.r < n {
		if r.r == r.w {
			r.r, r.w = 0, 0
		}
		if r.buf != nil && r.r > 0 && r.r+n > bufferSize {
			r.w = copy(r.buf[:], r.buf[r.r:r.w])
			r.r = 0
		}
		var dst []byte
		if r.w > 0 {
			dst = r.buf[r.w:]
		} else if r.buf != nil {
			buffers.Put(r.buf)
			r.buf = nil
		}
		m, err := r.read(dst)
		if err != nil {
			return err
		}
		r.w += m
	}
	return nil
}

// large reads a body into memory of its own.
func (r *Reader) large(length int) ([]byte, error) {
	body := make([]byte, min(length, growFrom))
	have := copy(body, r.buf[r.r+headerSize:r.w])
	r.r = min(r.w, r.r+headerSize+have)
	for have < length {
		if have == len(body) {
			body = append(body, make([]byte, min(length-have, have))...)
		}
		n, err := r.read(body[have:])
		if err != nil {
			return nil, err
		}
		have += n
	}
	r.settled()
	return body, nil
}

func (r *Reader) tooLong(length uint32) error {
	n := min(int(length), lookAt)
	if err := r.need(headerSize + n); err != nil {
		return err
	}
	head := append([]byte(nil), r.buf[r.r+headerSize:r.r+headerSize+n]...)
	r.r += headerSize + n
	r.skip = int(length) - n
	return &TooLongError{Length: length, Limit: r.max, Head: head}
}

func (r *Reader) passOver() error {
	for r.skip > 0 {
		if r.r == r.w {
			if err := r.need(1); err != nil {
				return err
			}
		}
		n := min(r.skip, r.w-r.r)
		r.r += n
		if r.skip -= n; r.skip == 0 {
			r.settled()
		}
	}
	return nil
}

// read reads once. With no dst it waits without a buffer and takes one when bytes are there.
func (r *Reader) read(dst []byte) (int, error) {
	begun := dst != nil || r.skip > 0
	if begun && !r.timed && r.timeout > 0 {
		r.timed = true
		limit := time.Now().Add(r.timeout)
		if !r.until.IsZero() && r.until.Before(limit) {
			limit = r.until
		}
		if err := r.setDeadline(limit); err != nil {
			return 0, err
		}
	}
	r.dst, r.n, r.err = dst, 0, nil
	err := r.raw.Read(r.readOnce)
	r.dst = nil // an idle reader holds no body
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, ErrFrameTimeout
	case err != nil:
		return 0, fmt.Errorf("reading a frame: %w", err)
	case r.err != nil:
		return 0, fmt.Errorf("reading a frame: %w", r.err)
	case r.n == 0 && begun:
		return 0, io.ErrUnexpectedEOF
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// tryRead is what the poller calls: false means that nothing is there yet.
func (r *Reader) tryRead(fd uintptr) bool {
	borrowed := r.dst == nil
	if borrowed {
		r.buf, _ = buffers.Get().(*[bufferSize]byte)
		r.dst = r.buf[:]
	}
	for {
		n, err := readNow(fd, r.dst)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if errors.Is(err, syscall.EAGAIN) {
			if borrowed {
				buffers.Put(r.buf)
				r.buf, r.dst = nil, nil
			}
			return false
		}
		r.n, r.err = max(n, 0), err
		return true
	}
}

// settled takes the deadline back when a frame is complete.
func (r *Reader) settled() {
	if r.timed {
		r.timed = false
		_ = r.setDeadline(r.until) // a closed connection says so at the next read
	}
}

// Release gives the buffer back; the reader is not used again.
func (r *Reader) Release() {
	if r.buf != nil {
		buffers.Put(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	}
}
