package app

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/launch"
	"github.com/dspex/dspex-sidecar/internal/procs"
)

// newServer makes the models of a configuration with one server, which is the test binary.
func newServer(t *testing.T, more string) (*models, *modelServer, *config.Config) {
	t.Helper()
	p := newPlace(t, self(t), fmt.Sprintf("%s\n[models.m]\nmodel = 'openai/x'\ncommand = ['{python}', 'model']\n", more))
	cfg, err := config.Load(config.Options{Path: p.config, Environ: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	processes, err := launch.NewProcesses(log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(processes.Close)
	m, err := newModels(cfg, os.Environ(), processes, &logs{own: log, output: log}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m, m.servers["m"], cfg
}

func TestModelServerIsKept(t *testing.T) {
	m, s, cfg := newServer(t, "")
	ready := func() bool { return len(m.failures()) == 0 }
	await(t, "a model server", ready)
	settings, err := m.settings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	model, _ := settings["m"].(map[string]any)
	base := fmt.Sprint(model["api_base"])
	if base != "http://"+s.port.address()+"/v1" || len(fmt.Sprint(model["api_key"])) != 32 {
		t.Errorf("settings: %v", model)
	}
	listeners, err := s.port.listeners()
	if err != nil || len(listeners) != 1 {
		t.Fatalf("%v, %v", listeners, err)
	}
	table, err := procs.Read()
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, process := range table.Below(os.Getpid(), nil) {
		if ours, _ := s.port.servedBy(process.PID); ours && process.Session == process.PID && process.Parent != os.Getpid() {
			killed++
			if err := unix.Kill(process.PID, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	if killed != 1 {
		t.Fatalf("%d servers were found", killed)
	}
	await(t, "its end", func() bool { return !ready() })
	await(t, "another one", ready)
	resp, err := http.Get(strings.TrimSuffix(base, "/v1") + "/health") //nolint:noctx // it answers at once
	if err != nil || resp.Body.Close() != nil {
		t.Errorf("it is at another address: %v", err)
	}
}

// The system gives the port to nobody else, and a process that took it nevertheless is no server of the sidecar's.
func TestModelServersPort(t *testing.T) {
	m, s, _ := newServer(t, "env.DSPEX_TEST_MODEL = 'deaf'")
	l, err := net.Listen("tcp", s.port.address()) // with SO_REUSEADDR, as Go's listeners do
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	server := http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} })}
	go func() { _ = server.Serve(l) }()
	for range 3 {
		<-asked
	}
	if failures := m.failures(); len(failures) != 1 {
		t.Errorf("a stranger's server was taken for the sidecar's: %v", failures)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: s.port.number, Addr: [4]byte{127, 0, 0, 1}}); err == nil {
		t.Error("the port is to be had")
	}
}
