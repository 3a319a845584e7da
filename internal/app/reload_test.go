package app

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// rewrite replaces the configuration's file, as an editor does.
func (p place) rewrite(t *testing.T, more string) {
	t.Helper()
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	base, _, _ := strings.Cut(string(text), "# more\n")
	next := p.config + ".next"
	if err := os.WriteFile(next, []byte(base+"# more\n"+more), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, p.config); err != nil {
		t.Fatal(err)
	}
}

type params = map[string]any

func get(t *testing.T, c *wiretest.Peer, method string, p any) params {
	t.Helper()
	a, ok := call(t, c, method, p).(params)
	if !ok {
		t.Fatalf("%s: no map", method)
	}
	return a
}

func reload(t *testing.T, c *wiretest.Peer) params {
	t.Helper()
	return get(t, c, "admin.reload", params{"wait": true})
}

// changes are the keys of what a reload changed.
func changes(a params) string {
	var keys []string
	list, _ := a["changes"].([]any)
	for _, one := range list {
		change, _ := one.(params)
		keys = append(keys, fmt.Sprint(change["key"], " ", change["effect"], " ", change["in_force"]))
	}
	return strings.Join(keys, ", ")
}

// expect checks what a reload did.
func (s *running) expect(a params, status, changed string) {
	s.t.Helper()
	if a["status"] != status || changes(a) != changed && !s.watched(a, changed) {
		s.t.Errorf("got %v, want %s: %s", a, status, changed)
	}
}

// watched tells whether who watches the file was faster than the request: then the log has what came in force, and the answer only what did not.
func (s *running) watched(a params, changed string) bool {
	var now, later []string
	for one := range strings.SplitSeq(changed, ", ") {
		if key, _, _ := strings.Cut(one, " "); strings.HasSuffix(one, " true") {
			now = append(now, strconv.Quote(key))
		} else {
			later = append(later, one)
		}
	}
	did := regexp.MustCompile(`"changed":\[` + regexp.QuoteMeta(strings.Join(now, ",")) + `\].*"the file has changed"`)
	return len(now) > 0 && changes(a) == strings.Join(later, ", ") && did.MatchString(s.log())
}

// Each kind of change, and each reason not to make one.
func TestReload(t *testing.T) {
	p := newPlace(t, self(t), "")
	secret := filepath.Join(p.dir, "secret")
	write := func(text string) {
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	p.rewrite(t, "")
	s := p.serve(t)
	c := p.connect(t)
	call(t, c, "echo", nil)

	s.expect(reload(t, c), "in_force", "")
	p.rewrite(t, "[log]\nlevel = 'debug'\n[sessions]\nttl = '2h'\n")
	s.expect(reload(t, c), "in_force", "log.level live true, sessions.ttl live true")
	session := fmt.Sprint(get(t, c, "session.create", params{})["session"])
	if got := get(t, c, "session.get", params{"session": session}); fmt.Sprint(got["ttl_ms"]) != "7200000" {
		t.Errorf("a session's limit: %v", got)
	}

	p.rewrite(t, "[log]\nlevel = 'debug'\nformat = 'text'\n[sessions]\nttl = '3h'\n")
	s.expect(reload(t, c), "in_force", "log.format restart false, sessions.ttl live true")
	s.expect(reload(t, c), "in_force", "log.format restart false") // as long as it is so
	if n := strings.Count(s.log(), "counts when the sidecar is started again"); n != 1 {
		t.Errorf("the log says %d times what waits for a new start", n)
	}
	if text := fmt.Sprint(get(t, c, "sidecar.metrics", nil)["text"]); !strings.Contains(text, `dspex_reloads_total{result="ok"} 2`+"\n") {
		t.Errorf("what changes nothing counts as a change:\n%s", text)
	}
	p.rewrite(t, "[log]\nlevel = 'debug'\n[sessions]\nttl = '3h'\n[models.m]\nmodel = 'openai/x'\napi_key = 'file:secret'\n")
	s.expect(reload(t, c), "in_force", "models.m live true")
	write("two")
	a := reload(t, c)
	s.expect(a, "in_force", "models.m.api_key live true")
	if strings.Contains(fmt.Sprint(a), "two") {
		t.Errorf("a secret is shown: %v", a)
	}

	p.rewrite(t, "env.SECRET = 'file:secret'\n")
	s.expect(reload(t, c), "in_force", "log.level live true, models.m live true, pools.default.env.SECRET generation true, sessions.ttl live true")
	write("three")
	s.expect(reload(t, c), "in_force", "pools.default.env.SECRET generation true")
	if stats := get(t, c, "sidecar.stats", nil); fmt.Sprint(stats["generation"]) != "3" {
		t.Errorf("stats: %v", stats)
	}

	for _, wrong := range []string{"env.SECRET = 'file:none'\n", "x = ", "[nonsense]\n"} {
		p.rewrite(t, wrong)
		a := reload(t, c)
		if a["status"] == "in_force" || a["reason"] == nil {
			t.Errorf("%s: %v", wrong, a)
		}
		health := get(t, c, "sidecar.health", nil)
		if health["status"] != "degraded" || !strings.Contains(fmt.Sprint(health["reasons"]), strings.SplitN(fmt.Sprint(a["reason"]), "\n", 2)[0]) {
			t.Errorf("%s: health %v", wrong, health)
		}
	}
	p.rewrite(t, "env.SECRET = 'file:secret'\n")
	await(t, "health", func() bool { return get(t, c, "sidecar.health", nil)["status"] == "healthy" }) // the file is watched, too
	if err := unix.Kill(s.Process.Pid, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(t, "a reload by SIGHUP", func() bool { return strings.Contains(s.log(), "SIGHUP") })
	s.signal(s.Process.Pid)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A generation that does not start is taken back, and says what its process printed; nothing of it is left.
func TestGenerationTakenBack(t *testing.T) {
	p := newPlace(t, self(t), "")
	broken := filepath.Join(p.dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho ModuleNotFoundError >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := p.serve(t)
	c := p.connect(t)
	if a := get(t, c, "admin.reload", params{"wait": true}); a["workers_missing"] != nil { // else the second worker may still be on its way
		t.Fatal(a)
	}
	before := len(tree(t, s.Process.Pid))
	for _, more := range []string{"[profile.dev.pools.default]\n", ""} { // a model server, too
		text, err := os.ReadFile(p.config)
		if err != nil {
			t.Fatal(err)
		}
		good := string(text)
		wrong := strings.Replace(good, self(t), broken, 1)
		if more == "" {
			wrong = good + "[models.m]\nmodel = 'openai/x'\ncommand = ['./broken']\n"
		}
		if err := os.WriteFile(p.config, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		a := reload(t, c)
		if reason := fmt.Sprint(a["reason"]); a["status"] != "failed" || !strings.Contains(reason, "it printed:") || !strings.Contains(reason, "ModuleNotFoundError") {
			t.Errorf("%v", a)
		}
		call(t, c, "echo", nil)
		if err := os.WriteFile(p.config, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s.expect(reload(t, c), "in_force", "")
		await(t, "the end of what was begun", func() bool { return len(tree(t, s.Process.Pid)) == before })
	}
}

// A model server that is as it was goes on over generations; one that no generation uses any more ends.
func TestModelServersOverGenerations(t *testing.T) {
	p := newPlace(t, self(t), "")
	model := "[models.m]\nmodel = 'openai/x'\ncommand = ['{python}', 'model']\n"
	p.rewrite(t, model)
	s := p.serve(t)
	c := p.connect(t)
	await(t, "health", func() bool { return get(t, c, "sidecar.health", nil)["status"] == "healthy" })
	servers := func() (pids []int) {
		for _, process := range tree(t, s.Process.Pid) {
			if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process.PID)); err == nil && strings.HasSuffix(string(line), "\x00model\x00") {
				pids = append(pids, process.PID)
			}
		}
		return pids
	}
	first := servers()
	if a := get(t, c, "admin.reload", params{"wait": true, "renew": true}); a["renewed"] != true {
		t.Errorf("%v", a)
	}
	if now := servers(); len(first) != 1 || fmt.Sprint(now) != fmt.Sprint(first) {
		t.Errorf("it was %v and is %v", first, now)
	}
	p.rewrite(t, "")
	s.expect(reload(t, c), "in_force", "models.m generation true")
	await(t, "the server's end", func() bool { return len(servers()) == 0 })
}

// Who does not administer the sidecar learns nothing of its configuration; who asks for too much is told so.
func TestReloadParams(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.rewrite(t, "env.SECRET = 's3cret'\n[log]\nlevel = 'warn'\n")
	p.serve(t)
	c := p.connect(t)
	got := get(t, c, "admin.config", nil)
	if text := fmt.Sprint(got); strings.Contains(text, "s3cret") || !strings.Contains(text, "log.level") || got["path"] != p.config {
		t.Errorf("%v", got)
	}
	c.Send(wire.KindRequest, 1, "admin.reload", nil, params{"file": "/etc/passwd"})
	if m := c.Receive(); m.Error == nil || m.Error.Code != wire.CodeInvalidParams {
		t.Errorf("%+v", m)
	}
	if a := get(t, c, "admin.reload", nil); a["status"] != "asked" {
		t.Errorf("%v", a)
	}
}

// What administrators have changed stays until the configuration says something else of it, and is shown as theirs.
func TestReloadKeepsWhatAdministratorsChanged(t *testing.T) {
	t.Parallel()
	p := newPlace(t, self(t), "")
	p.serve(t)
	c := p.connect(t)
	get(t, c, "admin.pool.resize", params{"size": 3})
	get(t, c, "admin.log_level", params{"level": "debug"})
	p.rewrite(t, "queue_limit = 10\n")
	reload(t, c)
	shown := func() map[string]string {
		out := map[string]string{"size": fmt.Sprint(get(t, c, "sidecar.stats", nil)["pool_size"]), "level": fmt.Sprint(get(t, c, "admin.log_level", nil)["level"])}
		settings, _ := get(t, c, "admin.config", nil)["settings"].([]any)
		for _, one := range settings {
			one, _ := one.(params)
			if one["key"] == "pools.default.size" || one["key"] == "log.level" {
				origin, _, _ := strings.Cut(fmt.Sprint(one["origin"]), ",")
				out[fmt.Sprint(one["key"])] = fmt.Sprint(one["value"], " of ", origin)
			}
		}
		return out
	}
	want := map[string]string{"size": "3", "level": "debug", "pools.default.size": "3 of an administrator", "log.level": `"debug" of an administrator`}
	if got := shown(); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	p.rewrite(t, "max_overflow = 0\n[log]\nlevel = 'warn'\n")
	reload(t, c)
	if got := shown(); got["size"] != "3" || got["level"] != "warn" {
		t.Errorf("%v", got)
	}
}

// Who waits for a reload that wants more workers gets them, or hears why not.
func TestReloadWaitsForWorkers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	python, broken := filepath.Join(dir, "python"), filepath.Join(dir, "broken")
	script := fmt.Sprintf("#!/bin/sh\n[ -e %s ] && exit 9\nexec %s \"$@\"\n", broken, self(t))
	if err := os.WriteFile(python, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, python, "")
	p.serve(t)
	c := p.connect(t)
	resize := func(size int) params {
		text, err := os.ReadFile(p.config)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`size = \d+`).ReplaceAll(text, fmt.Appendf(nil, "size = %d", size))
		if err := os.WriteFile(p.config, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return reload(t, c)
	}
	if a := resize(4); a["workers_missing"] != nil || fmt.Sprint(get(t, c, "sidecar.stats", nil)["healthy_workers"]) != "4" {
		t.Errorf("%v", a)
	}
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := resize(6); a["status"] != "in_force" || !strings.Contains(fmt.Sprint(a["workers_missing"]), "4 of 6 workers are ready: ") {
		t.Errorf("%v", a)
	}
}

// A longer start_timeout counts for the application that is being loaded again and again.
func TestReloadLengthensTheStart(t *testing.T) {
	t.Parallel()
	slow := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nexec sleep 3600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, slow, "")
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.config, []byte(strings.Replace(string(text), "'spawn'", "'zygote'", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.rewrite(t, "start_timeout = '100ms'\n")
	p.serve(t)
	c := p.connect(t)
	await(t, "it fails", func() bool { return get(t, c, "sidecar.health", nil)["last_failure"] != nil })
	p.rewrite(t, "start_timeout = '1h'\n")
	reload(t, c)
	await(t, "one has started for longer", func() bool {
		workers, _ := get(t, c, "sidecar.workers", nil)["workers"].([]any)
		return slices.ContainsFunc(workers, func(one any) bool {
			w, _ := one.(params)
			age, err := strconv.Atoi(fmt.Sprint(w["age_ms"]))
			return err == nil && age > 500 && w["state"] == "starting"
		})
	})
}
