package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

type healthcheckCommand struct {
	connection

	Live    bool          `xor:"what" help:"Does it answer?"`
	Ready   bool          `xor:"what" help:"Does it take calls? (the default)"`
	Startup bool          `xor:"what" help:"Has it been able to?"`
	Timeout time.Duration `default:"1s" placeholder:"TIME" help:"How long to wait for the answer (default: ${default})."`
}

func (*healthcheckCommand) Help() string {
	return "For probes: exit code 0 where it is so, 1 where it is not or cannot be told; nothing is printed but why not.\n\nExample:\n\n    " + program + " healthcheck --live"
}

// Run answers a probe. Supervisors know two codes.
func (c *healthcheckCommand) Run(ctx context.Context, e *Env) error {
	err := c.probe(ctx, e)
	if err == nil || ctx.Err() != nil {
		return err
	}
	_ = e.report(ctx, err) // 1 whatever it is
	return exitError(exitFailed)
}

// answered says whether an error is one that the sidecar itself has sent: at its handshake where it takes nobody in.
func answered(err error) bool {
	local := errors.Is(err, &wire.Error{Code: wire.CodeConnectionLost}) || errors.Is(err, &wire.Error{Code: wire.CodeDeadlineExceeded})
	_, is := errors.AsType[*wire.Error](err)
	return is && !local
}

func (c *healthcheckCommand) probe(ctx context.Context, e *Env) error {
	q := question{connection: c.connection, Timeout: c.Timeout}
	if c.Live {
		result, err := q.ask(ctx, e, "sidecar.live", nil)
		switch {
		case answered(err):
			return nil
		case err == nil && result["alive"] == false:
			return errors.New(textOf(result["said"]))
		}
		return err
	}
	result, err := q.ask(ctx, e, "sidecar.health", nil)
	if err != nil {
		return err
	}
	key, not := "ready", "not ready"
	if c.Startup {
		key, not = "started", "not started"
	}
	if result[key] == true {
		return nil
	}
	why := ""
	if reasons, _ := result["reasons"].([]any); len(reasons) > 0 {
		why = ": " + textOf(reasons[0])
	}
	return fmt.Errorf("%s, %s%s", not, cell(result["status"]), why)
}

// quickProbe reads the usual command lines of probes without the parser, which takes several milliseconds to get ready: probes run every few seconds. It
// returns nil for all others.
func quickProbe(args []string) *healthcheckCommand {
	if len(args) == 0 || args[0] != "healthcheck" {
		return nil
	}
	c := &healthcheckCommand{Timeout: time.Second}
	asked := 0
	for i := 1; i < len(args); i++ {
		switch {
		case args[i] == "--live":
			c.Live = true
			asked++
		case args[i] == "--ready":
			c.Ready = true
			asked++
		case args[i] == "--startup":
			c.Startup = true
			asked++
		case args[i] == "--socket" && i+1 < len(args):
			i++
			c.Socket = args[i]
		default:
			return nil
		}
	}
	if asked > 1 {
		return nil
	}
	return c
}
