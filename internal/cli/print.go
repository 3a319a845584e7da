package cli

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// column is one column of a table: its title, and what it shows of a row.
type column struct {
	title string
	show  func(row map[string]any) string
}

// col is a column that shows the value of one key as it is.
func col(title, key string) column {
	return column{title, func(row map[string]any) string { return cell(row[key]) }}
}

// since is a column that shows milliseconds.
func since(title, key string) column {
	return column{title, func(row map[string]any) string { return duration(row[key]) }}
}

// table lays rows out under the titles, no wider than the terminal.
func (e *Env) table(columns []column, rows []map[string]any) []byte {
	lines := make([][]string, 1, 1+len(rows))
	for _, c := range columns {
		lines[0] = append(lines[0], c.title)
	}
	for _, row := range rows {
		var line []string
		for _, c := range columns {
			line = append(line, c.show(row))
		}
		lines = append(lines, line)
	}
	fit(lines, terminalWidth(e.Stdout))
	return align(lines)
}

// record lays one row out as lines of title and value.
func record(columns []column, row map[string]any) []byte {
	var lines [][]string
	for _, c := range columns {
		lines = append(lines, []string{strings.ToLower(c.title), c.show(row)})
	}
	return align(lines)
}

// align writes lines of cells so that the cells stand under each other.
func align(lines [][]string) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, line := range lines {
		_, _ = fmt.Fprintln(w, strings.Join(line, "\t")) // to a buffer
	}
	_ = w.Flush() // likewise
	return b.Bytes()
}

// cell shows one value on one line; "-" for none.
func cell(v any) string {
	text := strings.ReplaceAll(textOf(v), "\n", `\n`)
	if text == "" || v == nil {
		return "-"
	}
	return text
}

// mapOf is a value as a map, or nil where it is none.
func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// textOf shows a value to people: text as it is, all else as JSON. Control characters but line ends are escaped.
func textOf(v any) string {
	if text, ok := v.(string); ok {
		return escapeLines(text)
	}
	b, err := encodeJSON(v, "")
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return strings.TrimRight(string(b), "\n")
}

// escapeLines escapes all that a terminal would act on, but for line ends.
func escapeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = escape(line)
	}
	return strings.Join(lines, "\n")
}

// escape writes characters that do not print as Go does, such as \x1b and \u202e.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRune(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// duration shows milliseconds in two units at most.
func duration(v any) string {
	ms, ok := v.(int64)
	if !ok {
		return cell(v)
	}
	const day = 24 * time.Hour
	switch d := time.Duration(ms) * time.Millisecond; {
	case d < time.Second:
		return fmt.Sprintf("%dms", ms)
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	}
}

// counted puts a number before what is counted.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// rows reads a list of maps; what is no map is left out.
func rows(v any) []map[string]any {
	list, _ := v.([]any)
	out := make([]map[string]any, 0, len(list))
	for _, item := range list {
		if row, ok := item.(map[string]any); ok {
			out = append(out, row)
		}
	}
	return out
}

// print writes what a command has to say.
func (e *Env) print(b []byte) error {
	if _, err := e.Stdout.Write(b); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// printJSON writes a value as one line of JSON.
func (e *Env) printJSON(v any) error {
	b, err := encodeJSON(v, "")
	if err != nil {
		return err
	}
	return e.print(b)
}
