package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/wire"
)

// The exit codes of docs/cli.md.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitTimeout     = 4
	exitDegraded    = 5
	exitUnhealthy   = 6
	exitInterrupted = 130
)

// usageError is a command line that cannot be run.
type usageError struct {
	err     error
	command string // whose help tells more
}

func usage(err error, command string) error { return &usageError{err, command} }

func (e *usageError) Error() string {
	return fmt.Sprintf("%v\nRun %q for what is possible.", e.err, e.command+" --help")
}

func (e *usageError) Unwrap() error { return e.err }

// advisedError is an error with what to do about it.
type advisedError struct {
	err    error
	advice string
}

func (e *advisedError) Error() string { return e.err.Error() + "\n" + e.advice }

func (e *advisedError) Unwrap() error { return e.err }

// exitError ends a command with a code of its own, after it has printed what there is to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// report prints an error, and returns the exit code that it stands for.
func (e *Env) report(ctx context.Context, err error) int {
	var (
		own         exitError
		wrong       *usageError
		remote      *wire.Error
		settings    config.Errors
		unreachable *unreachableError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &own):
		return int(own)
	case ctx.Err() != nil && errors.Is(err, &wire.Error{Code: wire.CodeCancelled}), ctx.Err() != nil && errors.Is(err, ctx.Err()):
		e.complain("interrupted")
		return exitInterrupted
	case errors.As(err, &wrong):
		e.complain(wrong.Error())
		return exitUsage
	case errors.As(err, &settings):
		e.say(settings.Error())
		return exitUsage
	case errors.As(err, &unreachable):
		e.complain(unreachable.Error())
		if unreachable.late() {
			return exitTimeout
		}
		return exitUnreachable
	case errors.As(err, &remote):
		e.say(describe(remote))
		if advised, ok := errors.AsType[*advisedError](err); ok {
			e.say(advised.advice)
		}
		if remote.Code == wire.CodeDeadlineExceeded || remote.Code == wire.CodeCheckoutTimeout {
			return exitTimeout
		}
		return exitFailed
	default:
		e.complain(err.Error())
		return exitFailed
	}
}

func (e *Env) complain(message string) { e.say(program + ": " + message) }

// say writes to standard error; where that fails there is nowhere left to complain.
func (e *Env) say(message string) { _, _ = io.WriteString(e.Stderr, escapeLines(message)+"\n") }

// describe is the protocol's error for people: code and message, and a line or more for each detail.
func describe(err *wire.Error) string {
	var b strings.Builder
	b.WriteString(err.Error())
	for _, key := range slices.Sorted(maps.Keys(err.Details)) {
		text := " " + textOf(err.Details[key])
		if strings.Contains(text, "\n") {
			text = "\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
		}
		b.WriteString("\n  " + escape(key) + ":" + text)
	}
	return b.String()
}
