package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCPUs(t *testing.T) {
	rows := []struct {
		name  string
		files map[string]string // below the root
		want  float64           // of 4
	}{
		{"no control groups", nil, 4},
		{"version 2, in a container", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5},
		{"version 2, no limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 4},
		{"version 2, over the affinity", map[string]string{"sys/fs/cgroup/cpu.max": "900000 100000"}, 4},
		{"version 2, a group above is narrower", map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/b/cpu.max": "200000 100000",
		}, 0.5},
		{"version 2, the host's path", map[string]string{"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5},
		{"version 1", map[string]string{
			"proc/self/cgroup":                           "5:cpu,cpuacct:/docker/1\n1:name=systemd:/\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "125000\n", "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "50000\n",
		}, 2.5},
		{"version 1, only the root is mounted", map[string]string{
			"proc/self/cgroup":                   "5:cpu:/docker/1\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
		}, 0.5},
		{"garbage", map[string]string{"proc/self/cgroup": "x\n0\n", "sys/fs/cgroup/cpu.max": "many"}, 4},
		{"a period of zero", map[string]string{"sys/fs/cgroup/cpu.max": "100000 0"}, 4},
	}
	for _, row := range rows {
		root := t.TempDir()
		for name, text := range row.files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := cpus(root, 4); got != row.want {
			t.Errorf("%s: %v, not %v", row.name, got, row.want)
		}
	}
	if got := CPUs(t.TempDir()); got < 1 {
		t.Errorf("without control groups: %v", got)
	}
}

func TestSizes(t *testing.T) {
	rows := []struct {
		text string
		cpus float64
		want int // 0: refused
	}{
		{"cpu", 2, 2},
		{"cpu", 0.3, 1},
		{"cpu*1.5", 3, 5},
		{"cpu * 2", 1.5, 3},
		{"cpu*0.1", 1, 1},
		{"cpu*1.1", 10, 11}, // and not 12, though 1.1 × 10 is a little over 11 in binary
		{"cpu*0", 4, 0},
		{"cpu*-1", 4, 0},
		{"cpu*", 4, 0},
		{"2*cpu", 4, 0},
		{"cpu*1e3", 4, 0},
		{"8", 4, 0}, // a number is written as one
	}
	for _, row := range rows {
		got, ok := parseSize(row.text, func() float64 { return row.cpus })
		if got.N != row.want || ok != (row.want > 0) {
			t.Errorf("%s of %v: %v %v", row.text, row.cpus, got, ok)
		}
	}
}

// A value that is secret must not come out of anything that is printed, logged, marshalled, compared or refused.
func TestSecretsDoNotShow(t *testing.T) {
	const canary = "sk-canary-774411"
	dir := t.TempDir()
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"KEY=" + canary}
	c := mustLoad(t, "[models.a]\nmodel='x'\napi_key='env:KEY'\n[models.b]\nmodel='x'\napi_key='file:"+keyFile+"'\n"+
		"[pools.default.env]\nLITERAL='"+canary+"'\nBY_ENV='env:KEY'", environ...)
	for _, secret := range []Secret{c.Models["a"].APIKey, c.Models["b"].APIKey, c.Pool.Env["LITERAL"]} {
		if got, err := secret.Resolve(environ); got != canary || err != nil {
			t.Fatal(got, err)
		}
	}
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, verb, c.Models["a"])
		fmt.Fprintf(&shown, verb, c.Pool)
		fmt.Fprintf(&shown, verb, c.Pool.Env["LITERAL"])
	}
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&shown, nil), slog.NewTextHandler(&shown, nil)} {
		slog.New(handler).Info("x", "config", c, "pool", c.Pool, "secret", c.Pool.Env["LITERAL"])
	}
	if err := json.NewEncoder(&shown).Encode(c); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&shown, c.Settings(), Diff(c, mustLoad(t, "")), Diff(mustLoad(t, ""), c))
	hex := fmt.Sprintf("%x", canary)
	if text := shown.String(); strings.Contains(text, canary) || strings.Contains(text, hex) || !strings.Contains(text, "env:KEY") {
		t.Errorf("shown: %s", text)
	}
}

func TestRefusedSecretsDoNotShow(t *testing.T) {
	const canary = "sk-canary-774411"
	for _, text := range []string{
		"[models.a]\nmodel='x'\napi_key='" + canary + "'",
		"[models.a]\nmodel='x'\napi_key='env:" + canary + " x'",
		"[models.a]\nmodel='x'\napi_key=['" + canary + "']",
		"[models.a]\nmodel='x'\napi_base='https://user:" + canary + "@host:port/'",
		"[models.a]\nmodel='x'\napi_key='" + canary + "\n",
		"[models.a]\nmodel='x'\napi_key='" + canary + "' '",
		"[models.a]\nmodel='x'\napi_key=" + canary,
		"[pools.default.env]\nA=['" + canary + "']",
		"[pools.default.env]\nA='" + canary + "\\u0000'\nB=\"" + canary + "\\u0000\"",
	} {
		if _, err := load(t, text); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecretsThatCannotBeResolved(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "\n", "long": strings.Repeat("k", maxSecret+1), "zero": "a\x00b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		"env:UNSET":  "env:UNSET: the environment variable is not set, or empty",
		"env:EMPTY":  "env:EMPTY: the environment variable is not set, or empty",
		"file:none":  "no such file",
		"file:empty": "the file is empty or holds a zero byte",
		"file:zero":  "the file is empty or holds a zero byte",
		"file:long":  "the file is longer than 65536 bytes",
		"file:.":     "it is a folder",
	} {
		secret, err := parseSecret(text, dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = secret.Resolve([]string{"EMPTY="}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEnvironmentOfAWorker(t *testing.T) {
	environ := []string{"PATH=/bin", "LC_ALL=C", "LC_TIME=de", "API_KEY=s3cret", "PATHS=x", "HOME=/h", "DSPEX_SOCKET=x"}
	c := mustLoad(t, "[pools.default]\npass_env=['PATH','LC_*','HOME']\n[pools.default.env]\nHOME='/elsewhere'\nKEY='env:API_KEY'")
	got, err := c.Pool.Environ(environ)
	if want := []string{"HOME=/elsewhere", "KEY=s3cret", "LC_ALL=C", "LC_TIME=de", "PATH=/bin"}; err != nil || !slices.Equal(got, want) {
		t.Error(got, err)
	}
	_, err = c.Pool.Environ(nil)
	if want := "pools.default.env.KEY cannot be resolved: env:API_KEY: the environment variable is not set, or empty"; err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	old := mustLoad(t, `
[listen]
socket = "/tmp/a"
[pools.default]
size = "cpu"
app = "a:app"
[pools.default.env]
A = "one"
B = "env:X"
[models.m]
model = "openai/a"
[models.gone]
model = "openai/b"
command = ["x"]
`)
	changed := mustLoad(t, `
[log]
level = "debug"
[listen]
socket = "/tmp/b"
[pools.default]
size = 3
app = "b:app"
[pools.default.env]
A = "two"
C = "env:Y"
[models.m]
model = "openai/a"
temperature = 0.5
[models.come]
model = "openai/c"
`)
	want := []Change{
		{"listen.socket", `"/tmp/a"`, `"/tmp/b"`, Restart},
		{"log.level", `"info"`, `"debug"`, Live},
		{"models.come", "", `"openai/c"`, Live},
		{"models.gone", `"openai/b"`, "", Generation},
		{"models.m.temperature", "", "0.5", Live},
		{"pools.default.app", `"a:app"`, `"b:app"`, Generation},
		{"pools.default.env.A", `"(literal, not shown)"`, `"(literal, not shown)"`, Generation},
		{"pools.default.env.B", `"env:X"`, "", Generation},
		{"pools.default.env.C", "", `"env:Y"`, Generation},
		{"pools.default.size", `"cpu"`, "3", Live},
	}
	if got := Diff(old, changed); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// What Settings shows is TOML that gives the same configuration again, literals of the environment aside.
func TestSettingsLoadAgain(t *testing.T) {
	c := mustLoad(t, strings.Replace(uncommented(), `NAME = "value"`, `NAME = "env:X"`, 1))
	var b strings.Builder
	for _, s := range c.Settings() {
		// Defaults that would be errors if written.
		if !strings.HasPrefix(s.Key, "models.main.start_timeout") && s.Key != "programs.triage.module" {
			b.WriteString(s.Key + " = " + s.Value + "\n")
		}
	}
	if changes := Diff(c, mustLoad(t, b.String())); len(changes) > 0 {
		t.Errorf("%v\n%s", changes, b.String())
	}
}

// What only a restart changes stays as it is; the rest is as it was read.
func TestKept(t *testing.T) {
	before := mustLoad(t, "[listen]\nsocket = '/tmp/a'\nmode = '0600'\n[sessions]\nstore = 'file'\npath = '/a'\nttl = '5h'\n")
	after := mustLoad(t, "[listen]\nsocket = '/tmp/b'\nmax_frame = '1MiB'\n[log]\nformat = 'text'\n")
	now := Kept(before, after)
	for _, c := range Diff(before, now) {
		if c.Effect == Restart {
			t.Errorf("%+v", c)
		}
	}
	for _, c := range Diff(now, after) {
		if c.Effect != Restart {
			t.Errorf("%+v", c)
		}
	}
	if now.Origin("listen.socket") != before.Origin("listen.socket") || now.Origin("log.format") != "default" || now.Origin("listen.max_frame") == "default" {
		t.Error("what is kept comes from where it was before")
	}
	if after.Listen.Socket != "/tmp/b" || after.Log.Format != "text" {
		t.Error("what was read has changed")
	}
}

func TestDev(t *testing.T) {
	load := func(text string) *Config {
		path := filepath.Join(t.TempDir(), "dspex.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{Path: path, Dev: true})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := load(""); !c.Pool.Tracebacks || c.Log.Format != "text" || c.Origin("log.format") != "--dev" || !c.Blank {
		t.Errorf("%+v", c)
	}
	if c := load("[log]\nformat = 'json'\n"); !c.Pool.Tracebacks || c.Log.Format != "json" || c.Blank {
		t.Errorf("%+v", c)
	}
}
