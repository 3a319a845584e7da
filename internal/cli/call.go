package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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
	return "Example:\n\n    " + program + ` call count_words '{"text": "To be or not to be"}' --timeout 5s` +
		"\n\ncount_words is a method of the demo, which \"make run\" serves; \"call sidecar.methods\" lists your application's."
}

func (c *callCommand) command() string { return program + " call" }

// Run makes the call.
func (c *callCommand) Run(ctx context.Context, e *Env) error {
	if err := c.check(); err != nil {
		return usage(err, c.command())
	}
	params, err := readParams(ctx, e, c.Params, c.command())
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
	var meta client.Meta
	request := client.Request{Method: c.Method, Session: c.Session, Params: params, Meta: func(m client.Meta) { meta = m }}
	if c.Stream {
		request.Item = func(item any) error { return c.printItem(e, item) }
	}
	result, err := conn.Call(ctx, request)
	if err == nil && c.JSON {
		return e.printJSON(resultJSON(result, &meta))
	}
	if err == nil {
		err = c.printResult(e, result)
	}
	if line := ranLine(&meta); line != "" && !c.JSON {
		e.say(line)
	}
	return c.advise(err)
}

// advise adds to an error of the protocol's words what to do about it here, where that is known.
func (c *callCommand) advise(err error) error {
	wrong, ok := errors.AsType[*wire.Error](err)
	switch {
	case !ok || wrong.Code != wire.CodeInvalidParams:
	case !c.Stream && strings.Contains(wrong.Message, "with meta.stream"):
		return &advisedError{err, "Use --stream: " + c.Method + " is a stream."}
	case c.Stream && (strings.Contains(wrong.Message, "without meta.stream") || strings.Contains(wrong.Message, "not a stream")):
		return &advisedError{err, "Leave --stream away: " + c.Method + " is no stream."}
	}
	return err
}

func (c *callCommand) check() error {
	switch {
	case c.Method == "" || len(c.Method) > wire.MaxMethod:
		return fmt.Errorf("a method has a name of 1 to %d bytes", wire.MaxMethod)
	case c.Session != "" && !wire.ValidSessionID(c.Session):
		return fmt.Errorf("--session: 1 to %d bytes without control characters", wire.MaxSessionID)
	case c.Timeout < 0:
		return errors.New("--timeout: must be more than 0, such as 30s; 0 is the sidecar's own")
	}
	return nil
}

// readParams reads params as a command line gives them.
func readParams(ctx context.Context, e *Env, given, command string) (map[string]any, error) {
	if given == "" {
		return map[string]any{}, nil
	}
	text := []byte(given)
	if given == "-" {
		var err error
		if text, err = readAll(ctx, e.Stdin); err != nil {
			return nil, err
		}
	}
	params, err := decodeObject(text, "params are", paramsDepth)
	if err != nil {
		return nil, usage(fmt.Errorf("the parameters cannot be read: %w", err), command)
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
	case c.Stream && result == nil:
		return nil
	case isText:
		return e.print([]byte(escapeLines(text) + "\n"))
	}
	b, err := encodeJSON(result, "  ")
	if err != nil {
		return err
	}
	return e.print(b)
}

// resultJSON is the last line that a call prints for programs: its result, and what the response's meta says.
func resultJSON(result any, m *client.Meta) map[string]any {
	out := map[string]any{"result": result}
	if m.Worker != "" {
		out["worker"] = m.Worker
	}
	if m.Queue >= 0 {
		out["queue_us"] = m.Queue.Microseconds()
	}
	if m.Run >= 0 {
		out["run_us"] = m.Run.Microseconds()
	}
	if m.Usage != nil {
		out["usage"] = m.Usage
	}
	return out
}

// ranLine says to people where a call ran and how long; "" where no worker ran it.
func ranLine(m *client.Meta) string {
	if m.Worker == "" {
		return ""
	}
	parts := []string{}
	if m.Run >= 0 {
		parts = append(parts, "ran "+m.Run.String())
	}
	if m.Queue >= 0 {
		parts = append(parts, "waited "+m.Queue.String())
	}
	for _, figure := range []struct{ key, name string }{{"lm_calls", "LM calls"}, {"total_tokens", "tokens"}, {"cost", "US dollars"}} {
		if value := m.Usage[figure.key]; value != nil {
			parts = append(parts, figure.name+" "+textOf(value))
		}
	}
	if len(parts) == 0 {
		return m.Worker
	}
	return m.Worker + ": " + strings.Join(parts, ", ")
}
