package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/wire"
)

// The test binary is also the keeper, the sidecar of tests that need one of its own, its workers and its model server.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case keeper.Subcommand:
			os.Exit(keeper.Main())
		case "-m":
			os.Exit(beWorker())
		case "serve":
			os.Exit(beSidecar(os.Args[2]))
		case "model":
			os.Exit(beModel())
		}
	}
	goleak.VerifyTestMain(m)
}

// beSidecar is what cmd/dspex-sidecar does for `serve`.
func beSidecar(config string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	force := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM)
	go func() { // until the process ends
		<-signals
		cancel()
		<-signals
		close(force)
	}()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	err := Run(ctx, Options{ConfigPath: config, Version: "test", Environ: os.Environ(), Stderr: os.Stderr, Force: force, Reload: reload})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// beWorker speaks the worker channel: echo answers, hang does not.
func beWorker() int {
	fd, err := strconv.Atoi(os.Getenv("DSPEX_WORKER_FD"))
	if err != nil {
		return 2
	}
	conn, err := net.FileConn(os.NewFile(uintptr(fd), "channel"))
	if err != nil {
		return 2
	}
	channel, ok := conn.(*net.UnixConn)
	if !ok {
		return 2
	}
	reader, err := wire.NewReader(channel, wire.DefaultFrame+wire.MaxHead, 0)
	if err != nil {
		return 2
	}
	outbox, err := wire.NewOutbox(channel, 0, 0, nil)
	if err != nil {
		return 2
	}
	for {
		body, _, err := reader.Next()
		if err != nil {
			return 0
		}
		f, err := wire.Parse(body)
		if err != nil {
			return 1
		}
		if f.Kind != wire.KindRequest || string(f.Method) == "hang" {
			continue
		}
		result := f.Payload
		if string(f.Method) == "hello" {
			if result, err = wire.Marshal(workerHello()); err != nil {
				return 1
			}
		}
		var batch wire.Batch
		outbox.Append(&batch, wire.AppendResponse(nil, f.ID, nil), result, false)
		batch.Flush()
	}
}

func workerHello() map[string]any {
	var methods []any
	for _, name := range []string{"echo", "hang"} {
		methods = append(methods, map[string]any{
			"name": name, "doc": "", "params": map[string]any{}, "result": map[string]any{}, "stream": "none", "session": "optional",
			"read_only": false, "retry": nil,
		})
	}
	return map[string]any{
		"protocol": wire.Protocol, "features": []string{}, "worker": map[string]any{"name": "test"}, "pid": os.Getpid(), "max_frame": wire.DefaultFrame,
		"methods": methods,
	}
}

// beModel serves /health where the sidecar says; DSPEX_TEST_MODEL=deaf listens nowhere.
func beModel() int {
	if os.Getenv("DSPEX_TEST_MODEL") == "deaf" {
		select {}
	}
	server := http.Server{
		Addr: os.Getenv("DSPEX_MODEL_LISTEN"), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	return 1
}
