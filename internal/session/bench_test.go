package session_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// lean starts workers that allocate nothing for a call, so that what a benchmark counts is the sidecar's.
type lean struct{ b *testing.B }

type leanProcess struct {
	channel *net.UnixConn
	done    chan struct{}
}

func (p *leanProcess) PID() int               { return 1 }
func (p *leanProcess) Channel() *net.UnixConn { return p.channel }
func (p *leanProcess) Done() <-chan struct{}  { return p.done }
func (p *leanProcess) Exit() string           { return "" }
func (p *leanProcess) Kill()                  { _ = p.channel.Close() }
func (p *leanProcess) Output() []string       { return nil }

func (l lean) Start(context.Context, string) (pool.Process, error) {
	ours, theirs := wiretest.Pair(l.b)
	p := &leanProcess{ours, make(chan struct{})}
	go func() { // ends with the channel
		defer close(p.done)
		l.serve(theirs)
		_ = theirs.Close()
	}()
	return p, nil
}

func (l lean) serve(conn *net.UnixConn) {
	reader, err := wire.NewReader(conn, wire.DefaultFrame, 0)
	if err != nil {
		return
	}
	out, err := wire.NewOutbox(conn, 0, 0, nil)
	if err != nil {
		return
	}
	defer out.Wait()
	defer out.End()
	var batch wire.Batch
	var head [64]byte
	change := []byte("\x81\xa3set\x81\xa1k\xa9some text")
	for {
		body, _, err := reader.Next()
		if err != nil {
			return
		}
		f, err := wire.ParseScanned(body)
		if err != nil || f.Kind != wire.KindRequest {
			continue
		}
		result := wire.Nil
		switch string(f.Method) {
		case "hello":
			result, _ = wire.Marshal(doc{
				"protocol": wire.Protocol, "features": []string{}, "worker": doc{}, "pid": 1, "max_frame": wire.DefaultFrame, "methods": methods(),
			})
		case "do":
			out.Append(&batch, wire.AppendUint(append(head[:0], 0x93, 0x06), f.ID), change, false)
		}
		out.Append(&batch, wire.AppendResponse(head[:0], f.ID, nil), result, false)
		batch.Flush()
	}
}

// benchTable is a table for a benchmark, on the memory store.
func benchTable(b *testing.B, starter pool.Starter, sessions int) *session.Table {
	b.Helper()
	p, err := pool.New(pool.Config{
		Name: "default", Starter: starter, Hello: func(string) ([]byte, error) { return wire.Nil, nil },
		Settings: pool.Settings{
			Size: 1, Concurrency: 64, CheckoutTimeout: patience, QueueLimit: 1000, HealthInterval: time.Hour, HealthTimeout: patience, StartTimeout: patience,
			CancelGrace: patience, Pinning: pool.PinStrict, Lazy: sessions > 1,
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	t, err := session.New(session.Config{Pool: p, Store: store.Memory{}, Settings: session.Settings{TTL: time.Hour, Max: sessions, MaxState: 128 << 20}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.Close(context.Background()) //nolint:usetesting // the benchmark's own is done by now
		if err := t.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := p.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	return t
}

func benchCreate(b *testing.B, t *session.Table, k session.Key, o session.Options) {
	b.Helper()
	var batch wire.Batch
	t.Create(&batch, k, o, func(_ *wire.Batch, err error) {
		if err != nil {
			b.Fatal(err)
		}
	})
}

// caller is a handler that wants to know of the end alone.
type caller struct{ ended chan *wire.Error }

func (c *caller) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error { return nil }
func (c *caller) Item(*wire.Batch, []byte, bool)                       {}
func (c *caller) Ask(*wire.Batch, *pool.Ask)                           {}
func (c *caller) Change([]byte) error                                  { return nil }
func (c *caller) Settle(_ *wire.Batch, r *pool.Result)                 { c.ended <- r.Err }
func (c *caller) Finish(*wire.Batch, []byte)                           {}

// BenchmarkCall is a call in a session, from its submission to its outcome, with a worker at the other end of a socket.
// "none" is the same call outside of any session: what lies above it is what sessions cost.
func BenchmarkCall(b *testing.B) {
	for _, kind := range []struct{ name, method string }{{"none", "safe"}, {"unchanged", "safe"}, {"changed", "do"}, {"read", "read"}} {
		b.Run(kind.name, func(b *testing.B) {
			t := benchTable(b, lean{b}, 1)
			k := session.Key{Owner: me, ID: "a"}
			benchCreate(b, t, k, session.Options{})
			flow := session.PoolOf(t).NewFlow(me, false)
			c := &caller{make(chan *wire.Error, 1)}
			var batch wire.Batch
			method := []byte(kind.method)
			b.ReportAllocs()
			for b.Loop() {
				call := &pool.Call{Method: method, Params: wire.Nil, Owned: true, Handler: c}
				if kind.name == "none" {
					flow.Submit(&batch, call)
				} else if err := t.Submit(&batch, k, me, call); err != nil {
					b.Fatal(err)
				}
				batch.Flush()
				if err := <-c.ended; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkList pages through the sessions of one owner among others'.
func BenchmarkList(b *testing.B) {
	const sessions = 100_000
	t := benchTable(b, lean{b}, sessions)
	for i := range sessions {
		benchCreate(b, t, session.Key{Owner: fmt.Sprintf("uid:%d", i%2), ID: fmt.Sprintf("session-%08d", i)}, session.Options{Labels: map[string]string{"n": fmt.Sprint(i % 1000)}})
	}
	queries := map[string]session.Query{
		"page":   {Owner: "uid:1", After: "session-00050000", Limit: 100},
		"all":    {All: true, Limit: 1000},
		"labels": {Owner: "uid:1", Labels: map[string]string{"n": "999"}, Limit: 1000},
	}
	for name, q := range queries {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if infos, _ := t.List(q); len(infos) == 0 {
					b.Fatal("none")
				}
			}
		})
	}
}

// BenchmarkRestore is what the restore of a large state costs: encoding ahead of the dispatch, and at it.
func BenchmarkRestore(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		const total = 64 << 20
		state := map[string][]byte{}
		for i := range total / size {
			state[fmt.Sprint("k", i)] = bytes.Repeat([]byte{'x'}, size)
		}
		b.Run(fmt.Sprintf("values of %d KiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if n := session.EncodeRestore(state, wire.DefaultFrame); n < total {
					b.Fatal(n)
				}
			}
		})
	}
}
