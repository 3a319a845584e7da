package pool_test

import (
	"fmt"
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
)

// A call of a pool that has a slot free, of a connection and of a session: the worker's part is in it.
func BenchmarkCall(b *testing.B) {
	for name, serial := range map[string]bool{"connection": false, "session": true} {
		b.Run(name, func(b *testing.B) {
			r := ready(b, func(s *setup) { s.Size, s.Concurrency = 4, 64 })
			f := r.pool.NewFlow("main", serial)
			b.ReportAllocs()
			for b.Loop() {
				r.submit(f, "echo", 1).ok()
			}
		})
	}
}

// Calls of 64 sessions of eight owners, all waiting for one slot.
func BenchmarkWaiting(b *testing.B) {
	const sessions = 64
	r := ready(b, func(s *setup) { s.QueueLimit = 2 * sessions })
	var flows [sessions]*pool.Flow
	for i := range flows {
		flows[i] = r.pool.NewFlow(fmt.Sprint("owner ", i%8), true)
	}
	b.ReportAllocs()
	var calls [sessions]*call
	for i := 0; b.Loop(); i++ {
		at := i % sessions
		if calls[at] != nil {
			calls[at].ok()
		}
		calls[at] = r.submit(flows[at], "echo", 1)
	}
	for _, c := range calls {
		if c != nil {
			c.ok()
		}
	}
}
