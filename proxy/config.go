package proxy

import (
	"log/slog"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
)

// Config is what New takes.
type Config struct {
	Socket *Socket // the Server closes it
	Limits
	Version  string
	Pool     *pool.Pool
	Sessions *session.Table
	Runs     *runs.Table      // nil: no method has a process of its own
	Metrics  *metrics.Metrics // may be left out, as Events and Log may
	Events   *events.Hub
	Log      *slog.Logger
}

// Limits are what an operator chooses for clients. They are not changed once they are in force: Apply puts others in their place.
type Limits struct {
	AllowUIDs        []int // besides AdminUIDs
	AdminUIDs        []int
	MaxConnections   int
	MaxInFlight      int // calls of one connection
	MaxInFlightBytes int // what their requests take; at least MaxFrame
	MaxInFlightUID   int // calls of one uid; 0: no limit
	MaxFrame         int
	HandshakeTimeout time.Duration
	FrameTimeout     time.Duration // from a frame's first byte to its last
	WriteTimeout     time.Duration // without progress, for what waits to be written
	WriteBuffer      int           // bytes that may wait to be written to one connection
	DefaultTimeout   time.Duration // of calls that bring none; 0: no deadline
	StreamStall      time.Duration
	SlowCall         time.Duration // calls that take longer are logged; 0: none is
	AccessSample     float64       // the share of calls that are logged
}

func (l *Limits) admits(uid int) bool { return l.administers(uid) || slices.Contains(l.AllowUIDs, uid) }

func (l *Limits) administers(uid int) bool { return slices.Contains(l.AdminUIDs, uid) }

// Apply puts limits in force. What a client has been told, or its connection was made with, stays with the connection: the length of frames, the
// number of calls, the time limits of reading and writing and what may wait to be written. Who may connect no more is answered permission_denied; calls in flight finish, but
// for streams of the sidecar's own, which end.
func (s *Server) Apply(l Limits) { s.limits.Store(&l) }

// Caller is who calls one of the sidecar's own methods.
type Caller struct {
	UID      int
	Owner    string // whose sessions it sees
	Payer    string // its uid, as an owner
	Admin    bool
	Session  string // from meta
	Deadline time.Time
}

// admins that find all connections taken get in nevertheless, this many.
const adminReserve = 16
