package cli

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func fixtures() map[string]any {
	worker := func(id string, more map[string]any) map[string]any {
		w := map[string]any{
			"worker": id, "pool": "default", "generation": 1, "state": "ready", "pid": 4711, "in_flight": 2, "slots": 64, "sessions": 3,
			"calls": 1200, "errors": 4, "age_ms": 93_784_000, "overflow": false, "last_failure": nil, "versions": map[string]any{"python": "3.11.9", "dspy": "3.0.4", "later": nil, "name": "dspex-worker", "version": "0.1.0"},
		}
		maps.Copy(w, more)
		return w
	}
	session := map[string]any{
		"session": "s1", "owner": "uid:0", "worker": "worker_1", "labels": map[string]any{"team": "search"}, "bytes": 120, "age_ms": 65_000,
		"idle_ms": 1_250, "ttl_ms": 3_600_000, "calls": 1, "waiting": 0,
	}
	shown := map[string]any{
		"session": "s1", "worker": nil, "labels": map[string]any{}, "version": 7, "bytes": 120, "age_ms": 65_000, "idle_ms": 900, "ttl_ms": 3_600_000,
		"calls": 0, "state": map[string]any{
			"count": 3, "share": 1.0, "key": []byte{0, 255}, "at": time.Date(2026, 11, 24, 1, 2, 3, 500_000_000, time.UTC), "text": "\x1b[31mred\u009b",
		},
	}
	return map[string]any{
		"sidecar.workers": map[string]any{"workers": []any{
			worker("worker_1", nil),
			worker("worker_2", map[string]any{"state": "dead", "in_flight": 0, "last_failure": "killed by SIGKILL\n\x1b]0;title\aTraceback\n  boom"}),
			worker("worker_3", map[string]any{"state": "starting", "pid": 0, "in_flight": 0, "calls": 0, "errors": 0, "sessions": 0}),
		}},
		"sidecar.clients": map[string]any{"clients": []any{map[string]any{
			"connection": "c1", "name": "evil\x1b[2J\n\u202ename", "version": "1", "uid": 1000, "pid": 77, "in_flight": 1, "age_ms": 12_345, "total_commands": 9,
		}}},
		"sidecar.calls": map[string]any{"calls": []any{map[string]any{
			"connection": "c1", "id": 12, "method": "execute_program", "session": "s1", "worker": "worker_1", "state": "running", "age_ms": 15,
		}, map[string]any{"connection": "c2", "id": 1, "method": "echo", "session": nil, "worker": nil, "state": "queued", "age_ms": 4_000_000}}},
		"sidecar.health": map[string]any{
			"status": "degraded", "reasons": []any{"1 of 2 workers is ready"},
			"workers": []any{map[string]any{"worker": "worker_1", "state": "ready", "last_failure": nil}},
		},
		"sidecar.stats": map[string]any{
			"active_sessions": 3, "pool_size": 2, "healthy_workers": 1, "total_commands": 1200, "total_errors": 4, "utilization": 0.256, "queued": 0,
			"in_flight": 2, "uptime_ms": 93_784_000, "clients": 2, "version": "1.2.3",
			"worker_restarts": 1, "generation": 2, "reloads": 5, "reload_failures": 1, "last_failure": "worker_1: killed by SIGKILL\nTraceback", "last_failure_age_ms": 12_400,
		},
		"admin.reload": map[string]any{
			"status": "in_force", "reason": nil, "errors": []any{}, "generation": 3, "renewed": true, "read_us": 812, "prepare_us": 1_234_567, "commit_us": 95,
			"changes": []any{
				map[string]any{"key": "listen.socket", "old": `"/a"`, "new": `"/b"`, "effect": "restart", "in_force": false, "took_us": 0},
				map[string]any{"key": "pools.default.app", "old": `"a:app"`, "new": `"b:app"`, "effect": "generation", "in_force": true, "took_us": 1_234_662},
				map[string]any{"key": "sessions.weights.x\x1b", "old": nil, "new": "3", "effect": "live", "in_force": true, "took_us": 95},
			},
		},
		"sidecar.pools": map[string]any{"pools": []any{map[string]any{
			"pool": "default", "generation": 2, "size": 8, "max_overflow": 4, "workers": 8, "ready": 7, "queued": 3, "in_flight": 5, "slots": 448, "restarts": 1,
			"last_failure": "worker_1: boom\nmore",
		}}},
		"admin.worker.recycle": map[string]any{"worker": "worker_1"},
		"admin.worker.kill":    map[string]any{"worker": "worker_1"},
		"admin.call.cancel":    map[string]any{"connection": "c1", "id": 12},
		"admin.pool.resize":    map[string]any{"size": 12, "max_overflow": 4},
		"admin.pause":          map[string]any{"paused": true, "changed": true},
		"admin.resume":         map[string]any{"paused": false, "changed": false},
		"admin.drain":          map[string]any{"drained": false, "in_flight": 2, "queued": 0},
		"admin.log_level":      map[string]any{"level": "debug", "was": "info"},
		"admin.config": map[string]any{"path": "/c", "profile": nil, "settings": []any{
			map[string]any{"key": "models.main.api_key", "value": `"env:KEY"`, "origin": "/c:3"},
		}},
		"admin.stacks": map[string]any{"worker": "worker_1", "threads": "Thread 0x1\n  File \"a.py\"\x1b", "calls": []any{
			map[string]any{"connection": "c1", "id": 7, "method": "echo", "age_ms": 1500, "stacks": nil},
		}},
		"runs.list":   map[string]any{"runs": []any{optimising(time.Now().Add(-90 * time.Second))}},
		"runs.show":   optimising(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)),
		"runs.cancel": map[string]any{},

		"session.list":   map[string]any{"sessions": []any{session}},
		"session.create": map[string]any{"session": "s1", "token": "t0ken"},
		"session.get":    shown,
		"session.end":    map[string]any{"session": "s1"},
		"everything": map[string]any{
			"none": nil, "yes": true, "int": -3, "big": uint64(1<<64 - 1), "float": 2.0, "small": 1e-9, "list": []any{1, "two"}, "html": "<a&b>", "wide": "日本",
		},
		"text": "two\nlines\x1b[0m",
	}
}

// optimising is a run as runs.list has it.
func optimising(asked time.Time) map[string]any {
	return map[string]any{
		"run": "run_1", "method": "optimize_program", "session": "s1", "owner": "uid:0", "connection": "c1", "request": 3, "state": "running", "worker": "runner_1",
		"detached": true, "asked": asked, "started": asked, "ended": nil, "usage": map[string]any{"lm_calls": 12}, "error": nil,
		"progress": map[string]any{"type": "progress", "program": "qa", "phase": "trials\x1b", "trial": 3, "trials": 20, "score": 61.5, "best": 70.0, "lm_calls": 12, "cost": 0.25},
	}
}

func TestOutput(t *testing.T) {
	s := start(t, answers(fixtures()))
	for _, c := range []struct {
		name string
		code int
		args string
	}{
		{"workers", 0, "workers"},
		{"workers-show", 0, "workers show worker_2"},
		{"clients", 0, "clients"},
		{"calls", 0, "calls"},
		{"health", exitDegraded, "health"},
		{"stats", 0, "stats"},
		{"sessions", 0, "sessions"},
		{"sessions-all", 0, "sessions list --all"},
		{"sessions-create", 0, "sessions create s1 --with-token"},
		{"sessions-show", 0, "sessions show s1"},
		{"sessions-end", 0, "sessions end s1"},
		{"reload", 0, "reload --wait"},
		{"pools", 0, "pools"},
		{"workers-recycle", 0, "workers recycle worker_1"},
		{"workers-kill", 0, "workers kill worker_1"},
		{"calls-cancel", 0, "calls cancel c1/12"},
		{"pools-resize", 0, "pools resize 12 --max-overflow 4"},
		{"pause", 0, "pause"},
		{"resume", 0, "resume"},
		{"log-level", 0, "log-level debug"},
		{"config", 0, "config show"},
		{"stacks", 0, "stacks worker_1"},
		{"runs-cancel", 0, "runs cancel run_1"},
		{"call-map", 0, "call everything"},
		{"call-text", 0, "call text"},
	} {
		for _, form := range []string{"", "--json"} {
			t.Run(c.name+form, func(t *testing.T) {
				o := run(t, s, strings.Fields(c.args+" "+form)...)
				o.expect(t, c.code)
				golden(t, c.name+form, o.stdout)
				if strings.ContainsAny(o.stdout, "\x1b\x07\u009b\u202e") {
					t.Errorf("a terminal would act on %q", o.stdout)
				}
			})
		}
	}
}

func TestHealthExitCodes(t *testing.T) {
	for status, code := range map[string]int{"healthy": exitOK, "degraded": exitDegraded, "unhealthy": exitUnhealthy} {
		s := start(t, answers(map[string]any{"sidecar.health": map[string]any{"status": status, "reasons": []any{}, "workers": []any{}}}))
		run(t, s, "health").expect(t, code)
	}
	s := start(t, answers(map[string]any{"sidecar.health": map[string]any{"status": "dizzy"}}))
	run(t, s, "health").expect(t, exitFailed, "dizzy")
}

// A death that has been mended is told for an hour, and once.
func TestHealthTellsOfARecentFailure(t *testing.T) {
	for _, c := range []struct {
		age     any
		reasons []any
		told    int
	}{
		{12_400, []any{}, 1},
		{3_599_999, []any{"the queue is full: 1 call waits"}, 1},
		{12_400, []any{"last failure, 12s ago: worker_1: killed"}, 1},
		{3_600_000, []any{}, 0},
		{nil, []any{}, 0},
	} {
		s := start(t, answers(map[string]any{"sidecar.health": map[string]any{
			"status": "healthy", "reasons": c.reasons, "workers": []any{}, "last_failure": "worker_1: killed", "last_failure_age_ms": c.age,
		}}))
		o := run(t, s, "health")
		o.expect(t, exitOK)
		if n := strings.Count(o.stdout, "last failure"); n != c.told {
			t.Errorf("%v: told %d times, want %d:\n%s", c, n, c.told, o.stdout)
		}
	}
}

func TestUnknownWorker(t *testing.T) {
	s := start(t, answers(fixtures()))
	run(t, s, "workers", "show", "worker_9").expect(t, exitFailed, `no worker "worker_9"`, "worker_1, worker_2")
}

func TestSessionsAreListedPageByPage(t *testing.T) {
	pages := map[string]any{
		"":       map[string]any{"sessions": []any{map[string]any{"session": "a"}}, "next": "u\x00a"},
		"u\x00a": map[string]any{"sessions": []any{map[string]any{"session": "b"}}, "next": "u\x00b"},
		"u\x00b": map[string]any{"sessions": []any{map[string]any{"session": "c"}}},
	}
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		after, _ := m.Payload.(map[string]any)["after"].(string)
		p.Send(1, m.ID, nil, nil, pages[after])
	})
	o := run(t, s, "sessions", "--json", "--all")
	o.expect(t, exitOK)
	if want := `{"sessions":[{"session":"a"},{"session":"b"},{"session":"c"}]}` + "\n"; o.stdout != want {
		t.Errorf("got %s, want %s", o.stdout, want)
	}
	o = run(t, s, "sessions", "--limit", "2")
	o.expect(t, exitOK, "more than 2 sessions")
	run(t, s, "sessions", "--limit", "1").expect(t, exitOK, "more than 1 session:")
	if strings.Contains(o.stdout, "c") {
		t.Errorf("got %q: over the limit", o.stdout)
	}
}

func TestRequestsSayWhatWasAsked(t *testing.T) {
	seen := make(chan wiretest.Message, 1)
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		seen <- m
		p.Send(1, m.ID, nil, nil, map[string]any{"session": "s", "sessions": []any{}})
	})
	run(t, s, "sessions", "create", "s", "--state", `{"n": 1}`, "--ttl", "90s", "--label", "a=b;c", "--label", "d=e").expect(t, exitOK)
	golden(t, "request-create", jsonOf(t, (<-seen).Payload))
	run(t, s, "sessions", "--label", "a=b", "--all", "--limit", "5").expect(t, exitOK)
	golden(t, "request-list", jsonOf(t, (<-seen).Payload))
	<-s.hello
	<-s.hello
	run(t, s, "sessions", "end", "s", "--token", "t0ken").expect(t, exitOK)
	golden(t, "request-end", jsonOf(t, (<-seen).Payload))
	golden(t, "request-hello", jsonOf(t, <-s.hello))
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := encodeJSON(v, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The protocol's words for a stream are no flag of the command line.
func TestStreamsAreAskedForWithAFlag(t *testing.T) {
	s := start(t, answers(map[string]any{
		"count": wire.Errorf(wire.CodeInvalidParams, "count streams: call it with meta.stream"),
		"alone": wire.Errorf(wire.CodeInvalidParams, "alone is a stream: ask for it with meta.stream"),
		"echo":  wire.Errorf(wire.CodeInvalidParams, "echo does not stream: call it without meta.stream"),
		"own":   wire.Errorf(wire.CodeInvalidParams, "own is not a stream"),
		"other": wire.Errorf(wire.CodeProgramError, "call it with meta.stream"),
	}))
	run(t, s, "call", "count").expect(t, exitFailed, "invalid_params: ", "\nUse --stream")
	run(t, s, "call", "alone", "--json").expect(t, exitFailed, "\nUse --stream")
	run(t, s, "call", "echo", "--stream").expect(t, exitFailed, "\nLeave --stream away")
	run(t, s, "call", "own", "--stream").expect(t, exitFailed, "\nLeave --stream away")
	if o := run(t, s, "call", "other"); o.stderr != "program_error: call it with meta.stream\n" {
		t.Errorf("got %q", o.stderr)
	}
}

func TestErrorsOfTheProtocol(t *testing.T) {
	failed := wire.Errorf(wire.CodeProgramError, "ValueError: \x1b[1mno").With("type", "ValueError").With("traceback", "Traceback:\n  line 1\n")
	s := start(t, answers(map[string]any{
		"fail":  failed,
		"late":  wire.Errorf(wire.CodeDeadlineExceeded, "late").With("ended_by", "cancel"),
		"queue": wire.Errorf(wire.CodeCheckoutTimeout, "no slot"),
		"stop":  wire.Errorf(wire.CodeCancelled, "an administrator cancelled"),
	}))
	o := run(t, s, "call", "fail")
	o.expect(t, exitFailed, "program_error: ")
	golden(t, "call-error", o.stderr)
	run(t, s, "call", "late").expect(t, exitTimeout, "deadline_exceeded: late\n  ended_by: cancel")
	run(t, s, "call", "queue").expect(t, exitTimeout, "checkout_timeout: no slot")
	run(t, s, "call", "stop").expect(t, exitFailed, "cancelled: an administrator")
}
