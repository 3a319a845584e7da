package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

type sessionsCommand struct {
	List   sessionsListCommand   `cmd:"" default:"withargs" help:"List your sessions."`
	Create sessionsCreateCommand `cmd:"" help:"Create a session."`
	Show   sessionsShowCommand   `cmd:"" help:"Show a session and its state."`
	End    sessionsEndCommand    `cmd:"" help:"End a session."`
	Reset  sessionsResetCommand  `cmd:"" help:"Empty a session: its next call is its first again."`
	Move   sessionsMoveCommand   `cmd:"" help:"Move a session to another worker; for administrators."`
	Export sessionsExportCommand `cmd:"" help:"Write a session, without its secrets, to a file."`
	Import sessionsImportCommand `cmd:"" help:"Make a session from a file of sessions export."`
}

// whose are the session of a command, and its owner.
type whose struct {
	ID    string `arg:"" help:"The session."`
	Owner string `placeholder:"OWNER" help:"Its owner, such as uid:1000, where it is not yours; for administrators."`
}

func (w *whose) params() map[string]any {
	p := map[string]any{"session": w.ID}
	if w.Owner != "" {
		p["owner"] = w.Owner
	}
	return p
}

func (*sessionsCommand) Help() string {
	return "Example:\n\n    " + program + " sessions --label team=search"
}

type sessionsListCommand struct {
	question

	Label map[string]string `placeholder:"KEY=VALUE" mapsep:"none" help:"Only those with this label. May be given again."`
	All   bool              `help:"Those of all owners; for administrators."`
	Limit int               `default:"1000" placeholder:"N" help:"How many at most (default: ${default})."`
}

func (*sessionsListCommand) Help() string {
	return "Example:\n\n    " + program + " sessions list --limit 10"
}

// page is how many sessions the sidecar lists at a time.
const page = 1000

// Run asks for page after page.
func (c *sessionsListCommand) Run(ctx context.Context, e *Env) error {
	if c.Limit < 1 {
		return usage(errors.New("--limit: must be at least 1"), program+" sessions list")
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	params := map[string]any{}
	if len(c.Label) > 0 {
		params["labels"] = c.Label
	}
	if c.All {
		params["all"] = true
	}
	result := map[string]any{}
	found := []any{}
	for len(found) < c.Limit {
		params["limit"] = min(page, c.Limit-len(found))
		if result, err = callMap(ctx, conn, "session.list", params); err != nil {
			return err
		}
		list, _ := result["sessions"].([]any)
		found = append(found, list...)
		if params["after"] = result["next"]; params["after"] == nil || len(list) == 0 {
			break
		}
	}
	result["sessions"] = found
	return c.print(e, result)
}

func (c *sessionsListCommand) print(e *Env, result map[string]any) error {
	if c.JSON {
		return e.printJSON(result)
	}
	if result["next"] != nil {
		e.complain("there are more than " + counted(c.Limit, "session", "sessions") + ": see --limit")
	}
	columns := []column{
		col("SESSION", "session"), col("WORKER", "worker"), col("CALLS", "calls"), col("WAITING", "waiting"), col("BYTES", "bytes"),
		since("AGE", "age_ms"), since("IDLE", "idle_ms"), since("TTL", "ttl_ms"), col("LABELS", "labels"),
	}
	if slices.ContainsFunc(rows(result["sessions"]), func(row map[string]any) bool { return row["failed"] != nil }) {
		columns = append(columns, col("FAILED", "failed"))
	}
	if c.All {
		columns = append([]column{col("OWNER", "owner")}, columns...)
	}
	return e.print(e.table(columns, rows(result["sessions"])))
}

type sessionsCreateCommand struct {
	question

	ID        string            `arg:"" optional:"" help:"Its id; one is made where none is given."`
	State     string            `placeholder:"JSON" help:"What its state begins with, a JSON object."`
	TTL       time.Duration     `name:"ttl" placeholder:"TIME" help:"How long it lives unused, such as 1h (default: the sidecar's)."`
	Label     map[string]string `placeholder:"KEY=VALUE" mapsep:"none" help:"A label. May be given again."`
	WithToken bool              `help:"Make a token, which all that use the session must have."`
}

func (*sessionsCreateCommand) Help() string {
	return "Example:\n\n    " + program + ` sessions create s1 --state '{"count": 1}' --ttl 1h`
}

// Run creates the session and prints its id.
func (c *sessionsCreateCommand) Run(ctx context.Context, e *Env) error {
	params := map[string]any{}
	if c.ID != "" {
		params["session"] = c.ID
	}
	if c.State != "" {
		state, err := decodeObject([]byte(c.State), "a state is", stateDepth)
		if err != nil {
			return usage(fmt.Errorf("--state: %w", err), program+" sessions create")
		}
		params["state"] = state
	}
	if c.TTL < 0 || c.TTL > 0 && c.TTL < time.Millisecond {
		return usage(errors.New("--ttl: must be at least 1ms, such as 1h"), program+" sessions create")
	}
	if c.TTL != 0 {
		params["ttl_ms"] = c.TTL.Milliseconds()
	}
	if len(c.Label) > 0 {
		params["labels"] = c.Label
	}
	if c.WithToken {
		params["token"] = true
	}
	result, err := c.ask(ctx, e, "session.create", params)
	if err != nil || c.JSON {
		return e.jsonUnless(err, result)
	}
	columns := []column{col("SESSION", "session")}
	if c.WithToken {
		columns = append(columns, col("TOKEN", "token"))
	}
	return e.print(record(columns, result))
}

type sessionsShowCommand struct {
	question
	whose

	Reveal bool `help:"Show the state of somebody else's session, too."`
}

func (*sessionsShowCommand) Help() string {
	return "Example:\n\n    " + program + " sessions show s1"
}

// Run prints the session as it was last committed.
func (c *sessionsShowCommand) Run(ctx context.Context, e *Env) error {
	params := c.params()
	if c.Reveal {
		params["reveal"] = true
	}
	result, err := c.ask(ctx, e, "session.get", params)
	if err != nil || c.JSON {
		return e.jsonUnless(err, result)
	}
	columns := []column{
		col("SESSION", "session"), col("WORKER", "worker"), col("CALLS", "calls"), col("VERSION", "version"), col("BYTES", "bytes"),
		since("AGE", "age_ms"), since("IDLE", "idle_ms"), since("TTL", "ttl_ms"), col("LABELS", "labels"),
	}
	for key, title := range map[string]string{"max_age_ms": "MAX AGE", "failed": "FAILED", "spent": "SPENT", "lm": "LM", "lost": "LOST SECRETS"} {
		if list, isList := result[key].([]any); result[key] == nil || isList && len(list) == 0 {
			continue
		}
		if key == "max_age_ms" {
			columns = append(columns, since(title, key))
		} else {
			columns = append(columns, col(title, key))
		}
	}
	slices.SortFunc(columns[9:], func(a, b column) int { return strings.Compare(a.title, b.title) })
	out := record(columns, result)
	if result["state"] == nil {
		return e.print(append(out, "state  not shown: see --reveal\n"...))
	}
	state, err := encodeJSON(result["state"], "  ")
	if err != nil {
		return err
	}
	return e.print(append(out, append([]byte("state\n"), state...)...))
}

type sessionsEndCommand struct {
	question
	whose
}

func (*sessionsEndCommand) Help() string { return "Example:\n\n    " + program + " sessions end s1" }

// Run ends the session.
func (c *sessionsEndCommand) Run(ctx context.Context, e *Env) error {
	return c.change(ctx, e, "session.end", "ended ", c.params())
}

// change asks for something to be done with a session, and says that it was.
func (q *question) change(ctx context.Context, e *Env, method, done string, params map[string]any) error {
	return q.tell(ctx, e, method, params, func(r map[string]any) string { return done + cell(r["session"]) })
}

type sessionsResetCommand struct {
	question
	whose
}

func (*sessionsResetCommand) Help() string {
	return "Example:\n\n    " + program + " sessions reset s1"
}

// Run empties the session.
func (c *sessionsResetCommand) Run(ctx context.Context, e *Env) error {
	return c.change(ctx, e, "session.reset", "reset ", c.params())
}

type sessionsMoveCommand struct {
	question
	whose

	To string `placeholder:"WORKER" help:"The worker (default: the least busy of the others)."`
}

func (*sessionsMoveCommand) Help() string {
	return "Example:\n\n    " + program + " sessions move s1 --to worker_2"
}

// Run moves the session, at once or when its call has ended.
func (c *sessionsMoveCommand) Run(ctx context.Context, e *Env) error {
	params := c.params()
	if c.To != "" {
		params["worker"] = c.To
	}
	return c.change(ctx, e, "admin.session.move", "moved ", params)
}
