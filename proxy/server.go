package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/wire"
)

// Server accepts clients. Make it with New, add methods with Handle, start it with Serve, end it with Drain and Close.
type Server struct {
	cfg     Config // but for the limits
	limits  atomic.Pointer[Limits]
	log     *slog.Logger
	metrics *metrics.Metrics
	methods map[string]ownMethod // set before Serve
	asked   map[string]Method    // likewise: what workers ask the sidecar for a call's client
	tasks   sync.WaitGroup
	done    chan struct{} // closed by Close

	mu        sync.Mutex // guards what follows
	conns     map[*conn]struct{}
	refused   map[*conn]struct{}    // those that are told so at their handshake
	uids      map[int]*atomic.Int64 // calls in flight of each uid
	lastConn  uint64
	draining  bool
	reachable bool           // draining, but for administrators: they may ask for more than the drain
	goaway    map[string]any // what clients are told of the drain
	closed    bool
}

// New makes a server; it does not accept yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New()
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, metrics: cfg.Metrics, done: make(chan struct{}), conns: make(map[*conn]struct{}), refused: make(map[*conn]struct{}),
		uids: make(map[int]*atomic.Int64), methods: make(map[string]ownMethod), asked: make(map[string]Method),
	}
	for name, m := range s.ownMethods() {
		s.Handle(name, m)
	}
	s.runMethods()
	s.limits.Store(&cfg.Limits)
	return s
}

// Handle adds one of the sidecar's own methods; before Serve only.
func (s *Server) Handle(name string, m Method) {
	s.methods[name] = ownMethod{run: m, count: s.metrics.Add(name)}
}

// HandleAsk adds a method that workers ask in a call, which is not the client's but has its rights; before Serve only.
func (s *Server) HandleAsk(name string, m Method) { s.asked[name] = m }

// Serve begins to accept, and goes on until Drain or Close.
func (s *Server) Serve() {
	s.tasks.Go(func() { s.accept(s.cfg.Socket.listener) })
	s.tasks.Go(func() {
		s.cfg.Socket.Guard(s.done, s.log, func(l *net.UnixListener) { s.tasks.Go(func() { s.accept(l) }) })
	})
	s.tasks.Go(s.tidy)
}

// crowd is how many connections leave so much behind with their handshakes that it is given back to the system.
const crowd = 1000

// tidy clears up after crowds.
func (s *Server) tidy() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, tidied := uint64(0), uint64(0)
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		came := s.came()
		if came == last && came-tidied >= crowd {
			tidied = came
			debug.FreeOSMemory() // idle connections alone would not make the collector run for minutes
		}
		last = came
	}
}

// came is how many connections there have been.
func (s *Server) came() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastConn
}

func (s *Server) accept(l *net.UnixListener) {
	wait := time.Duration(0)
	for {
		sock, err := l.AcceptUnix()
		switch {
		case err == nil:
			wait = 0
			s.admit(sock)
		case temporary(err):
			// Out of descriptors, most likely: some will be closed.
			if wait == 0 {
				s.log.Error("accept failed; going on", "error", err.Error())
			}
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(wait):
			case <-s.done:
				return
			}
		default:
			if !errors.Is(err, net.ErrClosed) {
				s.log.Error("accept failed", "error", err.Error())
			}
			return
		}
	}
}

// politeRefusals is how many connections at a time are told at their handshake why they are refused.
const politeRefusals = 256

// admit takes a connection in or refuses it.
func (s *Server) admit(sock *net.UnixConn) {
	c, err := s.newConn(sock)
	if err != nil {
		s.log.Warn("client refused: its socket cannot be used", "error", err.Error())
		_ = sock.Close() // it was never used
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.refusal = s.refusalLocked(c)
	if s.closed || c.refusal != nil && len(s.refused) >= politeRefusals {
		c.outbox.Fail(net.ErrClosed) // a flood: not even politely
		return
	}
	s.lastConn++
	c.number, c.id = s.lastConn, fmt.Sprintf("c%d", s.lastConn)
	if c.refusal != nil {
		s.refused[c] = struct{}{}
	} else {
		s.conns[c] = struct{}{}
	}
	s.tasks.Go(c.run)
}

// refusalLocked says why a connection is not taken in; nil where it is.
func (s *Server) refusalLocked(c *conn) *wire.Error {
	admin := c.limits.administers(c.uid)
	switch limit := c.limits.MaxConnections; {
	case !c.limits.admits(c.uid):
		return wire.Errorf(wire.CodePermissionDenied, "uid %d may not connect: see listen.allow_uids", c.uid)
	case s.draining && (!admin || !s.reachable):
		return wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	case admin && len(s.conns) >= limit+adminReserve, !admin && len(s.conns) >= limit:
		return wire.Errorf(wire.CodeQueueFull, "%d clients are connected: see listen.max_connections", len(s.conns)).
			With("retry_after_ms", 1000)
	}
	return nil
}

// callsOf counts the calls in flight of a uid.
func (s *Server) callsOf(uid int) *atomic.Int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.uids[uid]
	if n == nil {
		n = new(atomic.Int64)
		s.uids[uid] = n
	}
	return n
}

// left forgets a connection that has ended.
func (s *Server) left(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, c)
	delete(s.conns, c)
}

// greeted notes that the connection's handshake is done, so that it hears of a drain: here where that has begun already.
func (s *Server) greeted(c *conn, batch *wire.Batch) {
	s.mu.Lock()
	c.greeted = true
	goaway := s.goaway
	if s.reachable { // its calls are answered draining
		goaway = nil
	}
	s.mu.Unlock()
	if goaway != nil {
		c.goAway(batch, goaway)
	}
}

// Cancel stops a call of a client's. It returns false where there is none of that id on that connection.
func (s *Server) Cancel(connection string, id uint64, why string) bool {
	for _, c := range s.open() {
		if c.id != connection {
			continue
		}
		c.mu.Lock()
		k := c.calls[id]
		c.mu.Unlock()
		if k == nil {
			return false
		}
		var batch wire.Batch
		k.cancel(&batch, wire.Errorf(wire.CodeCancelled, "%s", why), false)
		batch.Flush()
		return true
	}
	return false
}

// Drain tells all clients to go elsewhere, refuses what they ask of the pool after that, and accepts nobody any more. It does not wait.
func (s *Server) Drain(reason string, limit time.Duration) {
	s.cfg.Socket.Close()
	s.quiesce(reason, limit, false)
}

// Quiesce is Drain, but that administrators can still connect.
func (s *Server) Quiesce(reason string, limit time.Duration) { s.quiesce(reason, limit, true) }

func (s *Server) quiesce(reason string, limit time.Duration, reachable bool) {
	s.mu.Lock()
	s.reachable = reachable
	s.draining = true
	s.goaway = map[string]any{"reason": reason, "drain_ms": limit.Milliseconds()}
	goaway := s.goaway
	conns := slices.DeleteFunc(s.snapshotLocked(), func(c *conn) bool { return !c.greeted })
	s.mu.Unlock()
	var batch wire.Batch
	for _, c := range conns {
		c.goAway(&batch, goaway)
	}
	batch.Flush()
}

// Close cancels the calls that are in flight and ends all connections, when what is for them has been written or ctx is done.
func (s *Server) Close(ctx context.Context) {
	s.cfg.Socket.Close()
	s.mu.Lock()
	s.closed, s.draining = true, true
	conns := s.snapshotLocked()
	for c := range s.refused {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	close(s.done)
	var batch wire.Batch
	for _, c := range conns {
		c.dismiss(&batch) //nolint:contextcheck,nolintlint // found or not by how much is checked at once: what a cancel leads to, a worker started say, does not end with ctx
	}
	batch.Flush()
	stop := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			c.outbox.Fail(net.ErrClosed) // it had its time
		}
	})
	defer stop()
	s.tasks.Wait()
}

// snapshotLocked lists the connections in the order in which they came.
func (s *Server) snapshotLocked() []*conn {
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	slices.SortFunc(conns, func(a, b *conn) int { return cmp.Compare(a.number, b.number) })
	return conns
}
