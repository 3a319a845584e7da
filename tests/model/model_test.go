package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/dspex/dspex-sidecar/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSessions kills workers and the sidecar, and resizes and renews the pool, while clients work in sessions. A session holds each answered change exactly once, one whose
// answer was lost with the connection once or not at all, and none that failed; a call with an idempotency key has one outcome for ever.
//
// The same calls and faults again: go test ./tests/model -rapid.seed=N. What they meet in the processes is another time's own.
func TestSessions(t *testing.T) {
	checks, kills := 5, map[string]int{"kill worker": 10, "kill sidecar": 4, "move": 4, "resize": 4, "renew": 2}
	if os.Getenv("DSPEX_LONG") != "" {
		checks, kills = 50, map[string]int{"kill worker": 20, "kill sidecar": 20, "move": 8, "resize": 10, "renew": 5}
	}
	seed := flag.Lookup("rapid.seed").Value.String()
	if seed == "0" {
		seed = strconv.FormatUint(rand.Uint64()|1, 10)
	}
	t.Logf("-rapid.seed=%s", seed)
	for name, value := range map[string]string{
		"rapid.seed": seed, "rapid.checks": strconv.Itoa(checks), "rapid.nofailfile": "true",
		"rapid.shrinktime": "0s", // what processes do is not the same twice
	} {
		old := flag.Lookup(name).Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(name, old) })
	}
	var all counts
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.Custom(func(rt *rapid.T) plan { return drawPlan(rt, kills) }).Draw(rt, "plan")
		r := &run{sidecar: newSidecar(t, p.settings), counts: &all}
		if err := r.all(p); err != nil {
			log := r.sidecar.logged()
			t.Errorf("%+v: %v\nlog: %s", p.settings, err, log[max(0, len(log)-8000):]) // here it is told even if it does not happen again
			rt.Fatal(err)
		}
		r.sidecar.end()
	})
	t.Logf("%d requests answered, %d lost with their connection, %d worker_lost, %d session_lost; %d workers and %d sidecars killed",
		all.answered.Load(), all.lost.Load(), all.workerLost.Load(), all.quarantined.Load(), all.workers.Load(), all.sidecars.Load())
	if t.Failed() {
		return
	}
	if w, s := int(all.workers.Load()), int(all.sidecars.Load()); w != checks*kills["kill worker"] || s < checks*kills["kill sidecar"] {
		t.Errorf("%d workers and %d sidecars killed", w, s)
	}
	if n := all.quarantined.Load(); n > 4+all.workers.Load()/20 { // with the calls that waited
		t.Errorf("%d calls were refused since their session was quarantined", n)
	}
	if all.answered.Load() < int64(checks*100) || all.lost.Load() == 0 || all.workerLost.Load() == 0 {
		t.Errorf("too little happened to prove anything")
	}
}

type counts struct{ answered, lost, workerLost, quarantined, workers, sidecars atomic.Int64 }

// run is one sidecar, as often as it begins anew, and its clients.
type run struct {
	*counts

	sidecar *sidecar
	settled atomic.Int64
}

func (r *run) count(o outcome) {
	switch {
	case o.failed(wire.CodeSessionLost):
		r.quarantined.Add(1)
	case o.lost:
		r.lost.Add(1)
	case o.failed(wire.CodeWorkerLost):
		r.workerLost.Add(1)
	default:
		r.answered.Add(1)
	}
	r.settled.Add(1)
}

// all lets the clients work until all faults have happened, and looks at what is left: as it is, after a kill, and after an orderly end.
func (r *run) all(p plan) error {
	var clients []*client
	for i, orders := range p.sessions {
		clients = append(clients, r.newClient(i, orders))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var working sync.WaitGroup
	failed := make(chan error, len(clients))
	for _, c := range clients {
		working.Go(func() {
			if err := c.work(ctx); err != nil {
				failed <- err
			}
		})
	}
	err := r.faults(p, failed)
	cancel()
	working.Wait()
	for range len(failed) {
		err = errors.Join(err, <-failed)
	}
	for _, again := range []func() error{
		func() error { r.sidecar.kill(); return nil },
		func() error { return r.restart() },
	} {
		if err == nil {
			err = again()
		}
		for _, c := range clients {
			if err == nil {
				err = c.settle()
			}
		}
	}
	if err == nil {
		err = r.healthy()
	}
	for _, c := range clients {
		if c.link != nil {
			c.link.close()
		}
	}
	return err
}

func (r *run) restart() error {
	if err := r.sidecar.stop(); err != nil {
		return fmt.Errorf("the end of the sidecar: %w", err)
	}
	r.sidecar.start()
	return nil
}

// healthy waits until nothing is wrong: damage in the store would be told for ever.
func (r *run) healthy() error {
	l, err := r.sidecar.connect("health")
	if err != nil {
		return err
	}
	defer l.close()
	var said outcome
	err = await("health", func() bool {
		said = l.ask("sidecar.health", nil)
		m, _ := said.value.(map[string]any)
		return m["status"] == "healthy"
	})
	if err != nil {
		return fmt.Errorf("%w: %v", err, said)
	}
	return nil
}

// faults lets them happen.
func (r *run) faults(p plan, failed <-chan error) error {
	for _, f := range p.faults {
		begin := r.settled.Load()
		err := await(fmt.Sprintf("%d outcomes", f.After), func() bool {
			return r.settled.Load() >= begin+int64(f.After) || len(failed) > 0
		})
		if err != nil || len(failed) > 0 {
			return err
		}
		later(f.Micros)
		switch f.Kind {
		case "kill sidecar":
			r.sidecar.kill()
			r.sidecars.Add(1)
		case "kill worker":
			err = r.killWorker(f.Which)
		case "resize":
			if err = r.sidecar.configure(1 + f.Which%3); err == nil {
				err = r.reload(nil)
			}
		case "renew":
			err = r.reload(map[string]any{"renew": true})
		default:
			err = r.ask(func(l *link) bool {
				o := l.ask("admin.session.move", map[string]any{"session": fmt.Sprint("session ", f.Which%len(p.sessions))})
				return !o.lost // there may be no such session, or no other worker
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reload has the configuration read, and does not wait until it is in force: more happens beside it.
func (r *run) reload(params map[string]any) error {
	return r.ask(func(l *link) bool { return !l.ask("admin.reload", params).lost })
}

func (r *run) killWorker(which int) error {
	return r.ask(func(l *link) bool {
		o := l.ask("sidecar.workers", nil)
		m, _ := o.value.(map[string]any)
		workers, _ := m["workers"].([]any)
		var pids []int
		for _, w := range workers {
			w, _ := w.(map[string]any)
			if pid, err := strconv.Atoi(fmt.Sprint(w["pid"])); err == nil && w["state"] == "ready" {
				pids = append(pids, pid)
			}
		}
		if len(pids) == 0 || syscall.Kill(pids[which%len(pids)], syscall.SIGKILL) != nil {
			return false
		}
		r.workers.Add(1)
		return true
	})
}

// ask asks until there is an answer that will do.
func (r *run) ask(will func(*link) bool) error {
	l, err := r.sidecar.connect("faults")
	if err != nil {
		return err
	}
	defer func() { l.close() }()
	return await("an answer", func() bool {
		if !l.lost() {
			return will(l)
		}
		l.close()
		if again, err := dial(r.sidecar.t, r.sidecar.socket, "faults"); err == nil {
			l = again
		}
		return false
	})
}
