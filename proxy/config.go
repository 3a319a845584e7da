package proxy

import (
	"log/slog"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
)

// Config is what New takes.
type Config struct {
	Socket           *Socket // the Server closes it
	AllowUIDs        []int   // besides AdminUIDs
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
	Version          string
	Pool             *pool.Pool
	Sessions         *session.Table
	Log              *slog.Logger
}

// Caller is who calls one of the sidecar's own methods.
type Caller struct {
	UID      int
	Owner    string // whose sessions it sees
	Admin    bool
	Session  string // from meta
	Deadline time.Time
}

// admins that find all connections taken get in nevertheless, this many.
const adminReserve = 16
