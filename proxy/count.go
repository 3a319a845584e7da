package proxy

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/wire"
)

// noTimes are those of a call that neither waited nor ran.
var noTimes = wire.ResponseMeta{QueueUS: -1, RunUS: -1} //nolint:gochecknoglobals // a constant

// countAs notes what a call of a worker's method counts as. The name is kept only where nobody has called that before.
func (k *call) countAs(method []byte) {
	if k.count = k.conn.server.metrics.Find(method); k.count == nil {
		k.name = string(method)
	}
}

// counted counts a call that is answered.
func (k *call) counted(err *wire.Error, times *wire.ResponseMeta) {
	m := k.conn.server.metrics
	if k.count == nil {
		k.count = k.firstOf(m)
	}
	code := ""
	if err != nil {
		code = string(err.Code)
	}
	k.count.Done(code, micros(times.QueueUS), micros(times.RunUS))
	k.conn.server.accessed(k, code, times)
}

// firstOf is what the first calls of a method count as; names that no application has are not kept.
func (k *call) firstOf(m *metrics.Metrics) *metrics.Method {
	if k.conn.server.cfg.Pool.Methods()[k.name] == nil {
		return m.Other()
	}
	return m.Add(k.name)
}

func micros(n int64) time.Duration {
	if n < 0 {
		return -1
	}
	return time.Duration(n) * time.Microsecond
}
