// Package load owns a load test: sessions that are made, called and ended as a plan says, and what is measured of it. It does
// not know where the server is, nor how a report is shown on a terminal.
package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
)

// What bounds a plan: each call in flight is a goroutine, and times are counted in histograms that end somewhere.
const (
	mostCalls  = 10_000_000
	mostAtOnce = 100_000 // of the closed loop: about 1 GB
	longest    = 30 * 24 * time.Hour
)

// Plan is what a load test does.
type Plan struct {
	Sessions int // each has a connection of its own
	Calls    int // of each session
	Method   string
	Params   map[string]any

	// InFlight is how many calls of a session are in flight at a time in the closed loop; 0: all of them.
	InFlight int
	// Rate makes it an open loop: so many calls a second in all sessions together, each at its scheduled time whatever became of
	// those before it. 0: the closed loop, where a session's next call waits for one to end.
	Rate float64
	// Timeout is each call's deadline, counted from when the call was due.
	Timeout time.Duration

	// Dial connects one client.
	Dial func(ctx context.Context) (Conn, error)
}

// Conn is a client's connection.
type Conn interface {
	Call(ctx context.Context, r client.Request) (any, error)
	Close()
}

// Check says what is wrong with a plan, in the words of its flags.
func (p *Plan) Check() error {
	switch {
	case p.Method == "":
		return errors.New("--method: must name a method")
	case p.Sessions < 1:
		return errors.New("--sessions: must be 1 or more")
	case p.Calls < 1:
		return errors.New("--calls: must be 1 or more")
	case p.Sessions > mostCalls/p.Calls:
		return fmt.Errorf("--sessions and --calls: more than %d calls in all", mostCalls)
	case p.InFlight < 0:
		return errors.New("--in-flight: must be 0, for all calls of a session at once, or more")
	case !(p.Rate >= 0 && p.Rate <= 1e6): // NaN is neither
		return errors.New("--rate: must be 0, for the closed loop, or up to 1000000 calls a second")
	case p.Rate > 0 && p.InFlight > 0:
		return errors.New("--in-flight: an open loop (--rate) has as many calls in flight as are not answered yet: give one of the two")
	case p.Rate > 0 && float64(p.total())/p.Rate > longest.Seconds():
		return fmt.Errorf("--rate: %d calls at %g a second take more than 30 days", p.total(), p.Rate)
	case p.Rate == 0 && p.Sessions*p.inFlight() > mostAtOnce:
		return fmt.Errorf("--in-flight: %d calls at once are more than %d: give fewer for each session", p.Sessions*p.inFlight(), mostAtOnce)
	case p.Timeout <= 0 || p.Timeout > longest:
		return errors.New("--timeout: must be more than 0, such as 60s, and at most 30 days (720h)")
	}
	return nil
}

func (p *Plan) total() int { return p.Sessions * p.Calls }

// inFlight is how many calls of a session go at a time in the closed loop.
func (p *Plan) inFlight() int {
	if p.InFlight == 0 {
		return p.Calls
	}
	return min(p.InFlight, p.Calls)
}

// due is when call number n of the open loop is sent, counted from the start.
func (p *Plan) due(n int) time.Duration {
	return time.Duration(float64(n) / p.Rate * float64(time.Second))
}

// gap is how long a session is left alone between two calls: in the open loop the sessions take turns.
func (p *Plan) gap() time.Duration {
	if p.Rate == 0 {
		return 0
	}
	return p.due(p.Sessions)
}
