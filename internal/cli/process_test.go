package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/config"
)

func TestWrongCommandLines(t *testing.T) {
	for args, says := range map[string]string{
		"":                            "expected one of",
		"dance":                       "unexpected argument dance",
		"workers dance":               "unexpected argument dance",
		"call":                        `expected "<method>"`,
		"health --loud":               "unknown flag --loud",
		"health --timeout soon":       "--timeout",
		"health --timeout 0s":         "--timeout",
		"call m --timeout -1s":        "--timeout: must be more than 0, such as 30s",
		"call m --timeout=-1s":        "--timeout: must be more than 0, such as 30s",
		"health --timeout -.5s":       "--timeout: must be more than 0, such as 5s",
		"sessions --limit -1":         "--limit: must be at least 1",
		"sessions create --ttl -1h":   "--ttl: must be at least 1ms, such as 1h",
		"sessions create --ttl 1us":   "--ttl: must be at least 1ms, such as 1h",
		"sessions -1":                 "-1",
		"call m --session \x01":       "--session",
		"sessions --limit 0":          "--limit",
		"sessions create --state [1]": "--state: a state is an object",
		"sessions create --label x":   "--label",
		"sessions show":               `expected "<id>"`,
	} {
		o := run(t, nil, strings.Fields(args)...)
		o.expect(t, exitUsage, says, "--help")
		if o.stdout != "" {
			t.Errorf("%q printed %q", args, o.stdout)
		}
	}
}

func TestServe(t *testing.T) {
	var got ServeOptions
	for _, c := range []struct {
		err  error
		code int
		says string
	}{
		{nil, exitOK, ""},
		{config.Errors{{File: "x.toml", Line: 3, Column: 1, Key: "a.b", Message: "is not known"}}, exitUsage, "x.toml:3:1: a.b is not known\n"},
		{errors.New("the socket is in use"), exitFailed, "dspex-sidecar: the socket is in use\n"},
	} {
		e := Env{Serve: func(_ context.Context, o ServeOptions) error {
			got = o
			return c.err
		}}
		o := runWith(t.Context(), t, e, nil, "serve", "--config", "x.toml", "--profile", "dev", "--dev")
		if o.code != c.code || o.stderr != c.says {
			t.Errorf("%v: exit code %d, stderr %q", c.err, o.code, o.stderr)
		}
		if got != (ServeOptions{"x.toml", "dev", true}) {
			t.Errorf("serve was told %+v", got)
		}
	}
}

func TestServeEndsInOrderWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := Env{Serve: func(ctx context.Context, _ ServeOptions) error {
		cancel()
		<-ctx.Done()
		return nil
	}}
	runWith(ctx, t, e, nil, "serve").expect(t, exitOK)
}

func TestKeeper(t *testing.T) {
	for _, code := range []int{0, 1, 2} {
		o := runWith(t.Context(), t, Env{Keeper: func() int { return code }}, nil, "keeper")
		o.expect(t, code)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.toml", "[pools.default]\nsize = 3\n[models.main]\nmodel = \"openai/x\"\napi_key = \"env:KEY\"\n")
	write("bad.toml", "[pools.default]\nsize = \"many\"\nsizes = 1\n")
	e := Env{Environ: []string{"KEY=s3cret", "DSPEX_LOG_LEVEL=debug"}}

	o := runWith(t.Context(), t, e, nil, "check", "--config", "good.toml", "--profile", "dev")
	o.expect(t, exitOK)
	for _, part := range []string{"good.toml is valid, with the profile dev\n", "pools.default.size ", "good.toml:2", "environment DSPEX_LOG_LEVEL", "env:KEY"} {
		if !strings.Contains(o.stdout, part) {
			t.Errorf("the summary has no %q:\n%s", part, o.stdout)
		}
	}
	j := runWith(t.Context(), t, e, nil, "check", "--config", "good.toml", "--json")
	j.expect(t, exitOK)
	if !strings.Contains(j.stdout, `{"key":"pools.default.size","origin":"good.toml:2","value":"3"}`) {
		t.Errorf("check --json: %s", j.stdout)
	}
	if strings.Contains(o.stdout+j.stdout, "s3cret") {
		t.Error("a secret is shown")
	}
	run(t, nil, "check", "--config", "bad.toml").expect(t, exitUsage, "bad.toml:2:", "pools.default.size", "bad.toml:3:", "pools.default.sizes")
	j = run(t, nil, "check", "--config", "bad.toml", "--json")
	j.expect(t, exitUsage)
	if !strings.HasPrefix(j.stdout, `{"errors":[{"column":`) || !strings.Contains(j.stdout, `"line":3`) || !strings.Contains(j.stdout, `"valid":false`) {
		t.Errorf("check --json of a wrong one: %s", j.stdout)
	}
	run(t, nil, "check", "--config", "none.toml").expect(t, exitUsage, "none.toml", "cannot be read")
	run(t, nil, "check", "--profile", "nope").expect(t, exitUsage, "there is no profile")
}

func TestVersion(t *testing.T) {
	if o := run(t, nil, "version"); o.code != exitOK || !strings.HasPrefix(o.stdout, "dspex-sidecar 1.2.3, protocol 1, go") {
		t.Errorf("%+v", o)
	}
	if o := run(t, nil, "version", "--json"); o.code != exitOK || !strings.Contains(o.stdout, `"version":"1.2.3"`) {
		t.Errorf("%+v", o)
	}
}
