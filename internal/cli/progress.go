package cli

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/client"
)

// progress shows how far a run is: one line that changes on a terminal, else a line for each step.
type progress struct {
	env   *Env
	width int    // of the terminal; 0: it is none
	last  string // what is shown
}

const barWidth = 20

// show puts an item in place of the one before.
func (p *progress) show(item map[string]any) {
	line := progressText(item)
	switch {
	case line == p.last:
	case p.width > 0:
		_, _ = fmt.Fprintf(p.env.Stderr, "\r%s\x1b[K", shorten(line, p.width-1)) // nobody is to be told
	default:
		_, _ = fmt.Fprintln(p.env.Stderr, line)
	}
	p.last = line
}

// end leaves the line.
func (p *progress) end() {
	if p.width > 0 && p.last != "" {
		_, _ = fmt.Fprintln(p.env.Stderr)
	}
}

// progressText is an item in one line. What has other names than those of optimize_program is shown as it is.
func progressText(item map[string]any) string {
	if item["phase"] == nil {
		return textOf(item)
	}
	var parts []string
	trial, isTrial := number(item["trial"])
	trials, hasTrials := number(item["trials"])
	if isTrial && hasTrials && trials > 0 {
		done := int(min(max(trial/trials, 0), 1) * barWidth)
		parts = append(parts, "["+strings.Repeat("#", done)+strings.Repeat(".", barWidth-done)+"]")
	}
	parts = append(parts, cell(item["phase"]))
	if isTrial {
		parts = append(parts, strings.TrimSuffix(fmt.Sprintf("%.0f/%.0f", trial, trials), "/0"))
	}
	for _, one := range []struct{ key, form string }{{"score", "score %s"}, {"best", "best %s"}, {"lm_calls", "%s LM calls"}, {"tokens", "%s tokens"}, {"cost", "$%s"}} {
		if v, is := number(item[one.key]); is {
			parts = append(parts, fmt.Sprintf(one.form, figure(v)))
		}
	}
	if item["elapsed_ms"] != nil {
		parts = append(parts, duration(item["elapsed_ms"]))
	}
	if item["left_ms"] != nil {
		parts = append(parts, "about "+duration(item["left_ms"])+" left")
	}
	return strings.Join(parts, "  ")
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// figure is a number with no more digits than say something.
func figure(v float64) string {
	text := fmt.Sprintf("%.4f", v)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// followRun calls a method that says how far it is, shows that, and prints what it gives, which it returns, too.
func (e *Env) followRun(ctx context.Context, conn *client.Conn, r *client.Request, asJSON bool) (any, error) {
	show := progress{env: e, width: terminalWidth(e.Stderr)}
	r.Item = func(item any) error {
		row, isMap := item.(map[string]any)
		switch {
		case asJSON:
			return e.printJSON(map[string]any{"item": item})
		case !isMap:
			return e.print([]byte(textOf(item) + "\n"))
		}
		show.show(row)
		return nil
	}
	result, err := conn.Call(ctx, *r)
	show.end()
	switch {
	case err != nil:
		return nil, err
	case asJSON:
		return result, e.printJSON(map[string]any{"result": result})
	}
	return result, e.printOutcome(result)
}

// printOutcome prints the result of a run: that of optimize_program and evaluate_program as tables.
func (e *Env) printOutcome(result any) error {
	m, isMap := result.(map[string]any)
	if !isMap || m["program"] == nil {
		b, err := encodeJSON(result, "  ")
		if err != nil {
			return err
		}
		return e.print(b)
	}
	m = maps.Clone(m)
	maps.Copy(m, mapOf(m["usage"]))
	m["failed"] = mapOf(m["errors"])["count"]
	if m["baseline"] != nil {
		before := map[string]any{"": "score", "before": m["baseline"], "after": m["score"]}
		columns := []column{col("", ""), scoreColumn("BEFORE", "before"), scoreColumn("AFTER", "after"), {"CHANGE", changeOf}}
		if err := e.print(append(e.table(columns, []map[string]any{before}), '\n')); err != nil {
			return err
		}
	}
	columns := []column{col("PROGRAM", "program")}
	if m["baseline"] == nil {
		columns = append(columns, scoreColumn("SCORE", "score"))
	}
	for _, c := range []column{
		col("VERSION", "version"), col("IN USE", "current"), col("FAILED", "failed"), col("LM CALLS", "lm_calls"),
		col("TOKENS", "tokens"), col("COST", "cost"),
	} {
		if c.show(m) != "-" {
			columns = append(columns, c)
		}
	}
	return e.print(record(columns, m))
}

func scoreColumn(title, key string) column {
	return column{title, func(row map[string]any) string {
		if v, is := number(row[key]); is {
			return figure(v)
		}
		return cell(row[key])
	}}
}

func changeOf(row map[string]any) string {
	before, known := number(row["before"])
	after, is := number(row["after"])
	if !known || !is {
		return "-"
	}
	text := figure(after - before)
	if after >= before {
		text = "+" + text
	}
	return text
}
