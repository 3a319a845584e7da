package model

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds what comes soon in a passing test.
const patience = 30 * time.Second

// await waits for what cannot be heard of otherwise.
func await(what string, holds func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("%s: not within %v", what, patience)
		}
	}
	return nil
}

// sidecar is the real one, on a folder that outlives it.
type sidecar struct {
	t      testing.TB
	root   string // of the project
	folder string
	socket string
	settings

	mu      sync.Mutex // guards what follows
	process *exec.Cmd
	exited  chan error
	log     bytes.Buffer
}

// settings are what a run draws of the configuration.
type settings struct {
	Size, Concurrency int
	Pinning           string
}

func newSidecar(t testing.TB, s settings) *sidecar {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "model") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &sidecar{t: t, root: root, folder: dir, socket: filepath.Join(dir, "s"), settings: s}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.configure(s.Size); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(c.end)
	return c
}

// configure writes the configuration, as an editor does.
func (c *sidecar) configure(size int) error {
	text := fmt.Sprintf(`
[listen]
socket = "s"
[sessions]
store = "file"
path = "store"
key_file = "key"
pinning = %q
[pools.default]
app = "kept:app"
python = %q
size = %d
max_overflow = 0
concurrency = %d
checkout_timeout = "30s"
env = { PYTHONPATH = %q }
`, c.Pinning, filepath.Join(c.root, "build/venv/bin/python"), size, c.Concurrency, filepath.Join(c.root, "tests/e2e/applications"))
	path := filepath.Join(c.folder, "dspex.toml")
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+"~", path)
}

// start begins a process, and does not wait until it listens.
func (c *sidecar) start() {
	c.t.Helper()
	command := exec.Command(filepath.Join(c.root, "build/dspex-sidecar"), "serve", "--config", filepath.Join(c.folder, "dspex.toml"))
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DSPEX_") && !strings.HasPrefix(v, "PYTHON") {
			command.Env = append(command.Env, v)
		}
	}
	command.Stdout, command.Stderr = c, c
	if err := command.Start(); err != nil {
		c.t.Fatalf("%v; make build makes it", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	c.mu.Lock()
	c.process, c.exited = command, exited
	c.mu.Unlock()
}

// Write keeps what the processes log.
func (c *sidecar) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

func (c *sidecar) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// kill ends the process at once, and begins another one on the same folder.
func (c *sidecar) kill() {
	c.end()
	c.start()
}

// end kills the process.
func (c *sidecar) end() {
	c.mu.Lock()
	process, exited := c.process, c.exited
	c.mu.Unlock()
	_ = process.Process.Signal(syscall.SIGKILL) // it may have ended
	exited <- <-exited
}

// stop ends the process as an operator does.
func (c *sidecar) stop() error {
	c.mu.Lock()
	process, exited := c.process, c.exited
	c.mu.Unlock()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := <-exited
	exited <- err
	return err
}

// connect waits until a sidecar listens.
func (c *sidecar) connect(name string) (l *link, err error) {
	late := await("a connection", func() bool {
		l, err = dial(c.t, c.socket, name)
		return err == nil
	})
	if late != nil {
		return nil, fmt.Errorf("%w: %w", late, err)
	}
	return l, nil
}
