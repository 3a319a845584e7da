package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Who looks after a crash sees it, though its replacement is up and all is well.
func TestAFailureIsToldWhenItIsMended(t *testing.T) {
	p := newPlace(t, self(t), "")
	s := p.serve(t)
	c := p.connect(t)
	call(t, c, "echo", nil) // a worker is there
	ask := func(method string) map[string]any {
		answer, _ := call(t, c, method, nil).(map[string]any)
		return answer
	}
	if before := ask("sidecar.stats"); before["last_failure"] != nil || before["last_failure_age_ms"] != nil || fmt.Sprint(before["worker_restarts"]) != "0" {
		t.Errorf("before: %v", before)
	}
	workers, _ := ask("sidecar.workers")["workers"].([]any)
	worker, _ := workers[0].(map[string]any)
	var pid int
	if _, err := fmt.Sscan(fmt.Sprint(worker["pid"]), &pid); err != nil || pid < 2 {
		t.Fatalf("no pid in %v: %v", worker, err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the replacement", func() bool {
		stats := ask("sidecar.stats")
		return fmt.Sprint(stats["worker_restarts"]) == "1" && stats["healthy_workers"] == stats["pool_size"]
	})
	for _, method := range []string{"sidecar.stats", "sidecar.health"} {
		answer := ask(method)
		if text := fmt.Sprint(answer["last_failure"]); !strings.Contains(text, "SIGKILL") || answer["last_failure_age_ms"] == nil {
			t.Errorf("%s: %v", method, answer)
		}
	}
	if health := ask("sidecar.health"); health["status"] != "healthy" {
		t.Errorf("health: %v", health)
	}
	s.signal(s.Process.Pid)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What a worker printed that could not be started is not told of another one that died.
func TestHealthTellsWhoPrintedWhat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	python, broken := filepath.Join(dir, "python"), filepath.Join(dir, "broken")
	script := fmt.Sprintf("#!/bin/sh\n[ -e %s ] && { echo it is broken; sleep 0.5; exit 9; }\nexec %s \"$@\"\n", broken, self(t))
	if err := os.WriteFile(python, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, python, "")
	p.serve(t)
	c := p.connect(t)
	health := func() (status string, reasons []any) {
		h := get(t, c, "sidecar.health", nil)
		reasons, _ = h["reasons"].([]any)
		return fmt.Sprint(h["status"]), reasons
	}
	await(t, "healthy", func() bool { status, _ := health(); return status == "healthy" })
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kill := func(n int) {
		workers, _ := get(t, c, "sidecar.workers", nil)["workers"].([]any)
		for _, one := range workers {
			if w, _ := one.(params); w["worker"] == fmt.Sprintf("worker_%d", n) {
				pid, _ := strconv.Atoi(fmt.Sprint(w["pid"]))
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	reason := func(of string) string {
		_, reasons := health()
		for _, one := range reasons {
			if text := fmt.Sprint(one); strings.Contains(text, of) {
				return text
			}
		}
		return ""
	}
	kill(1)
	await(t, "a start has failed", func() bool { return strings.Contains(reason("can be started"), "it is broken") })
	kill(2)
	var told string
	await(t, "the death is told", func() bool { told = reason("killed by SIGKILL"); return told != "" })
	if strings.Contains(told, "broken") {
		t.Error(told)
	}
}
