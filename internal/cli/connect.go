package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/wire"
)

// connectTimeout bounds what comes before a call that has no time limit of its own.
const connectTimeout = 10 * time.Second

// connection are the flags of each command that asks a running sidecar.
type connection struct {
	Socket string `placeholder:"PATH" help:"The sidecar's socket (default: DSPEX_SOCKET, else the usual place)."`
	Token  string `placeholder:"TEXT" help:"The token of a session that was created with one."`
	JSON   bool   `name:"json" help:"Print JSON, for programs."`
}

// question is a connection for one quick answer.
type question struct {
	connection

	Timeout time.Duration `default:"10s" placeholder:"TIME" help:"How long to wait for the answer (default: ${default})."`
}

// AfterApply refuses what no question can mean.
func (q *question) AfterApply() error {
	if q.Timeout <= 0 {
		return errors.New("--timeout: must be more than 0, such as 5s")
	}
	return nil
}

// ask connects, calls one method of the sidecar's own and returns its result, a map.
func (q *question) ask(ctx context.Context, e *Env, method string, params map[string]any) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	conn, err := q.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return callMap(ctx, conn, method, params)
}

func callMap(ctx context.Context, conn *client.Conn, method string, params map[string]any) (map[string]any, error) {
	result, err := conn.Call(ctx, client.Request{Method: method, Params: params})
	if err != nil {
		return nil, err
	}
	m, ok := result.(map[string]any)
	if !ok {
		return nil, wire.Errorf(wire.CodeInvalidFrame, "%s should answer with a map and sent %s", method, textOf(result))
	}
	return m, nil
}

func (c *connection) path(environ []string) string {
	if c.Socket != "" {
		return c.Socket
	}
	for _, entry := range environ {
		if path, ok := strings.CutPrefix(entry, "DSPEX_SOCKET="); ok && path != "" {
			return path
		}
	}
	return config.DefaultSocket(environ)
}

func (c *connection) dial(ctx context.Context, e *Env) (*client.Conn, error) {
	path := c.path(e.Environ)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := client.Dial(ctx, client.Config{Socket: path, Name: program, Version: e.Version, Token: c.Token})
	if err != nil {
		return nil, &unreachableError{path, err}
	}
	return conn, nil
}

// unreachableError is a sidecar that there is no connection to.
type unreachableError struct {
	path string
	err  error
}

func (e *unreachableError) Unwrap() error { return e.err }

// late says that time was all that was missing.
func (e *unreachableError) late() bool {
	return errors.Is(e.err, &wire.Error{Code: wire.CodeDeadlineExceeded}) || errors.Is(e.err, context.DeadlineExceeded)
}

// Error says what to do about it, too.
func (e *unreachableError) Error() string {
	const elsewhere = "say where it is with --socket or DSPEX_SOCKET"
	what := fmt.Sprintf("no connection to the sidecar at %s: ", e.path)
	switch {
	case e.late():
		return what + "it did not answer in time"
	case errors.Is(e.err, &wire.Error{Code: wire.CodePermissionDenied}):
		return fmt.Sprintf("%s%v\nThe sidecar's configuration says who may connect: listen.allow_uids.", what, e.err)
	case errors.Is(e.err, syscall.ENOENT), errors.Is(e.err, syscall.ENOTDIR):
		return fmt.Sprintf("%sthere is no such socket\nStart one with %q, or %s.", what, program+" serve", elsewhere)
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%snothing listens there: it has ended, or that is no socket\nStart it with %q, or %s.", what, program+" serve", elsewhere)
	case errors.Is(e.err, syscall.EACCES), errors.Is(e.err, syscall.EPERM):
		return what + "permission denied\nThe sidecar's configuration says who may connect: listen.mode and listen.allow_uids; its folder must let you in, too."
	case errors.Is(e.err, syscall.EAGAIN):
		return what + "too many connections wait there\nTry again."
	default:
		return what + e.err.Error()
	}
}
