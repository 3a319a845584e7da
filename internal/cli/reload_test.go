package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestReload(t *testing.T) {
	for _, c := range []struct {
		result map[string]any
		args   string
		code   int
		stdout string
		stderr []string
	}{
		{map[string]any{"status": "asked"}, "", exitOK, "asked; health says if it fails\n", nil},
		{map[string]any{"status": "in_force", "changes": []any{}, "renewed": false}, "--wait", exitOK, "in force: nothing has changed\n", nil},
		{map[string]any{"status": "in_force", "changes": []any{}, "renewed": true, "generation": 2, "prepare_us": 1500}, "--wait --renew", exitOK, "in force\ngeneration 2 has taken over; its workers took 1.5ms\n", nil},
		{map[string]any{"status": "in_force", "changes": []any{}, "renewed": false, "workers_missing": "1 of 3 workers are ready: x"}, "--wait", exitDegraded, "in force: nothing has changed\n", []string{"in force, but 1 of 3 workers are ready: x"}},
		{map[string]any{"status": "refused", "reason": "x.toml:1:1: a is no setting"}, "--wait", exitUsage, "", []string{"x.toml:1:1: a is no setting", "stays in force"}},
		{map[string]any{"status": "failed", "reason": "no worker can be started; it printed:\nTraceback"}, "--wait", exitFailed, "", []string{"Traceback"}},
		{map[string]any{"status": "failed", "reason": "x"}, "--wait --json", exitFailed, `{"reason":"x","status":"failed"}` + "\n", nil},
	} {
		s := start(t, answers(map[string]any{"admin.reload": c.result}))
		o := run(t, s, strings.Fields("reload "+c.args)...)
		o.expect(t, c.code, c.stderr...)
		if o.stdout != c.stdout {
			t.Errorf("%s: %q, want %q", c.args, o.stdout, c.stdout)
		}
	}
	run(t, nil, "reload", "--timeout", "-1s").expect(t, exitUsage, "--timeout")
}

// The running sidecar compares: its own file, or the text of another one.
func TestCheckAgainstRunning(t *testing.T) {
	asked := make(chan any, 1)
	result := map[string]any{"valid": true, "path": "/etc/own.toml", "errors": []any{}, "changes": []any{
		map[string]any{"key": "pools.default.app", "old": "'a'", "new": "'b'", "effect": "generation"},
	}}
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		asked <- m.Payload
		p.Send(1, m.ID, nil, nil, result)
	})
	if o := run(t, s, "check", "--against-running"); o.code != exitOK || !strings.Contains(o.stdout, "new workers") {
		t.Errorf("%+v", o)
	}
	if got := fmt.Sprint(<-asked); got != "map[]" {
		t.Errorf("asked %s", got)
	}
	path := filepath.Join(t.TempDir(), "other.toml")
	if err := os.WriteFile(path, []byte("[log]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := run(t, s, "check", "--against-running", "--config", path, "--profile", "prod", "--json")
	if got := fmt.Sprint(<-asked); o.code != exitOK || got != "map[profile:prod text:[log]\n]" || !strings.Contains(o.stdout, `"effect":"generation"`) {
		t.Errorf("asked %q, %+v", got, o)
	}
	result["valid"], result["errors"] = false, []any{map[string]any{"file": "/etc/own.toml", "line": 2, "column": 1, "key": "sizes", "message": "is no setting"}}
	run(t, s, "check", "--against-running", "--config", path).expect(t, exitUsage, path+":2:1: sizes")
	<-asked
	run(t, s, "check", "--against-running", "--config", path+".gone").expect(t, exitUsage, "cannot be read")
}
