package client

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects to a scripted sidecar, which handles all frames after the handshake.
func dial(t *testing.T, handle func(p *wiretest.Peer, m wiretest.Message)) *Conn {
	t.Helper()
	dir, err := os.MkdirTemp("", "client") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		p := wiretest.NewPeer(t, conn)
		p.Serve(func(m wiretest.Message) {
			if m.Method == "hello" {
				p.Send(1, m.ID, nil, nil, map[string]any{"protocol": 1, "max_frame": wire.MinFrameLimit})
				return
			}
			handle(p, m)
		})
	}()
	t.Cleanup(func() {
		l.Close()
		<-accepted
	})
	c, err := Dial(t.Context(), Config{Socket: path, Name: "test", Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func code(t *testing.T, err error) wire.Code {
	t.Helper()
	var e *wire.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *wire.Error", err)
	}
	return e.Code
}

func TestCallsSideBySideGetTheirOwnAnswers(t *testing.T) {
	const calls = 50
	var waiting []wiretest.Message
	c := dial(t, func(p *wiretest.Peer, m wiretest.Message) {
		if waiting = append(waiting, m); len(waiting) < calls {
			return
		}
		for i := range waiting { // in the reverse order
			m := waiting[len(waiting)-1-i]
			p.Send(1, m.ID, nil, nil, m.Payload)
		}
	})
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			result, err := c.Call(t.Context(), Request{Method: "echo", Params: map[string]any{"n": i}})
			if m, _ := result.(map[string]any); err != nil || m["n"] != int64(i) {
				t.Errorf("call %d got %v, %v", i, result, err)
			}
		})
	}
	all.Wait()
}

func TestLateAnswerReachesNoOtherCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var first uint64
	c := dial(t, func(p *wiretest.Peer, m wiretest.Message) {
		switch {
		case m.Kind == wire.KindRequest && first == 0:
			first = m.ID
			cancel()
		case m.Kind == wire.KindRequest:
			p.Send(1, first, nil, nil, "late")
			p.Send(1, m.ID, nil, nil, "right")
		}
	})
	_, err := c.Call(ctx, Request{Method: "slow"})
	if code(t, err) != wire.CodeCancelled {
		t.Errorf("the first call: %v", err)
	}
	if result, err := c.Call(t.Context(), Request{Method: "next"}); result != "right" || err != nil {
		t.Errorf("the next call: %v, %v", result, err)
	}
}

func TestSidecarsOwnDeadlineIsTheOutcome(t *testing.T) {
	c := dial(t, func(p *wiretest.Peer, m wiretest.Message) {
		if m.Kind == wire.KindRequest {
			p.Send(1, m.ID, nil, wire.Errorf(wire.CodeDeadlineExceeded, "in the queue"), nil)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Call(ctx, Request{Method: "m"})
	if code(t, err) != wire.CodeDeadlineExceeded || !strings.Contains(err.Error(), "in the queue") {
		t.Errorf("got %v", err)
	}
	cancel()
	if _, err := c.Call(ctx, Request{Method: "m"}); code(t, err) != wire.CodeCancelled {
		t.Errorf("with a context that is done: %v", err)
	}
}

func TestRequestThatIsTooLong(t *testing.T) {
	c := dial(t, func(p *wiretest.Peer, m wiretest.Message) { p.Send(1, m.ID, nil, nil, true) })
	_, err := c.Call(t.Context(), Request{Method: "m", Params: map[string]any{"b": make([]byte, wire.MinFrameLimit)}})
	if code(t, err) != wire.CodeFrameTooLarge {
		t.Errorf("got %v", err)
	}
	if result, err := c.Call(t.Context(), Request{Method: "m"}); result != true || err != nil {
		t.Errorf("the connection is of no use after it: %v, %v", result, err)
	}
	if _, err := c.Call(t.Context(), Request{Method: "m", Params: make(chan int)}); code(t, err) != wire.CodeInvalidParams {
		t.Errorf("params that cannot be encoded: %v", err)
	}
}

func TestSidecarsRequestsAreAnswered(t *testing.T) {
	answered := make(chan wiretest.Message, 1)
	c := dial(t, func(p *wiretest.Peer, m wiretest.Message) {
		if m.Kind == wire.KindResponse {
			answered <- m
			p.Send(1, 2, nil, nil, "done")
			return
		}
		p.Send(2, "goaway", nil, map[string]any{"reason": "test", "drain_ms": 1})
		p.Send(9, "of a later version")
		p.Send(0, 7, "ask", map[string]any{"call": m.ID}, nil)
	})
	if result, err := c.Call(t.Context(), Request{Method: "m"}); result != "done" || err != nil {
		t.Errorf("got %v, %v", result, err)
	}
	if m := <-answered; m.ID != 7 || m.Error == nil || m.Error.Code != wire.CodeUnknownMethod {
		t.Errorf("the request was answered %+v", m)
	}
}

func TestSidecarThatBreaksTheRules(t *testing.T) {
	for name, breach := range map[string]func(p *wiretest.Peer, m wiretest.Message){
		"more items than credit": func(p *wiretest.Peer, m wiretest.Message) {
			for range window + 3 { // the stream has taken one and waits, and there is room for the response
				p.Send(3, m.ID, nil, 1)
			}
		},
		"garbage": func(p *wiretest.Peer, _ wiretest.Message) { _, _ = p.Conn.Write([]byte{0, 0, 0, 1, 0xc1}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, func(p *wiretest.Peer, m wiretest.Message) {
				if m.Kind == wire.KindRequest {
					breach(p, m)
				}
			})
			_, err := c.Call(t.Context(), Request{Method: "m", Item: func(any) error {
				<-c.ended
				return nil
			}})
			if code(t, err) != wire.CodeConnectionLost {
				t.Errorf("got %v", err)
			}
			if _, err := c.Call(t.Context(), Request{Method: "m"}); code(t, err) != wire.CodeConnectionLost {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

func TestItemOfAPlainCall(t *testing.T) {
	c := dial(t, func(p *wiretest.Peer, m wiretest.Message) {
		if m.Kind == wire.KindRequest {
			p.Send(3, m.ID, nil, 1)
		}
	})
	if _, err := c.Call(t.Context(), Request{Method: "m"}); code(t, err) != wire.CodeInvalidFrame {
		t.Errorf("got %v", err)
	}
}

func TestCloseSettlesWhatIsInFlight(t *testing.T) {
	asked := make(chan struct{})
	c := dial(t, func(*wiretest.Peer, wiretest.Message) { close(asked) })
	done := make(chan error)
	go func() {
		_, err := c.Call(t.Context(), Request{Method: "m"})
		done <- err
	}()
	<-asked
	c.Close()
	if err := <-done; code(t, err) != wire.CodeConnectionLost {
		t.Errorf("got %v", err)
	}
}
