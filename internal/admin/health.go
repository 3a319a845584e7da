package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

// Statuses of health.
const (
	healthy   = "healthy"
	degraded  = "degraded"
	unhealthy = "unhealthy"
)

// pingLimit is how long workers may take to answer that are asked by sidecar.health.
const pingLimit = 5 * time.Second

// health is sidecar.health; with force it asks each worker now.
func (a *Admin) health(ctx context.Context, who *proxy.Caller, p struct {
	Force bool `msgpack:"force"`
},
) (any, error) {
	var answered map[string]time.Duration
	if p.Force {
		limited, cancel := context.WithTimeout(ctx, pingLimit)
		answered = a.cfg.Pool.Ping(limited)
		cancel()
	}
	s := a.cfg.Pool.Snapshot()
	status, reasons := a.judge(&s, who.Admin)
	workers := make([]map[string]any, 0, len(s.Workers))
	for i := range s.Workers {
		w := &s.Workers[i]
		one := map[string]any{"worker": w.ID, "state": w.State, "leaving": wire.OrNil(w.Leaving), "last_failure": wire.OrNil(w.Failure)}
		if took, asked := answered[w.ID]; p.Force {
			one["answered_us"] = nil
			if asked && took >= 0 {
				one["answered_us"] = took.Microseconds()
			} else if asked {
				reasons = append(reasons, w.ID+" did not answer")
				status = worse(status, degraded)
			}
		}
		workers = append(workers, one)
	}
	draining := a.cfg.Pool.Draining()
	result := map[string]any{
		"status": status, "reasons": reasons, "workers": workers, "started": a.up.Load() || s.Lazy || s.Ready() > 0,
		"ready": status != unhealthy && !draining && !s.Paused, "draining": draining, "paused": s.Paused,
	}
	addFailure(result, &s)
	return result, nil
}

// stuckAfter is how many looks at the health may be missing before the sidecar counts as stuck: it is then killed where somebody watches.
const stuckAfter = 10

// Alive says whether the sidecar still looks at itself, and what there is to say about it: the one meaning that `healthcheck --live`, /healthz and the service
// manager's watchdog have.
func (a *Admin) Alive() (alive bool, said string) {
	if ago := a.sinceLook(); ago > stuckAfter*a.cfg.Look {
		return false, fmt.Sprintf("stuck: the sidecar last looked at itself %s ago", ago.Round(time.Second))
	}
	return true, "alive"
}

func (a *Admin) sinceLook() time.Duration {
	return time.Since(a.since) - time.Duration(a.looked.Load())
}

// live is sidecar.live, which takes no lock that a stuck part may hold.
func (a *Admin) live(*proxy.Caller) (any, error) {
	alive, said := a.Alive()
	return map[string]any{"alive": alive, "said": said, "looked_ms_ago": a.sinceLook().Milliseconds()}, nil
}

// worse is the worse of two statuses.
func worse(a, b string) string {
	order := []string{healthy, degraded, unhealthy}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

// judge says how the sidecar is, and why. Those who are no administrators are not told what the configuration has: names, paths, commands.
func (a *Admin) judge(s *pool.Snapshot, admin bool) (status string, reasons []string) {
	status, reasons = healthy, []string{}
	add := func(to, why string) {
		status = worse(status, to)
		reasons = append(reasons, why)
	}
	switch ready := s.Ready(); {
	case s.Lazy: // not needed yet
	case ready == 0 && s.NoWorkers != "":
		add(unhealthy, s.NoWorkers+printed(s))
	case ready == 0:
		add(unhealthy, "no worker is ready")
	case ready < s.Size:
		add(degraded, fmt.Sprintf("%d of %d workers are ready", ready, s.Size))
	}
	if status != healthy && s.LastFailure != "" && !strings.HasSuffix(s.StartFailed, s.LastFailure) {
		reasons = append(reasons, fmt.Sprintf("last failure, %s ago: %s", s.FailedFor.Round(time.Second), s.LastFailure))
	}
	if status != healthy && s.StartFailed != "" && s.NoWorkers == "" { // which says it already
		reasons = append(reasons, s.StartFailed+printed(s))
	}
	if s.Paused {
		add(degraded, "dispatch is paused: "+waiting(s.Waiting))
	}
	if a.cfg.Pool.Draining() {
		add(degraded, "draining: no calls are taken")
	}
	if s.QueueFull {
		add(degraded, "the queue is full: "+waiting(s.Waiting))
	}
	if n := a.cfg.Sessions.Damages(); n > 0 {
		add(degraded, fmt.Sprintf("%d stored sessions are damaged: the log names them; `dspex-sidecar sessions end` forgets one, and so does the end of sessions.ttl", n))
	}
	if failure := a.cfg.Sessions.StoreFailure(); failure != "" {
		add(degraded, "the session store takes no changes: "+failure)
	}
	if _, _, failure := a.cfg.Reloads(); failure != "" {
		why := "the configuration in force is the last good one, since the last reload failed"
		if admin {
			why += ": " + failure
		}
		add(degraded, why)
	}
	for _, why := range a.cfg.Models() {
		if name, _, ok := strings.Cut(why, ": "); ok && !admin {
			why = name + " is not as it should be"
		}
		add(degraded, why)
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
