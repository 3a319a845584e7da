package wiretest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPeersTalk(t *testing.T) {
	a, b := wiretest.Pair(t)
	client, server := wiretest.NewPeer(t, a), wiretest.NewPeer(t, b)
	server.Serve(func(m wiretest.Message) {
		if m.Kind == wire.KindRequest {
			server.Send(wire.KindItem, m.ID, nil, m.Method)
			server.Send(wire.KindResponse, m.ID, map[string]any{"worker": "w1"}, nil, m.Payload)
			server.Send(wire.KindResponse, m.ID, nil, wire.Errorf(wire.CodeQueueFull, "full"), nil)
		}
	})
	client.Send(wire.KindCredit, 7, 1)
	client.Send(wire.KindCancel, 7, nil)
	client.Send(wire.KindRequest, 7, "echo", nil, map[string]any{"n": -3})

	if m := client.Receive(); m.Kind != wire.KindItem || m.ID != 7 || m.Payload != "echo" {
		t.Errorf("item: %+v", m)
	}
	m := client.Receive()
	params, _ := m.Payload.(map[string]any)
	if m.Kind != wire.KindResponse || m.Meta["worker"] != "w1" || m.Error != nil || params["n"] != int64(-3) {
		t.Errorf("response: %+v", m)
	}
	if m := client.Receive(); m.Error == nil || m.Error.Code != wire.CodeQueueFull || !m.Error.Retryable || m.Payload != nil {
		t.Errorf("error: %+v", m)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	client.ReceiveEnd()
}
