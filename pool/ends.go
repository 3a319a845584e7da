package pool

import "github.com/dspex/dspex-sidecar/internal/events"

// endReason is why a worker ended, for those who count: why and the log say it in words.
type endReason string

const (
	endPlanned     endReason = "planned"      // recycled, retired, or the sidecar ends
	endFailedStart endReason = "failed_start" // it never got ready
	endCrashed     endReason = "crashed"      // by itself, or somebody else killed it
	endStuck       endReason = "stuck"        // it answered no heartbeat, or a call did not stop
	endMemory      endReason = "memory"       // memory_limit
	endKilled      endReason = "killed"       // an administrator wanted it
)

func endReasons() []endReason {
	return []endReason{endPlanned, endFailedStart, endCrashed, endStuck, endMemory, endKilled}
}

// endReasonLocked is why a worker that is dead ended.
func (w *Worker) endReasonLocked(starting, planned bool) endReason {
	switch {
	case planned:
		return endPlanned
	case w.end != "":
		return w.end
	case starting:
		return endFailedStart
	}
	return endCrashed
}

// toll counts a worker that has ended, and tells of it.
func (w *Worker) toll(end endReason, reason string) {
	cfg := &w.pool.cfg
	cfg.Metrics.WorkerEnds(cfg.Name, string(end)).Inc()
	cfg.Metrics.App.Forget(w.id)
	if cfg.Gone != nil {
		cfg.Gone(w.id)
	}
	w.tell("ended", reason)
}

// tell publishes where a worker is in its life. It takes no lock of the pool's.
func (w *Worker) tell(state, reason string) {
	cfg := &w.pool.cfg
	if !cfg.Events.Heard() {
		return
	}
	fields := map[string]any{"worker": w.id, "pool": cfg.Name, "generation": w.gen.number, "state": state, "reason": nil}
	if reason != "" {
		fields["reason"] = reason
	}
	cfg.Events.Publish(events.Event{Kind: "worker", Fields: fields})
}
