package load

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var page string

// The drawings' size, in the page's own units.
const (
	plotWidth  = 880.0
	plotHeight = 240.0
)

// WritePage writes the report as an HTML page that needs nothing beside it.
func (r *Report) WritePage(w io.Writer) error {
	parsed, err := template.New("page").Funcs(template.FuncMap{"us": Microseconds, "summaries": r.Summaries}).Parse(page)
	if err != nil {
		return fmt.Errorf("the page's own template: %w", err)
	}
	return parsed.Execute(w, map[string]any{ //nolint:wrapcheck // the writer's own error
		"R": r, "Bars": r.bars(), "Curve": r.curve(), "Nines": r.nines(), "Levels": r.levels(), "Width": plotWidth, "Height": plotHeight,
	})
}

// Named is a distribution with its name.
type Named struct {
	Name string
	Summary
}

// Summaries are those that there is something to say of, for people.
func (r *Report) Summaries() []Named {
	var out []Named
	for _, n := range []Named{
		{"calls", r.Call},
		{"  waited for a worker", r.Waited},
		{"  ran in a worker", r.Ran},
		{"calls that failed", r.FailedCall},
		{"session.create", r.Create},
		{"session.end", r.End},
	} {
		if n.Count > 0 {
			out = append(out, n)
		}
	}
	return out
}

// Microseconds shows a time to three digits.
func Microseconds(us int64) string {
	switch d := time.Duration(us) * time.Microsecond; {
	case us < 1000:
		return strconv.FormatInt(us, 10) + "µs"
	case d < time.Second:
		return digits(float64(us)/1e3) + "ms"
	case d < 2*time.Minute:
		return digits(d.Seconds()) + "s"
	default:
		return d.Round(time.Second).String()
	}
}

// digits writes three of them, without a fraction's zeros.
func digits(f float64) string {
	decimals := max(0, 2-int(math.Floor(math.Log10(f))))
	text := strconv.FormatFloat(f, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// bar is one of the histogram.
type bar struct {
	X, Y, Width, Height float64
	From, To            string
	Count               int64
}

func (r *Report) bars() []bar {
	most := int64(1)
	for _, b := range r.Histogram {
		most = max(most, b.Count)
	}
	out := make([]bar, len(r.Histogram))
	width := plotWidth / float64(max(1, len(out)))
	for i, b := range r.Histogram {
		height := plotHeight * float64(b.Count) / float64(most)
		if b.Count > 0 {
			height = max(height, 1)
		}
		out[i] = bar{float64(i) * width, plotHeight - height, width - 2, height, Microseconds(b.FromUS), Microseconds(b.ToUS), b.Count}
	}
	return out
}

// place is where a quantile stands on an axis on which each further nine takes as much room.
func (r *Report) place(percent float64) float64 {
	nines := math.Log10(1 / (1 - percent/100))
	return plotWidth * nines / max(1, math.Log10(float64(max(1, r.Call.Count))))
}

func (r *Report) height(us int64) float64 {
	return plotHeight - plotHeight*float64(us)/float64(max(1, r.Call.MaxUS))
}

// curve are the points of the line through the quantiles.
func (r *Report) curve() string {
	var points []string
	for _, q := range r.Quantiles {
		points = append(points, fmt.Sprintf("%.1f,%.1f", min(r.place(q.Percent), plotWidth), r.height(q.US)))
	}
	return strings.Join(points, " ")
}

// mark is a labelled line across a drawing.
type mark struct {
	At   float64
	Text string
}

// nines mark 50 %, 90 %, 99 % and on, as far as there were calls for it.
func (r *Report) nines() []mark {
	out := []mark{{r.place(50), "50 %"}}
	for percent, digits := 90.0, 0; r.place(percent) <= plotWidth && digits < 5; digits++ {
		out = append(out, mark{r.place(percent), strconv.FormatFloat(percent, 'f', max(0, digits-1), 64) + " %"})
		percent = 100 - (100-percent)/10
	}
	return out
}

// levels mark quarters of the longest time.
func (r *Report) levels() []mark {
	var out []mark
	for i := range int64(5) {
		us := r.Call.MaxUS * i / 4
		out = append(out, mark{r.height(us), Microseconds(us)})
	}
	return out
}
