package proxy

import (
	"strings"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// reply answers a request with a result of the sidecar's own.
func (c *conn) reply(batch *wire.Batch, id uint64, result any) {
	payload, err := wire.Marshal(result)
	if err != nil {
		c.refuse(batch, id, wire.FromError(err))
		return
	}
	c.respond(batch, id, &pool.Result{Payload: payload, Owned: true, Meta: noTimes})
}

// refuse answers a request with an error.
func (c *conn) refuse(batch *wire.Batch, id uint64, err *wire.Error) {
	c.respond(batch, id, pool.Refused(err))
}

// respond sends a response; one that the client cannot receive becomes an error.
func (c *conn) respond(batch *wire.Batch, id uint64, r *pool.Result) {
	var scratch [512]byte
	if r.Err != nil {
		c.outbox.Append(batch, c.errorFrame(scratch[:0], id, &r.Meta, r.Err), nil, false)
		return
	}
	head := wire.AppendResponse(scratch[:0], id, &r.Meta)
	n := len(head) + len(r.Payload)
	if n <= c.maxFrame && len(head) <= wire.MaxHead {
		c.server.metrics.Sent.Add(n)
		c.outbox.Append(batch, head, r.Payload, r.Owned)
		return
	}
	err := wire.Errorf(wire.CodeFrameTooLarge, "the result takes %d bytes, the client receives at most %d", n, c.maxFrame).
		With("limit", c.maxFrame).With("length", n)
	if len(head) > wire.MaxHead {
		err = wire.Errorf(wire.CodeFrameTooLarge, "what the application says in meta takes %d bytes, of %d", len(head), wire.MaxHead).
			With("limit", wire.MaxHead).With("length", len(head))
	}
	c.outbox.Append(batch, c.errorFrame(scratch[:0], id, &r.Meta, err), nil, false)
}

// errorFrame writes a response that failed. An error stands in the head, whose length is bounded: what is long in it, such as
// the output of a worker, is cut.
func (c *conn) errorFrame(b []byte, id uint64, m *wire.ResponseMeta, e *wire.Error) []byte {
	b = wire.AppendError(b, id, m, e)
	if len(b) <= wire.MaxHead {
		return b
	}
	const most = 4 << 10
	short := wire.Error{Code: e.Code, Message: first(e.Message, most), Retryable: e.Retryable, Details: map[string]any{}}
	for key, value := range e.Details {
		if text, ok := value.(string); ok {
			value = last(text, most)
		}
		short.Details[key] = value
	}
	bare := wire.ResponseMeta{Worker: m.Worker, QueueUS: m.QueueUS, RunUS: m.RunUS}
	if b = wire.AppendError(b[:0], id, &bare, &short); len(b) > wire.MaxHead {
		short.Details = nil
		b = wire.AppendError(b[:0], id, &bare, &short)
	}
	return b
}

// first and last keep that many bytes of a text.
func first(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

func last(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return "…" + strings.ToValidUTF8(text[len(text)-most:], "")
}

// goAway tells the client to go elsewhere. What is read after it has been told is not executed.
func (c *conn) goAway(batch *wire.Batch, params map[string]any) {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	c.notify(batch, "goaway", params)
}

func (c *conn) notify(batch *wire.Batch, method string, params map[string]any) {
	payload, err := wire.Marshal(params)
	if err != nil {
		return // params of the sidecar's own can be encoded
	}
	var scratch [128]byte
	c.outbox.Append(batch, wire.AppendNotification(scratch[:0], method), payload, true)
}

func (c *conn) protocolError(batch *wire.Batch, id uint64, code wire.Code, message string) {
	params := map[string]any{"id": nil, "code": string(code), "message": message}
	if id != 0 {
		params["id"] = id
	}
	c.notify(batch, "protocol_error", params)
}
