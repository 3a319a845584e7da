package metrics

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func text(t *testing.T, m *Metrics, scrape ...Sample) string {
	t.Helper()
	var b strings.Builder
	if err := m.Write(&b, scrape); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, b.String())
	return b.String()
}

var (
	sampleLine = regexp.MustCompile(`^([a-z_0-9]+)(\{[a-z_]+="([^"\\\n]|\\[\\"n])*"(,[a-z_]+="([^"\\\n]|\\[\\"n])*")*\})? -?[0-9.e+-]+$`)
	headLine   = regexp.MustCompile(`^# (HELP|TYPE) ([a-z_0-9]+) (.*)$`)
)

// wellFormed holds text against what Prometheus reads: each metric once, in one piece, after its HELP and TYPE, no line twice.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	described, lines, now := map[string]bool{}, map[string]bool{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if head := headLine.FindStringSubmatch(line); head != nil {
			if head[1] == "HELP" {
				if described[head[2]] {
					t.Errorf("%s comes in two pieces", head[2])
				}
				described[head[2]], now = true, head[2]
			}
			continue
		}
		sample := sampleLine.FindStringSubmatch(line)
		if sample == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		name, _, _ := strings.Cut(line, " ")
		if lines[name] {
			t.Errorf("twice: %s", name)
		}
		lines[name] = true
		if base := sample[1]; base != now && base != now+"_bucket" && base != now+"_sum" && base != now+"_count" {
			t.Errorf("%s stands under %s", base, now)
		}
	}
}

func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

func TestCalls(t *testing.T) {
	m := New("queue_full")
	echo := m.Add("echo")
	echo.Done("", 300*time.Microsecond, 20*time.Millisecond)
	echo.Done("queue_full", -1, -1)
	echo.Done("an application's own", time.Second, time.Second)
	if m.Add("echo") != echo || m.Find([]byte("echo")) != echo || m.Find([]byte("nope")) != nil {
		t.Error("echo is not one method")
	}
	m.Other().Done("", 0, 0)
	out := text(t, m, Sample{"dspex_pool_size", []string{"pool", "a\"b\\c\n"}, 8})
	has(
		t, out, `dspex_calls_total{method="echo",code="ok"} 1`, `dspex_calls_total{method="echo",code="queue_full"} 1`,
		`dspex_calls_total{method="echo",code="other"} 1`, `dspex_calls_total{method="other",code="ok"} 1`,
		`dspex_call_run_seconds_bucket{method="echo",le="0.01"} 0`, `dspex_call_run_seconds_bucket{method="echo",le="0.025"} 1`,
		`dspex_call_run_seconds_count{method="echo"} 2`, `dspex_call_queue_seconds_count 3`,
		`dspex_pool_size{pool="a\"b\\c\n"} 8`, `# TYPE dspex_pool_size gauge`, `# TYPE dspex_call_run_seconds histogram`,
	)
}

func TestMethodsAreBounded(t *testing.T) {
	m := New()
	for i := range mostMethods + 10 {
		m.Add(fmt.Sprint("m", i)).Done("", 0, 0)
	}
	has(t, text(t, m), `dspex_calls_total{method="other",code="ok"} 10`)
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := New("worker_lost")
	m.Add("echo").Done("worker_lost", 0, 0)
	name := []byte("echo")
	if n := testing.AllocsPerRun(100, func() {
		m.Find(name).Done("", time.Millisecond, time.Millisecond)
		m.Find(name).Done("worker_lost", time.Millisecond, time.Millisecond)
		m.Sent.Add(10)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCall(b *testing.B) {
	m := New()
	m.Add("echo")
	name := []byte("echo")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Received.Add(10)
			m.Find(name).Done("", 100*time.Microsecond, time.Millisecond)
			m.Sent.Add(10)
		}
	})
}

// What workers count stays when they are gone; their gauges do not.
func TestApp(t *testing.T) {
	m := New()
	report := func(worker string, jobs, open float64, counts ...float64) {
		m.App.Report(worker, 1, []Report{
			{Name: "dspex_app_jobs_total", Kind: "counter", Help: "Jobs\ndone.", Labels: []string{"kind"}, Series: []Delta{{Values: []string{"x"}, Value: jobs}}},
			{Name: "dspex_app_open", Kind: "gauge", Help: "Open.", Series: []Delta{{Value: open}}},
			{Name: "dspex_app_size", Kind: "histogram", Help: "Size.", Buckets: []float64{1, 10}, Series: []Delta{{Value: 7, Counts: counts}}},
		})
	}
	report("worker_1", 2, 5, 1, 0, 1)
	report("worker_2", 3, 6, 0, 2, 0)
	report("worker_1", 1, 4, 0, 0, 0)
	has(
		t, text(t, m), `dspex_app_jobs_total{kind="x"} 6`, `dspex_app_open 10`, `dspex_app_size_bucket{le="1"} 1`, `dspex_app_size_bucket{le="10"} 3`,
		`dspex_app_size_bucket{le="+Inf"} 4`, `dspex_app_size_sum 21`, `dspex_app_size_count 4`, `# HELP dspex_app_jobs_total Jobs\ndone.`,
	)
	m.App.Forget("worker_1")
	m.App.Report("worker_3", 1, []Report{{Name: "dspex_app_jobs_total", Kind: "counter", Labels: []string{"kind"}, Series: []Delta{{Values: []string{"x"}, Value: 1}}}})
	has(t, text(t, m), `dspex_app_jobs_total{kind="x"} 7`, `dspex_app_open 6`, `dspex_app_size_count 4`)
	m.App.Forget("worker_2")
	if out := text(t, m); strings.Contains(out, "dspex_app_open") {
		t.Errorf("a gauge of nobody:\n%s", out)
	}
}

func TestAppIsBounded(t *testing.T) {
	m := New()
	one := func(r Report) { m.App.Report("worker_1", 1, []Report{r}) }
	for i := range mostSeries + 10 {
		one(Report{Name: "dspex_app_a", Kind: "counter", Labels: []string{"l"}, Series: []Delta{{Values: []string{fmt.Sprint(i)}, Value: 1}}})
	}
	has(t, text(t, m), `dspex_app_a{l="other"} 11`, `dspex_app_a{l="0"} 1`)
	one(Report{Name: "dspex_app_a", Kind: "counter", Labels: []string{"l"}, Series: []Delta{{Values: []string{strings.Repeat("é", 1000)}, Value: 1}}})
	for name, r := range map[string]Report{
		"name":     {Name: "up", Kind: "counter"},
		"reserved": {Name: "dspex_calls_total", Kind: "counter"},
		"kind":     {Name: "dspex_app_k", Kind: "summary"},
		"changed":  {Name: "dspex_app_a", Kind: "gauge", Labels: []string{"l"}},
		"twice":    {Name: "dspex_app_w", Kind: "counter", Labels: []string{"a", "a"}, Series: []Delta{{Values: []string{"1", "2"}, Value: 1}}},
		"own":      {Name: "dspex_app_samples_dropped_total", Kind: "counter"},
		"label":    {Name: "dspex_app_l", Kind: "counter", Labels: []string{"le"}},
		"values":   {Name: "dspex_app_v", Kind: "counter", Labels: []string{"a"}},
		"backward": {Name: "dspex_app_b", Kind: "counter", Series: []Delta{{Value: -1}}},
		"nan":      {Name: "dspex_app_n", Kind: "gauge", Series: []Delta{{Value: math.NaN()}}},
		"falling":  {Name: "dspex_app_f", Kind: "histogram", Buckets: []float64{2, 1}, Series: []Delta{{Counts: []float64{0, 0, 0}}}},
		"buckets":  {Name: "dspex_app_h", Kind: "histogram", Buckets: []float64{1}, Series: []Delta{{Counts: []float64{0}}}},
	} {
		before := m.App.dropped.Get()
		if r.Series == nil {
			r.Series = []Delta{{Value: 1}}
		}
		if one(r); m.App.dropped.Get() != before+1 {
			t.Errorf("%s was taken", name)
		}
	}
	for i := range mostSeries + 10 {
		one(Report{Name: "dspex_app_g", Kind: "gauge", Labels: []string{"l"}, Series: []Delta{{Values: []string{fmt.Sprint(i)}, Value: 1}}})
	}
	if out := text(t, m); strings.Contains(out, `dspex_app_g{l="other"}`) || strings.Count(out, "dspex_app_g{") != mostSeries {
		t.Errorf("a gauge beyond its series:\n%s", out)
	}
	for i := range mostFamilies + 10 {
		one(Report{Name: fmt.Sprint("dspex_app_x", i), Kind: "gauge", Series: []Delta{{Value: 1}}})
	}
	if n := len(m.App.families); n != mostFamilies {
		t.Errorf("%d metrics", n)
	}
}

// The code of an application changes: what it has now is counted, and what it had makes room.
func TestAppOfAnotherGeneration(t *testing.T) {
	m := New()
	report := func(worker string, generation int, name string, labels ...string) {
		m.App.Report(worker, generation, []Report{{Name: name, Kind: "counter", Labels: labels, Series: []Delta{{Values: labels, Value: 1}}}})
	}
	report("worker_1", 1, "dspex_app_jobs_total", "kind")
	report("worker_2", 2, "dspex_app_jobs_total", "kind", "size")
	report("worker_1", 1, "dspex_app_jobs_total", "kind") // it finishes its calls
	has(t, text(t, m), `dspex_app_jobs_total{kind="kind",size="size"} 1`, `dspex_app_samples_dropped_total 1`)
	m.App.Forget("worker_2") // given up
	report("worker_1", 1, "dspex_app_jobs_total", "kind")
	has(t, text(t, m), `dspex_app_jobs_total{kind="kind"} 1`)
	report("worker_3", 2, "dspex_app_jobs_total", "size")
	has(t, text(t, m), `dspex_app_jobs_total{size="size"} 1`, `dspex_app_samples_dropped_total 1`)
	m.App.Forget("worker_1")
	m.App.Forget("worker_3")
	for i := range mostFamilies {
		report("worker_4", 3, fmt.Sprint("dspex_app_x", i, "_total"))
	}
	out := text(t, m)
	has(t, out, fmt.Sprint("dspex_app_x", mostFamilies-1, "_total 1"), `dspex_app_samples_dropped_total 1`)
	if strings.Contains(out, "dspex_app_jobs_total") {
		t.Error("what no code has any more takes the place of what it has")
	}
	report("worker_5", 4, "dspex_app_y_total") // worker_4 still counts the others
	has(t, text(t, m), `dspex_app_samples_dropped_total 2`)
}

// Two metrics never have a sample of one name.
func TestAppNamesCollide(t *testing.T) {
	gauge := Report{Name: "dspex_app_x_count", Kind: "gauge", Series: []Delta{{Value: 1}}}
	histogram := Report{Name: "dspex_app_x", Kind: "histogram", Buckets: []float64{1}, Series: []Delta{{Value: 1, Counts: []float64{1, 0}}}}
	for _, reports := range [][]Report{{gauge, histogram}, {histogram, gauge}} {
		m := New()
		m.App.Report("worker_1", 1, reports)
		has(t, text(t, m), `dspex_app_samples_dropped_total 1`)
	}
}

// What an alert looks for the increase of is there before it is first counted.
func TestZeroes(t *testing.T) {
	has(t, text(t, New()), `dspex_reloads_total{result="failed"} 0`, `dspex_reloads_total{result="refused"} 0`)
}

// docs/metrics.md has a row for each metric, and no other.
func TestDocumented(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "metrics.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics -->\n", "<!-- /metrics -->\n"
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", path, begin, end)
	}
	var table strings.Builder
	table.WriteString("| metric | kind | meaning |\n| --- | --- | --- |\n")
	for _, f := range Families() {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", f.Name, f.Kind, f.Help)
	}
	want := head + begin + table.String() + end + tail
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Errorf("%s is not what the code has: UPDATE=1 go test ./internal/metrics", path)
	}
}
