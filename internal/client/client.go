// Package client owns one connection to a sidecar as a Go program sees it: handshake, calls, streams, cancels and
// deadlines of docs/protocol.md. It does not connect again, run a call again, or offer methods to the sidecar.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// window is the credit of a stream: how many items may wait here for their reader.
	window = 64
	// grace is how long the sidecar has to answer a call that was given up, and to read what is still to be sent.
	grace = 500 * time.Millisecond
	// helloID is the id of a connection's first call.
	helloID = 1
	// stall is how long the sidecar may take over one frame, or read nothing.
	stall = 30 * time.Second
	// longestPath is what fits into a Unix socket's address.
	longestPath = 107
)

// Config is what Dial takes.
type Config struct {
	Socket  string // the path of the sidecar's socket
	Name    string // what the sidecar shows of this client
	Version string
	Token   string // of the sessions that were created with one; "" for none
}

// Conn is a connection whose handshake is done. Any number of goroutines may call on it.
type Conn struct {
	conn     *net.UnixConn
	outbox   *wire.Outbox
	reading  sync.WaitGroup
	ended    chan struct{} // closed when the connection has ended; err is set before
	err      error
	maxFrame int    // the longest body that the sidecar receives
	name     string // what the sidecar calls the connection

	mu    sync.Mutex // guards what follows
	last  uint64
	calls map[uint64]*call
}

// Dial connects and shakes hands. Errors: those of the operating system, a *wire.Error where the sidecar refuses or
// does not answer, and the context's.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	if len(cfg.Socket) > longestPath {
		return nil, fmt.Errorf("the path of the socket has %d bytes, where %d are possible", len(cfg.Socket), longestPath)
	}
	var dialer net.Dialer
	dialed, err := dialer.DialContext(ctx, "unix", cfg.Socket)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the socket
	}
	conn, ok := dialed.(*net.UnixConn)
	if !ok {
		dialed.Close()
		return nil, fmt.Errorf("a Unix socket became a %T", dialed)
	}
	c := &Conn{conn: conn, ended: make(chan struct{}), maxFrame: wire.DefaultFrame, calls: map[uint64]*call{}}
	reader, err := wire.NewReader(conn, wire.DefaultFrame, stall)
	if err == nil {
		c.outbox, err = wire.NewOutbox(conn, 0, stall, nil)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.reading.Go(func() { c.read(reader) })
	if err := c.hello(ctx, cfg); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Ended is closed when the connection has ended.
func (c *Conn) Ended() <-chan struct{} { return c.ended }

// Name is what the sidecar calls the connection.
func (c *Conn) Name() string { return c.name }

// Close ends the connection, and with it the calls in flight. What was to be sent is sent, if the sidecar reads.
func (c *Conn) Close() {
	c.outbox.End()
	late := time.AfterFunc(grace, func() { c.outbox.Fail(net.ErrClosed) })
	c.outbox.Wait()
	late.Stop()
	c.reading.Wait()
}

func (c *Conn) hello(ctx context.Context, cfg Config) error {
	params := map[string]any{
		"protocols": []int{wire.Protocol}, "features": []string{},
		"client": map[string]any{"name": cfg.Name, "version": cfg.Version},
	}
	if cfg.Token != "" {
		params["token"] = cfg.Token
	}
	result, err := c.Call(ctx, Request{Method: "hello", Params: params})
	if err != nil {
		return err
	}
	answer, _ := result.(map[string]any)
	if protocol, _ := answer["protocol"].(int64); protocol != wire.Protocol {
		return wire.Errorf(wire.CodeUnsupportedProtocol, "the sidecar chose protocol %v, where %d was offered", answer["protocol"], wire.Protocol)
	}
	c.name, _ = answer["connection"].(string)
	if limit, ok := answer["max_frame"].(int64); ok {
		c.maxFrame = int(limit)
	}
	return nil
}

// read handles the sidecar's frames until the connection ends, and settles what is in flight then.
func (c *Conn) read(r *wire.Reader) {
	defer r.Release()
	var reason error
	for reason == nil {
		body, _, err := r.Next()
		var f wire.Frame
		if err == nil {
			f, err = wire.Parse(body)
		}
		if err == nil {
			err = c.handle(&f)
		}
		reason = err
	}
	// Whatever broke, the calls' outcomes are unknown: the code says that, the message why.
	c.err = wire.Errorf(wire.CodeConnectionLost, "%s", wire.FromError(reason).Message)
	c.outbox.Fail(c.err)
	close(c.ended)
}

// handle takes one frame. An error ends the connection: the sidecar broke the rules, or says that this side did.
func (c *Conn) handle(f *wire.Frame) error {
	switch f.Kind {
	case wire.KindResponse, wire.KindItem:
		c.mu.Lock()
		k := c.calls[f.ID]
		c.mu.Unlock()
		if k != nil { // else its call was given up
			return k.deliver(f)
		}
	case wire.KindRequest:
		c.send(wire.AppendError(nil, f.ID, nil, wire.Errorf(wire.CodeUnknownMethod, "this client offers no methods")), nil)
	case wire.KindNotification:
		if string(f.Method) == "protocol_error" {
			return protocolError(f.Payload)
		}
	case wire.KindCancel, wire.KindCredit, wire.KindChange, wire.KindUnknown:
	}
	return nil
}

func protocolError(params []byte) error {
	var p struct {
		ID      *uint64 `msgpack:"id"`
		Code    string  `msgpack:"code"`
		Message string  `msgpack:"message"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return err
	}
	return errors.New("the sidecar reports " + p.Code + ": " + p.Message)
}

func (c *Conn) send(head, payload []byte) {
	var batch wire.Batch
	c.outbox.Append(&batch, head, payload, true)
	batch.Flush()
}
