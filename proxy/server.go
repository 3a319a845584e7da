package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Server accepts clients. Make it with New, add methods with Handle, run it with Serve, end it with Drain and Close.
type Server struct {
	cfg     Config
	log     *slog.Logger
	methods map[string]Method // set before Serve
	tasks   sync.WaitGroup
	done    chan struct{} // closed by Close

	mu        sync.Mutex // guards what follows
	listener  *net.UnixListener
	inode     uint64
	conns     map[*conn]struct{}
	refusing  int // connections that are being refused
	lastConn  uint64
	draining  bool
	closed    bool
	drainTime time.Duration
}

// New makes a server; it does not listen yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Log, done: make(chan struct{}), conns: make(map[*conn]struct{})}
	s.methods = s.ownMethods()
	return s
}

// Handle adds one of the sidecar's own methods; before Serve only.
func (s *Server) Handle(name string, m Method) { s.methods[name] = m }

// Listen makes the socket and starts to accept.
func (s *Server) Listen() error {
	if err := s.relisten(); err != nil {
		return err
	}
	s.tasks.Go(s.guardSocket)
	return nil
}

func (s *Server) relisten() error {
	l, err := listen(s.cfg.Socket, s.cfg.Mode)
	if err != nil {
		return err
	}
	inode, _ := identity(s.cfg.Socket)
	s.mu.Lock()
	old := s.listener
	s.listener, s.inode = l, inode
	closed := s.closed
	s.mu.Unlock()
	if old != nil {
		_ = old.Close() // nobody can reach it any more
	}
	if closed {
		return l.Close()
	}
	s.tasks.Go(func() { s.accept(l) })
	return nil
}

// guardSocket makes the socket again when somebody removed its file.
func (s *Server) guardSocket() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		inode, stop := s.inode, s.draining || s.closed
		s.mu.Unlock()
		if _, there := identity(s.cfg.Socket); there || stop || inode == 0 {
			continue
		}
		s.log.Warn("socket file removed; making it again", "socket", s.cfg.Socket)
		if err := s.relisten(); err != nil {
			s.log.Error("socket not made again", "error", err.Error())
		}
	}
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

// admit takes a connection in or refuses it.
func (s *Server) admit(sock *net.UnixConn) {
	cred, err := prepare(sock)
	if err != nil {
		s.log.Warn("client refused: no peer credentials", "error", err.Error())
		_ = sock.Close() // it was never used
		return
	}
	c := &conn{
		server: s, sock: sock, uid: int(cred.Uid), pid: int(cred.Pid), since: time.Now(), calls: make(map[uint64]*call),
		owner: "uid:" + strconv.Itoa(int(cred.Uid)), maxFrame: wire.DefaultFrame,
	}
	c.admin = slices.Contains(s.cfg.AdminUIDs, c.uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch limit := s.cfg.MaxConnections; {
	case !c.admin && !slices.Contains(s.cfg.AllowUIDs, c.uid):
		c.refusal = wire.Errorf(wire.CodePermissionDenied, "uid %d may not connect: see listen.allow_uids", c.uid)
	case s.draining:
		c.refusal = wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	case c.admin && len(s.conns) >= limit+adminReserve, !c.admin && len(s.conns) >= limit:
		c.refusal = wire.Errorf(wire.CodeQueueFull, "%d clients are connected: see listen.max_connections", len(s.conns)).
			With("retry_after_ms", 1000)
	}
	if s.closed || c.refusal != nil && s.refusing >= 256 {
		_ = sock.Close() // a flood: not even politely
		return
	}
	s.lastConn++
	c.id = fmt.Sprintf("c%d", s.lastConn)
	if c.refusal != nil {
		s.refusing++
	} else {
		s.conns[c] = struct{}{}
	}
	s.tasks.Go(c.run)
}

// left forgets a connection that has ended.
func (s *Server) left(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.refusal != nil {
		s.refusing--
		return
	}
	delete(s.conns, c)
}

// Drain tells all clients to go elsewhere; new requests are refused by the pool from now on. It does not wait.
func (s *Server) Drain(reason string, limit time.Duration) {
	s.mu.Lock()
	s.draining, s.drainTime = true, limit
	l, conns := s.listener, s.snapshotLocked()
	s.mu.Unlock()
	if l != nil {
		_ = l.Close() // ends accept
		unlink(s.cfg.Socket, s.inode)
	}
	var batch wire.Batch
	for _, c := range conns {
		c.notify(&batch, "goaway", map[string]any{"reason": reason, "drain_ms": limit.Milliseconds()})
	}
	batch.Flush()
}

// Close ends all connections, after what waits for them has been written or ctx is done.
func (s *Server) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed, s.draining = true, true
	l, conns, inode := s.listener, s.snapshotLocked(), s.inode
	s.mu.Unlock()
	close(s.done)
	if l != nil {
		_ = l.Close() // ends accept
		unlink(s.cfg.Socket, inode)
	}
	for _, c := range conns {
		c.end()
	}
	stop := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			_ = c.sock.Close() // it had its time
		}
	})
	defer stop()
	s.tasks.Wait()
}

func (s *Server) snapshotLocked() []*conn {
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}
