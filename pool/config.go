package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/wire"
)

// Pinning says what a session's call does when the worker that the session is pinned to has no free slot.
type Pinning string

// The modes of pinning.
const (
	PinStrict   Pinning = "strict"    // waits for that worker
	PinFailFast Pinning = "fail_fast" // is refused with session_busy
	PinSoft     Pinning = "soft"      // after Settings.SoftWait goes to whichever worker is free
)

// Settings are what an operator chooses for a pool. Where zero would mean nothing (Pinning, MaxFrame, and times but for OverflowIdle, CancelGrace
// and SoftWait), it stands for the sidecar's default.
type Settings struct {
	Size            int // workers kept; 0: none but those of MaxOverflow
	MaxOverflow     int // more of them while all are busy
	OverflowIdle    time.Duration
	Concurrency     int // slots of a worker
	CheckoutTimeout time.Duration
	QueueLimit      int
	MaxInFlight     int // calls of one serial flow that wait or have their turn; zero: no limit
	Lazy            bool
	HealthInterval  time.Duration
	HealthTimeout   time.Duration
	StartTimeout    time.Duration
	CancelGrace     time.Duration // from a cancel until the worker of a call that goes on is killed
	StopReport      time.Duration // from a cancel until the client is told, though the call goes on; from CancelGrace on: when it has ended
	Pinning         Pinning
	SoftWait        time.Duration
	MaxFrame        int

	// A worker is replaced by a new one when it has taken so many calls, is so old or takes so much memory; zero: never.
	RecycleCalls  int
	RecycleAge    time.Duration
	RecycleMemory int64
	MemoryLimit   int64         // bytes at which it is killed; zero: none
	Once          bool          // a worker takes one call, and ends with it
	SampleEvery   time.Duration // between looks at age and memory
}

// Config is what New takes. Background, Notified, Gone, Metrics, Events and Log may be left out.
type Config struct {
	Name     string
	Prefix   string // of its workers' ids; "": worker
	Settings Settings
	// Starter and Hello are those of the first generation.
	Starter Starter
	Hello   func(workerID string) ([]byte, error)
	// Background handles a request that a worker makes by itself, not for a call: answer must be called once. params are borrowed.
	Background func(workerID string, method, params []byte, answer func(batch *wire.Batch, result []byte, err error))
	// Notified handles a notification that a worker makes; params are borrowed. An error means that the worker has broken the protocol.
	Notified func(workerID string, generation int, method, params []byte) error
	// Gone is told of each worker that has ended: nothing comes from it any more. nil: nobody is.
	Gone    func(workerID string)
	Metrics *metrics.Metrics
	Events  *events.Hub
	Log     *slog.Logger
}

// Generation is what workers are started from.
type Generation struct {
	Number  int
	Starter Starter
	// Hello gives the params of the first request to a worker, encoded.
	Hello func(workerID string) ([]byte, error)
}

// Starter starts worker processes. Cancelling ctx gives up on a start and leaves no process.
type Starter interface {
	Start(ctx context.Context, workerID string) (Process, error)
}

// Process is a worker process with its channel.
type Process interface {
	PID() int
	Channel() *net.UnixConn
	Done() <-chan struct{} // closed when the process has ended and been reaped
	Exit() string          // how it ended, in words; after Done
	Kill()                 // ends it and all that it started; does not wait
	Output() []string      // the last lines that it printed
}

// Vitals are what the kernel says of a process.
type Vitals struct {
	Memory int64         // resident bytes; those that it shares with others count, too
	CPU    time.Duration // used so far
	State  byte          // 'R' runs, 'S' and 'D' wait, 'T' and 't' are stopped, as in /proc/PID/stat
}

// Examiner is a Process of which the kernel can be asked.
type Examiner interface {
	Vitals() (Vitals, error)
}

// Loser is a Process that may end since what holds them all ended.
type Loser interface {
	Lost() bool // after Done
}

// Dumper is a Process that can say where it is.
type Dumper interface {
	// Stacks has the process print the stack of each of its threads, and returns the lines of that: when all is there, or
	// what there is when ctx is done. A process that cannot do it may end, and one whose threads run Python may crash.
	Stacks(ctx context.Context) []string
	// LiveStacks does likewise, and does no process harm; nil where one cannot do it.
	LiveStacks(ctx context.Context) []string
}

func (c *Config) check() error {
	s := &c.Settings
	switch {
	case c.Name == "" || c.Starter == nil || c.Hello == nil:
		return errors.New("pool: name, starter and hello are needed")
	case s.Size < 0 || s.Size+s.MaxOverflow < 1 || s.MaxOverflow < 0 || s.Concurrency < 1 || s.QueueLimit < 0 || s.MaxInFlight < 0:
		return fmt.Errorf("pool %s: size, max_overflow, concurrency, queue_limit or max_in_flight out of range", c.Name)
	case min(s.CheckoutTimeout, s.HealthInterval, s.HealthTimeout, s.StartTimeout, s.CancelGrace, s.StopReport, s.SoftWait, s.OverflowIdle, s.RecycleAge) < 0:
		return fmt.Errorf("pool %s: a time limit is out of range", c.Name)
	case s.RecycleCalls < 0 || s.RecycleMemory < 0 || s.MemoryLimit < 0:
		return fmt.Errorf("pool %s: recycle_calls, recycle_memory or memory_limit out of range", c.Name)
	case !slices.Contains([]Pinning{"", PinStrict, PinFailFast, PinSoft}, s.Pinning):
		return fmt.Errorf("pool %s: pinning is %s, %s or %s, not %q", c.Name, PinStrict, PinFailFast, PinSoft, s.Pinning)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Prefix = cmp.Or(c.Prefix, "worker")
	s.MaxFrame = cmp.Or(s.MaxFrame, wire.DefaultFrame)
	s.Pinning = cmp.Or(s.Pinning, PinStrict)
	s.CheckoutTimeout = cmp.Or(s.CheckoutTimeout, 5*time.Second)
	s.HealthInterval = cmp.Or(s.HealthInterval, 30*time.Second)
	s.HealthTimeout = cmp.Or(s.HealthTimeout, 10*time.Second)
	s.SampleEvery = cmp.Or(s.SampleEvery, time.Second)
	s.StartTimeout = cmp.Or(s.StartTimeout, time.Minute)
	s.StopReport = cmp.Or(s.StopReport, 50*time.Millisecond)
	return nil
}
