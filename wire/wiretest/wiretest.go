// Package wiretest helps the tests of packages that speak wire: a pair of connected sockets, and a peer that reads and
// writes frames as Go values, with code of its own. It knows nothing of what the frames mean.
package wiretest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/wire"
)

// patience is how long a peer waits for a frame before the test fails; no passing test waits that long.
const patience = 20 * time.Second

// Pair returns two connected Unix stream sockets, which are closed with the test.
func Pair(tb testing.TB) (a, b *net.UnixConn) {
	tb.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatalf("making a socketpair: %v", err)
	}
	return conn(tb, fds[0]), conn(tb, fds[1])
}

func conn(tb testing.TB, fd int) *net.UnixConn {
	tb.Helper()
	file := os.NewFile(uintptr(fd), "socketpair")
	c, err := net.FileConn(file) // with a descriptor of its own
	if err = errors.Join(err, file.Close()); err != nil {
		tb.Fatalf("taking over a socket: %v", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		tb.Fatalf("a socketpair became a %T", c)
	}
	tb.Cleanup(func() { _ = uc.Close() }) // the test may have closed it
	return uc
}

// Message is a frame as Go values: integers are int64 or uint64, byte strings []byte, maps map[string]any.
type Message struct {
	Kind    wire.Kind
	ID      uint64
	Method  string
	Meta    map[string]any
	Error   *wire.Error
	Payload any // params, result, item or changes
	Credit  uint32
	Reason  string
}

// Frame encodes the items of one frame, its length prefix included. Items are what msgpack can encode; an item that is
// encoded already is a msgpack.RawMessage.
func Frame(tb testing.TB, items ...any) []byte {
	tb.Helper()
	var buf bytes.Buffer
	buf.Write(make([]byte, 4))
	enc := msgpack.NewEncoder(&buf)
	enc.UseCompactInts(true)
	if err := enc.Encode(items); err != nil {
		tb.Errorf("encoding a frame: %v", err)
	}
	frame := buf.Bytes()
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4)) //nolint:gosec // a test's frame
	return frame
}

// Peer is the other end of a connection, driven by a test. Conn may be used beside it for what breaks the rules.
type Peer struct {
	Conn *net.UnixConn

	tb      testing.TB
	sending sync.Mutex // held while a frame is written
}

// NewPeer makes a peer of conn.
func NewPeer(tb testing.TB, conn *net.UnixConn) *Peer {
	tb.Helper()
	return &Peer{Conn: conn, tb: tb}
}

// Send writes one frame. Any goroutine may call it; what goes wrong fails the test.
func (p *Peer) Send(items ...any) {
	p.tb.Helper()
	p.sending.Lock()
	defer p.sending.Unlock()
	if _, err := p.Conn.Write(Frame(p.tb, items...)); err != nil {
		p.tb.Errorf("sending %v: %v", items, err)
	}
}

// Receive returns the next frame, and ends the test where none comes. The test's goroutine alone may call it.
func (p *Peer) Receive() Message {
	p.tb.Helper()
	if err := p.Conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.tb.Fatalf("receiving: %v", err)
	}
	m, err := p.read()
	if err != nil {
		p.tb.Fatalf("receiving: %v", err)
	}
	return m
}

// ReceiveEnd ends the test where the connection does not end with the next frame.
func (p *Peer) ReceiveEnd() {
	p.tb.Helper()
	if err := p.Conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.tb.Fatalf("receiving: %v", err)
	}
	if m, err := p.read(); !ended(err) {
		p.tb.Fatalf("a connection that should have ended brought %+v, %v", m, err)
	}
}

// Serve calls handle for each frame, in a goroutine that lasts until the connection ends and that the end of the test
// waits for. What it returns is closed when the goroutine ends.
func (p *Peer) Serve(handle func(Message)) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := p.read()
			switch {
			case err == nil:
				handle(m)
			case ended(err):
				return
			default:
				p.tb.Errorf("serving: %v", err)
				return
			}
		}
	}()
	p.tb.Cleanup(func() {
		_ = p.Conn.Close() // the test may have closed it
		<-done
	})
	return done
}

func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET)
}

func (p *Peer) read() (Message, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(p.Conn, prefix[:]); err != nil {
		return Message{}, err //nolint:wrapcheck // tested for by ended
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(p.Conn, body); err != nil {
		return Message{}, fmt.Errorf("a frame of %d bytes was cut off: %w", len(body), err)
	}
	return Decode(body)
}

// Decode reads a body. It does not hold the body to the limits of the protocol.
func Decode(body []byte) (Message, error) {
	dec := msgpack.NewDecoder(bytes.NewReader(body))
	dec.UseLooseInterfaceDecoding(true)
	n, err := dec.DecodeArrayLen()
	if err != nil || n < 1 {
		return Message{}, fmt.Errorf("not a frame: %x", body) //nolint:err113 // for a person who reads a test's output
	}
	var m Message
	if err := dec.Decode(&m.Kind); err != nil {
		return Message{}, fmt.Errorf("the kind of the frame %x: %v", body, err) //nolint:errorlint // its EOF is not the connection's
	}
	layout := [...][]any{
		wire.KindRequest:      {&m.ID, &m.Method, &m.Meta, &m.Payload},
		wire.KindResponse:     {&m.ID, &m.Meta, &m.Error, &m.Payload},
		wire.KindNotification: {&m.Method, &m.Meta, &m.Payload},
		wire.KindItem:         {&m.ID, &m.Meta, &m.Payload},
		wire.KindCancel:       {&m.ID, &m.Reason},
		wire.KindCredit:       {&m.ID, &m.Credit},
		wire.KindChange:       {&m.ID, &m.Payload},
	}
	if int(m.Kind) >= len(layout) || n != 1+len(layout[m.Kind]) {
		return Message{}, fmt.Errorf("a frame of an unknown kind or length: %x", body) //nolint:err113 // likewise
	}
	for i, to := range layout[m.Kind] {
		if err := dec.Decode(to); err != nil {
			return Message{}, fmt.Errorf("item %d of the frame %x: %v", i+1, body, err) //nolint:errorlint // likewise
		}
	}
	return m, nil
}
