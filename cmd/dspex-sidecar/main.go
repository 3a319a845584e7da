// Command dspex-sidecar is the sidecar and its command line. This package owns the process alone: arguments,
// environment, signals and exit code.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dspex/dspex-sidecar/internal/app"
	"github.com/dspex/dspex-sidecar/internal/cli"
	"github.com/dspex/dspex-sidecar/internal/keeper"
)

// version is set when the binary is linked.
var version = "dev"

// lastWait is longer than the sidecar takes to end at once.
const lastWait = 5 * time.Second

func main() { os.Exit(run()) }

func run() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	force := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() { // until the process ends
		<-signals
		cancel()
		<-signals
		close(force)
		<-time.After(lastWait)
		os.Exit(1) // something is stuck, such as a disk that does not answer; the keeper ends all that was started
	}()
	environ := os.Environ()
	return cli.Run(ctx, os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: environ, Version: version,
		Serve: func(ctx context.Context, o cli.ServeOptions) error {
			reload := make(chan os.Signal, 1) // others end by SIGHUP, as a command in a terminal that is closed does
			signal.Notify(reload, syscall.SIGHUP)
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a log that nobody reads any more ends nothing; ignored, it would be so for processes started from here
			return app.Run(ctx, app.Options{
				ConfigPath: o.ConfigPath, Profile: o.Profile, Dev: o.Dev, Version: version, Environ: environ, Stderr: os.Stderr, Force: force, Reload: reload,
			})
		},
		Keeper: keeper.Main,
	})
}
