package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestRunsAreListedAndShown(t *testing.T) {
	s := start(t, answers(fixtures()))
	o := run(t, s, "runs")
	o.expect(t, exitOK)
	lines := strings.Split(o.stdout, "\n")
	if got := strings.Fields(lines[0]); strings.Join(got, " ") != "RUN STATE METHOD PROGRAM SESSION AGE PHASE TRIAL BEST LM CALLS COST" {
		t.Errorf("titles %q", got)
	}
	if got := strings.Join(strings.Fields(lines[1]), " "); got != `run_1 running optimize_program qa s1 1m30s trials\x1b 3/20 70.0 12 0.25` {
		t.Errorf("row %q", got)
	}
	o = run(t, s, "runs", "show", "run_1")
	o.expect(t, exitOK)
	for _, want := range []string{"owner     uid:0", "worker    runner_1", "detached  true"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("%q is missing in\n%s", want, o.stdout)
		}
	}
}

// optimiser is a sidecar that takes datasets and optimises a program.
type optimiser struct {
	mu     sync.Mutex // guards what follows
	sets   map[string][]any
	asked  map[string]any // the params of optimize_program
	meta   map[string]any
	shared map[string]any // the params of use_version
	ended  []string
}

func (o *optimiser) handle(p *wiretest.Peer, m wiretest.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	params, _ := m.Payload.(map[string]any)
	name, _ := params["name"].(string)
	var result any = map[string]any{}
	switch {
	case m.Kind != wire.KindRequest:
		return
	case m.Method == "session.create":
		result = map[string]any{"session": "made"}
	case m.Method == "dataset.create":
		o.sets[name] = nil
	case m.Method == "dataset.append":
		rows, _ := params["rows"].([]any)
		o.sets[name] = append(o.sets[name], rows...)
	case m.Method == "dataset.delete":
		o.ended = append(o.ended, name)
	case m.Method == "optimize_program", m.Method == "evaluate_program":
		o.asked, o.meta = params, m.Meta
		for i := range 2 {
			p.Send(3, m.ID, nil, map[string]any{
				"type": "progress", "phase": "trials", "trial": i + 1, "trials": 2, "score": 50.0 + float64(i), "best": 51.0, "lm_calls": 10 * (i + 1),
				"tokens": 900, "cost": 0.125, "elapsed_ms": 61_000, "left_ms": 2_000,
			})
		}
		result = map[string]any{"program": "qa", "baseline": 40.0, "score": 51.25, "version": 2, "current": true, "usage": map[string]any{"lm_calls": 20, "tokens": 900, "cost": 0.25}, "errors": map[string]any{"count": 1}}
	case m.Method == "use_version":
		o.shared, result = params, map[string]any{"version": 7}
	case m.Method == "get_program_info":
		count := map[string]any{"type": "integer"}
		result = map[string]any{"outputs": map[string]any{"properties": map[string]any{"answer": count}}}
	}
	p.Send(1, m.ID, nil, nil, result)
}

func TestOptimize(t *testing.T) {
	o := &optimiser{sets: map[string][]any{}}
	s := start(t, o.handle)
	train, val := filepath.Join(t.TempDir(), "train.jsonl"), filepath.Join(t.TempDir(), "val.CSV")
	var lines strings.Builder
	for i := range 1201 {
		fmt.Fprintf(&lines, "{\"question\": \"q%d\", \"answer\": %d}\n\n", i, i)
	}
	write(t, train, lines.String())
	write(t, val, "\ufeffquestion,answer\n\"a, b\",2\n\"two\nlines\",3\n")
	got := run(t, s, "optimize", "qa", "--train", train, "--val", val, "--metric", "exact", "--optimizer", "mipro", "--max-cost", "2.5", "--setting", "trials=7", "--setting", "note=plain text")
	got.expect(t, exitOK, "session made", "trainset: 1201 rows of", "valset: 2 rows of",
		"[##########..........]  trials  1/2  score 50  best 51  10 LM calls  900 tokens  $0.125  1m01s  about 2.0s left\n[####################]  trials  2/2  score 51  ")
	if want := "       BEFORE  AFTER  CHANGE\nscore  40      51.25  +11.25\n\nprogram   qa\nversion   2\nin use    true\nfailed    1\nlm calls  20\ntokens    900\ncost      0.25\n"; got.stdout != want {
		t.Errorf("%q\nwant %q", got.stdout, want)
	}
	sets := make([]string, 0, 2)
	for _, param := range []string{"trainset", "valset"} {
		name, _ := o.asked[param].(string)
		sets = append(sets, fmt.Sprint(len(o.sets[name]), o.sets[name][0]))
	}
	if got := strings.Join(sets, "; "); got != "1201 map[answer:0 question:q0]; 2 map[answer:2 question:a, b]" {
		t.Error(got)
	}
	if len(o.ended) != 2 {
		t.Errorf("removed: %v", o.ended)
	}
	for key, want := range map[string]string{"metric": "exact", "optimizer": "mipro", "program": "qa", "limits": "map[cost:2.5]", "trials": "7", "note": "plain text"} {
		if got := fmt.Sprint(o.asked[key]); got != want {
			t.Errorf("%s is %s", key, got)
		}
	}
	if name, _ := o.asked["valset"].(string); o.sets[name][0].(map[string]any)["answer"] != int64(2) {
		t.Errorf("cells are %v", o.sets[name])
	}
	if o.shared != nil {
		t.Errorf("shared: %v", o.shared)
	}
	o.sets = map[string][]any{}
	got = run(t, s, "evaluate", "qa", "--session", "mine", "--dev", val, "--metric", "f1", "--json")
	got.expect(t, exitOK, "devset: 2 rows of")
	if strings.Count(got.stdout, "\n") != 3 || !strings.HasSuffix(got.stdout, "\"version\":2}}\n") {
		t.Errorf("%q", got.stdout)
	}
	if o.meta["session"] != "mine" {
		t.Errorf("meta %v", o.meta)
	}
}

func TestOptimizeForAll(t *testing.T) {
	o := &optimiser{sets: map[string][]any{}}
	train := filepath.Join(t.TempDir(), "train.jsonl")
	write(t, train, "{\"question\": \"q\", \"answer\": 1}\n")
	args := []string{"optimize", "qa", "--train", train, "--optimizer", "mipro"}
	metric := `{"name": "judge", "rubric": "It is polite."}`
	got := run(t, start(t, o.handle), append(args, "--metric", metric, "--for-all", "--session", "mine")...)
	got.expect(t, exitOK, "every session uses it, as version 7 of qa")
	if fmt.Sprint(o.shared) != "map[program:qa scope:all version:2]" || fmt.Sprint(o.asked["metric"]) != "map[name:judge rubric:It is polite.]" {
		t.Errorf("%v %v", o.shared, o.asked)
	}
	for _, limit := range []string{"--max-lm-calls", "--max-tokens", "--max-cost"} {
		run(t, start(t, o.handle), append(args, "--metric", "exact", limit, "0")...).expect(t, exitUsage, "a limit is more than 0")
	}
}

func TestDatasetsThatCannotBeRead(t *testing.T) {
	for text, want := range map[string]string{
		"": "has no rows", "{\"a\": 1}\n[2]\n": "line 2: a row is an object", "{\"a\": \"\xff\"}": "line 1: not valid UTF-8",
	} {
		o := &optimiser{sets: map[string][]any{}}
		path := filepath.Join(t.TempDir(), "rows.jsonl")
		write(t, path, text)
		run(t, start(t, o.handle), "evaluate", "qa", "--dev", path, "--metric", "exact").expect(t, exitFailed, want)
		if o.asked != nil {
			t.Errorf("%q: called", text)
		}
	}
	for text, want := range map[string]string{"a,,b\n": "column 2 is", "a,a\n": "column 2 is", "a,b\n1\n": "wrong number of fields"} {
		path := filepath.Join(t.TempDir(), "rows.csv")
		write(t, path, text)
		o := &optimiser{sets: map[string][]any{}}
		run(t, start(t, o.handle), "evaluate", "qa", "--dev", path, "--metric", "exact").expect(t, exitFailed, want)
	}
}

// An interruption cancels a run, and leaves one that is detached, which goes on.
func TestInterruptedRuns(t *testing.T) {
	for _, detach := range []bool{false, true} {
		begun, cancelled := make(chan struct{}), make(chan struct{}, 1)
		s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
			switch {
			case m.Kind == wire.KindCancel:
				cancelled <- struct{}{}
				p.Send(1, m.ID, nil, wire.Errorf(wire.CodeCancelled, "stopped"), nil)
			case m.Kind != wire.KindRequest:
			case m.Method == "runs.list":
				p.Send(1, m.ID, nil, nil, map[string]any{"runs": []any{
					map[string]any{"run": "run_8", "connection": "c0", "ended": nil}, map[string]any{"run": "run_9", "connection": "c1", "ended": nil},
				}})
			case m.Method == "evaluate_program":
				if (m.Meta["detach"] == true) != detach {
					t.Errorf("meta %v", m.Meta)
				}
				close(begun)
			default:
				p.Send(1, m.ID, nil, nil, map[string]any{"session": "made"})
			}
		})
		path := filepath.Join(t.TempDir(), "rows.jsonl")
		write(t, path, "{\"a\": 1}")
		args := []string{"evaluate", "qa", "--dev", path, "--metric", "exact"}
		if detach {
			args = append(args, "--detach")
		}
		ctx, interrupt := context.WithCancel(t.Context())
		go func() {
			<-begun
			interrupt()
		}()
		o := runWith(ctx, t, Env{}, s, args...)
		if o.code != exitInterrupted {
			t.Errorf("detach %v: exit code %d: %s", detach, o.code, o.stderr)
		}
		if detach != strings.Contains(o.stderr, "runs attach run_9") {
			t.Errorf("detach %v: %s", detach, o.stderr)
		}
		select {
		case <-cancelled:
			if detach {
				t.Error("it was cancelled")
			}
		default:
			if !detach {
				t.Error("it was not cancelled")
			}
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
