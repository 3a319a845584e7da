package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func reader(t *testing.T, limit int, timeout time.Duration) (*wire.Reader, *net.UnixConn) {
	t.Helper()
	mine, peer := wiretest.Pair(t)
	r, err := wire.NewReader(mine, limit, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Release)
	return r, peer
}

// framed puts the length before each body.
func framed(bodies ...[]byte) (stream []byte) {
	for _, body := range bodies {
		stream = append(binary.BigEndian.AppendUint32(stream, uint32(len(body))), body...)
	}
	return stream
}

// trickle writes stream in portions, each when the one before has been read, and ends the connection. What it returns is
// closed when it is done.
func trickle(t *testing.T, peer *net.UnixConn, stream []byte, portion func() int) <-chan struct{} {
	t.Helper()
	raw, err := peer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	unread := func() (n int) {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) // closed: nothing is unread
		return n
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for len(stream) > 0 {
			n := min(max(portion(), 1), len(stream))
			if _, err := peer.Write(stream[:n]); err != nil {
				return // the reader had enough
			}
			stream = stream[n:]
			for tries := 0; unread() > 0; tries++ {
				if runtime.Gosched(); tries > 10 {
					<-time.After(10 * time.Microsecond) // with one processor, the poller has its turn when all wait
				}
			}
		}
		_ = peer.CloseWrite() // the reader may have closed it
	}()
	return done
}

// event is what the vectors of framing.json tell of.
type event struct {
	body     string // hex
	length   uint32 // of a frame that is too long
	kind     wire.Kind
	id       uint64
	isBroken bool
}

// events reads until the stream ends, and says whether it ends in a frame.
func events(t *testing.T, r *wire.Reader) (all []event, incomplete bool) {
	t.Helper()
	for {
		body, _, err := r.Next()
		var tooLong *wire.TooLongError
		switch {
		case err == nil:
			all = append(all, event{body: hex.EncodeToString(body)})
		case errors.As(err, &tooLong):
			kind, id := tooLong.Subject()
			all = append(all, event{length: tooLong.Length, kind: kind, id: id})
			if want := map[bool]uint64{true: id}[kind == wire.KindRequest]; tooLong.RequestID() != want {
				t.Errorf("RequestID %d, want %d", tooLong.RequestID(), want)
			}
		case errors.Is(err, wire.ErrStructure):
			return append(all, event{isBroken: true}), false
		case errors.Is(err, io.ErrUnexpectedEOF):
			// The vectors count a frame that is too long when it has been passed over; the reader tells of it before.
			if n := len(all); n > 0 && all[n-1].length > 0 {
				all = all[:n-1]
			}
			return all, true
		case errors.Is(err, io.EOF):
			return all, false
		default:
			t.Errorf("reading: %v", err)
			return all, false
		}
	}
}

func TestFramingVectors(t *testing.T) {
	ways := map[string]func(length int) func() int{
		"at once":          func(length int) func() int { return func() int { return length } },
		"byte by byte":     func(int) func() int { return func() int { return 1 } },
		"in odd portions":  func(int) func() int { n := 0; return func() int { n = (n*7 + 5) % 23; return n } },
		"in large portion": func(int) func() int { return func() int { return 65537 } },
	}
	for _, v := range vectors(t, "framing.json")["framing.json"] {
		var want []event
		for _, e := range v.Events {
			switch {
			case e.Broken != "":
				want = append(want, event{isBroken: true})
			case e.TooLong == nil:
				want = append(want, event{body: hex.EncodeToString(e.Body)})
			case e.TooLong.ID == nil:
				want = append(want, event{length: e.TooLong.Length})
			default:
				want = append(want, event{length: e.TooLong.Length, kind: wire.Kind(*e.TooLong.Kind), id: *e.TooLong.ID})
			}
		}
		for way, portion := range ways {
			if len(v.Stream) > 20_000 && (way == "byte by byte" || way == "in odd portions") {
				continue
			}
			t.Run(v.Name+"/"+way, func(t *testing.T) {
				r, peer := reader(t, v.MaxFrame, patience)
				done := trickle(t, peer, v.Stream, portion(len(v.Stream)))
				got, incomplete := events(t, r)
				for i := range got {
					if got[i].id == 0 {
						got[i].kind = 0 // the vectors say neither where one cannot be read
					}
				}
				if !slices.Equal(got, want) || incomplete != v.Incomplete {
					t.Errorf("%v, incomplete %v\nwant %v, %v", got, incomplete, want, v.Incomplete)
				}
				if slices.Contains(want, event{isBroken: true}) {
					_ = peer.Close() // what follows is not read
				}
				wait(t, "writing", done)
			})
		}
	}
}

func TestReaderLargeFrames(t *testing.T) {
	r, peer := reader(t, 16<<20, patience)
	var want [][]byte
	for _, size := range []int{32<<10 - 1, 32 << 10, 3, 65532, 65536, 1 << 20, 1, 2<<20 + 1, 5 << 20, 16 << 20, 100} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * size >> 3)
		}
		want = append(want, body)
	}
	done := trickle(t, peer, framed(want...), func() int { return 16 << 20 })
	var kept [][]byte
	for i, body := range want {
		got, owned, err := r.Next()
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("body %d of %d bytes: %d bytes, %v", i, len(body), len(got), err)
		}
		if owned != (len(body) >= 32<<10) {
			t.Errorf("body of %d bytes: owned %v", len(body), owned)
		}
		if owned {
			kept = append(kept, got)
		}
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for _, body := range want {
		if len(body) >= 32<<10 {
			if !bytes.Equal(kept[0], body) {
				t.Errorf("an owned body of %d bytes was changed later", len(body))
			}
			kept = kept[1:]
		}
	}
	wait(t, "writing", done)
}

func TestReaderReady(t *testing.T) {
	r, peer := reader(t, 100<<10, patience)
	if r.Ready() {
		t.Error("ready before anything was read")
	}
	long := binary.BigEndian.AppendUint32(nil, 200<<10)
	stream := append(framed([]byte("ab"), []byte("c")), append(long, 0x95, 0, 7)...)
	if _, err := peer.Write(stream); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} { // a frame over the limit, whose kind and id may not be there yet
		if _, _, err := r.Next(); err != nil || r.Ready() != want {
			t.Errorf("behind frame %d: ready %v, %v", i, r.Ready(), err)
		}
	}
	if _, err := peer.Write(make([]byte, 200<<10-3)); err != nil {
		t.Fatal(err)
	}
	var tooLong *wire.TooLongError
	if _, _, err := r.Next(); !errors.As(err, &tooLong) || tooLong.RequestID() != 7 || tooLong.Limit != 100<<10 {
		t.Errorf("a frame over the limit: %v", err)
	}
	if r.Ready() {
		t.Error("ready while a frame is to be passed over")
	}
}

// What a length claims costs nothing before its bytes are there.
func TestReaderAllocatesForWhatCame(t *testing.T) {
	for name, length := range map[string]uint32{"over the limit": 0xffffffff, "at the limit": 1 << 30} {
		r, peer := reader(t, 1<<30, patience)
		if _, err := peer.Write(append(binary.BigEndian.AppendUint32(nil, length), make([]byte, 1000)...)); err != nil {
			t.Fatal(err)
		}
		if err := peer.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := r.Next()
		var tooLong *wire.TooLongError
		if errors.As(err, &tooLong) {
			_, _, err = r.Next()
		}
		runtime.ReadMemStats(&after)
		if !errors.Is(err, io.ErrUnexpectedEOF) || (tooLong != nil) != (length == 0xffffffff) {
			t.Errorf("%s: %v", name, err)
		}
		if took, most := after.TotalAlloc-before.TotalAlloc, uint64(3<<20); took > most {
			t.Errorf("%s: %d bytes were allocated, at most %d are due", name, took, most)
		}
	}
}

func TestReaderFrameTimeout(t *testing.T) {
	const timeout = 40 * time.Millisecond
	whole := framed([]byte("whole"))
	parts := map[string][]byte{
		"half a length":     {0, 0},
		"half a body":       framed(make([]byte, 100))[:50],
		"half a large body": framed(make([]byte, 50_000))[:40_000],
		"passed over":       append(binary.BigEndian.AppendUint32(nil, 1<<30), make([]byte, 100)...),
	}
	for name, part := range parts {
		t.Run(name, func(t *testing.T) {
			r, peer := reader(t, 1<<20, timeout)
			if _, err := peer.Write(whole[:5]); err != nil {
				t.Fatal(err)
			}
			// Between frames there is no limit.
			later := time.AfterFunc(3*timeout, func() {
				if _, err := peer.Write(append(slices.Clone(whole), part...)); err != nil {
					t.Error(err)
				}
			})
			defer later.Stop()
			if _, err := peer.Write(whole[5:]); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if body, _, err := r.Next(); err != nil || string(body) != "whole" {
					t.Fatalf("%q, %v", body, err)
				}
			}
			began := time.Now()
			_, _, err := r.Next()
			if _, tooLong := errors.AsType[*wire.TooLongError](err); tooLong {
				_, _, err = r.Next()
			}
			if took := time.Since(began); !errors.Is(err, wire.ErrFrameTimeout) || took < timeout/2 {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

func TestReaderClosed(t *testing.T) {
	mine, _ := wiretest.Pair(t)
	r, err := wire.NewReader(mine, 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	ended := make(chan error)
	go func() {
		_, _, err := r.Next()
		ended <- err
	}()
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestReaderUntil(t *testing.T) {
	const limit = 50 * time.Millisecond
	for name, sent := range map[string][]byte{"nothing": nil, "half a frame": {0, 0, 1, 0, 0x95}} {
		t.Run(name, func(t *testing.T) {
			r, peer := reader(t, 1000, patience)
			if err := r.Until(time.Now().Add(limit)); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Write(sent); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if _, _, err := r.Next(); !errors.Is(err, wire.ErrFrameTimeout) || time.Since(began) > patience/2 {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
	r, peer := reader(t, 1000, patience)
	if err := r.Until(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		if _, err := peer.Write(b); err != nil {
			t.Error(err)
		}
	}
	write(framed([]byte{0x90}))
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := r.Until(time.Time{}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*limit, func() { write(framed([]byte{0x90})) })
	if _, _, err := r.Next(); err != nil {
		t.Errorf("an instant that was taken back: %v", err)
	}
}

func TestWidenBuffers(t *testing.T) {
	mine, _ := wiretest.Pair(t)
	raw, err := mine.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	size := func(option int) (n int) {
		if err := raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option) }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := [2]int{size(unix.SO_SNDBUF), size(unix.SO_RCVBUF)}
	if err := wire.WidenBuffers(mine); err != nil {
		t.Fatal(err)
	}
	if after := [2]int{size(unix.SO_SNDBUF), size(unix.SO_RCVBUF)}; after[0] <= before[0] || after[1] <= before[1] {
		t.Errorf("from %d to %d", before, after)
	}
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wire.WidenBuffers(mine); err == nil {
		t.Error("a closed socket has no buffers")
	}
}
