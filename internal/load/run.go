package load

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// endTime is how long sessions have to be made and ended after an interruption.
	endTime = 5 * time.Second
	// leftTTL is what becomes of sessions that nobody could end: they expire so long after the time between two calls.
	leftTTL = 5 * time.Minute
)

// Run is a load test that goes on, or has ended.
type Run struct {
	plan  Plan
	tally tally
}

// New prepares a plan that has been checked.
func New(p Plan) *Run { return &Run{plan: p, tally: newTally()} }

// Do runs the plan and returns when all of it is over: sessions ended and connections closed, also where ctx was cancelled.
func (r *Run) Do(ctx context.Context) {
	r.tally.begin(time.Now())
	sessions := make([]*session, r.plan.Sessions)
	r.each(sessions, func(i int) { sessions[i] = r.open(ctx) })
	if r.plan.Rate > 0 {
		r.openLoop(ctx, sessions)
	} else {
		r.each(sessions, func(i int) { r.closedLoop(ctx, sessions[i]) })
	}
	r.each(sessions, func(i int) { r.close(ctx, sessions[i]) })
	r.tally.end(time.Now(), ctx.Err() != nil)
}

// each does something for each session, side by side.
func (r *Run) each(sessions []*session, do func(i int)) {
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// session is one client with its session; id is "" where it could not be made.
type session struct {
	conn Conn
	id   string
}

func (r *Run) open(ctx context.Context) *session {
	s := &session{}
	if ctx.Err() != nil {
		return s
	}
	ctx, cancel := r.outlast(ctx)
	defer cancel()
	conn, err := r.plan.Dial(ctx)
	if err != nil {
		r.tally.failed(stepConnect, err)
		return s
	}
	s.conn = conn // not before: where there is an error, a nil pointer can be in it
	began := time.Now()
	result, err := s.conn.Call(ctx, client.Request{
		Method: "session.create", Params: map[string]any{"ttl_ms": (r.plan.Timeout + r.plan.gap() + leftTTL).Milliseconds()},
	})
	if err != nil {
		r.tally.failed(stepCreate, err)
		return s
	}
	made, _ := result.(map[string]any)
	if s.id, _ = made["session"].(string); s.id == "" {
		r.tally.failed(stepCreate, wire.Errorf(wire.CodeInvalidFrame, "session.create should answer with a session"))
		return s
	}
	r.tally.took(stepCreate, time.Since(began))
	return s
}

// outlast bounds what makes or ends a session. It goes on for a little time after an interruption: a session that was being made
// is to be known, and so to be ended.
func (r *Run) outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() != nil {
		return context.WithTimeout(context.WithoutCancel(ctx), endTime)
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.plan.Timeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(endTime, cancel) })
	return limited, func() { stop(); cancel() }
}

// close ends the session.
func (r *Run) close(ctx context.Context, s *session) {
	if s.conn == nil {
		return
	}
	defer s.conn.Close()
	if s.id == "" {
		return
	}
	ctx, cancel := r.outlast(ctx)
	defer cancel()
	began := time.Now()
	if _, err := s.conn.Call(ctx, client.Request{Method: "session.end", Params: map[string]any{"session": s.id}}); err != nil {
		r.tally.failed(stepEnd, err)
		return
	}
	r.tally.took(stepEnd, time.Since(began))
}

// closedLoop makes a session's calls, each when there is room for it.
func (r *Run) closedLoop(ctx context.Context, s *session) {
	if s.id == "" {
		return
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range r.plan.inFlight() {
		all.Go(func() {
			for next.Add(1) <= int64(r.plan.Calls) && ctx.Err() == nil {
				r.call(ctx, s, time.Now())
			}
		})
	}
	all.Wait()
}

// openLoop sends each call when it is due, to the sessions in turn. A call that is sent late was due all the same: how late is a
// part of how long it took, so that a server that stalls delays the calls behind the stall in the report as it does in life.
func (r *Run) openLoop(ctx context.Context, sessions []*session) {
	var all sync.WaitGroup
	defer all.Wait()
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := range r.plan.total() {
		due := start.Add(r.plan.due(n))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
		if s := sessions[n%len(sessions)]; s.id != "" {
			all.Go(func() { r.call(ctx, s, due) })
		}
	}
}

func (r *Run) call(ctx context.Context, s *session, due time.Time) {
	limited, cancel := context.WithDeadline(ctx, due.Add(r.plan.Timeout))
	defer cancel()
	r.tally.sent(time.Now())
	meta := client.Meta{Queue: -1, Run: -1}
	_, err := s.conn.Call(limited, client.Request{
		Method: r.plan.Method, Session: s.id, Params: r.plan.Params, Meta: func(m client.Meta) { meta = m },
	})
	now := time.Now()
	if ctx.Err() != nil && errors.Is(err, &wire.Error{Code: wire.CodeCancelled}) {
		return // given up here: nothing is known of it
	}
	r.tally.ended(now, now.Sub(due), meta, err)
}
