package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/internal/procs"
	"github.com/dspex/dspex-sidecar/pool"
)

// The test binary is also the keeper.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == keeper.Subcommand {
		os.Exit(keeper.Main())
	}
	os.Exit(m.Run())
}

// patience bounds what comes soon in a passing test.
const patience = 30 * time.Second

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// rig starts workers of an application over the real runtime, and looks at its processes.
type rig struct {
	*Workers
	t         *testing.T
	dir       string
	processes *Processes
	log       *lockedBuffer
	limit     time.Duration
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// forking starts the keeper. At the end nothing may be left: no process, goroutine or descriptor.
func forking(t *testing.T, app string, limit time.Duration) *rig {
	t.Helper()
	python, err := filepath.Abs("../../build/venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("there is no Python environment: make build makes it")
	}
	r := &rig{t: t, dir: t.TempDir(), log: &lockedBuffer{}, limit: limit}
	text := "from dspex_worker import App\napp = App(use_dspy=False)\n" + app
	if err := os.WriteFile(filepath.Join(r.dir, "made.py"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := open(t)
	log := slog.New(slog.NewTextHandler(r.log, nil))
	if r.processes, err = NewProcesses(log); err != nil {
		t.Fatal(err)
	}
	r.Workers = NewWorkers(WorkersConfig{Python: python, App: "made:app", Dir: r.dir, Zygote: true, StartTimeout: func() time.Duration { return r.limit }, Log: log, Output: log}, r.processes)
	t.Cleanup(func() {
		r.Close()
		r.processes.Close()
		if left := r.below(); len(left) > 0 {
			t.Errorf("processes left: %+v", left)
		}
		goleak.VerifyNone(t)
		if after := open(t); after != before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
		if t.Failed() {
			t.Log(r.log)
		}
	})
	return r
}

func open(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// below are the processes that come from this one, zombies aside.
func (r *rig) below() []procs.Proc {
	r.t.Helper()
	table, err := procs.Read()
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(table.Below(os.Getpid(), nil), procs.Proc.Zombie)
}

// named is the number of the process whose command line contains text; 0 where there is none.
func (r *rig) named(text string) int {
	r.t.Helper()
	for _, p := range r.below() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			return p.PID
		}
	}
	return 0
}

func (r *rig) signal(pid int, s unix.Signal) {
	r.t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) keeperPID() int {
	r.processes.mu.Lock()
	defer r.processes.mu.Unlock()
	return r.processes.client.PID()
}

func (r *rig) start(ctx context.Context, id string) pool.Process {
	r.t.Helper()
	p, err := r.Start(ctx, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// end closes the channel, which ends a worker.
func (r *rig) end(p pool.Process) {
	r.t.Helper()
	_ = p.Channel().Close() // the worker sees it
	select {
	case <-p.Done():
	case <-time.After(patience):
		r.t.Fatal("the worker did not end")
	}
}

type started struct {
	process pool.Process
	err     error
}

// starting starts a worker beside the test.
func (r *rig) starting(ctx context.Context, id string) <-chan started {
	c := make(chan started, 1)
	go func() {
		p, err := r.Start(ctx, id)
		c <- started{p, err}
	}()
	return c
}

func (r *rig) outcome(c <-chan started) started {
	r.t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(patience):
		r.t.Fatal("the start did not end")
		return started{}
	}
}

func TestForkedWorkers(t *testing.T) {
	r := forking(t, "", patience)
	first, second := r.start(t.Context(), "worker_1"), r.start(t.Context(), "worker_2")
	await(t, "they are named", func() bool {
		return r.named("dspex worker_1") == first.PID() && r.named("dspex worker_2") == second.PID()
	})
	r.end(first)
	if got := first.Exit(); got != "exit code 0" {
		t.Error(got)
	}
	second.Kill()
	<-second.Done()
	_ = second.Channel().Close() // killed
}

// A start that is given up when its worker has been forked and is not the keeper's yet leaves no process.
func TestCancelledBetweenForkAndAdoption(t *testing.T) {
	r := forking(t, "", patience)
	r.end(r.start(t.Context(), "worker_1"))
	r.signal(r.keeperPID(), unix.SIGSTOP) // nothing is adopted
	ctx, cancel := context.WithCancel(t.Context())
	c := r.starting(ctx, "worker_2")
	await(t, "the worker is forked", func() bool { return r.named("dspex worker_2") != 0 })
	cancel()
	if s := r.outcome(c); !errors.Is(s.err, context.Canceled) {
		t.Errorf("got %+v", s)
	}
	r.signal(r.keeperPID(), unix.SIGCONT)
	await(t, "the worker is gone", func() bool { return r.named("dspex worker_2") == 0 })
	r.end(r.start(t.Context(), "worker_3"))
}

// A keeper that dies when a worker has been forked takes it along: another is started, and no start fails.
func TestKeeperDiesBetweenForkAndAdoption(t *testing.T) {
	r := forking(t, "", patience)
	r.end(r.start(t.Context(), "worker_1"))
	old := r.keeperPID()
	r.signal(old, unix.SIGSTOP)
	c := r.starting(t.Context(), "worker_2")
	await(t, "the worker is forked", func() bool { return r.named("dspex worker_2") != 0 })
	r.signal(old, unix.SIGKILL)
	s := r.outcome(c)
	if s.err != nil {
		t.Fatal(s.err)
	}
	await(t, "it is the one that is there", func() bool { return r.named("dspex worker_2") == s.process.PID() })
	r.end(s.process)
}

// A zygote that is killed when its worker has been forked, and has not left its session, takes it along where the keeper has not adopted it:
// another is started. The keeper hears of the death and of the adoption at once, and takes them in any order.
func TestZygoteDiesBetweenForkAndAdoption(t *testing.T) {
	r := forking(t, `
import os, time
zygote = os.getpid()

def hold():
    if os.path.exists("hold") and os.getppid() != zygote:
        open("held", "w").close()
        while os.path.exists("hold"):
            time.sleep(0.001)

os.register_at_fork(after_in_child=hold)
`, patience)
	hold, held := filepath.Join(r.dir, "hold"), filepath.Join(r.dir, "held")
	for i := range 8 {
		r.end(r.start(t.Context(), fmt.Sprintf("worker_%d", 2*i)))
		if err := os.WriteFile(hold, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		keeper, zygote := r.keeperPID(), r.named("--mode zygote")
		r.signal(keeper, unix.SIGSTOP)
		c := r.starting(t.Context(), fmt.Sprintf("worker_%d", 2*i+1))
		await(t, "the worker is forked", func() bool { _, err := os.Stat(held); return err == nil })
		r.signal(zygote, unix.SIGKILL)
		await(t, "the zygote is dead", func() bool { p, err := procs.ReadOne(zygote); return err != nil || p.Zombie() })
		r.signal(keeper, unix.SIGCONT)
		// The next zygote is made when the keeper has heard of the death.
		await(t, "the death is known", func() bool { pid := r.named("--mode zygote"); return pid != 0 && pid != zygote })
		if err := errors.Join(os.Remove(hold), os.Remove(held)); err != nil {
			t.Fatal(err)
		}
		s := r.outcome(c)
		if s.err != nil {
			t.Fatal(s.err)
		}
		r.end(s.process)
		if got := s.process.Exit(); got != "exit code 0" {
			t.Fatalf("the worker that was started: %s", got)
		}
	}
}

// A start that meets a keeper which has just died is made by the next one, whether it forks or not.
func TestStartsMeetADyingKeeper(t *testing.T) {
	for name, zygote := range map[string]bool{"zygote": true, "spawn": false} {
		t.Run(name, func(t *testing.T) {
			r := forking(t, "", patience)
			r.cfg.Zygote = zygote
			for i := range 3 {
				r.signal(r.keeperPID(), unix.SIGKILL)
				r.end(r.start(t.Context(), fmt.Sprintf("worker_%d", i)))
			}
		})
	}
}

// A zygote that is lost with its keeper while it loads the application says nothing of the application.
func TestKeeperDiesWhileTheApplicationIsLoaded(t *testing.T) {
	r := forking(t, "import os, time\nprint('loading', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n", patience)
	c := r.starting(t.Context(), "worker_1")
	await(t, "it loads", func() bool { return strings.Contains(r.log.String(), "line=loading") })
	r.signal(r.keeperPID(), unix.SIGKILL)
	await(t, "it is loaded again", func() bool { return strings.Count(r.log.String(), "line=loading") == 2 })
	if err := os.WriteFile(filepath.Join(r.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := r.outcome(c)
	if s.err != nil {
		t.Fatal(s.err)
	}
	r.end(s.process)
}

// A zygote that does nothing any more is found out, however short the starts that ask it are.
func TestStuckZygoteIsReplacedThoughStartsGiveUpBefore(t *testing.T) {
	r := forking(t, "", patience)
	r.end(r.start(t.Context(), "worker_1"))
	stuck := r.named("--mode zygote")
	r.signal(stuck, unix.SIGSTOP)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if p, err := r.Start(ctx, "worker_2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, %v", p, err)
	}
	await(t, "another zygote", func() bool { pid := r.named("--mode zygote"); return pid != 0 && pid != stuck })
	r.end(r.start(t.Context(), "worker_3"))
}

// Close does not wait for an application that is being loaded.
func TestCloseWhileTheApplicationIsLoaded(t *testing.T) {
	r := forking(t, "import time\nprint('loading', flush=True)\ntime.sleep(1000)\n", patience)
	ctx, cancel := context.WithCancel(t.Context())
	c := r.starting(ctx, "worker_1")
	await(t, "it loads", func() bool { return strings.Contains(r.log.String(), "line=loading") })
	cancel()
	if s := r.outcome(c); s.err == nil {
		t.Error("started")
	}
	began := time.Now()
	r.Close()
	if took := time.Since(began); took >= dismissWait {
		t.Errorf("it took %s", took)
	}
	if r.named("--mode zygote") != 0 {
		t.Error("the zygote is left")
	}
	if _, err := r.Start(t.Context(), "worker_2"); err == nil {
		t.Error("a worker is started after the end")
	}
}

func TestAnApplicationThatHangsIsGivenUp(t *testing.T) {
	r := forking(t, "import time\nprint('loading', flush=True)\ntime.sleep(1000)\n", time.Second)
	_, err := r.Start(t.Context(), "worker_1")
	for !strings.Contains(r.log.String(), "line=loading") && r.limit < patience { // the machine had no time for it
		r.limit *= 2
		_, err = r.Start(t.Context(), "worker_1")
	}
	var output interface{ Output() []string }
	if !errors.As(err, &output) || !strings.Contains(err.Error(), "start_timeout") || !slices.Contains(output.Output(), "loading") {
		t.Errorf("got %v", err)
	}
	await(t, "the zygote is gone", func() bool { return r.named("--mode zygote") == 0 })
}

// The last lines say where the application failed.
func TestAnApplicationThatFails(t *testing.T) {
	r := forking(t, "def inner():\n    raise RuntimeError('no such luck')\ninner()\n", patience)
	_, err := r.Start(t.Context(), "worker_1")
	var output interface{ Output() []string }
	if !errors.As(err, &output) || !strings.Contains(err.Error(), "no such luck") {
		t.Fatalf("got %v", err)
	}
	if text := strings.Join(output.Output(), "\n"); !strings.Contains(text, "made.py\", line 4, in inner") {
		t.Errorf("the last lines: %s", text)
	}
}

// A zygote that ends again and again as soon as it is ready is not made anew without a pause, however long loading takes.
func TestZygoteThatEndsAtOnceIsNoBusyLoop(t *testing.T) {
	r := forking(t, `
import os, time
from dspex_worker import zygote

print(f"loads {time.monotonic()}", flush=True)
time.sleep(1.1)
send = zygote._send

def once(control, message):
    send(control, message)
    print(f"ends {time.monotonic()}", flush=True)
    os._exit(7)

zygote._send = once
`, patience)
	if _, err := r.zygote(t.Context()); err != nil { // and no worker is wanted
		t.Fatal(err)
	}
	times := func(what string) []string {
		return regexp.MustCompile(what+` ([0-9.]+)"`).FindAllString(r.log.String(), -1)
	}
	await(t, "the third", func() bool { return len(times("loads")) == 3 })
	var ends, loads float64
	_, err := fmt.Sscanf(times("ends")[1]+" "+times("loads")[2], `ends %f" loads %f"`, &ends, &loads)
	if err != nil || loads-ends < zygotePause.Seconds()/2 {
		t.Errorf("the second ended at %v, the third was made at %v (%v)", ends, loads, err)
	}
}

// What the application registered to be done at its exit is done when the zygote is not needed any more.
func TestZygoteRunsItsExitFunctions(t *testing.T) {
	r := forking(t, `
import atexit, time
def clean():
    time.sleep(0.2)
    open("cleaned", "w").close()
atexit.register(clean)
`, patience)
	r.end(r.start(t.Context(), "worker_1"))
	r.Close()
	if _, err := os.Stat(filepath.Join(r.dir, "cleaned")); err != nil {
		t.Error(err)
	}
}
