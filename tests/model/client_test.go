package model

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/wire"
)

// client has one session, and works off its orders again and again.
type client struct {
	run      *run
	number   int
	orders   [][]order
	session  string
	possible []*state
	last     int        // id that was given out
	keyed    []*request // all with an idempotency key, since the session was made
	lost     bool       // quarantined: two of the kills have met a restore of it, as if that had been the reason
	link     *link
	dials    int
}

func (r *run) newClient(number int, orders [][]order) *client {
	return &client{run: r, number: number, orders: orders, session: fmt.Sprint("session ", number), possible: []*state{{}}}
}

// work ends with the context, and then looks once more.
func (c *client) work(ctx context.Context) error {
	for at := 0; ctx.Err() == nil; at = (at + 1) % len(c.orders) {
		if err := c.round(c.orders[at]); err != nil {
			return err
		}
	}
	return c.settle()
}

// round sends some requests at once. In a session they are done in this order.
func (c *client) round(orders []order) error {
	if err := c.exists(); err != nil {
		return err
	}
	var requests []*request
	var outcomes []<-chan outcome
	hangsUp := false
	for _, o := range orders {
		if o.Kind == "hang up" {
			hangsUp = true
			break
		}
		r := c.request(o)
		requests, outcomes = append(requests, r), append(outcomes, c.start(r))
		if o.Micros < 0 {
			later(-o.Micros)
			c.link.cancel()
		}
	}
	if hangsUp {
		if err := c.hangUp(); err != nil {
			return err
		}
	}
	lost := false
	for i, r := range requests {
		o := <-outcomes[i]
		if err := c.take(r, o); err != nil {
			return err
		}
		lost = lost || o.lost
	}
	if lost {
		return c.settle()
	}
	return nil
}

// exists makes the session where there is none, and mends it where it is quarantined.
func (c *client) exists() error {
	for {
		if err := c.connected(); err != nil {
			return err
		}
		if c.lost {
			c.lost = false
			r := c.request(order{Kind: "session.update"})
			if err := c.take(r, <-c.start(r)); err != nil {
				return err
			}
		}
		alive := func(s *state) bool { return s.alive }
		if !slices.ContainsFunc(c.possible, func(s *state) bool { return !alive(s) }) {
			return nil
		}
		c.last++
		r := &request{kind: "session.create", id: c.last, params: map[string]any{
			"session": c.session, "state": map[string]any{"made": c.last},
		}}
		gone := !slices.ContainsFunc(c.possible, alive)
		if err := c.take(r, <-c.start(r)); err != nil {
			return err
		}
		if gone {
			c.keyed = nil
		}
	}
}

func (c *client) connected() (err error) {
	if c.link != nil {
		if !c.link.lost() {
			return nil
		}
		c.link.close()
		c.link = nil
	}
	c.dials++
	c.link, err = c.run.sidecar.connect(fmt.Sprintf("%s, %d", c.session, c.dials))
	return err
}

// hangUp ends the connection, and waits until the sidecar has noticed.
func (c *client) hangUp() error {
	name := c.link.name
	c.link.close()
	if err := c.connected(); err != nil {
		return err
	}
	return await("the connection's end is noticed", func() bool {
		o := c.link.ask("sidecar.clients", nil)
		m, _ := o.value.(map[string]any)
		list, _ := m["clients"].([]any)
		return o.lost || !slices.ContainsFunc(list, func(v any) bool { return v.(map[string]any)["name"] == name })
	})
}

func (c *client) request(o order) *request {
	if o.Key == "again" && len(c.keyed) > 0 {
		return c.keyed[c.last%len(c.keyed)]
	}
	c.last++
	r := &request{kind: o.Kind, id: c.last, pad: o.Pad, secret: o.Secret, fails: o.Kind == "fail"}
	r.params = map[string]any{"id": r.id}
	r.meta = map[string]any{"session": c.session}
	switch o.Kind {
	case "session.get", "session.reset", "session.end", "look":
		r.params = nil
	case "session.update":
		if r.params = map[string]any{"delete": []string{"set"}}; o.Micros == 0 {
			r.set = r.id
			r.params = map[string]any{"set": map[string]any{"set": r.id}}
		}
	case "add_slow":
		r.params["seconds"] = 0.01
		if o.Micros >= 0 {
			r.meta["timeout_ms"] = 1 + o.Micros/1000
		}
	case "add_streamed":
		r.meta["stream"] = 16
	case "add", "add_in_thread", "add_safe":
		r.params["pad"], r.params["secret"] = o.Pad, o.Secret
		if o.Safe {
			r.meta["retry"] = "safe"
		}
	}
	if o.Key != "" {
		r.key = fmt.Sprint("key ", r.id)
		r.meta["idempotency_key"] = r.key
		c.keyed = append(c.keyed, r)
	}
	return r
}

// settle finds out what is the case, after outcomes that are not known: by a look, and by the calls with a key once more.
func (c *client) settle() error {
	todo := append([]*request{{kind: "look", meta: map[string]any{"session": c.session}}}, c.keyed...)
	todo = append(todo, &request{kind: "session.get", meta: map[string]any{"session": c.session}})
	for _, r := range todo {
		for tries := 0; ; {
			if err := c.exists(); err != nil {
				return err
			}
			o := <-c.start(r)
			if err := c.take(r, o); err != nil {
				return err
			}
			// A look that met a dying worker has told nothing; a call with a key has.
			if !o.lost && !c.lost && (o.err == nil || r.key != "") {
				break
			}
			if o.lost {
				continue // there are only so many sidecars to be killed
			}
			if tries++; tries > 100 {
				return fmt.Errorf("%v: no outcome in a hundred tries: %v", r, o)
			}
		}
	}
	return nil
}

func (c *client) start(r *request) <-chan outcome {
	if r.sent == nil && r.params != nil {
		r.sent, _ = msgpack.Marshal(r.params)
	}
	return c.link.start(r.kind, r.meta, r.sent)
}

func (c *client) take(r *request, o outcome) (err error) {
	c.run.count(o)
	c.lost = c.lost || o.failed(wire.CodeSessionLost)
	if c.possible, err = step(c.possible, r, o); err != nil {
		return fmt.Errorf("%s: %w", c.session, err)
	}
	return nil
}

func later(micros int) {
	timer := time.NewTimer(time.Duration(micros) * time.Microsecond)
	<-timer.C
}
