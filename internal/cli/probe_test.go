package cli

import (
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestHealthcheck(t *testing.T) {
	health := func(ready, started bool) map[string]any {
		return map[string]any{
			"sidecar.live": map[string]any{"alive": true}, "sidecar.health": map[string]any{"status": "degraded", "ready": ready, "started": started, "reasons": []any{"dispatch is paused\x1b"}},
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
		{map[string]any{"sidecar.live": wire.Errorf(wire.CodeUnknownMethod, "an older one")}, []string{"--live"}, exitOK, nil},
		{map[string]any{"sidecar.live": map[string]any{"alive": false, "said": "stuck: it last looked"}}, []string{"--live"}, exitFailed, []string{"stuck: it last looked"}},
		{map[string]any{"sidecar.health": wire.Errorf(wire.CodeInternal, "boom")}, []string{"--ready"}, exitFailed, []string{"boom"}},
	} {
		run(t, start(t, answers(row.answers)), append([]string{"healthcheck"}, row.args...)...).expect(t, row.code, row.stderr...)
	}
	run(t, nil, "healthcheck", "--live", "--socket", "/nowhere/s").expect(t, exitFailed, "no such socket")
	for _, code := range []wire.Code{wire.CodeDraining, wire.CodeQueueFull, wire.CodePermissionDenied} { // at the handshake
		s := serve(t, answers(map[string]any{"hello": wire.Errorf(code, "not now")}))
		run(t, s, "healthcheck", "--live").expect(t, exitOK)
		run(t, s, "healthcheck", "--ready").expect(t, exitFailed, "not now")
	}
	silent := serve(t, func(*wiretest.Peer, wiretest.Message) {})
	run(t, silent, "healthcheck", "--live", "--timeout", "50ms").expect(t, exitFailed, "in time")
}
