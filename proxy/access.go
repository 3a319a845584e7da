package proxy

import (
	"cmp"
	"math/rand/v2"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// accessed logs a call that was answered, where it is one of those.
func (s *Server) accessed(k *call, code string, times *wire.ResponseMeta) {
	l := s.limits.Load()
	limit, share := l.SlowCall, l.AccessSample
	if limit == 0 && share == 0 {
		return
	}
	took := time.Since(k.since)
	slow := limit > 0 && took > limit
	if !slow && (share == 0 || rand.Float64() >= share) { //nolint:gosec // a sample needs no secrecy
		return
	}
	keys := []any{
		"method", k.count.Name(), "code", cmp.Or(code, "ok"), "connection", k.conn.id, "request_id", k.id,
		"took_ms", took.Milliseconds(),
	}
	if times.Worker != "" {
		keys = append(keys, "worker_id", times.Worker)
	}
	if times.RunUS >= 0 {
		keys = append(keys, "queue_ms", max(times.QueueUS, 0)/1000, "run_ms", times.RunUS/1000)
	}
	if k.key.ID != "" {
		keys = append(keys, "session_id", k.key.ID)
	}
	if slow {
		s.log.Warn("slow call", keys...)
		return
	}
	s.log.Info("call", keys...)
}
