package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/wire"
)

// source says which configuration is meant.
type source struct {
	Config  string `placeholder:"FILE" help:"The configuration (default: none, the defaults are in force)."`
	Profile string `placeholder:"NAME" help:"The profile that goes over it (default: DSPEX_PROFILE)."`
}

type serveCommand struct {
	source

	Dev bool `help:"While an application is written: new workers when its files change, tracebacks in errors, a log for people."`
}

func (*serveCommand) Help() string {
	return "SIGTERM or SIGINT ends it when the calls in flight are done; a second one ends it at once. SIGHUP has the configuration read again, as a change of its file does.\n\nExample:\n\n    " +
		program + " serve --config dspex.toml --profile prod"
}

// Run serves until ctx is cancelled; that is no interruption.
func (c *serveCommand) Run(ctx context.Context, e *Env) error {
	err := e.Serve(ctx, ServeOptions{ConfigPath: c.Config, Profile: c.Profile, Dev: c.Dev})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type checkCommand struct {
	source

	AgainstRunning bool   `help:"Show what a reload would change: of the running sidecar's own file, where no other is given."`
	Socket         string `placeholder:"PATH" help:"That sidecar's socket (default: DSPEX_SOCKET, else the usual place)."`
	JSON           bool   `name:"json" help:"Print JSON, for programs."`
}

func (*checkCommand) Help() string {
	return "Prints all that is wrong, or what differs from the defaults and where it was said. Nothing is started.\n\nExample:\n\n    " +
		program + " check --config dspex.toml"
}

// Run reads the configuration as `serve` does.
func (c *checkCommand) Run(ctx context.Context, e *Env) error {
	if c.AgainstRunning {
		return c.againstRunning(ctx, e)
	}
	cfg, err := config.Load(config.Options{Path: c.Config, Profile: c.Profile, Environ: e.Environ})
	var wrong config.Errors
	switch {
	case errors.As(err, &wrong) && c.JSON:
		return c.refuse(e, wrong)
	case err != nil:
		return err
	case c.JSON:
		return e.printJSON(map[string]any{"valid": true, "profile": cfg.Profile, "settings": settingsJSON(cfg)})
	default:
		return e.print(summary(cfg))
	}
}

func (c *checkCommand) refuse(e *Env, wrong config.Errors) error {
	list := make([]any, len(wrong))
	for i, one := range wrong {
		list[i] = map[string]any{"file": one.File, "line": one.Line, "column": one.Column, "key": one.Key, "message": one.Message}
	}
	if err := e.printJSON(map[string]any{"valid": false, "errors": list}); err != nil {
		return err
	}
	return exitError(exitUsage)
}

func settingsJSON(cfg *config.Config) []any {
	var list []any
	for _, one := range cfg.Settings() {
		list = append(list, map[string]any{"key": one.Key, "value": one.Value, "origin": one.Origin})
	}
	return list
}

// summary names what is not as it is by default.
func summary(cfg *config.Config) []byte {
	name, defaults := cfg.Path, 0
	if name == "" {
		name = "the default configuration"
	}
	text := escape(name) + " is valid"
	if cfg.Profile != "" {
		text += ", with the profile " + escape(cfg.Profile)
	}
	var lines [][]string
	for _, one := range cfg.Settings() {
		if one.Origin == "default" {
			defaults++
			continue
		}
		lines = append(lines, []string{"  " + escape(one.Key), escape(one.Value), escape(one.Origin)})
	}
	text += fmt.Sprintf("\n%sdefaults are in force for %s\n", align(lines), counted(defaults, "other setting", "other settings"))
	return []byte(text)
}

type versionCommand struct {
	JSON bool `name:"json" help:"Print JSON, for programs."`
}

func (*versionCommand) Help() string { return "Example:\n\n    " + program + " version" }

// Run prints the version of this program; `stats` has the running sidecar's.
func (c *versionCommand) Run(e *Env) error {
	if c.JSON {
		return e.printJSON(map[string]any{"version": e.Version, "protocol": wire.Protocol, "go": runtime.Version()})
	}
	return e.print(fmt.Appendf(nil, "%s %s, protocol %d, %s\n", program, escape(e.Version), wire.Protocol, runtime.Version()))
}

// keeperCommand is the process that starts the workers; the sidecar alone runs it.
type keeperCommand struct{}

// Run is the keeper's life.
func (keeperCommand) Run(e *Env) error {
	if code := e.Keeper(); code != exitOK {
		return exitError(code)
	}
	return nil
}
