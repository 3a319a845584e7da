package pool

import (
	"context"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// stacksWait is how long a worker that is about to be killed is waited for, so that it can say where it is.
	stacksWait = 200 * time.Millisecond
	// stacksMost is how much of that goes into an error.
	stacksMost = 8 << 10
)

// condemnLocked makes a worker end that does not do as it should: it takes no new call, and those in it get a grace time, unless all of
// them were told to stop. Then it is killed.
func (p *Pool) condemnLocked(w *Worker, why string, grace time.Duration, batch *wire.Batch) {
	if w.state != workerReady {
		return
	}
	w.setStateLocked(workerDraining)
	w.why, w.quiet = why, make(chan struct{})
	w.settleDownLocked(time.Now())
	p.moveWaitingLocked(w, batch)
	p.ensureLocked()
	p.changedLocked()
	p.tasks.Go(func() { p.execute(w, why, grace) })
}

// execute kills a condemned worker when its time has come, after it was asked for its stacks.
func (p *Pool) execute(w *Worker, why string, grace time.Duration) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-w.quiet:
	case <-timer.C:
	case <-w.gone:
		return
	}
	w.log.Warn("killing worker", "reason", why)
	p.mu.Lock()
	for _, c := range w.calls {
		if c.state == callStopping && !c.told { // how it ended will be known soon
			c.settleBy = time.Now().Add(stacksWait + exitWait + reportWait)
			p.timeLocked(c)
		}
	}
	p.mu.Unlock()
	stacks := w.askStacks()
	p.mu.Lock()
	w.stacks = stacks
	p.mu.Unlock()
	w.proc.Kill()
}

// askStacks has the process say where each of its threads is; empty where it does not, or cannot.
func (w *Worker) askStacks() string {
	dumper, ok := w.proc.(Dumper)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), stacksWait)
	defer cancel()
	stacks := strings.Join(dumper.Stacks(ctx), "\n")
	if len(stacks) > stacksMost {
		stacks = strings.ToValidUTF8(stacks[:stacksMost], "") + "\n…"
	}
	return stacks
}
