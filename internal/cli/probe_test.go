package cli

import (
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
)

func TestHealthcheck(t *testing.T) {
	health := func(ready, started bool) map[string]any {
		return map[string]any{
			"ping": map[string]any{}, "sidecar.health": map[string]any{"status": "degraded", "ready": ready, "started": started, "reasons": []any{"dispatch is paused\x1b"}},
		}
	}
	for _, row := range []struct {
		answers map[string]any
		args    []string
		code    int
		stderr  []string
	}{
		{health(true, true), []string{"--live"}, exitOK, nil},
		{health(true, true), []string{"--ready"}, exitOK, nil},
		{health(true, true), nil, exitOK, nil},
		{health(true, true), []string{"--startup", "--timeout", "5s"}, exitOK, nil},
		{health(false, true), []string{"--ready"}, exitFailed, []string{`not ready, degraded: dispatch is paused\x1b`}},
		{health(false, true), []string{"--live"}, exitOK, nil},
		{health(false, false), []string{"--startup"}, exitFailed, []string{"not started"}},
		{health(true, true), []string{"--live", "--ready"}, exitUsage, []string{"--live"}},
		{health(true, true), []string{"--alive"}, exitUsage, []string{"--alive"}},
		{map[string]any{"ping": wire.Errorf(wire.CodeDraining, "the sidecar is ending")}, []string{"--live"}, exitOK, nil},
	} {
		run(t, start(t, answers(row.answers)), append([]string{"healthcheck"}, row.args...)...).expect(t, row.code, row.stderr...)
	}
	run(t, nil, "healthcheck", "--live", "--socket", "/nowhere/s").expect(t, exitUnreachable, "no such socket")
}
