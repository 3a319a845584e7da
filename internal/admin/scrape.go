package admin

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/proxy"
)

// metrics answers sidecar.metrics.
func (a *Admin) metrics(*proxy.Caller) (any, error) {
	var text strings.Builder
	if err := a.WriteMetrics(&text); err != nil {
		return nil, err
	}
	return map[string]any{"text": text.String()}, nil
}

// WriteMetrics writes all metrics in the text format of Prometheus.
func (a *Admin) WriteMetrics(w io.Writer) error { return a.cfg.Metrics.Write(w, a.scrape()) }

// scrape is what is not counted as it happens.
func (a *Admin) scrape() []metrics.Sample {
	s := a.cfg.Pool.Snapshot()
	var out []metrics.Sample
	add := func(name string, value float64, labels ...string) {
		out = append(out, metrics.Sample{Name: name, Labels: labels, Value: value})
	}
	status, _ := a.judge(&s, false)
	for _, one := range []string{healthy, degraded, unhealthy} {
		add("dspex_health", yes(one == status), "status", one)
	}
	add("dspex_active_sessions", float64(a.cfg.Sessions.Len()))
	add("dspex_session_bytes", float64(a.cfg.Sessions.Bytes()))
	add("dspex_clients", float64(len(a.cfg.Server.Clients())))
	_, _, failure := a.cfg.Reloads()
	add("dspex_last_reload_succeeded", yes(failure == ""))
	add("dspex_uptime_seconds", time.Since(a.since).Seconds())
	add("dspex_build_info", 1, "version", a.cfg.Version)

	add("dspex_pool_size", float64(s.Size), "pool", s.Name)
	add("dspex_healthy_workers", float64(s.Ready()), "pool", s.Name)
	add("dspex_commands_total", float64(s.Commands), "pool", s.Name)
	add("dspex_errors_total", float64(s.Errors), "pool", s.Name)
	add("dspex_in_flight_calls", float64(s.InFlight), "pool", s.Name)
	add("dspex_queued_calls", float64(s.Waiting), "pool", s.Name)
	add("dspex_paused", yes(s.Paused), "pool", s.Name)
	add("dspex_slots", float64(s.Slots()), "pool", s.Name)
	states := map[string]int{"starting": 0, "ready": 0, "draining": 0}
	for i := range s.Workers {
		states[s.Workers[i].State]++
	}
	for _, state := range slices.Sorted(maps.Keys(states)) {
		add("dspex_workers", float64(states[state]), "pool", s.Name, "state", state)
	}
	for _, p := range a.all() {
		memory, name := p.Memory(), p.Name()
		for _, place := range slices.Sorted(maps.Keys(memory)) {
			add("dspex_worker_memory_bytes", float64(memory[place]), "pool", name, "place", strconv.Itoa(place))
		}
	}
	if a.cfg.Runs != nil {
		queued, running := a.cfg.Runs.Count()
		add("dspex_runs", float64(queued), "state", "queued")
		add("dspex_runs", float64(running), "state", "running")
	}
	if a.cfg.Scrape != nil {
		out = append(out, a.cfg.Scrape()...)
	}
	return out
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
