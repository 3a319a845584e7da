package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
)

// A trace shows the heads of one owner's session, where another owner's has the same name.
func TestTrace(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.serve(t)
	c, holder, reader := p.connect(t), p.connect(t), p.connect(t)
	token := get(t, holder, "session.create", params{"session": "s1", "token": true})["token"]
	call(t, c, "session.create", params{"session": "s1"})
	owner := fmt.Sprint("uid:", unix.Getuid())
	reader.Send(wire.KindRequest, 2, "admin.trace", params{"stream": 100}, params{"session": "s1", "owner": owner})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // nothing says when the trace has begun
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			holder.Send(wire.KindRequest, 3, "echo", params{"session": "s1", "session_token": token}, params{"secret": "x"})
			holder.Receive()
			c.Send(wire.KindRequest, 4, "echo", params{"session": "s1"}, params{"secret": "x"})
			c.Receive()
		}
	}()
	kinds := map[string]bool{}
	for range 20 {
		one := item(t, reader, "frame")
		kinds[fmt.Sprint(one["kind"], " from ", one["from"])] = true
		if one["owner"] != owner || one["session"] != "s1" || strings.Contains(fmt.Sprint(one), "secret") {
			t.Errorf("%v", one)
		}
	}
	close(stop)
	<-done
	if !kinds["request from client"] || !kinds["response from sidecar"] {
		t.Errorf("%v", kinds)
	}
	reader.Send(wire.KindCancel, 2, nil)
	for m := reader.Receive(); m.Kind != wire.KindResponse; {
		m = reader.Receive()
	}
}

// Who reads slowly is told how much is lost, and who wants some kinds gets no others.
func TestEventsOfSomeKinds(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.serve(t)
	c, slow, health := p.connect(t), p.connect(t), p.connect(t)
	await(t, "healthy", func() bool { return get(t, c, "sidecar.health", nil)["status"] == "healthy" })
	slow.Send(wire.KindRequest, 2, "sidecar.events", params{"stream": 1}, params{"kinds": []string{"session", "pool"}, "interval_ms": 86_400_000})
	item(t, slow, "pool") // that was the credit
	health.Send(wire.KindRequest, 2, "sidecar.events", params{"stream": 100}, params{"kinds": []string{"health", "pool"}, "interval_ms": 86_400_000})
	item(t, health, "pool")
	const most = 1024
	for i := range most + 10 {
		call(t, c, "session.create", params{"session": fmt.Sprint("s", i)})
	}
	slow.Send(wire.KindCredit, 2, 2000)
	item(t, slow, "session")
	lost, _ := item(t, slow, "lost")["lost"].(int64)
	if lost < 1 || lost > 10 {
		t.Errorf("%d lost", lost)
	}
	told := func(status string) { // a look at the health tells of it, and of what was before
		t.Helper()
		for {
			one, _ := health.Receive().Payload.(params)
			if one["event"] != "health" {
				t.Fatalf("%v", one)
			}
			if one["status"] == status {
				return
			}
		}
	}
	call(t, c, "admin.pause", nil)
	told("degraded")
	call(t, c, "admin.resume", nil)
	told("healthy")
}

// No secret is in what operators see, though its value changes meanwhile.
func TestOperatorsSeeNoSecrets(t *testing.T) {
	p := newPlace(t, self(t), "env.KEY = 'file:key'\n[models.m]\nmodel = 'openai/x'\napi_key = 'file:key'")
	key := func(value string) {
		if err := os.WriteFile(filepath.Join(p.dir, "key"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key("sk-fake-1")
	s := p.serve(t)
	c, reader := p.connect(t), p.connect(t)
	await(t, "healthy", func() bool { return get(t, c, "sidecar.health", nil)["status"] == "healthy" })
	reader.Send(wire.KindRequest, 2, "sidecar.events", params{"stream": 1000}, params{"kinds": []string{"worker", "session", "reload", "health", "pool"}})
	seen := fmt.Sprint(item(t, reader, "pool"))
	key("sk-fake-2")
	seen += fmt.Sprint(get(t, c, "admin.config.compare", nil), reload(t, c))
	for {
		m := reader.Receive()
		seen += fmt.Sprint(m.Payload)
		if one, ok := m.Payload.(params); ok && one["event"] == "reload" {
			break
		}
	}
	for _, method := range []string{"sidecar.health", "sidecar.stats", "sidecar.workers", "sidecar.pools", "sidecar.clients", "sidecar.calls", "sidecar.metrics", "sidecar.methods", "admin.config"} {
		seen += fmt.Sprint(call(t, c, method, nil))
	}
	workers, _ := get(t, c, "sidecar.workers", nil)["workers"].([]any)
	worker, _ := workers[len(workers)-1].(params)
	seen += fmt.Sprint(get(t, c, "admin.stacks", params{"worker": worker["worker"]}))
	if all := seen + s.log(); strings.Contains(all, "sk-fake") || !strings.Contains(all, "(another value)") {
		t.Errorf("%s", all)
	}
}

// A configuration that cannot be read is refused, and all goes on as it was.
func TestConfigurationThatCannotBeRead(t *testing.T) {
	p := newPlace(t, self(t), "")
	p.serve(t)
	c := p.connect(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.config, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(p.config); err == nil { // the superuser reads it: another one that nobody does
		if err := os.Remove(p.config); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(p.config, p.config); err != nil {
			t.Fatal(err)
		}
	}
	if a := reload(t, c); a["status"] != "refused" || !strings.Contains(fmt.Sprint(a["reason"]), "cannot be read") {
		t.Errorf("%v", a)
	}
	if h := get(t, c, "sidecar.health", nil); h["status"] != "degraded" && h["status"] != "unhealthy" || !strings.Contains(fmt.Sprint(h["reasons"]), "cannot be read") {
		t.Errorf("%v", h)
	}
	call(t, c, "echo", params{})
	if err := os.Remove(p.config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := reload(t, c); a["status"] != "in_force" {
		t.Errorf("%v", a)
	}
	metrics := fmt.Sprint(get(t, c, "sidecar.metrics", nil)["text"])
	if !strings.Contains(metrics, "\ndspex_last_reload_succeeded 1\n") || strings.Contains(metrics, "dspex_reloads_total{result=\"refused\"} 0\n") {
		t.Errorf("%s", metrics)
	}
}
