package proxy

import (
	"sync/atomic"
	"testing"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// An item may be on its way to the client in one goroutine while another settles the call. What comes second is the item: it is
// dropped, since by then the client may have given the id to another call.
func TestNoItemFollowsItsResponse(t *testing.T) {
	mine, theirs := wiretest.Pair(t)
	c := &conn{ofUID: new(atomic.Int64), server: New(Config{}), maxFrame: wire.DefaultFrame, calls: map[uint64]*call{}, stalled: map[*call]struct{}{}}
	var err error
	if c.outbox, err = wire.NewOutbox(mine, 0, 0, c.drained); err != nil {
		t.Fatal(err)
	}
	k := &call{conn: c, id: 7, count: c.server.metrics.Other()}
	k.stream = newStream(k, 10)
	k.stream.begin()
	c.calls[k.id] = k
	var batch wire.Batch
	k.Item(&batch, wire.Nil, true)
	k.Settle(&batch, &pool.Result{Payload: wire.Nil, Owned: true})
	k.Item(&batch, wire.Nil, true)
	batch.Flush()
	c.outbox.End()
	client := wiretest.NewPeer(t, theirs)
	for _, want := range []wire.Kind{wire.KindItem, wire.KindResponse} {
		if m := client.Receive(); m.Kind != want || m.ID != k.id {
			t.Errorf("got %+v, want kind %d", m, want)
		}
	}
	client.ReceiveEnd()
}
