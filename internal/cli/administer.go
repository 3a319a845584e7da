package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// tell asks for something to be done, and prints what was.
func (q *question) tell(ctx context.Context, e *Env, method string, params map[string]any, done func(result map[string]any) string) error {
	result, err := q.ask(ctx, e, method, params)
	if err != nil || q.JSON {
		return e.jsonUnless(err, result)
	}
	return e.print([]byte(done(result) + "\n"))
}

type workersRecycleCommand struct {
	question

	ID string `arg:"" help:"The worker."`
}

func (*workersRecycleCommand) Help() string {
	return "It takes calls until another is ready in its place, and ends when its calls have.\n\nExample:\n\n    " + program + " workers recycle worker_1"
}

// Run has the worker replaced.
func (c *workersRecycleCommand) Run(ctx context.Context, e *Env) error {
	return c.tell(ctx, e, "admin.worker.recycle", map[string]any{"worker": c.ID}, func(map[string]any) string {
		return escape(c.ID) + " ends when another is ready and its calls are done"
	})
}

type workersKillCommand struct {
	question

	ID string `arg:"" help:"The worker."`
}

func (*workersKillCommand) Help() string {
	return "Its calls are run again where that is safe, else they fail with worker_lost.\n\nExample:\n\n    " + program + " workers kill worker_1"
}

// Run has the worker killed.
func (c *workersKillCommand) Run(ctx context.Context, e *Env) error {
	return c.tell(ctx, e, "admin.worker.kill", map[string]any{"worker": c.ID}, func(map[string]any) string { return escape(c.ID) + " is killed" })
}

type callsCancelCommand struct {
	question

	Call string `arg:"" help:"The call, as the list has it: CONNECTION/ID."`
}

func (*callsCancelCommand) Help() string { return "Example:\n\n    " + program + " calls cancel c1/12" }

// Run has the call cancelled.
func (c *callsCancelCommand) Run(ctx context.Context, e *Env) error {
	connection, number, _ := strings.Cut(c.Call, "/")
	id, err := strconv.ParseUint(number, 10, 64)
	if err != nil || connection == "" {
		return usage(fmt.Errorf("a call is named as the list has it, such as c1/12, not %q", c.Call), program+" calls cancel")
	}
	return c.tell(ctx, e, "admin.call.cancel", map[string]any{"connection": connection, "id": id}, func(map[string]any) string {
		return escape(c.Call) + " is cancelled"
	})
}

type poolsCommand struct {
	List   poolsListCommand   `cmd:"" default:"withargs" help:"List the pools."`
	Resize poolsResizeCommand `cmd:"" help:"Change how many workers there are; for administrators."`
}

func (*poolsCommand) Help() string { return "Example:\n\n    " + program + " pools" }

type poolsListCommand struct{ question }

func (*poolsListCommand) Help() string { return "Example:\n\n    " + program + " pools list" }

// Run lists the pools.
func (c *poolsListCommand) Run(ctx context.Context, e *Env) error {
	return c.list(ctx, e, "sidecar.pools", "pools", []column{
		col("POOL", "pool"), col("GENERATION", "generation"), col("SIZE", "size"), col("OVERFLOW", "max_overflow"), col("WORKERS", "workers"),
		col("READY", "ready"), col("QUEUED", "queued"),
		{"BUSY", busy},
		col("RESTARTS", "restarts"),
		{"LAST FAILURE", lastFailure},
	})
}

type poolsResizeCommand struct {
	question

	Size        *int `arg:"" optional:"" help:"Workers that are kept."`
	MaxOverflow *int `placeholder:"N" help:"Further workers while all are busy."`
}

func (*poolsResizeCommand) Help() string {
	return "It lasts until the configuration changes these settings, or the sidecar ends.\n\nExample:\n\n    " + program + " pools resize 12 --max-overflow 4"
}

// Run resizes the pool.
func (c *poolsResizeCommand) Run(ctx context.Context, e *Env) error {
	params := map[string]any{}
	if c.Size != nil {
		params["size"] = *c.Size
	}
	if c.MaxOverflow != nil {
		params["max_overflow"] = *c.MaxOverflow
	}
	if len(params) == 0 {
		return usage(errors.New("say the size, --max-overflow, or both"), program+" pools resize")
	}
	return c.tell(ctx, e, "admin.pool.resize", params, func(r map[string]any) string {
		return "size " + cell(r["size"]) + ", max_overflow " + cell(r["max_overflow"])
	})
}

type pauseCommand struct{ question }

func (*pauseCommand) Help() string {
	return "Calls wait, each to its deadline, until they are resumed; those at workers go on.\n\nExample:\n\n    " + program + " pause"
}

// Run pauses dispatch.
func (c *pauseCommand) Run(ctx context.Context, e *Env) error {
	return c.tell(ctx, e, "admin.pause", nil, func(r map[string]any) string {
		switch {
		case r["paused"] != true:
			return "not paused: the sidecar drains"
		case r["changed"] != true:
			return "it was paused already"
		}
		return "paused: calls wait"
	})
}

type resumeCommand struct{ question }

func (*resumeCommand) Help() string { return "Example:\n\n    " + program + " resume" }

// Run ends a pause.
func (c *resumeCommand) Run(ctx context.Context, e *Env) error {
	return c.tell(ctx, e, "admin.resume", nil, func(r map[string]any) string {
		if r["changed"] != true {
			return "it was not paused"
		}
		return "resumed"
	})
}

// ending are the flags of drain and shutdown.
type ending struct {
	connection

	Timeout *time.Duration `placeholder:"TIME" help:"How long calls in flight may go on (default: shutdown_timeout)."`
}

// lateAnswer is what the sidecar has beyond the time limit of a drain.
const lateAnswer = 30 * time.Second

// params are those of the method; patience is how long the answer is waited for.
func (c *ending) params() (params map[string]any, patience time.Duration, err error) {
	params = map[string]any{}
	if c.Timeout == nil {
		return params, 7 * 24 * time.Hour, nil // the sidecar knows
	}
	if *c.Timeout < 0 {
		return nil, 0, errors.New("--timeout: must not be less than 0")
	}
	params["timeout_ms"] = c.Timeout.Milliseconds()
	return params, *c.Timeout + lateAnswer, nil
}

type drainCommand struct{ ending }

func (*drainCommand) Help() string {
	return "Clients are told to go elsewhere; the sidecar takes no calls from then on, and answers administrators. Exit code 4: calls were still in flight at the end of the time.\n\nExample:\n\n    " +
		program + " drain --timeout 1m"
}

// Run drains the sidecar, and waits for that.
func (c *drainCommand) Run(ctx context.Context, e *Env) error {
	params, patience, err := c.params()
	if err != nil {
		return usage(err, program+" drain")
	}
	q := question{connection: c.connection, Timeout: patience}
	result, err := q.ask(ctx, e, "admin.drain", params)
	if err == nil && c.JSON {
		err = e.printJSON(result)
	} else if err == nil && result["drained"] == true {
		err = e.print([]byte("drained\n"))
	}
	if err != nil || result["drained"] == true {
		return err
	}
	if !c.JSON {
		e.complain("not drained: " + cell(result["in_flight"]) + " calls at workers, " + cell(result["queued"]) + " that wait")
	}
	return exitError(exitTimeout)
}

type shutdownCommand struct{ ending }

func (*shutdownCommand) Help() string {
	return "As SIGTERM does. Returns when the sidecar has ended its connections.\n\nExample:\n\n    " + program + " shutdown --timeout 1m"
}

// Run has the sidecar end, and waits until the connection does.
func (c *shutdownCommand) Run(ctx context.Context, e *Env) error {
	params, patience, err := c.params()
	if err != nil {
		return usage(err, program+" shutdown")
	}
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	result, err := callMap(ctx, conn, "admin.shutdown", params)
	if err != nil {
		return err
	}
	select {
	case <-conn.Ended():
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.JSON {
		return e.printJSON(result)
	}
	return e.print([]byte("ended\n"))
}

type logLevelCommand struct {
	question

	Level string `arg:"" optional:"" help:"debug, info, warn or error; not given: it is shown."`
}

func (*logLevelCommand) Help() string {
	return "It lasts until the configuration changes log.level, or the sidecar ends.\n\nExample:\n\n    " + program + " log-level debug"
}

// Run shows or changes the log's level.
func (c *logLevelCommand) Run(ctx context.Context, e *Env) error {
	params := map[string]any{}
	if c.Level != "" {
		params["level"] = c.Level
	}
	return c.tell(ctx, e, "admin.log_level", params, func(r map[string]any) string { return cell(r["level"]) })
}

type configCommand struct {
	Show configShowCommand `cmd:"" default:"withargs" help:"Show the configuration in force."`
}

func (*configCommand) Help() string { return "Example:\n\n    " + program + " config" }

type configShowCommand struct{ question }

func (*configShowCommand) Help() string {
	return "Secrets are shown as references. For administrators.\n\nExample:\n\n    " + program + " config show"
}

// Run shows the settings, and where each came from.
func (c *configShowCommand) Run(ctx context.Context, e *Env) error {
	return c.list(ctx, e, "admin.config", "settings", []column{col("SETTING", "key"), col("VALUE", "value"), col("ORIGIN", "origin")})
}

type stacksCommand struct {
	question

	ID string `arg:"" help:"The worker."`
}

func (*stacksCommand) Help() string {
	return "Where its Python threads and its calls are now; it goes on meanwhile.\n\nExample:\n\n    " + program + " stacks worker_1"
}

// Run shows where a worker is.
func (c *stacksCommand) Run(ctx context.Context, e *Env) error {
	result, err := c.ask(ctx, e, "admin.stacks", map[string]any{"worker": c.ID})
	if err != nil || c.JSON {
		return e.jsonUnless(err, result)
	}
	indent := func(v any) string {
		if v == nil {
			return "  (it does not say)\n"
		}
		return "  " + strings.ReplaceAll(strings.TrimSpace(textOf(v)), "\n", "\n  ") + "\n"
	}
	var b strings.Builder
	for _, call := range rows(result["calls"]) {
		b.WriteString("call " + cell(call["id"]) + " of " + cell(call["connection"]) + ", " + cell(call["method"]) + ", for " + duration(call["age_ms"]) + "\n" + indent(call["stacks"]))
	}
	b.WriteString("threads\n" + indent(result["threads"]))
	return e.print([]byte(b.String()))
}
