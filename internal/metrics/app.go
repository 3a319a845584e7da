package metrics

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// What an application may make of metrics. What is more than that is counted as dropped.
const (
	mostFamilies = 200
	mostSeries   = 200 // of one metric
	mostLabels   = 8
	mostBuckets  = 50
	mostText     = 100 // bytes of a label's value
	mostHelp     = 500
)

var (
	appName   = regexp.MustCompile(`^dspex_(app|lm)_[a-zA-Z0-9_]{1,100}$`)
	labelName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,40}$`)
)

// App keeps the metrics that workers report, summed over the workers. What a worker has counted stays counted when it is gone; its gauges go with it.
type App struct {
	dropped *Counter

	mu       sync.Mutex // guards what follows
	families map[string]*appFamily
	workers  map[string]int // the generations of those that report
}

type appFamily struct {
	Family

	generation int // the newest whose workers have it
	labels     []string
	buckets    []float64
	series     map[string]*series // by its values of the labels, joined
}

type series struct {
	values   []string
	sum      float64            // of a counter, or of what a histogram observed
	counts   []float64          // of a histogram: by bucket, and what is beyond the last
	byWorker map[string]float64 // of a gauge
}

// Report is what a worker tells of one metric.
type Report struct {
	Name    string    `msgpack:"name"`
	Kind    string    `msgpack:"kind"`
	Help    string    `msgpack:"help"`
	Labels  []string  `msgpack:"labels"`
	Buckets []float64 `msgpack:"buckets"` // of a histogram: upper bounds, rising
	Series  []Delta   `msgpack:"series"`
}

// Delta is what one series of a metric has grown by, or, of a gauge, where it stands.
type Delta struct {
	Values []string  `msgpack:"values"` // of the labels
	Value  float64   `msgpack:"value"`
	Counts []float64 `msgpack:"counts"` // of a histogram, one more than it has buckets
}

func newApp(dropped *Counter) *App {
	return &App{dropped: dropped, families: make(map[string]*appFamily), workers: make(map[string]int)}
}

// Report adds what a worker of a generation tells.
func (a *App) Report(worker string, generation int, reports []Report) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.workers[worker] = generation
	for _, r := range reports {
		f := a.familyLocked(generation, &r)
		for _, d := range r.Series {
			if f == nil || !f.add(worker, &d) {
				a.dropped.Inc()
			}
		}
	}
}

// Forget takes the gauges of a worker out that has ended.
func (a *App) Forget(worker string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.workers, worker)
	for _, f := range a.families {
		for key, s := range f.series {
			if _, has := s.byWorker[worker]; !has {
				continue
			}
			if delete(s.byWorker, worker); len(s.byWorker) == 0 {
				delete(f.series, key)
			}
		}
	}
}

// familyLocked is the metric that a report is about, or nil where it cannot be: it is not well formed, too many are there, or one of the same name is
// something else. What the application's code had under that name before begins anew as what it has now.
func (a *App) familyLocked(generation int, r *Report) *appFamily {
	f := a.families[r.Name]
	switch {
	case f != nil && f.is(r):
		f.generation = max(f.generation, generation)
		return f
	case f != nil && generation <= f.generation && a.livesLocked(f.generation):
		return nil
	case !r.wellFormed():
		return nil
	}
	delete(a.families, r.Name)
	if a.collidesLocked(r) || len(a.families) >= mostFamilies && !a.forgetOldLocked(generation) {
		return nil
	}
	f = &appFamily{Family{r.Name, r.Kind, clip(r.Help, mostHelp)}, generation, r.Labels, r.Buckets, make(map[string]*series)}
	a.families[r.Name] = f
	return f
}

func (f *appFamily) is(r *Report) bool {
	return f.Kind == r.Kind && slices.Equal(f.labels, r.Labels) && slices.Equal(f.buckets, r.Buckets)
}

// livesLocked says whether a worker of the generation is there: one that was given up has none.
func (a *App) livesLocked(generation int) bool {
	for _, g := range a.workers {
		if g == generation {
			return true
		}
	}
	return false
}

// forgetOldLocked makes room where it can: by the metric that the code has not had for longest.
func (a *App) forgetOldLocked(generation int) bool {
	var oldest *appFamily
	for _, f := range a.families {
		if f.generation < generation && !a.livesLocked(f.generation) && (oldest == nil || f.generation < oldest.generation) {
			oldest = f
		}
	}
	if oldest == nil {
		return false
	}
	delete(a.families, oldest.Name)
	return true
}

// parts are the endings of the names that a histogram's samples have.
func parts() []string { return []string{"_bucket", "_sum", "_count"} }

// collidesLocked says whether samples of the report would bear the name of another metric's.
func (a *App) collidesLocked(r *Report) bool {
	for _, part := range parts() {
		if r.Kind == histogram && a.families[r.Name+part] != nil {
			return true
		}
		if base, ok := strings.CutSuffix(r.Name, part); ok && a.families[base] != nil && a.families[base].Kind == histogram {
			return true
		}
	}
	return false
}

func (r *Report) wellFormed() bool {
	known := r.Kind == counter || r.Kind == gauge || r.Kind == histogram && len(r.Buckets) > 0
	own := !strings.HasPrefix(r.Name, "dspex_lm_") && slices.ContainsFunc(Families(), func(f Family) bool { return f.Name == r.Name })
	if !known || own || !appName.MatchString(r.Name) || len(r.Labels) > mostLabels || len(r.Buckets) > mostBuckets || !rising(r.Buckets) {
		return false
	}
	for i, l := range r.Labels {
		if !labelName.MatchString(l) || l == "le" || slices.Contains(r.Labels[:i], l) {
			return false
		}
	}
	return true
}

func rising(bounds []float64) bool {
	last := math.Inf(-1)
	for _, b := range bounds {
		if !(b > last) || math.IsInf(b, 0) {
			return false
		}
		last = b
	}
	return true
}

// add adds to one series, or says that it cannot be.
func (f *appFamily) add(worker string, d *Delta) bool {
	grows := f.Kind != gauge
	if len(d.Values) != len(f.labels) || math.IsNaN(d.Value) || math.IsInf(d.Value, 0) || grows && d.Value < 0 && f.Kind == counter {
		return false
	}
	if f.Kind == histogram && (len(d.Counts) != len(f.buckets)+1 || slices.ContainsFunc(d.Counts, func(n float64) bool { return !(n >= 0) || math.IsInf(n, 0) })) {
		return false
	}
	s := f.seriesOf(d.Values)
	if s == nil {
		return false
	}
	switch f.Kind {
	case gauge:
		s.byWorker[worker] = d.Value
	case histogram:
		for i, n := range d.Counts {
			s.counts[i] += n
		}
		s.sum += d.Value
	default:
		s.sum += d.Value
	}
	return true
}

// seriesOf is the series of these values; where there are too many, the one that stands for all others, or nil of a gauge: where several things stand has no
// sum.
func (f *appFamily) seriesOf(values []string) *series {
	values = slices.Clone(values)
	for i, v := range values {
		values[i] = clip(v, mostText)
	}
	key := strings.Join(values, "\x00")
	if s := f.series[key]; s != nil {
		return s
	}
	if f.Kind == gauge && len(f.series) >= mostSeries {
		return nil
	}
	if f.Kind != gauge && len(f.series) >= mostSeries-1 {
		for i := range values {
			values[i] = other
		}
		key = strings.Join(values, "\x00")
		if s := f.series[key]; s != nil {
			return s
		}
	}
	s := &series{values: values}
	switch f.Kind {
	case gauge:
		s.byWorker = make(map[string]float64)
	case histogram:
		s.counts = make([]float64, len(f.buckets)+1)
	}
	f.series[key] = s
	return s
}

// lines writes all of it, and adds its metrics to families.
func (a *App) lines(families map[string]Family) []line {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []line
	for _, name := range slices.Sorted(maps.Keys(a.families)) {
		f := a.families[name]
		if _, own := families[name]; !own {
			families[name] = f.Family
		}
		for _, key := range slices.Sorted(maps.Keys(f.series)) {
			out = append(out, f.lines(f.series[key])...)
		}
	}
	return out
}

func (f *appFamily) lines(s *series) []line {
	var pairs []string
	for i, l := range f.labels {
		pairs = append(pairs, l, s.values[i])
	}
	write := func(suffix string, v float64, more ...string) line {
		return line{f.Name, f.Name + suffix + labels(slices.Concat(pairs, more)) + " " + number(v) + "\n"}
	}
	switch f.Kind {
	case gauge:
		sum := 0.0
		for _, v := range s.byWorker {
			sum += v
		}
		return []line{write("", sum)}
	case counter:
		return []line{write("", s.sum)}
	}
	var out []line
	total := 0.0
	for i, n := range s.counts {
		total += n
		bound := "+Inf"
		if i < len(f.buckets) {
			bound = number(f.buckets[i])
		}
		out = append(out, write("_bucket", total, "le", bound))
	}
	return append(out, write("_sum", s.sum), write("_count", total))
}

// clip keeps so many bytes of a text, whole characters.
func clip(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
