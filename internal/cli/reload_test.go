package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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

// What a reload would change is found without the running sidecar's environment, and shows no secret.
func TestCheckAgainstRunning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dspex.toml")
	setting := func(key, value, origin string) map[string]any {
		return map[string]any{"key": key, "value": value, "origin": origin}
	}
	s := start(t, answers(map[string]any{"admin.config": map[string]any{"path": path, "profile": nil, "dev": false, "settings": []any{
		setting("pools.default.app", `"old:app"`, path+":2"), setting("pools.default.size", "8", "default"),
		setting("log.level", `"warn"`, "environment DSPEX_LOG_LEVEL"), setting("pools.default.env.GONE", `"env:GONE"`, path+":3"),
	}}}))
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[pools.default]\napp = 'new:app'\nsize = 8\nenv.KEY = 's3cret'\n[log]\nlevel = 'debug'\n")
	o := run(t, s, "check", "--against-running", "--json")
	o.expect(t, exitOK)
	for _, part := range []string{
		`{"effect":"generation","key":"pools.default.app","new":"\"new:app\"","old":"\"old:app\""}`,
		`{"effect":"generation","key":"pools.default.env.GONE","new":null,"old":"\"env:GONE\""}`, `"key":"pools.default.env.KEY"`,
	} {
		if !strings.Contains(o.stdout, part) {
			t.Errorf("no %s in %s", part, o.stdout)
		}
	}
	for _, part := range []string{"log.level", "pools.default.size", "s3cret"} {
		if strings.Contains(o.stdout, part) {
			t.Errorf("%s in %s", part, o.stdout)
		}
	}
	if o := run(t, s, "check", "--against-running"); !strings.Contains(o.stdout, "new workers") {
		t.Errorf("%+v", o)
	}
	write("[pools.default]\nsizes = 1\n")
	run(t, s, "check", "--against-running").expect(t, exitUsage, "sizes")
}
