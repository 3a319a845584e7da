package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/load"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// benched is a scripted sidecar with sessions, whose calls are answered by handle.
func benched(t *testing.T, handle script) *sidecar {
	t.Helper()
	return start(t, func(p *wiretest.Peer, m wiretest.Message) {
		switch {
		case m.Kind != wire.KindRequest:
		case m.Method == "session.create":
			p.Send(1, m.ID, nil, nil, map[string]any{"session": "s"})
		case m.Method == "ping", m.Method == "session.end":
			p.Send(1, m.ID, nil, nil, nil)
		default:
			handle(p, m)
		}
	})
}

func benchReport(t *testing.T, o outcome) load.Report {
	t.Helper()
	var r load.Report
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("%v: %q", err, o.stdout)
	}
	return r
}

// A server that reads nothing and answers nothing for a second: of 100 calls a second in an open loop, about 50 then took half a
// second or more. One that is asked again only when it has answered shows the few that were under way.
func TestBenchShowsAStall(t *testing.T) {
	const stall = time.Second
	stalling := func() *sidecar {
		var mu sync.Mutex // guards what follows
		var until time.Time
		calls := 0
		return benched(t, func(p *wiretest.Peer, m wiretest.Message) {
			mu.Lock()
			if calls++; calls == 50 {
				until = time.Now().Add(stall)
			}
			wait := time.Until(until)
			mu.Unlock()
			if wait > 0 {
				<-time.After(wait)
			}
			p.Send(1, m.ID, nil, nil, m.Payload)
		})
	}
	slow := func(r load.Report) (n int64) {
		for _, bucket := range r.Histogram {
			if bucket.FromUS >= (stall / 2).Microseconds() {
				n += bucket.Count
			}
		}
		return n
	}
	args := []string{"bench", "--method", "m", "--sessions", "4", "--calls", "50", "--json"}
	open := runWith(t.Context(), t, Env{}, stalling(), append(args, "--rate", "100")...)
	open.expect(t, exitOK)
	if r := benchReport(t, open); r.Succeeded != 200 || slow(r) < 40 {
		t.Errorf("open loop: %d of %d calls took %s or more: %+v", slow(r), r.Succeeded, stall/2, r.Call)
	}
	closed := runWith(t.Context(), t, Env{}, stalling(), append(args, "--in-flight", "1")...)
	closed.expect(t, exitOK)
	if r := benchReport(t, closed); r.Succeeded != 200 || slow(r) < 1 || slow(r) > 20 {
		t.Errorf("closed loop: %d of %d calls took %s or more: %+v", slow(r), r.Succeeded, stall/2, r.Call)
	}
}

func TestBenchForPeople(t *testing.T) {
	page := filepath.Join(t.TempDir(), "bench.html")
	calls := 0
	s := benched(t, func(p *wiretest.Peer, m wiretest.Message) {
		if calls++; calls == 3 {
			p.Send(1, m.ID, nil, wire.Errorf(wire.CodeQueueFull, "too\nmany"), nil)
			return
		}
		p.Send(1, m.ID, map[string]any{"worker": "worker_1", "queue_us": 1500, "run_us": 20}, nil, m.Payload)
	})
	o := run(t, s, "bench", "--method", "m", "--params", `{"a": 1}`, "--sessions", "1", "--calls", "5", "--html", page)
	o.expect(t, exitFailed)
	for _, part := range []string{
		"m: 1 session, 5 calls in each; closed loop, 5 in flight in each\n4 of 5 calls succeeded, 1 failed;",
		"waited for a worker  4      1.5ms", "session.end", "█", "call       queue_full  1      queue_full: too\\nmany\n",
	} {
		if !strings.Contains(o.stdout, part) {
			t.Errorf("%q is not in\n%s", part, o.stdout)
		}
	}
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "queue_full") {
		t.Errorf("the page: %v %s", err, b)
	}
}

// A page that cannot be written is told before the load is made; where the disk fills later, the report is printed all the same.
func TestBenchWhosePageCannotBeWritten(t *testing.T) {
	calls := 0
	s := benched(t, func(p *wiretest.Peer, m wiretest.Message) {
		calls++
		p.Send(1, m.ID, nil, nil, m.Payload)
	})
	args := []string{"bench", "--method", "m", "--sessions", "1", "--calls", "5", "--html"}
	run(t, s, append(args, t.TempDir())...).expect(t, exitUsage, "--html: the page cannot be written")
	if calls != 0 {
		t.Errorf("%d calls were made", calls)
	}
	o := run(t, s, append(args, "/dev/full")...)
	o.expect(t, exitFailed, "writing the page")
	if !strings.Contains(o.stdout, "5 of 5 calls succeeded") {
		t.Errorf("the report is lost: %q", o.stdout)
	}
}

func TestInterruptedBench(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	answered := 0
	s := benched(t, func(p *wiretest.Peer, m wiretest.Message) {
		if answered++; answered == 10 {
			cancel()
			return
		}
		p.Send(1, m.ID, nil, nil, m.Payload)
	})
	o := runWith(ctx, t, Env{}, s, "bench", "--method", "m", "--sessions", "1", "--in-flight", "1", "--json")
	o.expect(t, exitInterrupted, "interrupted")
	if r := benchReport(t, o); !r.Interrupted || r.Succeeded != 9 || len(r.Errors) != 0 || r.End.Count != 1 {
		t.Errorf("%+v", r)
	}
}

func TestBenchThatCannotBegin(t *testing.T) {
	run(t, nil, "bench", "--method", "m", "--socket", "/nowhere/s").expect(t, exitUnreachable, "no such socket")
	run(t, nil, "bench", "--method", "m", "--calls", "0").expect(t, exitUsage, "--calls: must be 1 or more")
	run(t, nil, "bench", "--method", "m", "--params", "[1]").expect(t, exitUsage, "params are an object")
}
