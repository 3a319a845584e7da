package proxy

import (
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// handshake reads the first frame, and says whether the connection goes on.
func (c *conn) handshake(batch *wire.Batch) bool {
	defer batch.Flush()
	_ = c.reader.Until(time.Now().Add(c.limits.HandshakeTimeout)) // a closed connection says so at the read
	body, _, err := c.reader.Next()
	var f wire.Frame
	if err == nil {
		f, err = wire.Parse(body)
	}
	if err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			c.protocolError(batch, 0, wire.CodeHandshakeRequired, "the first frame has to be hello: "+err.Error())
		}
		return false
	}
	_ = c.reader.Until(time.Time{}) // as above
	if f.Kind != wire.KindRequest {
		c.protocolError(batch, 0, wire.CodeHandshakeRequired, "the first frame has to be the request hello")
		return false
	}
	if e := c.greet(&f); e != nil {
		c.refuse(batch, f.ID, e)
		return false
	}
	c.flow = c.server.cfg.Pool.NewFlow(c.owner, false)
	c.reply(batch, f.ID, map[string]any{
		"protocol": wire.Protocol, "features": []string{}, "server": map[string]any{"name": "dspex-sidecar", "version": c.server.cfg.Version},
		"connection": c.id, "max_frame": c.limits.MaxFrame, "max_in_flight": c.limits.MaxInFlight,
		"stop_report_ms": c.server.cfg.Pool.StopReport().Milliseconds(),
	})
	c.server.greeted(c, batch)
	return true
}

// hello is the params of the first request.
type hello struct {
	Protocols []int    `msgpack:"protocols"`
	Features  []string `msgpack:"features"`
	Client    struct {
		Name    string `msgpack:"name"`
		Version string `msgpack:"version"`
	} `msgpack:"client"`
	Token    string `msgpack:"token"`
	MaxFrame int    `msgpack:"max_frame"`
}

func (c *conn) greet(f *wire.Frame) *wire.Error {
	if string(f.Method) != "hello" {
		return wire.Errorf(wire.CodeHandshakeRequired, "the first request has to be hello, not %q", f.Method)
	}
	var h hello
	if err := wire.Unmarshal(f.Payload, &h); err != nil {
		return wire.FromError(err)
	}
	if !slices.Contains(h.Protocols, wire.Protocol) {
		return wire.Errorf(wire.CodeUnsupportedProtocol, "this sidecar speaks protocol %d", wire.Protocol).With("protocols", []int{wire.Protocol})
	}
	switch {
	case c.refusal != nil:
		return c.refusal
	case c.server.closedTo(c.limits.administers(c.uid)):
		return wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	}
	if h.MaxFrame != 0 && h.MaxFrame < wire.MinFrameLimit {
		return wire.Errorf(wire.CodeInvalidParams, "max_frame is at least %d", wire.MinFrameLimit)
	}
	if h.MaxFrame != 0 {
		c.maxFrame = h.MaxFrame
	}
	c.mu.Lock()
	c.name, c.version, c.holder = clip(h.Client.Name), clip(h.Client.Version), c.owner
	if h.Token != "" {
		c.holder = tokenOwner(h.Token)
	}
	c.mu.Unlock()
	return nil
}

// clip keeps what a client says of itself fit for logs and tables.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 64 {
		return string(r[:64])
	}
	return s
}
