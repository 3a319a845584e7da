package app

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ending is when the sidecar has to have ended. Whoever wants it to end says within which time; the earliest end counts.
type ending struct {
	asked chan struct{} // has room for one: another end was asked for

	mu sync.Mutex // guards what follows
	at time.Time  // zero: nobody has asked
}

func newEnding() *ending { return &ending{asked: make(chan struct{}, 1)} }

// within asks for the end within a limit, and returns the one that counts.
func (e *ending) within(limit time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if at := now.Add(limit); e.at.IsZero() || at.Before(e.at) {
		e.at = at
		select {
		case e.asked <- struct{}{}:
		default:
		}
	}
	return max(0, e.at.Sub(now))
}

// left is the time until then.
func (e *ending) left() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Until(e.at)
}

// errLate is why a drain ends before all calls did.
var errLate = errors.New("the time for the drain is over")

// context is cancelled when the time is over, also where that is brought forward meanwhile.
func (e *ending) context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	go func() { // ends with ctx
		for {
			timer := time.NewTimer(e.left())
			select {
			case <-timer.C:
				cancel(errLate)
			case <-e.asked:
			case <-ctx.Done():
			}
			timer.Stop()
			if ctx.Err() != nil {
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}
