package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

// follow prints what a method streams, line by line, until it is interrupted or the sidecar ends.
func (c *connection) follow(ctx context.Context, e *Env, method string, params map[string]any, line func(item map[string]any) string) error {
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Call(ctx, client.Request{Method: method, Params: params, Item: func(item any) error {
		row, ok := item.(map[string]any)
		if !ok || c.JSON {
			return e.printJSON(item)
		}
		return e.print([]byte(line(row) + "\n"))
	}})
	if wrong, ok := errors.AsType[*wire.Error](err); ok && wrong.Code == wire.CodeCancelled && ctx.Err() == nil {
		return errors.New("the sidecar has ended")
	}
	return err
}

// fieldsOf are what an event says beside when and what it is, in one line.
func fieldsOf(item map[string]any, first ...string) string {
	at := cell(item["at"])
	if t, ok := item["at"].(time.Time); ok {
		at = t.Local().Format("15:04:05.000")
	}
	parts := []string{at}
	for _, key := range first {
		parts = append(parts, cell(item[key]))
	}
	for _, key := range slices.Sorted(maps.Keys(item)) {
		if key != "at" && key != "event" && item[key] != nil && !slices.Contains(first, key) {
			parts = append(parts, escape(key)+"="+cell(item[key]))
		}
	}
	return strings.Join(parts, " ")
}

type eventsCommand struct {
	connection

	Kind     []string      `placeholder:"KIND" help:"Only these: worker, session, reload, health, pool."`
	Interval time.Duration `default:"10s" placeholder:"TIME" help:"Between two events of the pool's figures (default: ${default})."`
}

func (*eventsCommand) Help() string {
	return "Prints what happens, as it does, until it is interrupted.\n\nExample:\n\n    " + program + " events --kind worker --kind health"
}

// Run prints events.
func (c *eventsCommand) Run(ctx context.Context, e *Env) error {
	params := map[string]any{"interval_ms": c.Interval.Milliseconds()}
	if len(c.Kind) > 0 {
		params["kinds"] = c.Kind
	}
	return c.follow(ctx, e, "sidecar.events", params, func(item map[string]any) string { return fieldsOf(item, "event") })
}

type traceCommand struct {
	connection

	Session string `arg:"" help:"The session."`
	Owner   string `placeholder:"OWNER" help:"Only the session of this owner, such as uid:1000."`
}

func (*traceCommand) Help() string {
	return "Prints the heads of the frames of a session as they pass, until it is interrupted: what and how long they are, never what they hold. For administrators.\n\nExample:\n\n    " +
		program + " trace s1"
}

// Run prints heads of frames.
func (c *traceCommand) Run(ctx context.Context, e *Env) error {
	params := map[string]any{"session": c.Session}
	if c.Owner != "" {
		params["owner"] = c.Owner
	}
	return c.follow(ctx, e, "admin.trace", params, func(item map[string]any) string { return fieldsOf(item, "from", "to", "kind") })
}
