package cli

import (
	"context"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
)

type runsCommand struct {
	List   runsListCommand   `cmd:"" default:"withargs" help:"List your runs."`
	Show   runsShowCommand   `cmd:"" help:"Show a run."`
	Attach runsAttachCommand `cmd:"" help:"Follow a run to its end."`
	Cancel runsCancelCommand `cmd:"" help:"End a run."`
}

func (*runsCommand) Help() string {
	return "A run is a call whose method has a process of its own, such as optimize_program. Administrators see all.\n\nExample:\n\n    " + program + " runs"
}

// runColumns are what is shown of a run. What an application says of its progress is shown where it has the names of optimize_program.
func runColumns() []column {
	progress := func(key string) func(map[string]any) string {
		return func(row map[string]any) string {
			return cell(mapOf(row["progress"])[key])
		}
	}
	return []column{
		col("RUN", "run"), col("STATE", "state"), col("METHOD", "method"),
		{"PROGRAM", progress("program")},
		col("SESSION", "session"),
		{"AGE", func(row map[string]any) string { return sinceTime(row["asked"]) }},
		{"PHASE", progress("phase")},
		{"TRIAL", trialOf},
		{"BEST", progress("best")},
		{"LM CALLS", progress("lm_calls")},
		{"COST", progress("cost")},
	}
}

func sinceTime(v any) string {
	at, ok := v.(time.Time)
	if !ok {
		return "-"
	}
	return duration(time.Since(at).Milliseconds())
}

func trialOf(row map[string]any) string {
	p := mapOf(row["progress"])
	if p["trials"] == nil {
		return cell(p["trial"])
	}
	return cell(p["trial"]) + "/" + cell(p["trials"])
}

type runsListCommand struct {
	question
}

func (*runsListCommand) Help() string { return "Example:\n\n    " + program + " runs list" }

// Run lists runs.
func (c *runsListCommand) Run(ctx context.Context, e *Env) error {
	result, err := c.ask(ctx, e, "runs.list", nil)
	if err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(result)
	}
	return e.print(e.table(runColumns(), rows(result["runs"])))
}

type runsShowCommand struct {
	question

	ID string `arg:"" help:"The run, such as run_1."`
}

func (*runsShowCommand) Help() string { return "Example:\n\n    " + program + " runs show run_1" }

// Run shows one run.
func (c *runsShowCommand) Run(ctx context.Context, e *Env) error {
	result, err := c.ask(ctx, e, "runs.show", map[string]any{"run": c.ID})
	if err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(result)
	}
	columns := append(runColumns(), col("OWNER", "owner"), col("DETACHED", "detached"), col("WORKER", "worker"), col("STARTED", "started"),
		col("ENDED", "ended"), col("USAGE", "usage"), col("PROGRESS", "progress"), col("ERROR", "error"))
	return e.print(record(columns, result))
}

type runsCancelCommand struct {
	question

	ID string `arg:"" help:"The run, such as run_1."`
}

func (*runsCancelCommand) Help() string { return "Example:\n\n    " + program + " runs cancel run_1" }

// Run ends a run.
func (c *runsCancelCommand) Run(ctx context.Context, e *Env) error {
	result, err := c.ask(ctx, e, "runs.cancel", map[string]any{"run": c.ID})
	switch {
	case err != nil:
		return err
	case c.JSON:
		return e.printJSON(result)
	}
	return e.print([]byte(escape(c.ID) + " is cancelled\n"))
}

type runsAttachCommand struct {
	connection

	ID string `arg:"" help:"The run, such as run_1."`
}

func (*runsAttachCommand) Help() string {
	return "Shows how far it is, and at its end what it gave. Interrupting this leaves the run alone.\n\nExample:\n\n    " + program + " runs attach run_1"
}

// Run follows a run.
func (c *runsAttachCommand) Run(ctx context.Context, e *Env) error {
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = e.followRun(ctx, conn, &client.Request{Method: "runs.attach", Params: map[string]any{"run": c.ID}}, c.JSON)
	return err
}
