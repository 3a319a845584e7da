package pool_test

import (
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// A worker that dies while it writes an answer, after whichever byte: the call ends once, with its whole answer or with none, and one that
// is safe is run again elsewhere.
func TestDeathInTheMiddleOfAFrame(t *testing.T) {
	t.Parallel()
	result := map[string]any{"value": "an answer of some length"}
	whole := wiretest.Frame(t, wire.KindResponse, uint64(2), nil, nil, result)
	for n := range len(whole) + 1 {
		r := ready(t)
		c := r.run("run", nil)
		j := r.next()
		frame := wiretest.Frame(t, wire.KindResponse, j.m.ID, nil, nil, result)
		j.take()
		if _, err := j.w.Conn.Write(frame[:min(n, len(frame))]); err != nil {
			t.Fatal(err)
		}
		j.w.Die()
		c.wait(c.settled, "settled")
		switch {
		case n < len(frame) && (c.err == nil || c.err.Code != wire.CodeWorkerLost):
			t.Fatalf("%d of %d bytes: %v", n, len(frame), c.err)
		case n >= len(frame) && c.err != nil:
			t.Fatalf("the whole answer: %v", c.err)
		}
		safe := r.run("safe", nil)
		j = r.next()
		frame = wiretest.Frame(t, wire.KindResponse, j.m.ID, nil, nil, result)
		j.take()
		if _, err := j.w.Conn.Write(frame[:min(n, len(frame))]); err != nil {
			t.Fatal(err)
		}
		j.w.Die()
		if n < len(frame) {
			r.next().answer(nil)
		}
		safe.ok()
		r.close(0)
	}
}
