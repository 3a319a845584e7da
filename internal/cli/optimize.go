package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
)

// running are the flags of what runs a program on data.
type running struct {
	connection

	Program     string            `arg:"" help:"The program."`
	Metric      string            `required:"" placeholder:"NAME" help:"What an answer is scored by: exact, f1, contains, or one of the application's; with parameters as JSON, such as {\"name\": \"judge\", \"rubric\": \"It is polite.\"}."`
	Session     string            `placeholder:"ID" help:"The session whose program it is; without it a session is made, which keeps what comes of it for its ttl."`
	Setting     map[string]string `placeholder:"KEY=JSON" mapsep:"none" help:"A further parameter of the call, as JSON, or text where it is none. May be given again."`
	MaxLMCalls  *int              `name:"max-lm-calls" placeholder:"N" help:"End it after so many LM calls."`
	MaxTokens   *int              `placeholder:"N" help:"End it after so many tokens."`
	MaxCost     *float64          `placeholder:"DOLLARS" help:"End it when it has cost so much."`
	Timeout     time.Duration     `placeholder:"TIME" help:"How long it may take (default: the sidecar's, runs.timeout)."`
	Detach      bool              `help:"Interrupting this leaves the run alone: runs attach follows it again."`
	KeepDataset bool              `help:"Leave the data in the session."`
}

// dataset is one of a run's: which parameter names it, and the file that it comes from.
type dataset struct{ param, path string }

type afterwards func(ctx context.Context, e *Env, conn *client.Conn, result map[string]any) error

type optimizeCommand struct {
	running

	Train     string `required:"" placeholder:"FILE" help:"What to learn from: JSON, one object a line, or CSV (by its name), whose cells are read as the program's types; - is standard input."`
	Val       string `placeholder:"FILE" help:"What to score by (default: some of the former)."`
	ForAll    bool   `help:"Where the version is better, have every session use it, as use_version with the scope all does; for administrators."`
	Optimizer string `required:"" placeholder:"NAME" help:"labeled, bootstrap, random_search, knn, copro, mipro, gepa or simba."`
}

func (*optimizeCommand) Help() string {
	return "Shows how far it is, and at its end the scores before and after. The result is a version of the program, in its session. Interrupting this ends the run.\n\nExample:\n\n    " +
		program + " optimize qa --train train.jsonl --metric exact --optimizer mipro --max-cost 2"
}

// Run optimises a program.
func (c *optimizeCommand) Run(ctx context.Context, e *Env) error {
	var then afterwards
	if c.ForAll {
		then = c.share
	}
	return c.run(ctx, e, "optimize_program", map[string]any{"optimizer": c.Optimizer}, []dataset{{"trainset", c.Train}, {"valset", c.Val}}, then)
}

// share has every session use the version, if it is in use.
func (c *optimizeCommand) share(ctx context.Context, e *Env, conn *client.Conn, result map[string]any) error {
	if result["current"] != true {
		e.say("nothing changes for all: no version came of it that is in use")
		return nil
	}
	params := map[string]any{"program": c.Program, "version": result["version"], "scope": "all"}
	made, err := conn.Call(ctx, client.Request{Method: "use_version", Session: c.Session, Params: params})
	if err != nil {
		return err
	}
	e.say("every session uses it, as version " + cell(mapOf(made)["version"]) + " of " + escape(c.Program))
	return nil
}

type evaluateCommand struct {
	running

	Dev string `required:"" placeholder:"FILE" help:"What to score it on: JSON, one object a line, or CSV (by its name), whose cells are read as the program's types; - is standard input."`
}

func (*evaluateCommand) Help() string {
	return "Shows how far it is, and at its end the score. Interrupting this ends the run.\n\nExample:\n\n    " +
		program + " evaluate qa --dev dev.jsonl --metric exact"
}

// Run evaluates a program.
func (c *evaluateCommand) Run(ctx context.Context, e *Env) error {
	return c.run(ctx, e, "evaluate_program", map[string]any{}, []dataset{{"devset", c.Dev}}, nil)
}

// run makes the call, and then does something with its result, where then is not nil.
func (c *running) run(ctx context.Context, e *Env, method string, params map[string]any, data []dataset, then afterwards) error {
	if c.Timeout < 0 || !above0(c.MaxCost) || !above0(c.MaxTokens) || !above0(c.MaxLMCalls) {
		return usage(errors.New("a limit is more than 0"), program)
	}
	maps.Copy(params, c.params())
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	if c.Session == "" {
		made, err := callMap(ctx, conn, "session.create", map[string]any{})
		if err != nil {
			return err
		}
		c.Session, _ = made["session"].(string)
		e.say("session " + escape(c.Session))
	}
	for _, d := range data {
		if d.path == "" {
			continue
		}
		name := fmt.Sprintf("cli-%d-%s", os.Getpid(), d.param)
		n, err := sendDataset(ctx, conn, e, c.Session, c.Program, name, d.path)
		if !c.KeepDataset && !c.Detach {
			defer c.forget(context.WithoutCancel(ctx), conn, name)
		}
		if err != nil {
			return err
		}
		params[d.param] = name
		e.say(d.param + ": " + counted(n, "row", "rows") + " of " + escape(d.path))
	}
	if c.Timeout > 0 && !c.Detach {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	result, err := c.follow(ctx, e, conn, &client.Request{Method: method, Session: c.Session, Params: params, Detach: c.Detach})
	if err != nil || then == nil {
		return err
	}
	return then(ctx, e, conn, mapOf(result))
}

func (c *running) params() map[string]any {
	params := map[string]any{"program": c.Program, "metric": jsonOrText(c.Metric)}
	for key, text := range c.Setting {
		params[key] = jsonOrText(text)
	}
	limits := map[string]any{}
	if c.MaxLMCalls != nil {
		limits["lm_calls"] = *c.MaxLMCalls
	}
	if c.MaxTokens != nil {
		limits["tokens"] = *c.MaxTokens
	}
	if c.MaxCost != nil {
		limits["cost"] = *c.MaxCost
	}
	if len(limits) > 0 {
		params["limits"] = limits
	}
	return params
}

func above0[N int | float64](given *N) bool { return given == nil || *given > 0 }

func jsonOrText(text string) any {
	if value, err := decodeValue([]byte(text), paramsDepth-1); err == nil {
		return value
	}
	return text
}

// follow makes the call. An interruption cancels it, or, where it is to go on without this client, leaves it.
func (c *running) follow(ctx context.Context, e *Env, conn *client.Conn, r *client.Request) (any, error) {
	if !c.Detach {
		return e.followRun(ctx, conn, r, c.JSON)
	}
	own := context.WithoutCancel(ctx)
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		own, cancel = context.WithTimeout(own, c.Timeout)
		defer cancel()
	}
	stop := context.AfterFunc(ctx, func() {
		c.leave(own, e, conn)
		conn.Close()
	})
	defer stop()
	result, err := e.followRun(own, conn, r, c.JSON)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return result, err
}

// leave says how to find the run again.
func (c *running) leave(ctx context.Context, e *Env, conn *client.Conn) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	result, err := callMap(ctx, conn, "runs.list", map[string]any{})
	if err != nil {
		return
	}
	for _, row := range rows(result["runs"]) {
		if row["connection"] == conn.Name() && row["ended"] == nil {
			e.say("\nit goes on: " + program + " runs attach " + cell(row["run"]))
		}
	}
}

// forget removes a dataset that nobody needs any more.
func (c *running) forget(ctx context.Context, conn *client.Conn, name string) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, _ = conn.Call(ctx, client.Request{Method: "dataset.delete", Session: c.Session, Params: map[string]any{"name": name}}) // it ends with the session
}
