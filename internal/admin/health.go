package admin

import (
	"fmt"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
)

// Statuses of health.
const (
	healthy   = "healthy"
	degraded  = "degraded"
	unhealthy = "unhealthy"
)

func (a *Admin) health(*proxy.Caller) (any, error) {
	s := a.cfg.Pool.Snapshot()
	status, reasons := a.judge(&s)
	workers := make([]map[string]any, 0, len(s.Workers))
	for i := range s.Workers {
		w := &s.Workers[i]
		workers = append(workers, map[string]any{"worker": w.ID, "state": w.State, "last_failure": orNil(w.Why)})
	}
	result := map[string]any{"status": status, "reasons": reasons, "workers": workers}
	addFailure(result, &s)
	return result, nil
}

// judge says how the sidecar is, and why.
func (a *Admin) judge(s *pool.Snapshot) (status string, reasons []string) {
	status, reasons = healthy, []string{}
	worse := func(to, why string) {
		if status != unhealthy {
			status = to
		}
		reasons = append(reasons, why)
	}
	switch ready := s.Ready(); {
	case s.Lazy: // not needed yet
	case ready == 0 && s.NoWorkers != "":
		worse(unhealthy, s.NoWorkers+printed(s))
	case ready == 0:
		worse(unhealthy, "no worker is ready")
	case ready < s.Size:
		worse(degraded, fmt.Sprintf("%d of %d workers are ready", ready, s.Size))
	}
	if status != healthy && s.LastFailure != "" && s.NoWorkers == "" { // which says it already
		reasons = append(reasons, fmt.Sprintf("last failure, %s ago: %s", s.FailedFor.Round(time.Second), s.LastFailure)+printed(s))
	}
	if s.QueueFull {
		worse(degraded, "the queue is full: "+waiting(s.Waiting))
	}
	if n := a.cfg.Sessions.Damages(); n > 0 {
		worse(degraded, fmt.Sprintf("%d stored sessions are damaged: the log names them; `dspex-sidecar sessions end` forgets one, and so does the end of sessions.ttl", n))
	}
	if failure := a.cfg.Sessions.StoreFailure(); failure != "" {
		worse(degraded, "the session store takes no changes: "+failure)
	}
	if _, _, failure := a.cfg.Reloads(); failure != "" {
		worse(degraded, "the configuration in force is the last good one, since the last reload failed: "+failure)
	}
	for _, why := range a.cfg.Models() {
		worse(degraded, why)
	}
	return status, reasons
}

// addFailure adds the pool's last failure, which stays when the worker that failed has been replaced.
func addFailure(result map[string]any, s *pool.Snapshot) {
	result["last_failure"], result["last_failure_age_ms"] = nil, nil
	if s.LastFailure != "" {
		result["last_failure"], result["last_failure_age_ms"] = s.LastFailure, s.FailedFor.Milliseconds()
	}
}

// printed is what a worker that could not be started said itself: where an application cannot be imported, its traceback.
func printed(s *pool.Snapshot) string {
	if s.Printed == "" {
		return ""
	}
	return "; it printed:\n" + s.Printed
}

func waiting(calls int) string {
	if calls == 1 {
		return "1 call waits"
	}
	return fmt.Sprintf("%d calls wait", calls)
}
