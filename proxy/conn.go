package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// conn is one client's connection. Its reader is the one goroutine that handles its frames; what it is sent goes through its
// outbox.
type conn struct {
	server  *Server
	number  uint64 // in the order of coming
	id      string
	reader  *wire.Reader
	outbox  *wire.Outbox
	uid     int
	pid     int
	limits  *Limits // when it was made
	owner   string
	since   time.Time
	refusal *wire.Error   // what it is told at its handshake
	flow    *pool.Flow    // its calls without a session
	ofUID   *atomic.Int64 // calls in flight of its uid
	greeted bool          // guarded by Server.mu: its handshake is done

	// Set by the handshake.
	name, version string
	holder        string // whose sessions it uses where a call says nothing: its owner, or the holder of its token
	maxFrame      int

	mu       sync.Mutex // guards what follows
	calls    map[uint64]*call
	bytes    int // what calls hold that no worker is done with
	asks     map[uint64]*asking
	lastAsk  uint64
	commands uint64
	ignored  uint64             // frames of unknown kinds, cancels and credits for nothing in flight
	stalled  map[*call]struct{} // streams that get credit when the outbox is empty
	closed   bool
	ending   bool // the sidecar is: the connection ends with the last of its calls
	leaving  bool // it was told goaway
}

// newConn makes the connection of a client's socket.
func (s *Server) newConn(sock *net.UnixConn) (*conn, error) {
	cred, err := peerOf(sock)
	if err != nil {
		return nil, fmt.Errorf("no peer credentials: %w", err)
	}
	if err := wire.WidenBuffers(sock); err != nil {
		return nil, err
	}
	c := &conn{
		server: s, uid: int(cred.Uid), pid: int(cred.Pid), since: time.Now(), owner: "uid:" + strconv.Itoa(int(cred.Uid)),
		limits: s.limits.Load(), maxFrame: wire.DefaultFrame,
		calls: make(map[uint64]*call), stalled: make(map[*call]struct{}), ofUID: s.callsOf(int(cred.Uid)),
	}
	if c.reader, err = wire.NewReader(sock, c.limits.MaxFrame, c.limits.FrameTimeout); err != nil {
		return nil, err
	}
	c.outbox, err = wire.NewOutbox(sock, c.limits.WriteBuffer, c.limits.WriteTimeout, c.drained)
	return c, err
}

// run is the connection's life up to its handshake. What follows gets a stack of its own: the handshake's is several times what an idle
// connection needs, and ten thousand may be idle.
func (c *conn) run() {
	var batch wire.Batch
	if c.handshake(&batch) {
		c.server.tasks.Go(c.serve)
		return
	}
	c.outbox.End()
	c.outbox.Wait()
	c.finish()
}

// serve is its life after that. Little may stand on the stack while it waits for a frame.
func (c *conn) serve() {
	batch := new(wire.Batch)
	c.end(batch, c.read(batch))
	c.finish()
}

// end ends a connection that was served, and says why it did where that is not usual.
func (c *conn) end(batch *wire.Batch, err error) {
	c.leave(batch, err)
	if e := c.outbox.Err(); e != nil && !errors.Is(e, net.ErrClosed) {
		err = e
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.server.log.Info("client lost", "connection", c.id, "client", c.name, "reason", err.Error())
	}
}

// finish is the last of it.
func (c *conn) finish() {
	c.reader.Release()
	c.server.left(c)
}

// leave cancels what the client had in flight, and closes: after what waits was written, where the client broke the protocol
// and is to learn of it.
func (c *conn) leave(batch *wire.Batch, reason error) {
	c.mu.Lock()
	c.closed = true
	calls := c.inFlightLocked()
	asks := c.asks
	c.asks = nil
	c.mu.Unlock()
	if brokeProtocol(reason) {
		c.outbox.End()
	} else {
		c.outbox.Fail(net.ErrClosed)
	}
	gone := wire.Errorf(wire.CodeCancelled, "the client left")
	for _, k := range calls {
		k.cancel(batch, gone, true)
	}
	for _, a := range asks {
		a.ask.Answer(batch, nil, true, wire.Errorf(wire.CodeConnectionLost, "the client left"))
	}
	c.flow.Close(batch, gone)
	batch.Flush()
	c.outbox.Wait()
}

// dismiss ends the connection from the sidecar's side: its calls are cancelled, and when they have been answered and all is written, it
// is closed.
func (c *conn) dismiss(batch *wire.Batch) {
	c.mu.Lock()
	c.ending = true
	calls := c.inFlightLocked()
	c.mu.Unlock()
	if len(calls) == 0 {
		c.outbox.End()
	}
	ending := wire.Errorf(wire.CodeCancelled, "the sidecar is ending")
	for _, k := range calls {
		k.cancel(batch, ending, false)
	}
}

func (c *conn) inFlightLocked() []*call {
	calls := make([]*call, 0, len(c.calls))
	for _, k := range c.calls {
		calls = append(calls, k)
	}
	return calls
}

// read handles frames until the connection ends, and says why it did.
func (c *conn) read(batch *wire.Batch) error {
	for {
		if !c.reader.Ready() {
			batch.Flush()
		}
		body, owned, err := c.reader.Next()
		if err == nil {
			c.server.metrics.Received.Add(len(body))
			err = c.handle(body, owned, batch)
		}
		if err != nil && !c.survives(err, batch) {
			return err
		}
		batch.FlushIfDue()
	}
}

// brokeProtocol says whether an error of reading is one that the client is told of before its connection ends.
func brokeProtocol(err error) bool {
	return errors.Is(err, wire.ErrStructure) || errors.Is(err, wire.ErrFrameTimeout)
}

// survives answers a frame that cannot be used, and says whether the connection goes on.
func (c *conn) survives(err error, batch *wire.Batch) bool {
	var long *wire.TooLongError
	var frame *wire.FrameError
	switch {
	case errors.As(err, &long):
		id := long.RequestID()
		e := wire.Errorf(wire.CodeFrameTooLarge, "a frame of %d bytes: the sidecar receives at most %d", long.Length, c.limits.MaxFrame).
			With("limit", c.limits.MaxFrame).With("length", long.Length)
		if id == 0 || c.taken(id) {
			c.protocolError(batch, id, e.Code, e.Message)
		} else {
			c.refuse(batch, id, e)
		}
		return true
	case errors.As(err, &frame):
		c.protocolError(batch, frame.ID, wire.CodeInvalidFrame, frame.Message)
		return true
	case brokeProtocol(err):
		c.protocolError(batch, 0, wire.CodeInvalidFrame, err.Error())
	}
	return false
}

func (c *conn) taken(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[id] != nil
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
			k.trace("cancel", true, 0)
			k.cancel(batch, wire.Errorf(wire.CodeCancelled, "the client cancelled the call"), false)
		}
	case wire.KindCredit:
		switch k := c.inFlight(f.ID); {
		case k == nil:
		case k.stream != nil:
			k.trace("credit", true, 0)
			k.credit(batch, f.Credit)
		case k.feeding != nil:
			k.feeding.grant(f.Credit)
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
	if token != "" {
		return session.Key{Owner: tokenOwner(token), ID: id}
	}
	return session.Key{Owner: c.holder, ID: id}
}

// tokenOwner is what a token's holder owns sessions by: a hash, so that tables and logs hold no token, and finding it
// leaks nothing by its timing.
func tokenOwner(token string) string {
	sum := sha256.Sum256([]byte(token))
	return session.TokenPrefix + hex.EncodeToString(sum[:16])
}
