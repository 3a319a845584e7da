package load

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers each call after a time of its own, and until stalled nobody.
type server struct {
	takes   time.Duration
	slow    map[string]time.Duration // how long the sidecar's own methods take
	stalled func() time.Duration     // what is left of a stall

	mu       sync.Mutex // guards what follows
	sessions map[string]int
	inFlight map[string]int
	most     int // calls in flight in one session at a time
	ended    int
	closed   int   // connections
	ttls     []any // that sessions were made with
	refuse   map[string]*wire.Error
}

func newServer() *server {
	return &server{sessions: map[string]int{}, inFlight: map[string]int{}, refuse: map[string]*wire.Error{}, stalled: func() time.Duration { return 0 }}
}

func (s *server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
}

func (s *server) Call(ctx context.Context, r client.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuse[r.Method]; err != nil {
		return nil, err
	}
	switch r.Method {
	case "session.create":
		id := fmt.Sprint("s", len(s.sessions))
		s.sessions[id] = 0
		params, _ := r.Params.(map[string]any)
		s.ttls = append(s.ttls, params["ttl_ms"])
		if err := s.waitLocked(ctx, s.slow[r.Method]); err != nil {
			return nil, err // the session is there all the same
		}
		return map[string]any{"session": id}, nil
	case "session.end":
		if err := s.waitLocked(ctx, s.slow[r.Method]); err != nil {
			return nil, err
		}
		s.ended++
		return nil, nil //nolint:nilnil // it has no result
	}
	s.sessions[r.Session]++
	s.inFlight[r.Session]++
	s.most = max(s.most, s.inFlight[r.Session])
	err := s.waitLocked(ctx, max(s.stalled(), 0)+s.takes)
	if err == nil {
		r.Meta(client.Meta{Worker: "worker_1", Run: s.takes, Queue: 0})
	}
	s.inFlight[r.Session]--
	return nil, err
}

// waitLocked lets others go on meanwhile.
func (s *server) waitLocked(ctx context.Context, d time.Duration) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return wire.FromError(ctx.Err())
	}
}

func (s *server) plan() Plan {
	return Plan{
		Sessions: 3, Calls: 4, Method: "m", Timeout: time.Minute,
		Dial: func(context.Context) (Conn, error) { return s, nil },
	}
}

func measure(ctx context.Context, t *testing.T, p Plan) *Report {
	t.Helper()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	run := New(p)
	run.Do(ctx)
	return run.Report()
}

// stall has a server stop for a second, a second after the start.
func (s *server) stall() {
	start := time.Now()
	s.stalled = func() time.Duration {
		if since := time.Since(start); since >= time.Second {
			return 2*time.Second - since
		}
		return 0
	}
}

// Of 100 calls a second those of the second that the server stalls are due in it all the same: they took from 1 s down to 10 ms.
// A loop whose calls wait for each other would know of one that was slow.
func TestOpenLoopOmitsNothingOfAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.stall()
		p := s.plan()
		p.Sessions, p.Calls, p.Rate = 10, 30, 100
		r := measure(t.Context(), t, p)
		if r.Call.Count != 300 || r.Failed != 0 || r.Loop != "open" {
			t.Fatalf("%+v", r)
		}
		slow := int64(0)
		for _, b := range r.Histogram {
			if b.FromUS >= 500_000 {
				slow += b.Count
			}
		}
		if slow < 50 || slow > 52 { // those due in the first half of the stall
			t.Errorf("%d calls took half a second or more, want 51: %+v", slow, r.Histogram)
		}
		if mean := r.Call.MeanUS; mean < 165_000 || mean > 170_000 { // (10 + 20 + … + 1000 ms) / 300
			t.Errorf("a mean of %dµs, want 168333", mean)
		}
		if r.Call.MaxUS < 999_000 || r.Call.MaxUS > 1_001_000 || r.Call.P50US != 0 {
			t.Errorf("%+v", r.Call)
		}
	})
}

// The same server, asked by ten who wait for each answer: each meets the stall once.
func TestClosedLoopWaitsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.stall()
		s.takes = 10 * time.Millisecond
		p := s.plan()
		p.Sessions, p.Calls, p.InFlight = 10, 200, 1
		r := measure(t.Context(), t, p)
		if r.Call.Count != 2000 || s.most != 1 {
			t.Fatalf("%d calls, %d at a time", r.Call.Count, s.most)
		}
		if r.Call.P99US > 10_100 || r.Call.MaxUS < 900_000 {
			t.Errorf("%+v", r.Call)
		}
		if r.TookMS < 2900 || r.TookMS > 3100 {
			t.Errorf("took %.0f ms, want 3000", r.TookMS)
		}
	})
}

func TestCallsOfASessionGoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.takes = time.Second
		r := measure(t.Context(), t, s.plan())
		if s.most != 4 || r.InFlight != 4 || s.ended != 3 || r.TookMS != 1000 || r.PerSecond != 12 {
			t.Errorf("%d at a time, %d ended, %+v", s.most, s.ended, r)
		}
		for id, calls := range s.sessions {
			if calls != 4 {
				t.Errorf("session %s got %d calls", id, calls)
			}
		}
		if r.Ran.P50US < 999_000 || r.Create.Count != 3 || r.End.Count != 3 || !r.OK() {
			t.Errorf("%+v", r)
		}
	})
}

func TestFailuresAreCountedByCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.takes = time.Hour
		s.refuse["session.end"] = wire.Errorf(wire.CodeSessionNotFound, "gone")
		r := measure(t.Context(), t, s.plan())
		want := []Failure{
			{"call", "deadline_exceeded", 12, r.Errors[0].Message}, {"end", "session_not_found", 3, "session_not_found: gone"},
		}
		if fmt.Sprint(r.Errors) != fmt.Sprint(want) || r.OK() || r.FailedCall.P50US < 59_000_000 || r.Call.Count != 0 {
			t.Errorf("%+v", r)
		}
	})
}

func TestSessionsThatCannotBeMadeGetNoCalls(t *testing.T) {
	for _, rate := range []float64{0, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer()
			s.refuse["session.create"] = wire.Errorf(wire.CodeSessionLimit, "full")
			p := s.plan()
			p.Rate = rate
			r := measure(t.Context(), t, p)
			if len(r.Errors) != 1 || r.Errors[0].Count != 3 || r.Errors[0].Step != "create" || r.Calls != 0 || s.ended != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// An error may come with a pointer that is nil, in an interface that is not.
func TestConnectionsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		p := s.plan()
		dials := 0
		var mu sync.Mutex // guards dials
		p.Dial = func(context.Context) (Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if dials++; dials == 2 {
				var none *server
				return none, wire.Errorf(wire.CodeQueueFull, "too many connections")
			}
			return s, nil
		}
		r := measure(t.Context(), t, p)
		want := []Failure{{"connect", "queue_full", 1, "queue_full: too many connections"}}
		if fmt.Sprint(r.Errors) != fmt.Sprint(want) || r.Succeeded != 8 || s.ended != 2 || s.closed != 2 {
			t.Errorf("%d ended, %d closed, %+v", s.ended, s.closed, r)
		}
	})
}

// A session that is being made when the run is interrupted would be left, as nobody knew of it.
func TestInterruptedWhileSessionsAreMade(t *testing.T) {
	for name, c := range map[string]struct {
		makes time.Duration
		took  float64
		ended int
	}{
		"soon":  {time.Second, 1000, 3},
		"never": {time.Hour, 500 + 5000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				s.slow = map[string]time.Duration{"session.create": c.makes}
				ctx, cancel := context.WithCancel(t.Context())
				defer time.AfterFunc(500*time.Millisecond, cancel).Stop()
				r := measure(ctx, t, s.plan())
				if !r.Interrupted || r.Calls != 0 || s.ended != c.ended || r.TookMS != c.took || (len(r.Errors) == 0) != (c.ended == 3) {
					t.Errorf("%d ended, %+v", s.ended, r)
				}
			})
		})
	}
}

// The server that nobody hears of any more is given up, and said to have been too slow.
func TestInterruptedBeforeASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.takes, s.slow = time.Hour, map[string]time.Duration{"session.end": time.Hour}
		ctx, cancel := context.WithCancel(t.Context())
		defer time.AfterFunc(time.Second, cancel).Stop()
		r := measure(ctx, t, s.plan())
		if len(r.Errors) != 1 || r.Errors[0].Step != "end" || r.Errors[0].Code != "deadline_exceeded" || r.TookMS != 1000+5000 {
			t.Errorf("%+v", r)
		}
	})
}

// With few calls a second a session waits long for its turn, and is not to expire meanwhile.
func TestSessionsOutliveTheTimeBetweenTheirCalls(t *testing.T) {
	for rate, want := range map[float64]time.Duration{0: 6 * time.Minute, 0.01: 6*time.Minute + 300*time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer()
			p := s.plan()
			p.Rate = rate
			measure(t.Context(), t, p)
			for _, ttl := range s.ttls {
				if ttl != want.Milliseconds() {
					t.Errorf("%g a second: a session lives for %v ms, want %v", rate, ttl, want)
				}
			}
		})
	}
}

// The slowest call is in the figures and the drawing however many there were.
func TestTheSlowestCallIsShown(t *testing.T) {
	for _, calls := range []int{1, 2, 99, 1000, 1025} {
		h := newHistogram()
		for range calls - 1 {
			_ = h.RecordValue(1000)
		}
		_ = h.RecordValue(1_000_000)
		r := &Report{Call: summarize(h), Quantiles: quantiles(h)}
		if last := r.Quantiles[len(r.Quantiles)-1]; last.Percent != 100 || last.US != r.Call.MaxUS {
			t.Errorf("of %d: the curve ends at %+v", calls, last)
		}
		if curve := r.curve(); !strings.HasPrefix(curve, "0.0,") || !strings.HasSuffix(curve, " 880.0,0.0") {
			t.Errorf("of %d: %s", calls, curve)
		}
	}
}

func TestInterruptedRunGivesWhatThereIs(t *testing.T) {
	for name, rate := range map[string]float64{"open": 2, "closed": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				s.takes = 700 * time.Millisecond
				p := s.plan()
				p.Calls, p.Rate, p.InFlight = 1000, rate, 1
				if rate > 0 {
					p.InFlight = 0
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer time.AfterFunc(10*time.Second, cancel).Stop()
				r := measure(ctx, t, p)
				if !r.Interrupted || r.OK() || len(r.Errors) > 0 || r.Succeeded < 15 || r.Succeeded > 50 || s.ended != 3 || r.TookMS > 10_100 {
					t.Errorf("%d ended, %+v", s.ended, r)
				}
			})
		})
	}
}

func TestPageHasAllThatItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.stall()
		p := s.plan()
		p.Method, p.Rate, p.Calls = "<script>", 100, 100
		var page bytes.Buffer
		if err := measure(t.Context(), t, p).WritePage(&page); err != nil {
			t.Fatal(err)
		}
		text := page.String()
		for _, part := range []string{"&lt;script&gt;", "<polyline points=\"0.0,", "<rect ", "99 %", "session.create"} {
			if !strings.Contains(text, part) {
				t.Errorf("the page has no %s", part)
			}
		}
		for _, part := range []string{"<script", "http", "src=", "NaN", "Inf", "ZgotmplZ"} {
			if strings.Contains(text, part) {
				t.Errorf("the page has %s:\n%s", part, text)
			}
		}
	})
}

func TestTimesHaveThreeDigits(t *testing.T) {
	for us, want := range map[int64]string{
		0: "0µs", 999: "999µs", 1000: "1ms", 1234: "1.23ms", 12_345: "12.3ms", 123_456: "123ms", 999_999: "1000ms",
		1_000_000: "1s", 60_000_000: "60s", 3_600_000_000: "1h0m0s",
	} {
		if got := Microseconds(us); got != want {
			t.Errorf("%d: %s, want %s", us, got, want)
		}
	}
}

func TestPlansThatCannotBe(t *testing.T) {
	for flag, change := range map[string]func(p *Plan){
		"--sessions":   func(p *Plan) { p.Sessions = 0 },
		"--calls":      func(p *Plan) { p.Calls = -1 },
		"more than":    func(p *Plan) { p.Calls, p.Sessions = 1_000_000, 1_000_000 },
		"--rate":       func(p *Plan) { p.Rate = -1 },
		"--rate: must": func(p *Plan) { p.Rate = math.NaN() },
		"30 days":      func(p *Plan) { p.Rate = 1e-12 },
		"--in-flight":  func(p *Plan) { p.Rate, p.InFlight = 1, 1 },
		"at once":      func(p *Plan) { p.Calls = 1_000_000 },
		"--timeout":    func(p *Plan) { p.Timeout = 0 },
		"at most":      func(p *Plan) { p.Timeout = 721 * time.Hour },
		"--method":     func(p *Plan) { p.Method = "" },
	} {
		p := newServer().plan()
		change(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
