package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// write puts a configuration into a folder of its own, beside the files that the example names, and returns its path.
func write(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"c.toml": text, "triage.json": "{}", "examples.json": "[]", "null.json": " null\n", "latin.json": "{\"a\": \"\xe9\"}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "c.toml")
}

// load loads text with 2.5 CPUs; environ holds NAME=VALUE.
func load(t testing.TB, text string, environ ...string) (*Config, error) {
	t.Helper()
	return Load(Options{Path: write(t, text), Environ: environ, CPUs: func() float64 { return 2.5 }})
}

func mustLoad(t testing.TB, text string, environ ...string) *Config {
	t.Helper()
	c, err := load(t, text, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c, err := Load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantListen := Listen{
		Socket: "/run/dspex/dspex.sock", Mode: 0o660, AllowUIDs: []uint32{}, AdminUIDs: []uint32{},
		MaxConnections: 10000, MaxInFlight: 1024, MaxInFlightBytes: 256 << 20, MaxFrame: 16 << 20, HandshakeTimeout: 5 * time.Second,
		FrameTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, WriteBuffer: 64 << 20, DefaultTimeout: 10 * time.Minute,
	}
	if !reflect.DeepEqual(c.Listen, wantListen) {
		t.Errorf("listen: %+v", c.Listen)
	}
	wantPool := Pool{
		Python: "python3", Size: Size{"8", 8}, MaxOverflow: Size{"4", 4}, OverflowIdle: time.Minute, Concurrency: 64,
		CheckoutTimeout: 5 * time.Second, QueueLimit: 4096, Start: "zygote", HealthCheckInterval: 30 * time.Second,
		HealthCheckTimeout: 10 * time.Second, StartTimeout: time.Minute, ShutdownTimeout: 30 * time.Second,
		CancelGrace: 5 * time.Second, StopReport: 50 * time.Millisecond, StreamStall: 30 * time.Second, PassEnv: c.Pool.PassEnv, Env: map[string]Secret{},
	}
	if !reflect.DeepEqual(c.Pool, wantPool) {
		t.Errorf("pool: %+v", c.Pool)
	}
	wantSessions := Sessions{Store: "memory", TTL: time.Hour, Max: 100000, MaxState: 64 << 20, Pinning: "strict", SoftWait: time.Second, MaxTotal: 1 << 30, AnswerTTL: time.Hour, Weights: map[string]int{}}
	if !reflect.DeepEqual(c.Sessions, wantSessions) {
		t.Errorf("sessions: %+v", c.Sessions)
	}
	if (c.Log != Log{Level: slog.LevelInfo, Format: "json"}) || len(c.Models) != 0 || c.DefaultModel() != "" {
		t.Errorf("log, models: %+v %v", c.Log, c.Models)
	}
}

// Each layer goes over the one before, and says so.
func TestOrderOfLayers(t *testing.T) {
	const file = `
[pools.default]
size = 3
max_overflow = 1
checkout_timeout = "7s"

[pools.default.env]
A = "file"
B = "file"

[profile.prod.pools.default]
checkout_timeout = "8s"
queue_limit = 9

[profile.prod.pools.default.env]
B = "profile"

[profile.dev.models.extra]
model = "openai/x"
`
	path := write(t, file)
	c, err := Load(Options{
		Path: path, Profile: "prod", CPUs: func() float64 { return 2.5 },
		Environ: []string{"DSPEX_PROFILE=dev", "DSPEX_POOLS_DEFAULT_QUEUE_LIMIT=10", "DSPEX_POOLS_DEFAULT_ENV_A=environment"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pool
	if p.Size.N != 3 || p.MaxOverflow.N != 1 || p.CheckoutTimeout != 8*time.Second || p.QueueLimit != 10 || len(c.Models) != 0 {
		t.Errorf("%+v", p)
	}
	if p.Env["A"].value != "environment" || p.Env["B"].value != "profile" {
		t.Errorf("env: %#v", p.Env)
	}
	for key, want := range map[string]string{
		"pools.default.size":             path + ":3",
		"pools.default.lazy":             "profile prod, built in",
		"pools.default.checkout_timeout": "profile prod, " + path + ":12",
		"pools.default.queue_limit":      "environment DSPEX_POOLS_DEFAULT_QUEUE_LIMIT",
		"pools.default.env.A":            "environment DSPEX_POOLS_DEFAULT_ENV_A",
		"pools.default.env.B":            "profile prod, " + path + ":16",
		"listen.mode":                    "default",
	} {
		if got := c.Origin(key); got != want {
			t.Errorf("%s is from %q, not %q", key, got, want)
		}
	}
}

func TestProfilesWithoutFile(t *testing.T) {
	dev, err := Load(Options{Environ: []string{"DSPEX_PROFILE=dev"}})
	if err != nil {
		t.Fatal(err)
	}
	if p := dev.Pool; p.Size.N != 2 || !p.Lazy || !p.Tracebacks || p.HealthCheckInterval != time.Minute || dev.Profile != "dev" {
		t.Errorf("dev: %+v", p)
	}
	prod, err := Load(Options{Profile: "prod", CPUs: func() float64 { return 1.2 }})
	if err != nil {
		t.Fatal(err)
	}
	if p := prod.Pool; p.Size != (Size{"cpu*2", 3}) || p.MaxOverflow != (Size{"cpu", 2}) || p.CheckoutTimeout != 10*time.Second || p.Lazy {
		t.Errorf("prod: %+v", p)
	}
}

// Each row is one mistake and what is said of it, after the file's name.
func TestMistakes(t *testing.T) {
	rows := []struct{ text, want string }{
		{"[pools.default]\nsice = 3", `:2:1: pools.default.sice is no setting; did you mean size? ([pools.default] has app, python, `},
		{"[pool.default]\nsize = 3", `:1:2: pool is no setting; did you mean pools? (at the top there are listen, pools, runs, sessions, budgets, log, http, models, embedders, dspy, optimize, programs, profile)`},
		{"size = 3", `:1:1: size is no setting; it belongs into [pools.default] (at the top`},
		{"[sessions]\ncheckout_timeout = '1s'", `:2:1: sessions.checkout_timeout is no setting; it belongs into [pools.default] (`},
		{"[pools.fast]\nsize = 3", `:1:8: pools.fast is a second pool: this version has one, [pools.default]`},
		{"[pools.default]\n size = 0", `:2:2: pools.default.size must be a whole number from 1 to 1024, or "cpu", "cpu*1.5", "cpu*2" and so on, not 0`},
		{"[pools.default]\nsize = 'cpu*0'", `:2:1: pools.default.size must be a whole number from 1 to 1024, or "cpu", "cpu*1.5", "cpu*2" and so on, not "cpu*0"`},
		{"[pools.default]\nsize = 'cpu*900'", `:2:1: pools.default.size must be a whole number from 1 to 1024, or "cpu", "cpu*1.5", "cpu*2" and so on: with 2.5 CPUs that is 2250`},
		{"[pools.default]\nchceckout_timeout = 5", `did you mean checkout_timeout? (`},
		{"[pools.default]\ncheckout_timeout = 5", `:2:1: pools.default.checkout_timeout must be a duration of at least 1ms, such as "500ms", "5s", "10m" or "1h", not 5`},
		{
			"[pools.default]\nrecycle_memory = '1GiB'\nmemory_limit = '512MiB'",
			`:2:1: pools.default.recycle_memory is 1GiB, and must be below memory_limit, 512MiB, at which a worker is killed`,
		},
		{"[pools.default]\nstart = 'fork'", `:2:1: pools.default.start must be "zygote" or "spawn", not "fork"`},
		{"[pools.default]\napp = 'app.py'", `:2:1: pools.default.app must be "module:attribute", such as "app:app", or "", not "app.py"`},
		{"[pools.default]\npass_env = ['PATH', '*']", `: its item 2 is "*"`},
		{"[pools.default.env]\n'A=B' = 'x'", `:2:1: pools.default.env."A=B" is no name of an environment variable`},
		{"[pools.default]\nenv = { SECRET = 99887766 }", `:2:9: pools.default.env.SECRET must be a string: the value itself, or "env:NAME" or "file:PATH" where it is secret`},
		{"pools.default = 3", `:1:7: pools.default is a table, written [pools.default], not 3`},
		{"[[pools.default]]\nsize=3", `:1:9: pools.default is a table, written [pools.default], not a list`},
		{"[sessions]\nstore = 'file'", `:2:1: sessions.store is "file", and needs sessions.path, a folder for the sessions`},
		{"[sessions]\nkey_file = 'x'", `:2:1: sessions.key_file seals what the store "file" keeps, and sessions.store is "memory"`},
		{"[http]\nlisten = 'x'", `:2:1: http.listen must be "HOST:PORT", where HOST is an address or localhost, or "unix:" and a path, not "x"`},
		{"[http]\nlisten = ':80'", `:2:1: http.listen must be "HOST:PORT"`},
		{"[http]\nlisten = '127.0.0.1:99999'", `:2:1: http.listen must be "HOST:PORT"`},
		{"[http]\nlisten = 'unix:'", `:2:1: http.listen must be "HOST:PORT"`},
		{"[http]\nlisten = '0.0.0.0:80'", `:2:1: http.listen is an address that other machines reach`},
		{"[http]\nlisten = '[::]:80'", `:2:1: http.listen is an address that other machines reach`},
		{"[http]\nhosts = ['A']", `: its item 1 is "A"`},
		{"[sessions]\npinning = 'loose'", `:2:1: sessions.pinning must be "strict" or "fail_fast" or "soft", not "loose"`},
		{"[listen]\nmode = 0o660", `:2:1: listen.mode must be the permissions as an octal string, such as "0660", not 432`},
		{"[listen]\nmax_frame = '16MB'", `:2:1: listen.max_frame must be a size from 64KiB to 1GiB, such as "512KiB", "16MiB", "1GiB", or a number of bytes, not "16MB"`},
		{"[listen]\nmax_frame = '9999999999999GiB'", `not "9999999999999GiB"`},
		{"[listen]\nmax_frame = '128MiB'", `:2:1: listen.max_frame does not fit: max_frame is 128MiB and write_buffer, which must hold a frame, only 64MiB`},
		{"[listen]\nwrite_buffer = '8MiB'", `:2:1: listen.write_buffer does not fit: max_frame is 16MiB and`},
		{"[listen]\nallow_uids = [1000, 'x']", `: its item 2 is "x"`},
		{"[listen]\nadmin_uids = [4294967295]", `: its item 1 is 4294967295`},
		{"[log]\nlevel = 'loud'", `:2:1: log.level must be "debug", "info", "warn" or "error", not "loud"`},
		{"[log]\nlevel = 2026-01-01", `, not a date or time`},
		{"[models.a]\napi_key = 'env:K'", `:1:9: models.a has no model, such as model = "openai/gpt-4o-mini"`},
		{"[models.'a b']\nmodel = 'x'", `:1:9: models."a b" is no name for a model: letters`},
		{"[models.a]\nmodel = 'x'\nresponse_schema = true", `:3:1: models.a.response_schema has an effect only with adapter = "json"`},
		{"[models.a]\nmodel = 'x'\nstart_timeout = '5s'", `:3:1: models.a.start_timeout has an effect only with a command`},
		{"[models.a]\nmodel = 'x'\ncommand = ['x']\napi_key = 'env:A'", `:4:1: models.a.api_key is made by the sidecar where there is a command`},
		{"[models.a]\nmodel = 'x'\ncommand = ['x']\napi_base = 'http://a'", `:4:1: models.a.api_base is made by the sidecar where there is a command`},
		{"[models.a]\nmodel = 'x'\ncommand = []", `:3:1: models.a.command must be a list of strings, the program first: ["server", "--flag"], not a list`},
		{"[models.a]\nmodel='x'\ndefault=true\n[models.b]\nmodel='x'\ndefault=true", `:6:1: models.b.default is the second: models.a is the default already`},
		{"[models.a]\nmodel='x'\nfallbacks = ['b']", `:3:1: models.a.fallbacks names "b", which is no configured model`},
		{"[models.a]\nmodel='x'\nfallbacks = ['a']", `:3:1: models.a.fallbacks names "a" twice, or its own model`},
		{"[models.a]\nmodel='x'\nadapter = 'two_step'", `:3:1: models.a.adapter is "two_step", and needs extraction_model`},
		{"[models.a]\nmodel='x'\nextraction_model = 'b'", `:3:1: models.a.extraction_model names "b", which is no configured model`},
		{"[models.a]\nmodel='x'\ncache_scope = 'model'", `:3:1: models.a.cache_scope has an effect only with cache = true`},
		{"[models.a]\nmodel='x'\nstop = []", `:3:1: models.a.stop must be a list of 1 to 4 texts, not a list`},
		{"[optimize]\nexecutor = 'ray'", `:2:1: optimize.executor is "ray", and needs optimize.address, that of the cluster`},
		{"[optimize]\naddress = 'http://x'", `:2:1: optimize.address must be "ray://HOST:PORT" or "HOST:PORT", not "http://x"`},
		{"[embedders.a]\napi_key = 'env:K'", `:1:12: embedders.a has no model, such as model = "openai/text-embedding-3-small"`},
		{"[embedders.a]\nmodel='x'\ndefault=true\n[embedders.b]\nmodel='x'\ndefault=true", `:6:1: embedders.b.default is the second: embedders.a is the default already`},
		{"[models.a]\nmodel='x'\ntemperature = nan", `:3:1: models.a.temperature must be a number from 0 to 2, not NaN`},
		{"[models.a]\nmodel='x'\napi_base = 'ftp://a'", `:3:1: models.a.api_base must be an http or https URL`},
		{"[profile.dev.pools.default]\nsise = 3", `:2:1: pools.default.sise is no setting; did you mean size?`},
		{"[profile.other]\nprofile = 3", `:2:1: profile is no setting`},
		{"profile = 'dev'", `:1:1: profile must hold tables, such as [profile.dev.pools.default], not "dev"`},
		{"profile.dev = 1", `:1:9: profile.dev must hold tables, such as [profile.dev.pools.default], not 1`},
		{"[log]\nlevel = 'info", `:2:`},
		{"[log]\nlevel = 'info'\nlevel = 'info'", `:3:1: log.level is set twice: first in line 2`},
		{"[log]\n[sessions]\nmax = 1\n[log]\nlevel = 'info'", `:4:2: log is set twice: first in line 1`},
		{"[pools]\ndefault.size = 1\n[pools.default]\nsize = 2", `:3:2: pools.default is set twice: first in line 2`},
		{"[profile.dev]\nlog.level = 'info'\n# x\n  log.\"level\" = 'info'", `:4:3: profile.dev.log.level is set twice: first in line 2`},
		{"log = {level = 'info', level = 'info'}", `:1:1: log sets level twice`},
		{"[log]\nlevel = 'info'\n[log.level]\na = 1", ` is no TOML: `},
	}
	for _, row := range rows {
		_, err := load(t, row.text)
		var all Errors
		if !errors.As(err, &all) || len(all) != 1 {
			t.Errorf("%q: not one error: %v", row.text, err)
			continue
		}
		if !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "c.toml") && all[0].Line > 0 {
			t.Errorf("%q\n gives %s\n not   %s", row.text, err, row.want)
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := load(t, "[listen]\nmode = 5\nsokcet = 'x'\n[profile.x.log]\nlevel = 'a'\n", "DSPEX_SESSIONS_TTL=soon", "DSPEX_POOL_SIZE=4")
	var all Errors
	if !errors.As(err, &all) {
		t.Fatal(err)
	}
	var keys []string
	for _, one := range all {
		keys = append(keys, one.Key)
	}
	if want := []string{"listen.mode", "listen.sokcet", "log.level", "", "sessions.ttl"}; !slices.Equal(keys, want) {
		t.Errorf("%q\n%v", keys, err)
	}
}

func TestMistakesInTheEnvironment(t *testing.T) {
	rows := []struct{ variable, want string }{
		{"DSPEX_LISTEN_MODE=9", `environment DSPEX_LISTEN_MODE: listen.mode must be the permissions as an octal string, such as "0660", not 9`},
		{"DSPEX_POOL_SIZE=4", `environment DSPEX_POOL_SIZE: is no setting; did you mean DSPEX_POOLS_DEFAULT_SIZE?`},
		{"DSPEX_POOL_MAX_OVERFLO=4", `is no setting; did you mean DSPEX_POOLS_DEFAULT_MAX_OVERFLOW?`},
		{"DSPEX_POOL_DEFAULT_SIZE=4", `is no setting; did you mean DSPEX_POOLS_DEFAULT_SIZE?`},
		{"DSPEX_POOLS_DEFAULT_SICE=4", `environment DSPEX_POOLS_DEFAULT_SICE: is no setting; did you mean DSPEX_POOLS_DEFAULT_SIZE?`},
		{"DSPEX_MODELS_OTHER_MODEL=x", `; models are set this way only where the file has them: a-b, a_b, main`},
		{"DSPEX_MODELS_A_B_MODEL=x", `could be models.a-b.model or models.a_b.model: set it in the file`},
		{"DSPEX_HTTP_LISTN=x", `is no setting; did you mean DSPEX_HTTP_LISTEN?`},
		{"DSPEX_PROFILE=stage", `environment DSPEX_PROFILE: there is no profile "stage"; there are dev, mine, prod`},
		{"DSPEX_MODELS_MAIN_API_KEY=sk-live-0123", `models.main.api_key must be a reference to a secret, "env:NAME" or "file:PATH"`},
	}
	const text = "[models.main]\nmodel='x'\n[models.a-b]\nmodel='x'\n[models.a_b]\nmodel='x'\n[profile.mine.log]\nlevel='warn'"
	for _, row := range rows {
		_, err := load(t, text, row.variable)
		if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "sk-live") {
			t.Errorf("%s\n gives %v\n not   %s", row.variable, err, row.want)
		}
	}
}

func TestValuesFromTheEnvironment(t *testing.T) {
	c := mustLoad(t, "[models.Big-1]\nmodel='x'",
		"DSPEX_LISTEN_SOCKET=/tmp/a.sock", "DSPEX_LISTEN_MODE=0600", "DSPEX_LISTEN_ALLOW_UIDS=[7, 8]", "DSPEX_LISTEN_MAX_FRAME=1MiB",
		"DSPEX_POOLS_DEFAULT_SIZE=cpu*2", "DSPEX_POOLS_DEFAULT_LAZY=true", `DSPEX_POOLS_DEFAULT_PYTHON="venv/bin/python"`,
		"DSPEX_POOLS_DEFAULT_ENV_DEBUG=true", "DSPEX_SESSIONS_TTL=90s", "DSPEX_LOG_LEVEL=debug", "DSPEX_MODELS_BIG_1_API_KEY=env:KEY",
		"DSPEX_SOCKET=x", "DSPEX_LONG=1", "DSPEX_DEMO_MODELS_X=1", "DSPEX_ELSEWHERE=1", "DSPEX_OTHER_TOOL=1", "LOG_LEVEL=x")
	p := c.Pool
	if c.Listen.Socket != "/tmp/a.sock" || c.Listen.Mode != 0o600 || !slices.Equal(c.Listen.AllowUIDs, []uint32{7, 8}) || c.Listen.MaxFrame != 1<<20 {
		t.Errorf("%+v", c.Listen)
	}
	if p.Size != (Size{"cpu*2", 5}) || !p.Lazy || p.Python != filepath.Join(c.Dir, "venv/bin/python") || p.Env["DEBUG"].value != "true" {
		t.Errorf("%+v", p)
	}
	if c.Sessions.TTL != 90*time.Second || c.Log.Level != slog.LevelDebug || c.Models["Big-1"].APIKey.String() != "env:KEY" {
		t.Errorf("%+v %+v", c.Sessions, c.Log)
	}
}

func TestPaths(t *testing.T) {
	c := mustLoad(t, "[listen]\nsocket='run/s'\n[pools.default]\npython='../v/bin/python'\n"+
		"[models.m]\nmodel='x'\ncommand=['./server','./argument']\n[pools.default.env]\nK='file:key'")
	if c.Listen.Socket != filepath.Join(c.Dir, "run/s") || c.Pool.Python != filepath.Join(c.Dir, "../v/bin/python") {
		t.Error(c.Listen.Socket, c.Pool.Python)
	}
	if want := []string{filepath.Join(c.Dir, "server"), "./argument"}; !slices.Equal(c.Models["m"].Command, want) {
		t.Error(c.Models["m"].Command)
	}
	if got := c.Pool.Env["K"].String(); got != "file:"+filepath.Join(c.Dir, "key") {
		t.Error(got)
	}
	long := "/" + strings.Repeat("s", 106)
	mustLoad(t, "[listen]\nsocket='"+long+"'")
	_, err := load(t, "[listen]\nsocket='"+long+"s'")
	if err == nil || !strings.Contains(err.Error(), ":2:1: listen.socket is a path of 108 bytes, and a Unix socket's has at most 107: /ss") {
		t.Error(err)
	}
	if _, err = load(t, "", "XDG_RUNTIME_DIR="+long); err == nil || !strings.HasPrefix(err.Error(), "listen.socket is a path of 124 bytes") {
		t.Error(err)
	}
}

func TestDefaultSocket(t *testing.T) {
	for environ, want := range map[string]string{
		"XDG_RUNTIME_DIR=/run/user/7": "/run/user/7/dspex/dspex.sock",
		"XDG_RUNTIME_DIR=relative":    "/run/dspex/dspex.sock",
		"XDG_RUNTIME_DIR=":            "/run/dspex/dspex.sock",
		"OTHER=1":                     "/run/dspex/dspex.sock",
	} {
		if got := DefaultSocket([]string{environ}); got != want {
			t.Errorf("%s: %s", environ, got)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.toml")
	_, err := Load(Options{Path: missing})
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), missing+": cannot be read: ") {
		t.Error(err)
	}
	if _, err := Load(Options{Path: t.TempDir()}); err == nil {
		t.Error("a folder was read")
	}
	if _, err := load(t, strings.Repeat("#", maxFile+1)); err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Error(err)
	}
}

// The worst that fits into a file: it must not overflow the stack, nor be answered at length.
func TestHostileFiles(t *testing.T) {
	for name, text := range map[string]string{
		"nested lists":  "a = " + strings.Repeat("[", maxFile-8),
		"nested tables": "a = " + strings.Repeat("{a=", (maxFile-8)/3),
		"deep key":      strings.Repeat("a.", maxFile/2-8) + "a = 1",
		"long key":      strings.Repeat("a", maxFile-8) + " = 1",
		"many keys":     manyKeys(),
		"zero bytes":    strings.Repeat("\x00", maxFile),
	} {
		_, err := load(t, text)
		if err == nil || len(err.Error()) > 20_000 {
			t.Errorf("%s: accepted, or an error of %d bytes", name, len(err.Error()))
		}
	}
}

func manyKeys() string {
	var b strings.Builder
	for i := 0; b.Len() < maxFile-20; i++ {
		b.WriteString("k" + strings.Repeat("x", i%5) + showBytes(i) + "= 1\n")
	}
	return b.String()
}

func TestWhoMayConnect(t *testing.T) {
	l := Listen{}
	if got := l.Allowed(7); !slices.Equal(got, []uint32{0, 7}) || !slices.Equal(l.Admins(0), []uint32{0}) {
		t.Error(got, l.Admins(0))
	}
	l = Listen{AllowUIDs: []uint32{9}, AdminUIDs: []uint32{8}}
	if got := l.Allowed(7); !slices.Equal(got, []uint32{8, 9}) || !slices.Equal(l.Admins(7), []uint32{8}) {
		t.Error(got, l.Admins(7))
	}
	l = Listen{AdminUIDs: []uint32{8}}
	if got := l.Allowed(7); !slices.Equal(got, []uint32{0, 7, 8}) {
		t.Error(got)
	}
}

func TestDefaultModel(t *testing.T) {
	for text, want := range map[string]string{
		"[models.a]\nmodel='x'":                                        "a",
		"[models.a]\nmodel='x'\n[models.b]\nmodel='x'":                 "",
		"[models.a]\nmodel='x'\n[models.b]\nmodel='x'\ndefault = true": "b",
	} {
		if got := mustLoad(t, text).DefaultModel(); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// FuzzLoad holds that loading never panics, that what is refused says so in Errors, and that a secret that was
// refused is not in them.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(Example()), "DSPEX_POOLS_DEFAULT_SIZE=cpu")
	f.Add([]byte(uncommented()), "DSPEX_MODELS_MAIN_TIMEOUT=5s")
	f.Add([]byte("[models.a]\nmodel = 'x'\napi_key = 'env:A'\n[pools.default]\nenv = {A.b = 1}"), "DSPEX_LISTEN_ALLOW_UIDS=[1]")
	f.Add([]byte("[[models]]\n[profile.x.pools]\ndefault.size = 'cpu*1.5'"), "DSPEX_POOLS_DEFAULT_ENV_A=b")
	path := filepath.Join(f.TempDir(), "c.toml")
	f.Fuzz(func(t *testing.T, text []byte, variable string) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{Path: path, Environ: []string{variable}, CPUs: func() float64 { return 1.5 }})
		var all Errors
		switch {
		case err == nil && c == nil, err != nil && !errors.As(err, &all):
			t.Fatalf("%v %v", c, err)
		case err == nil:
			if changes := Diff(c, c); len(changes) > 0 {
				t.Fatal(changes)
			}
			c.Settings()
		default:
			_ = err.Error()
		}
	})
}
