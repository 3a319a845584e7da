package metrics

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Sample is the value of a gauge, or of a counter that is counted elsewhere, at a scrape. Labels are name and value in turn.
type Sample struct {
	Name   string
	Labels []string
	Value  float64
}

// line is one sample as it is written.
type line struct{ family, text string }

// Write writes all that was counted, and what the scrape adds, in the text format of Prometheus.
func (m *Metrics) Write(w io.Writer, scrape []Sample) error {
	var counted bytes.Buffer
	m.set.WritePrometheus(&counted)
	families := map[string]Family{}
	for _, f := range Families() {
		families[f.Name] = f
	}
	var lines []line
	for text := range strings.Lines(counted.String()) {
		lines = append(lines, line{familyOf(text, families), text})
	}
	for _, s := range scrape {
		lines = append(lines, line{s.Name, s.Name + labels(s.Labels) + " " + number(s.Value) + "\n"})
	}
	lines = append(lines, m.App.lines(families)...)
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.family, b.family) })
	var out bytes.Buffer
	last := ""
	for _, l := range lines {
		if l.family != last {
			last = l.family
			f := families[last]
			fmt.Fprintf(&out, "# HELP %s %s\n# TYPE %s %s\n", last, escapeHelp(f.Help), last, f.Kind)
		}
		out.WriteString(l.text)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// familyOf is the metric that a line belongs to: a histogram has several names.
func familyOf(text string, families map[string]Family) string {
	name := text
	if end := strings.IndexAny(text, "{ "); end >= 0 {
		name = text[:end]
	}
	for _, suffix := range parts() {
		if base, ok := strings.CutSuffix(name, suffix); ok && families[base].Kind == histogram {
			return base
		}
	}
	return name
}

func labels(pairs []string) string {
	if len(pairs) == 0 {
		return ""
	}
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0] + pairs[i] + `="` + escapeLabel(pairs[i+1]) + `"`)
	}
	return b.String() + "}"
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// The text format escapes these, and takes all else that is UTF-8.
func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "?"))
}

func escapeHelp(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "?"))
}
