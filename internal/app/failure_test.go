package app

import (
	"fmt"
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
