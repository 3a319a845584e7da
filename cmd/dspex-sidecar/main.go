// Command dspex-sidecar is the sidecar and its command line. This package owns the process alone: arguments,
// environment, signals and exit code.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/dspex/dspex-sidecar/internal/app"
	"github.com/dspex/dspex-sidecar/internal/cli"
	"github.com/dspex/dspex-sidecar/internal/keeper"
)

// version is set when the binary is linked.
var version = "dev"

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
	}()
	environ := os.Environ()
	return cli.Run(ctx, os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: environ, Version: version,
		Serve: func(ctx context.Context, o cli.ServeOptions) error {
			reload := make(chan os.Signal, 1) // others end by SIGHUP, as a command in a terminal that is closed does
			signal.Notify(reload, syscall.SIGHUP)
			return app.Run(ctx, app.Options{
				ConfigPath: o.ConfigPath, Profile: o.Profile, Dev: o.Dev, Version: version, Environ: environ, Stderr: os.Stderr, Force: force, Reload: reload,
			})
		},
		Keeper: keeper.Main,
	})
}
