package wire_test

import (
	"io"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
)

// allocs fails where f allocates in steady state. The average is rounded down, so that the garbage collector, which empties
// the pool of buffers, does not count.
func allocs(t *testing.T, what string, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(300, f); n > 0 {
		t.Errorf("%s allocates %v times", what, n)
	}
}

// request is a body as clients send it.
func request() []byte {
	m := wire.RequestMeta{
		Session: []byte(strings.Repeat("s", 100)), SessionToken: []byte("t"), Pool: []byte("default"), Traceparent: []byte("00-1-2-3"),
		App: []byte{0x81, 0xa1, 'a', 0x01}, TimeoutMS: 30_000, Stream: 5, RetrySafe: true, Parent: 9,
	}
	return append(wire.AppendRequest(nil, 1<<40, []byte("execute_program"), &m), 0x81, 0xa1, 'x', 0xa1, 'y')
}

func TestParsingAllocatesNothing(t *testing.T) {
	body := request()
	var m wire.RequestMeta
	allocs(t, "reading a request", func() {
		f, err := wire.Parse(body)
		if err == nil {
			err = wire.ParseRequestMeta(f.Meta, &m)
		}
		if err == nil {
			err = wire.CheckContent(f.Payload)
		}
		if err != nil || m.Parent != 9 {
			t.Fatal(err, m.Parent)
		}
	})
	response := append(wire.AppendResponse(nil, 1, &wire.ResponseMeta{Worker: "w", RunUS: 7, Usage: []byte{0x80}}), wire.Nil...)
	var rm wire.ResponseMeta
	allocs(t, "reading a response", func() {
		f, err := wire.Parse(response)
		if err == nil {
			err = wire.ParseResponseMeta(f.Meta, &rm)
		}
		if err != nil || rm.RunUS != 7 {
			t.Fatal(err, rm.RunUS)
		}
	})
	buf := make([]byte, 0, 1024)
	allocs(t, "writing heads", func() {
		buf = wire.AppendRequest(buf[:0], 5, []byte("echo"), &m)
		buf = wire.AppendResponse(buf[:0], 5, &rm)
		buf = wire.AppendNotification(buf[:0], "goaway")
		buf = wire.AppendItem(buf[:0], 5)
		buf = wire.AppendCredit(buf[:0], 5, 70_000)
		buf = wire.AppendCancel(buf[:0], 5, "gone")
	})
}

func TestScanAllocatesNothing(t *testing.T) {
	bad := map[string][]vector{"structure.json": nil, "values.json": nil}
	for name := range bad {
		for _, v := range vectors(t, name)[name] {
			scan := func() float64 { return testing.AllocsPerRun(1, func() { _ = wire.Scan(v.Body) }) }
			n := scan()
			for range 2 { // the count is of the process: the runtime's own may be in it
				n = min(n, scan())
			}
			if n > 0 {
				t.Errorf("%s, %s: %v allocations", name, v.Name, n)
			}
		}
	}
}

func TestStreamsAllocateNothing(t *testing.T) {
	for name, size := range map[string]int{"a small frame": 512, "a large owned one": 100 << 10} {
		payload := make([]byte, size)
		o, peer := outbox(t, 0, patience, nil)
		got := make([]byte, 4+1+size)
		var batch wire.Batch
		head := []byte{1}
		allocs(t, "sending "+name, func() {
			o.Append(&batch, head, payload, true)
			batch.Flush()
			if _, err := io.ReadFull(peer, got); err != nil {
				t.Fatal(err)
			}
		})
		if o.Size() != 0 {
			t.Error("it was not sent")
		}
	}
	r, peer := reader(t, 1<<20, patience)
	stream := framed(request(), request(), make([]byte, 30_000))
	allocs(t, "reading small frames", func() {
		if _, err := peer.Write(stream); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, owned, err := r.Next(); err != nil || owned {
				t.Fatal(owned, err)
			}
		}
	})
}
