package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// jsonUnless prints a result as the protocol gives it, unless there is an error, which it returns.
func (e *Env) jsonUnless(err error, result any) error {
	if err != nil {
		return err
	}
	return e.printJSON(result)
}

// list asks for a list and prints it as a table.
func (q *question) list(ctx context.Context, e *Env, method, key string, columns []column) error {
	result, err := q.ask(ctx, e, method, nil)
	if err != nil || q.JSON {
		return e.jsonUnless(err, result)
	}
	return e.print(e.table(columns, rows(result[key])))
}

type workersCommand struct {
	List    workersListCommand    `cmd:"" default:"withargs" help:"List the workers."`
	Show    workersShowCommand    `cmd:"" help:"Show one worker."`
	Recycle workersRecycleCommand `cmd:"" help:"Replace a worker when another is ready; for administrators."`
	Kill    workersKillCommand    `cmd:"" help:"Kill a worker; for administrators."`
}

func (*workersCommand) Help() string { return "Example:\n\n    " + program + " workers" }

type workersListCommand struct{ question }

func (*workersListCommand) Help() string {
	return "Example:\n\n    " + program + " workers list --json"
}

// busy shows how many of a worker's slots are taken.
func busy(row map[string]any) string { return cell(row["in_flight"]) + "/" + cell(row["slots"]) }

// pid is a dash for a worker that has no process yet.
func pid(row map[string]any) string {
	if text := cell(row["pid"]); text != "0" {
		return text
	}
	return "-"
}

// Run lists the workers. `workers show` has their pool, too: there is one.
func (c *workersListCommand) Run(ctx context.Context, e *Env) error {
	return c.list(ctx, e, "sidecar.workers", "workers", []column{
		col("WORKER", "worker"), col("STATE", "state"),
		{"PID", pid},
		{"BUSY", busy},
		col("SESSIONS", "sessions"),
		col("CALLS", "calls"), col("ERRORS", "errors"), since("AGE", "age_ms"),
		{"LAST FAILURE", lastFailure},
	})
}

// lastFailure shows the first line; `workers show` has the rest.
func lastFailure(row map[string]any) string {
	text, _ := row["last_failure"].(string)
	first, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if rest != "" {
		first += " …"
	}
	return cell(first)
}

type workersShowCommand struct {
	question

	ID string `arg:"" help:"The worker."`
}

func (*workersShowCommand) Help() string {
	return "Example:\n\n    " + program + " workers show worker_1"
}

// Run shows the worker of that name.
func (c *workersShowCommand) Run(ctx context.Context, e *Env) error {
	result, err := c.ask(ctx, e, "sidecar.workers", nil)
	if err != nil {
		return err
	}
	var names []string
	for _, row := range rows(result["workers"]) {
		if row["worker"] == c.ID {
			return c.print(e, row)
		}
		names = append(names, cell(row["worker"]))
	}
	return fmt.Errorf("there is no worker %q; there are: %s", c.ID, strings.Join(names, ", "))
}

// versions shows what a worker runs on, such as "dspex-worker 0.1.0, dspy 3.0.4, python 3.11.9".
func versions(row map[string]any) string {
	all, ok := row["versions"].(map[string]any)
	if !ok || len(all) == 0 {
		return cell(row["versions"])
	}
	parts := make([]string, 0, len(all))
	if all["name"] != nil && all["version"] != nil { // of the library that the worker is made with
		parts = append(parts, cell(all["name"])+" "+cell(all["version"]))
		all = maps.Clone(all)
		delete(all, "name")
		delete(all, "version")
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, escape(name)+" "+cell(all[name]))
	}
	return strings.Join(parts, ", ")
}

func (c *workersShowCommand) print(e *Env, row map[string]any) error {
	if c.JSON {
		return e.printJSON(row)
	}
	out := record([]column{
		col("WORKER", "worker"), col("POOL", "pool"), col("GENERATION", "generation"), col("OVERFLOW", "overflow"), col("STATE", "state"),
		{"PID", pid},
		{"BUSY", busy},
		col("SESSIONS", "sessions"), col("CALLS", "calls"), col("ERRORS", "errors"),
		since("AGE", "age_ms"), col("LEAVING", "leaving"),
		{"VERSIONS", versions},
	}, row)
	if text, _ := row["last_failure"].(string); text != "" {
		out = append(out, "last failure\n  "+strings.ReplaceAll(strings.TrimSpace(escapeLines(text)), "\n", "\n  ")+"\n"...)
	}
	return e.print(out)
}

type clientsCommand struct{ question }

func (*clientsCommand) Help() string { return "Example:\n\n    " + program + " clients" }

// Run lists the connections.
func (c *clientsCommand) Run(ctx context.Context, e *Env) error {
	return c.list(ctx, e, "sidecar.clients", "clients", []column{
		col("CONNECTION", "connection"), col("NAME", "name"), col("VERSION", "version"), col("UID", "uid"), col("PID", "pid"),
		col("IN FLIGHT", "in_flight"), col("CALLS", "total_commands"), since("AGE", "age_ms"),
	})
}

type callsCommand struct {
	List   callsListCommand   `cmd:"" default:"withargs" help:"List the calls in flight."`
	Cancel callsCancelCommand `cmd:"" help:"Cancel a call; for administrators."`
}

func (*callsCommand) Help() string { return "Example:\n\n    " + program + " calls" }

type callsListCommand struct{ question }

func (*callsListCommand) Help() string { return "Example:\n\n    " + program + " calls list" }

// callName is how `calls cancel` takes it.
func callName(row map[string]any) string { return cell(row["connection"]) + "/" + cell(row["id"]) }

// Run lists the calls in flight.
func (c *callsListCommand) Run(ctx context.Context, e *Env) error {
	return c.list(ctx, e, "sidecar.calls", "calls", []column{
		since("AGE", "age_ms"), col("METHOD", "method"), col("SESSION", "session"), col("WORKER", "worker"), col("STATE", "state"),
		{"CALL", callName},
	})
}

type healthCommand struct {
	question

	Force bool `help:"Ask each worker now."`
}

func (*healthCommand) Help() string {
	return "The exit code is 0 for healthy, 5 for degraded and 6 for unhealthy.\n\nExample:\n\n    " + program + " health"
}

// Run prints the health; the exit code says it, too.
func (c *healthCommand) Run(ctx context.Context, e *Env) error {
	var params map[string]any
	if c.Force {
		params = map[string]any{"force": true}
	}
	result, err := c.ask(ctx, e, "sidecar.health", params)
	if err == nil && c.JSON {
		err = e.printJSON(result)
	} else if err == nil {
		err = e.print(e.healthText(result))
	}
	if err != nil {
		return err
	}
	switch status := result["status"]; status {
	case "healthy":
		return nil
	case "degraded":
		return exitError(exitDegraded)
	case "unhealthy":
		return exitError(exitUnhealthy)
	default:
		return fmt.Errorf("the sidecar says %s, which this version does not know", cell(status))
	}
}

func (e *Env) healthText(result map[string]any) []byte {
	var b strings.Builder
	b.WriteString(cell(result["status"]) + "\n")
	reasons, _ := result["reasons"].([]any)
	for _, reason := range reasons {
		b.WriteString("  " + strings.ReplaceAll(textOf(reason), "\n", "\n    ") + "\n")
	}
	if line := recentFailure(result); line != "" && !strings.Contains(b.String(), strings.TrimSuffix(line, " …")) {
		b.WriteString("  last failure: " + line + ", " + duration(result["last_failure_age_ms"]) + " ago\n")
	}
	workers := rows(result["workers"])
	columns := []column{col("WORKER", "worker"), col("STATE", "state")}
	if len(workers) > 0 {
		if _, asked := workers[0]["answered_us"]; asked {
			columns = append(columns, column{"ANSWERED", func(row map[string]any) string { return took(row["answered_us"]) }})
		}
	}
	columns = append(columns, column{"LAST FAILURE", lastFailure})
	if len(workers) > 0 {
		b.WriteString("\n" + string(e.table(columns, workers)))
	}
	return []byte(b.String())
}

// recentFailure is the pool's last failure where it is less than an hour old, though all may be well again.
func recentFailure(result map[string]any) string {
	age, ok := result["last_failure_age_ms"].(int64)
	if !ok || age >= time.Hour.Milliseconds() {
		return ""
	}
	return lastFailure(result)
}

type statsCommand struct {
	question

	Prometheus bool `help:"Print all metrics, in the text format of Prometheus."`
}

func (*statsCommand) Help() string { return "Example:\n\n    " + program + " stats --json" }

// percent shows a share of 1.
func percent(row map[string]any) string {
	switch share := row["utilization"].(type) {
	case float64:
		return fmt.Sprintf("%.0f%%", 100*share)
	case int64:
		return fmt.Sprintf("%d%%", 100*share)
	default:
		return cell(share)
	}
}

// poolFailure shows the age of the last failure and its first line.
func poolFailure(row map[string]any) string {
	if row["last_failure"] == nil {
		return cell(nil)
	}
	return duration(row["last_failure_age_ms"]) + " ago: " + lastFailure(row)
}

// Run prints the statistics.
func (c *statsCommand) Run(ctx context.Context, e *Env) error {
	if c.Prometheus {
		result, err := c.ask(ctx, e, "sidecar.metrics", nil)
		if err != nil {
			return err
		}
		text, _ := result["text"].(string)
		return e.print([]byte(text))
	}
	result, err := c.ask(ctx, e, "sidecar.stats", nil)
	if err != nil || c.JSON {
		return e.jsonUnless(err, result)
	}
	return e.print(record([]column{
		col("VERSION", "version"), since("UPTIME", "uptime_ms"), col("CLIENTS", "clients"), col("ACTIVE SESSIONS", "active_sessions"),
		col("POOL SIZE", "pool_size"), col("HEALTHY WORKERS", "healthy_workers"),
		{"UTILIZATION", percent},
		col("IN FLIGHT", "in_flight"),
		col("QUEUED", "queued"), col("TOTAL CALLS", "total_commands"), col("TOTAL ERRORS", "total_errors"), col("WORKER RESTARTS", "worker_restarts"),
		col("GENERATION", "generation"), col("RELOADS", "reloads"), col("RELOAD FAILURES", "reload_failures"),
		{"LAST FAILURE", poolFailure},
	}, result))
}
