package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// conn is one client's connection. Its reader is the one goroutine that handles its frames; what it is sent goes through its
// outbox.
type conn struct {
	server  *Server
	id      string
	sock    *net.UnixConn
	outbox  *wire.Outbox
	uid     int
	pid     int
	admin   bool
	owner   string
	since   time.Time
	refusal *wire.Error // what it is told at its handshake
	flow    *pool.Flow  // its calls without a session

	// Set by the handshake.
	name, version string
	token         string
	maxFrame      int

	mu       sync.Mutex // guards what follows
	calls    map[uint64]*call
	asks     map[uint64]*asking
	lastAsk  uint64
	commands uint64
	ignored  uint64 // frames of unknown kinds, cancels and credits for nothing in flight
	stalled  []*call
	closed   bool
}

// run is the connection's life.
func (c *conn) run() {
	s := c.server
	defer s.left(c)
	defer c.sock.Close() //nolint:errcheck // nothing waits any more
	reader, err := wire.NewReader(c.sock, s.cfg.MaxFrame, s.cfg.FrameTimeout)
	if err != nil {
		return
	}
	defer reader.Release()
	if c.outbox, err = wire.NewOutbox(c.sock, s.cfg.WriteBuffer, s.cfg.WriteTimeout, c.drained); err != nil {
		return
	}
	var batch wire.Batch
	defer c.leave(&batch)
	if !c.handshake(reader, &batch) {
		c.outbox.End()
		c.outbox.Wait()
		return
	}
	err = c.read(reader, &batch)
	if e := c.outbox.Err(); e != nil && !errors.Is(e, net.ErrClosed) {
		err = e
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		s.log.Info("client lost", "connection", c.id, "client", c.name, "reason", err.Error())
	}
}

// leave cancels what the client had in flight, and closes.
func (c *conn) leave(batch *wire.Batch) {
	c.mu.Lock()
	c.closed = true
	calls := make([]*call, 0, len(c.calls))
	for _, k := range c.calls {
		calls = append(calls, k)
	}
	asks := c.asks
	c.asks = nil
	c.mu.Unlock()
	c.outbox.Fail(net.ErrClosed)
	gone := wire.Errorf(wire.CodeCancelled, "the client left")
	for _, k := range calls {
		c.server.cfg.Pool.Cancel(batch, &k.Call, gone)
	}
	for _, a := range asks {
		a.ask.Answer(batch, nil, true, wire.Errorf(wire.CodeConnectionLost, "the client left"))
	}
	if c.flow != nil {
		c.flow.Close(batch, gone)
	}
	batch.Flush()
	c.outbox.Wait()
}

// end closes the connection when all that waits has been written.
func (c *conn) end() {
	if c.outbox != nil {
		c.outbox.End()
	}
}

// read handles frames until the connection ends, and says why it did.
func (c *conn) read(r *wire.Reader, batch *wire.Batch) error {
	for {
		if !r.Ready() {
			batch.Flush()
		}
		body, owned, err := r.Next()
		if err == nil {
			err = c.handle(body, owned, batch)
		}
		if err != nil {
			if !c.survives(err, batch) {
				return err
			}
		}
		batch.FlushIfDue()
	}
}

// survives answers a frame that cannot be used, and says whether the connection goes on.
func (c *conn) survives(err error, batch *wire.Batch) bool {
	var long *wire.TooLongError
	var frame *wire.FrameError
	switch {
	case errors.As(err, &long):
		id := long.RequestID()
		e := wire.Errorf(wire.CodeFrameTooLarge, "a frame of %d bytes: the sidecar receives at most %d", long.Length, c.server.cfg.MaxFrame).
			With("limit", c.server.cfg.MaxFrame).With("length", long.Length)
		if id == 0 || c.taken(id) {
			c.protocolError(batch, id, e.Code, e.Message)
		} else {
			c.refuse(batch, id, e)
		}
		return true
	case errors.As(err, &frame):
		c.protocolError(batch, frame.ID, wire.CodeInvalidFrame, frame.Message)
		return true
	case errors.Is(err, wire.ErrStructure), errors.Is(err, wire.ErrFrameTimeout):
		c.protocolError(batch, 0, wire.CodeInvalidFrame, err.Error())
		c.outbox.End()
	}
	return false
}

func (c *conn) taken(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[id] != nil
}

// handshake reads the first frame, and says whether the connection goes on.
func (c *conn) handshake(r *wire.Reader, batch *wire.Batch) bool {
	defer batch.Flush()
	_ = c.sock.SetReadDeadline(time.Now().Add(c.server.cfg.HandshakeTimeout)) // a closed connection says so at the read
	body, _, err := r.Next()
	var f wire.Frame
	if err == nil {
		f, err = wire.Parse(body)
	}
	if err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			c.protocolError(batch, 0, wire.CodeHandshakeRequired, "the first frame has to be hello: "+err.Error())
		}
		return false
	}
	_ = c.sock.SetReadDeadline(time.Time{}) // as above
	if f.Kind != wire.KindRequest {
		c.protocolError(batch, 0, wire.CodeHandshakeRequired, "the first frame has to be the request hello")
		return false
	}
	if e := c.greet(&f); e != nil {
		c.refuse(batch, f.ID, e)
		return false
	}
	c.flow = c.server.cfg.Pool.NewFlow(c.owner, false)
	c.reply(batch, f.ID, map[string]any{
		"protocol": wire.Protocol, "features": []string{}, "server": map[string]any{"name": "dspex-sidecar", "version": c.server.cfg.Version},
		"connection": c.id, "max_frame": c.server.cfg.MaxFrame, "max_in_flight": c.server.cfg.MaxInFlight,
	})
	return true
}

// hello is the params of the first request.
type hello struct {
	Protocols []int    `msgpack:"protocols"`
	Features  []string `msgpack:"features"`
	Client    struct {
		Name    string `msgpack:"name"`
		Version string `msgpack:"version"`
	} `msgpack:"client"`
	Token    string `msgpack:"token"`
	MaxFrame int    `msgpack:"max_frame"`
}

func (c *conn) greet(f *wire.Frame) *wire.Error {
	if string(f.Method) != "hello" {
		return wire.Errorf(wire.CodeHandshakeRequired, "the first request has to be hello, not %q", f.Method)
	}
	var h hello
	if err := wire.Unmarshal(f.Payload, &h); err != nil {
		return wire.FromError(err)
	}
	if !slices.Contains(h.Protocols, wire.Protocol) {
		return wire.Errorf(wire.CodeUnsupportedProtocol, "this sidecar speaks protocol %d", wire.Protocol).With("protocols", []int{wire.Protocol})
	}
	if c.refusal != nil {
		return c.refusal
	}
	if h.MaxFrame != 0 && h.MaxFrame < wire.MinFrameLimit {
		return wire.Errorf(wire.CodeInvalidParams, "max_frame is at least %d", wire.MinFrameLimit)
	}
	if h.MaxFrame != 0 {
		c.maxFrame = h.MaxFrame
	}
	c.mu.Lock()
	c.name, c.version, c.token = clip(h.Client.Name), clip(h.Client.Version), h.Token
	c.mu.Unlock()
	return nil
}

// clip keeps what a client says of itself fit for logs and tables.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 64 {
		return string(r[:64])
	}
	return s
}

// handle does what one frame asks for. Its errors are about the frame or the connection; those of calls are answered.
func (c *conn) handle(body []byte, owned bool, batch *wire.Batch) error {
	f, err := wire.Parse(body)
	if err != nil {
		return err
	}
	switch f.Kind {
	case wire.KindRequest:
		c.request(batch, &f, owned)
	case wire.KindResponse:
		c.answered(batch, &f, owned)
	case wire.KindCancel:
		if k := c.inFlight(f.ID); k != nil {
			c.server.cfg.Pool.Cancel(batch, &k.Call, wire.Errorf(wire.CodeCancelled, "the client cancelled the call"))
		}
	case wire.KindCredit:
		if k := c.inFlight(f.ID); k != nil && k.stream != nil {
			k.credit(batch, f.Credit)
		}
	case wire.KindNotification, wire.KindItem, wire.KindChange, wire.KindUnknown:
		c.mu.Lock()
		c.ignored++
		c.mu.Unlock()
	}
	return nil
}

func (c *conn) inFlight(id uint64) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[id]
	if k == nil {
		c.ignored++
	}
	return k
}

// keyOf is the session that a request names: its owner is the holder of the token, where there is one.
func (c *conn) keyOf(id, token string) session.Key {
	if token == "" {
		token = c.token
	}
	if token == "" {
		return session.Key{Owner: c.owner, ID: id}
	}
	return session.Key{Owner: tokenOwner(token), ID: id}
}

// tokenOwner is what a token's holder owns sessions by: a hash, so that tables and logs hold no token, and finding it
// leaks nothing by its timing.
func tokenOwner(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "token:" + hex.EncodeToString(sum[:16])
}

// reply answers a request with a result of the sidecar's own.
func (c *conn) reply(batch *wire.Batch, id uint64, result any) {
	payload, err := wire.Marshal(result)
	if err != nil {
		c.refuse(batch, id, wire.FromError(err))
		return
	}
	c.respond(batch, id, &pool.Result{Payload: payload, Owned: true, Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}})
}

// refuse answers a request with an error.
func (c *conn) refuse(batch *wire.Batch, id uint64, err *wire.Error) {
	c.respond(batch, id, &pool.Result{Err: err, Meta: wire.ResponseMeta{QueueUS: -1, RunUS: -1}})
}

// respond sends a response; one that the client cannot receive becomes an error.
func (c *conn) respond(batch *wire.Batch, id uint64, r *pool.Result) {
	var scratch [512]byte
	if r.Err != nil {
		c.outbox.Append(batch, wire.AppendError(scratch[:0], id, &r.Meta, r.Err), nil, false)
		return
	}
	head := wire.AppendResponse(scratch[:0], id, &r.Meta)
	if n := len(head) + len(r.Payload); n > c.maxFrame {
		err := wire.Errorf(wire.CodeFrameTooLarge, "the result takes %d bytes, the client receives at most %d", n, c.maxFrame).
			With("limit", c.maxFrame).With("length", n)
		c.outbox.Append(batch, wire.AppendError(scratch[:0], id, &r.Meta, err), nil, false)
		return
	}
	c.outbox.Append(batch, head, r.Payload, r.Owned)
}

func (c *conn) notify(batch *wire.Batch, method string, params map[string]any) {
	payload, err := wire.Marshal(params)
	if err != nil || c.outbox == nil {
		return
	}
	var scratch [128]byte
	c.outbox.Append(batch, wire.AppendNotification(scratch[:0], method), payload, true)
}

func (c *conn) protocolError(batch *wire.Batch, id uint64, code wire.Code, message string) {
	params := map[string]any{"id": nil, "code": string(code), "message": message}
	if id != 0 {
		params["id"] = id
	}
	c.notify(batch, "protocol_error", params)
}
