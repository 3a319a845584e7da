package model

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// outcome is what a client knows of a call.
type outcome struct {
	lost  bool // the connection ended before the response
	err   *wire.Error
	value any
}

func (o outcome) String() string {
	switch {
	case o.lost:
		return "connection lost"
	case o.err != nil:
		return fmt.Sprintf("%v %v", o.err, o.err.Details)
	}
	return fmt.Sprintf("%.500q", fmt.Sprint(o.value))
}

func (o outcome) failed(code wire.Code) bool { return o.err != nil && o.err.Code == code }

// link is one connection of a client that sends calls without waiting, so that they arrive in the order in which they were sent.
type link struct {
	t    testing.TB
	conn net.Conn
	name string
	done chan struct{} // closed when reading has ended

	mu      sync.Mutex // guards what follows
	last    uint64
	ended   bool
	waiting map[uint64]chan outcome
}

// dial connects; it fails where no sidecar listens, or that ends before it has said hello.
func dial(t testing.TB, path, name string) (*link, error) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	l := &link{t: t, conn: conn, name: name, done: make(chan struct{}), waiting: map[uint64]chan outcome{}}
	go l.read()
	hello := l.ask("hello", map[string]any{
		"protocols": []int{1}, "features": []string{}, "client": map[string]any{"name": name, "version": "1"},
	})
	if hello.lost || hello.err != nil {
		l.close()
		return nil, fmt.Errorf("hello: %v", hello)
	}
	return l, nil
}

func (l *link) close() {
	l.conn.Close()
	<-l.done
}

// lost says whether the connection has ended.
func (l *link) lost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// start sends a call. Its outcome comes in any case.
func (l *link) start(method string, meta map[string]any, params msgpack.RawMessage) <-chan outcome {
	out := make(chan outcome, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if params == nil {
		params = wire.Nil
	}
	if l.ended {
		out <- outcome{lost: true}
		return out
	}
	l.last++
	l.waiting[l.last] = out
	_, _ = l.conn.Write(wiretest.Frame(l.t, 0, l.last, method, meta, params)) // where that fails the reader ends, too
	return out
}

// cancel takes back the call that was started last.
func (l *link) cancel() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.conn.Write(wiretest.Frame(l.t, 4, l.last, "changed my mind"))
}

func (l *link) ask(method string, params map[string]any) outcome {
	raw, err := msgpack.Marshal(params)
	if err != nil {
		return outcome{err: wire.FromError(err)}
	}
	return <-l.start(method, nil, raw)
}

func (l *link) read() {
	defer close(l.done)
	for {
		m, err := l.next()
		l.mu.Lock()
		if err != nil {
			l.ended = true
			for _, out := range l.waiting {
				out <- outcome{lost: true}
			}
			clear(l.waiting)
			l.mu.Unlock()
			l.conn.Close()
			return
		}
		if out := l.waiting[m.ID]; out != nil && m.Kind == wire.KindResponse {
			delete(l.waiting, m.ID)
			out <- outcome{err: m.Error, value: m.Payload}
		}
		l.mu.Unlock()
	}
}

func (l *link) next() (wiretest.Message, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(l.conn, prefix[:]); err != nil {
		return wiretest.Message{}, err
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(l.conn, body); err != nil {
		return wiretest.Message{}, err
	}
	return wiretest.Decode(body)
}
