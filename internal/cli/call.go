package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

type callCommand struct {
	connection

	Session string        `placeholder:"ID" help:"The session that the call runs in."`
	Stream  bool          `help:"The method streams: print its items as they come."`
	Timeout time.Duration `placeholder:"TIME" help:"The call's deadline from now, such as 30s (default: the sidecar's)."`
	Method  string        `arg:"" help:"The method's name."`
	Params  string        `arg:"" optional:"" name:"json" help:"Its parameters, a JSON object; - reads them from standard input."`
}

func (*callCommand) Help() string {
	return "Example:\n\n    " + program + ` call echo '{"value": "hello"}' --session s1 --timeout 5s`
}

func (c *callCommand) command() string { return program + " call" }

// Run makes the call.
func (c *callCommand) Run(ctx context.Context, e *Env) error {
	if err := c.check(); err != nil {
		return usage(err, c.command())
	}
	params, err := c.params(ctx, e)
	if err != nil {
		return err
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := client.Request{Method: c.Method, Session: c.Session, Params: params}
	if c.Stream {
		request.Item = func(item any) error { return c.printItem(e, item) }
	}
	result, err := conn.Call(ctx, request)
	if err != nil {
		return err
	}
	return c.printResult(e, result)
}

func (c *callCommand) check() error {
	switch {
	case c.Method == "" || len(c.Method) > wire.MaxMethod:
		return fmt.Errorf("a method has a name of 1 to %d bytes", wire.MaxMethod)
	case c.Session != "" && !wire.ValidSessionID(c.Session):
		return fmt.Errorf("--session: 1 to %d bytes without control characters", wire.MaxSessionID)
	case c.Timeout < 0:
		return errors.New("--timeout: must not be negative")
	}
	return nil
}

func (c *callCommand) params(ctx context.Context, e *Env) (map[string]any, error) {
	if c.Params == "" {
		return map[string]any{}, nil
	}
	text := []byte(c.Params)
	if c.Params == "-" {
		var err error
		if text, err = readAll(ctx, e.Stdin); err != nil {
			return nil, err
		}
	}
	params, err := decodeObject(text)
	if err != nil {
		return nil, usage(fmt.Errorf("the parameters cannot be read: %w", err), c.command())
	}
	return params, nil
}

// readAll reads to the end, or until ctx is done. Nothing ends a read of a terminal: it is left to the process's end.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	var text []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		text, err = io.ReadAll(io.LimitReader(r, wire.DefaultFrame*8)) // no frame holds as much
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-done:
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return text, nil
	}
}

func (c *callCommand) printItem(e *Env, item any) error {
	if c.JSON {
		return e.printJSON(map[string]any{"item": item})
	}
	return e.print([]byte(textOf(item) + "\n"))
}

func (c *callCommand) printResult(e *Env, result any) error {
	text, isText := result.(string)
	switch {
	case c.Stream && c.JSON:
		return e.printJSON(map[string]any{"result": result})
	case c.Stream && result == nil:
		return nil
	case c.JSON:
		return e.printJSON(result)
	case isText:
		return e.print([]byte(escapeLines(text) + "\n"))
	}
	b, err := encodeJSON(result, "  ")
	if err != nil {
		return err
	}
	return e.print(b)
}
