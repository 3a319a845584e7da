package app

import (
	"os"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/proxy"
	"github.com/dspex/dspex-sidecar/wire"
)

type rawMessage = msgpack.RawMessage

func poolSettings(cfg *config.Config) pool.Settings {
	p, s := &cfg.Pool, &cfg.Sessions
	return pool.Settings{
		Size: p.Size.N, MaxOverflow: p.MaxOverflow.N, OverflowIdle: p.OverflowIdle, Concurrency: p.Concurrency,
		CheckoutTimeout: p.CheckoutTimeout, QueueLimit: p.QueueLimit, Lazy: p.Lazy, HealthInterval: p.HealthCheckInterval,
		HealthTimeout: p.HealthCheckTimeout, StartTimeout: p.StartTimeout, CancelGrace: p.CancelGrace, StopReport: p.StopReport,
		RecycleCalls: p.RecycleCalls, RecycleAge: p.RecycleAge, RecycleMemory: int64(p.RecycleMemory), MemoryLimit: int64(p.MemoryLimit),
		Pinning: pool.Pinning(s.Pinning), SoftWait: s.SoftWait, MaxInFlight: s.MaxInFlight,
		// The sidecar's head is longer than the client's: a frame that it took in has to fit.
		MaxFrame: cfg.Listen.MaxFrame + wire.MaxHead,
	}
}

func limits(cfg *config.Config) proxy.Limits {
	l := &cfg.Listen
	self := uint32(os.Getuid()) //nolint:gosec // a uid
	return proxy.Limits{
		AllowUIDs: ints(l.Allowed(self)), AdminUIDs: ints(l.Admins(self)),
		MaxConnections: l.MaxConnections, MaxInFlight: l.MaxInFlight, MaxInFlightBytes: l.MaxInFlightBytes, MaxInFlightUID: l.MaxInFlightUID,
		MaxFrame: l.MaxFrame, HandshakeTimeout: l.HandshakeTimeout, FrameTimeout: l.FrameTimeout, WriteTimeout: l.WriteTimeout,
		WriteBuffer: l.WriteBuffer, DefaultTimeout: l.DefaultTimeout, StreamStall: cfg.Pool.StreamStall,
		SlowCall: cfg.Log.SlowCall, AccessSample: cfg.Log.AccessSample,
	}
}

func ints(uids []uint32) []int {
	out := make([]int, len(uids))
	for i, u := range uids {
		out[i] = int(u)
	}
	return out
}
