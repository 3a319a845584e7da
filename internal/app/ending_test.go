package app

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// hanging is a sidecar in which one call goes on without end, and that was told to end within an hour.
func hanging(t *testing.T, more string) (*running, *wiretest.Peer) {
	t.Helper()
	p := newPlace(t, self(t), "cancel_grace = '100ms'\n"+more)
	s := p.serve(t)
	c, other := p.connect(t), p.connect(t)
	other.Send(wire.KindRequest, 6, "hang", params{"timeout_ms": 3_600_000}, nil)
	await(t, "it runs", func() bool { return fmt.Sprint(get(t, c, "sidecar.stats", nil)["in_flight"]) == "1" })
	c.Send(wire.KindRequest, 1, "admin.shutdown", nil, params{"timeout_ms": 3_600_000})
	for range 2 { // the answer and the goaway, in either order
		m := c.Receive()
		if told, _ := m.Payload.(params); m.Method != "goaway" && fmt.Sprint(told["drain_ms"]) != "3600000" {
			t.Errorf("it says %+v", m)
		}
	}
	return s, c
}

// A signal brings an end forward that was to come later than is configured.
func TestSignalInALongShutdown(t *testing.T) {
	t.Parallel()
	s, _ := hanging(t, "shutdown_timeout = '200ms'")
	s.signal(s.Process.Pid)
	<-s.done
	if !strings.Contains(s.log(), "calls cut off") {
		t.Error(s.log())
	}
}

// Of several ends that are asked for the earliest counts, and is what is answered.
func TestShutdownInAShutdown(t *testing.T) {
	t.Parallel()
	s, c := hanging(t, "shutdown_timeout = '1h'")
	for _, ask := range []struct {
		limit int
		least string
	}{{7_200_000, "359"}, {0, "0"}} {
		c.Send(wire.KindRequest, 2, "admin.shutdown", nil, params{"timeout_ms": ask.limit})
		m := c.Receive()
		if got, _ := m.Payload.(params); !strings.HasPrefix(fmt.Sprint(got["drain_ms"]), ask.least) {
			t.Errorf("%d: %+v", ask.limit, m)
		}
	}
	<-s.done
}

// What cannot be read whole is no configuration, and holds nobody up.
func TestConfigurationThatIsAPipe(t *testing.T) {
	t.Parallel()
	p := newPlace(t, self(t), "")
	s := p.serve(t)
	c := p.connect(t)
	if err := os.Remove(p.config); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(p.config, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(reload(t, c)["reason"]); !strings.Contains(got, "it is a pipe") {
		t.Errorf("%v", got)
	}
	s.signal(s.Process.Pid)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
