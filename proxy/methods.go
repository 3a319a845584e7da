package proxy

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/wire"
)

// Reply answers a call of one of the sidecar's own methods, once.
type Reply func(batch *wire.Batch, result any, err error)

// Method is one of the sidecar's own methods. It must not block: what has to wait replies later.
type Method func(batch *wire.Batch, who *Caller, params []byte, reply Reply)

// ownMethod is one of the sidecar's own methods, and what counts its calls.
type ownMethod struct {
	run   Method
	feed  Feed // of one that streams; nil: it does not
	count *metrics.Method
}

// Plain makes a Method of a function that answers at once.
func Plain(f func(who *Caller, params []byte) (any, error)) Method {
	return func(batch *wire.Batch, who *Caller, params []byte, reply Reply) {
		result, err := f(who, params)
		reply(batch, result, err)
	}
}

// callOwn runs one of the sidecar's own methods.
func (c *conn) callOwn(batch *wire.Batch, m ownMethod, k *call, params []byte) {
	if !k.Deadline.IsZero() && !k.since.Before(k.Deadline) {
		k.end(batch, wire.Errorf(wire.CodeDeadlineExceeded, "the deadline had passed when the call came").With("ended_by", "queue"))
		return
	}
	m.run(batch, c.caller(k), params, func(b *wire.Batch, result any, err error) { k.ended(b, result, err) })
}

// caller is who makes a call of the sidecar's own.
func (c *conn) caller(k *call) *Caller {
	who := &Caller{UID: c.uid, Payer: c.owner, Owner: c.holder, Admin: c.server.limits.Load().administers(c.uid), Session: k.key.ID, Deadline: k.Deadline}
	if k.key.Owner != "" {
		who.Owner = k.key.Owner
	}
	return who
}

func (s *Server) ownMethods() map[string]Method {
	return map[string]Method{
		"ping": Plain(func(_ *Caller, params []byte) (any, error) {
			return map[string]any{}, wire.Unmarshal(params, &struct{}{})
		}),
		"hello": Plain(func(*Caller, []byte) (any, error) {
			return nil, wire.Errorf(wire.CodeInvalidFrame, "hello is the first request of a connection, and only that")
		}),
		"session.create": s.sessionCreate,
		"session.end": onOne(func(batch *wire.Batch, _ *Caller, key session.Key, done session.Done) {
			s.cfg.Sessions.End(batch, key, done)
		}),
		"session.get":    Plain(s.sessionGet),
		"session.update": s.sessionUpdate,
		"session.list":   Plain(s.sessionList),
		"session.reset": onOne(func(batch *wire.Batch, who *Caller, key session.Key, done session.Done) {
			s.cfg.Sessions.Reset(batch, key, who.Deadline, done)
		}),
		"session.export": Plain(s.sessionExport),
		"session.import": s.sessionImport,

		"admin.session.move": Plain(s.sessionMove),
	}
}

// Client is what is known of one connection.
type Client struct {
	Connection, Name, Version string
	UID, PID, InFlight        int
	Age                       time.Duration
	Commands, Ignored         uint64
}

// Call is what is known of one call in flight.
type Call struct {
	Connection, Method, Session, Worker, State string
	Owner                                      string // of the session
	ID                                         uint64
	UID                                        int
	Age                                        time.Duration
}

// Clients lists the connections.
func (s *Server) Clients() []Client {
	var out []Client
	for _, c := range s.open() {
		c.mu.Lock()
		out = append(out, Client{
			Connection: c.id, Name: c.name, Version: c.version, UID: c.uid, PID: c.pid, InFlight: len(c.calls),
			Age: time.Since(c.since), Commands: c.commands, Ignored: c.ignored,
		})
		c.mu.Unlock()
	}
	return out
}

// Calls lists the calls in flight.
func (s *Server) Calls() []Call {
	var out []Call
	for _, c := range s.open() {
		c.mu.Lock()
		calls := c.inFlightLocked()
		c.mu.Unlock()
		for _, k := range calls {
			at := &k.Call
			c.mu.Lock()
			if k.ticket != nil && k.ticket.Call() != nil {
				at = k.ticket.Call()
			}
			c.mu.Unlock()
			method, state, worker := k.pool().State(at)
			if method == "" {
				continue // the sidecar's own, answered within the call
			}
			out = append(out, Call{
				Connection: c.id, ID: k.id, Method: method, Session: k.key.ID, Owner: k.key.Owner, Worker: worker, State: state, UID: c.uid, Age: time.Since(k.since),
			})
		}
	}
	return out
}

func (s *Server) open() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshotLocked()
}
