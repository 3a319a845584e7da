// Package cli owns the command line: its commands, what they print and their exit codes, as docs/cli.md has them. It
// speaks to a running sidecar as any client does; serving itself, and the process's arguments, streams and signals,
// are passed in.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// ServeOptions are what `serve` was told.
type ServeOptions struct {
	ConfigPath string // "" for the defaults
	Profile    string
	Dev        bool
}

// Env is what a run of the command line has of its process.
type Env struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Environ []string // in the form of os.Environ
	Version string

	Serve  func(ctx context.Context, o ServeOptions) error
	Keeper func() int
}

const program = "dspex-sidecar"

const description = `A sidecar that keeps Python workers warm and runs an application's DSPy programs in them.

Every command but serve, check (without --against-running) and version asks a running sidecar. Its socket is the one of --socket, else of
DSPEX_SOCKET in the environment, else $XDG_RUNTIME_DIR/dspex/dspex.sock or /run/dspex/dspex.sock.

Exit codes:

    0    done; health: healthy
    1    the call failed, or something else did: standard error says what
    2    the command line or the configuration is wrong
    3    no connection to the sidecar
    4    a timeout or a deadline passed
    5    health: degraded; reload --wait: in force, but workers are missing
    6    health: unhealthy
    130  interrupted
`

// grammar is the whole command line.
type grammar struct {
	Serve       serveCommand       `cmd:"" help:"Run the sidecar in the foreground."`
	Check       checkCommand       `cmd:"" help:"Check a configuration."`
	Call        callCommand        `cmd:"" help:"Call a method."`
	Sessions    sessionsCommand    `cmd:"" help:"List, create, show and end sessions."`
	Workers     workersCommand     `cmd:"" help:"List workers, show, recycle or kill one."`
	Pools       poolsCommand       `cmd:"" help:"List the pools, or resize one."`
	Clients     clientsCommand     `cmd:"" help:"List the connections of clients."`
	Calls       callsCommand       `cmd:"" help:"List the calls in flight, or cancel one."`
	Runs        runsCommand        `cmd:"" help:"List calls with a process of their own, show, follow or end one."`
	Optimize    optimizeCommand    `cmd:"" help:"Optimise a program on data."`
	Evaluate    evaluateCommand    `cmd:"" help:"Score a program on data."`
	Health      healthCommand      `cmd:"" help:"Say how the sidecar is."`
	Healthcheck healthcheckCommand `cmd:"" help:"Answer a probe by the exit code."`
	Stats       statsCommand       `cmd:"" help:"Show the statistics."`
	Events      eventsCommand      `cmd:"" help:"Print what happens, as it does."`
	Trace       traceCommand       `cmd:"" help:"Print the heads of a session's frames as they pass."`
	Stacks      stacksCommand      `cmd:"" help:"Show where a worker is."`
	Config      configCommand      `cmd:"" help:"Show the configuration in force."`
	LogLevel    logLevelCommand    `cmd:"" name:"log-level" help:"Show or change the level of the log."`
	Reload      reloadCommand      `cmd:"" help:"Have the configuration read again."`
	Pause       pauseCommand       `cmd:"" help:"Let calls wait."`
	Resume      resumeCommand      `cmd:"" help:"Let calls go on that wait."`
	Drain       drainCommand       `cmd:"" help:"Take no more calls, and wait for those in flight."`
	Bench       benchCommand       `cmd:"" help:"Make a load, and tell how long calls took."`
	Shutdown    shutdownCommand    `cmd:"" help:"Have the sidecar end."`
	Version     versionCommand     `cmd:"" help:"Show the version."`
	Keeper      keeperCommand      `cmd:"" hidden:""`
}

// Run runs the command that args (without the program's name) say, and returns the exit code. When ctx is cancelled,
// `serve` ends in order and all else is interrupted.
func Run(ctx context.Context, args []string, e Env) int {
	if probe := quickProbe(args); probe != nil {
		return e.report(ctx, probe.Run(ctx, &e))
	}
	parsed, err := parse(args, &e)
	if err == nil && parsed != nil {
		parsed.BindTo(ctx, (*context.Context)(nil))
		err = parsed.Run(&e)
	}
	return e.report(ctx, err)
}

// parse reads the arguments; nil where they asked for help, which has been printed.
func parse(args []string, e *Env) (*kong.Context, error) {
	helped := false
	parser, err := kong.New(&grammar{}, kong.Name(program), kong.Description(description), kong.Writers(e.Stdout, e.Stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}), kong.Exit(func(int) { helped = true }))
	if err != nil {
		return nil, fmt.Errorf("the command line's own definition: %w", err)
	}
	parsed, err := parser.Parse(joinNumbers(args))
	if helped {
		return nil, nil //nolint:nilnil // there is nothing to run
	}
	if err != nil {
		return nil, usage(err, commandOf(err))
	}
	return parsed, nil
}

// joinNumbers writes `--limit -1` as `--limit=-1`: the parser takes what begins with "-" for flags, and says so to people who
// would rather know what is allowed.
func joinNumbers(args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...)
		}
		if slices.Contains([]string{"--limit", "--timeout", "--ttl"}, arg) && i+1 < len(args) && isNegative(args[i+1]) {
			i++
			arg += "=" + args[i]
		}
		out = append(out, arg)
	}
	return out
}

func isNegative(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && strings.ContainsRune("0123456789.", rune(arg[1]))
}

// commandOf is the command that the arguments were read as before an error.
func commandOf(err error) string {
	var wrong *kong.ParseError
	if !errors.As(err, &wrong) || wrong.Context == nil || wrong.Context.Selected() == nil {
		return program
	}
	var names []string
	for node := wrong.Context.Selected(); node != nil; node = node.Parent {
		names = append([]string{node.Name}, names...)
	}
	return strings.Join(names, " ")
}
