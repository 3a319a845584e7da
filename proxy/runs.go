package proxy

import (
	"context"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/internal/runs"
	"github.com/dspex/dspex-sidecar/wire"
)

// submitRun hands in a call whose method has a process for each call.
func (c *conn) submitRun(batch *wire.Batch, k *call, keyed bool) error {
	if keyed {
		return wire.Errorf(wire.CodeInvalidParams, "a run takes no idempotency key: with meta.detach it goes on without its client, which finds it by runs.list")
	}
	table := c.server.cfg.Runs
	if !k.timed {
		k.Deadline = k.since.Add(table.Timeout())
	}
	by := runs.By{Key: k.key, Payer: c.owner, Connection: c.id, Request: k.id}
	if k.key.ID == "" {
		by.Key.Owner = c.holder
	}
	if k.detach {
		return c.detach(batch, k, by)
	}
	c.mu.Lock()
	k.apart = true
	c.mu.Unlock()
	_, err := table.Begin(batch, by, &k.Call)
	return err
}

// detach begins a run that goes on without its client, which follows it as others can.
func (c *conn) detach(batch *wire.Batch, k *call, by runs.By) error {
	streams := k.Meta.Stream > 0
	if k.stream != nil {
		k.beginFeeding(k.stream.all(), false)
		k.stream = nil
	} else if k.feeding == nil {
		k.beginFeeding(0, false)
	}
	run, err := c.server.cfg.Runs.Detach(batch, by, &k.Call)
	if err != nil {
		return err
	}
	c.mu.Lock()
	k.run = run
	c.mu.Unlock()
	c.runFeed(k, time.Time{}, func(ctx context.Context, send func(any) error) (any, error) {
		return run.Follow(ctx, func(item []byte) error {
			if !streams {
				return nil
			}
			return send(msgpack.RawMessage(item))
		})
	})
	return nil
}

// again hands in a call anew that came before it was known that its method has a process for each call.
func (k *call) again(batch *wire.Batch) {
	c := k.conn
	n := &call{conn: c, id: k.id, since: k.since, key: k.key, parent: k.parent, count: k.count, name: k.name, timed: k.timed, detach: k.detach}
	n.Method, n.Params, n.Owned, n.Deadline, n.Nested, n.Meta, n.Handler = k.Method, k.Params, k.Owned, k.Deadline, k.Nested, k.Meta, n
	if k.stream != nil {
		k.stream.end()
		if n.detach {
			n.beginFeeding(k.stream.all(), false)
		} else {
			n.stream = newStream(n, k.stream.all())
			n.Meta.Stream = n.stream.begin()
		}
	}
	c.mu.Lock()
	keyed := k.ticket != nil
	n.size, k.size = k.size, 0
	c.calls[k.id] = n
	c.mu.Unlock()
	if err := c.submitRun(batch, n, keyed); err != nil {
		n.end(batch, wire.FromError(err))
		return
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed { // who cancels its calls may have met this one before it could be
		n.cancel(batch, wire.Errorf(wire.CodeCancelled, "the client left"), true)
	}
}

// runMethods are the sidecar's own about runs.
func (s *Server) runMethods() {
	if s.cfg.Runs == nil {
		return
	}
	s.Handle("runs.list", Plain(func(who *Caller, params []byte) (any, error) {
		if err := wire.Unmarshal(params, &struct{}{}); err != nil {
			return nil, err
		}
		list := []map[string]any{}
		for _, i := range s.cfg.Runs.List(who.sees) {
			list = append(list, describe(&i))
		}
		return map[string]any{"runs": list}, nil
	}))
	s.Handle("runs.show", Plain(func(who *Caller, params []byte) (any, error) {
		run, err := s.findRun(who, params)
		if err != nil {
			return nil, err
		}
		i := run.Info()
		return describe(&i), nil
	}))
	s.Handle("runs.cancel", func(batch *wire.Batch, who *Caller, params []byte, reply Reply) {
		run, err := s.findRun(who, params)
		if err == nil {
			run.Cancel(batch, wire.Errorf(wire.CodeCancelled, "the run was cancelled by uid %d", who.UID))
		}
		reply(batch, map[string]any{}, err)
	})
	s.HandleFeed("runs.attach", func(ctx context.Context, who *Caller, params []byte, send func(any) error) (any, error) {
		run, err := s.findRun(who, params)
		if err != nil {
			return nil, err
		}
		return run.Follow(ctx, func(item []byte) error { return send(msgpack.RawMessage(item)) })
	})
}

func (s *Server) findRun(who *Caller, params []byte) (*runs.Run, error) {
	var p struct {
		Run string `msgpack:"run"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	if p.Run == "" {
		return nil, wire.Errorf(wire.CodeInvalidParams, "run is missing")
	}
	return s.cfg.Runs.Find(p.Run, who.sees)
}

// sees says whether a caller may know of what belongs to an owner.
func (who *Caller) sees(owner string) bool { return who.Admin || owner == who.Owner }

// describe is a run as clients see it. What its application says, they alone decode.
func describe(i *runs.Info) map[string]any {
	raw := func(b []byte) any {
		if b == nil {
			return nil
		}
		return msgpack.RawMessage(b)
	}
	var failure any
	if i.Err != nil {
		failure = i.Err
	}
	out := map[string]any{
		"run": i.ID, "method": i.Method, "session": wire.OrNil(i.By.Key.ID), "owner": i.By.Key.Owner,
		"connection": i.By.Connection, "request": i.By.Request, "state": string(i.State), "worker": wire.OrNil(i.Worker),
		"detached": i.Detached, "asked": i.Asked, "started": nil, "ended": nil, "progress": raw(i.Progress), "usage": raw(i.Usage), "error": failure,
	}
	if !i.Started.IsZero() {
		out["started"] = i.Started
	}
	if !i.Ended.IsZero() {
		out["ended"] = i.Ended
	}
	return out
}
