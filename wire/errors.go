package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"syscall"
)

// Code names an outcome; spelled alike in every language.
type Code string

// The codes that this version sends. CodeStaleSession and CodeTurnWanted stay on the worker channel.
const (
	CodeInvalidFrame        Code = "invalid_frame"
	CodeHandshakeRequired   Code = "handshake_required"
	CodeUnsupportedProtocol Code = "unsupported_protocol"
	CodeFrameTooLarge       Code = "frame_too_large"
	CodePermissionDenied    Code = "permission_denied"
	CodeUnknownMethod       Code = "unknown_method"
	CodeInvalidParams       Code = "invalid_params"
	CodeInvalidSignature    Code = "invalid_signature"
	CodeSessionNotFound     Code = "session_not_found"
	CodeSessionExists       Code = "session_exists"
	CodeSessionLimit        Code = "session_limit"
	CodeSessionBusy         Code = "session_busy"
	CodeSessionLost         Code = "session_lost"
	CodeSessionMoved        Code = "session_moved"
	CodeProgramNotFound     Code = "program_not_found"
	CodeProgramExists       Code = "program_exists"
	CodeProgramError        Code = "program_error"
	CodeLMError             Code = "lm_error"
	CodeNotSerializable     Code = "not_serializable"
	CodeQueueFull           Code = "queue_full"
	CodeCheckoutTimeout     Code = "checkout_timeout"
	CodeDeadlineExceeded    Code = "deadline_exceeded"
	CodeCancelled           Code = "cancelled"
	CodeWorkerLost          Code = "worker_lost"
	CodeNoWorkers           Code = "no_workers"
	CodeDraining            Code = "draining"
	CodeBudgetExceeded      Code = "budget_exceeded"
	CodeStorageUnavailable  Code = "storage_unavailable"
	CodeInternal            Code = "internal"
	CodeStaleSession        Code = "stale_session"
	CodeTurnWanted          Code = "turn_wanted"

	// CodeConnectionLost is never sent: clients infer it.
	CodeConnectionLost Code = "connection_lost"
)

// Codes are all of those, as text.
func Codes() []string {
	return []string{
		string(CodeInvalidFrame), string(CodeHandshakeRequired), string(CodeUnsupportedProtocol), string(CodeFrameTooLarge),
		string(CodePermissionDenied), string(CodeUnknownMethod), string(CodeInvalidParams), string(CodeInvalidSignature),
		string(CodeSessionNotFound), string(CodeSessionExists), string(CodeSessionLimit), string(CodeSessionBusy), string(CodeSessionLost),
		string(CodeSessionMoved), string(CodeProgramNotFound), string(CodeProgramExists), string(CodeProgramError), string(CodeLMError),
		string(CodeNotSerializable), string(CodeQueueFull), string(CodeCheckoutTimeout), string(CodeDeadlineExceeded), string(CodeCancelled),
		string(CodeWorkerLost), string(CodeNoWorkers), string(CodeDraining), string(CodeBudgetExceeded), string(CodeStorageUnavailable),
		string(CodeInternal), string(CodeStaleSession), string(CodeTurnWanted), string(CodeConnectionLost),
	}
}

// retryable says for each code whether the same call may succeed later without having run.
func (c Code) retryable() bool {
	switch c {
	case CodeSessionBusy, CodeSessionMoved, CodeQueueFull, CodeCheckoutTimeout, CodeNoWorkers, CodeDraining,
		CodeStorageUnavailable:
		return true
	default:
		return false
	}
}

// Error is the one error that crosses the wire.
type Error struct {
	Code      Code           `msgpack:"code" json:"code"`
	Message   string         `msgpack:"message" json:"message"`
	Retryable bool           `msgpack:"retryable" json:"retryable"`
	Details   map[string]any `msgpack:"details" json:"details,omitempty"`
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is lets errors.Is match by code: errors.Is(err, &wire.Error{Code: wire.CodeQueueFull}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// With returns a copy of e that carries one more detail.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Details = make(map[string]any, len(e.Details)+1)
	maps.Copy(c.Details, e.Details)
	c.Details[key] = value
	return &c
}

// Errorf makes an error of the given code; whether it is retryable follows from the code.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Retryable: code.retryable()}
}

// FromError turns any error into the one that is sent: the one place where errors of the operating system and of
// contexts become codes.
func FromError(err error) *Error {
	var (
		e       *Error
		tooLong *TooLongError
		frame   *FrameError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLong):
		return Errorf(CodeFrameTooLarge, "%v", err).With("limit", tooLong.Limit).With("length", tooLong.Length)
	case errors.As(err, &frame), errors.Is(err, ErrStructure), errors.Is(err, ErrFrameTimeout):
		return Errorf(CodeInvalidFrame, "%v", err)
	case errors.Is(err, context.Canceled):
		return Errorf(CodeCancelled, "cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(CodeDeadlineExceeded, "the deadline passed")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, ErrSlowReader),
		errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED):
		return Errorf(CodeConnectionLost, "the connection ended: %v", err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Errorf(CodePermissionDenied, "%v", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS):
		return Errorf(CodeStorageUnavailable, "%v", err)
	default:
		return Errorf(CodeInternal, "%v", err)
	}
}
