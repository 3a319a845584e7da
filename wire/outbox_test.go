package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// patience bounds what comes at once in a passing test.
const patience = 20 * time.Second

func outbox(t *testing.T, limit int, timeout time.Duration, drained func()) (*wire.Outbox, *net.UnixConn) {
	t.Helper()
	mine, peer := wiretest.Pair(t)
	o, err := wire.NewOutbox(mine, limit, timeout, drained)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.Fail(nil)
		o.Wait()
	})
	return o, peer
}

// send appends one frame and flushes.
func send(o *wire.Outbox, head, payload []byte, owned bool) {
	var batch wire.Batch
	o.Append(&batch, head, payload, owned)
	batch.Flush()
}

// fill appends large frames until the socket is full, and returns how many bytes of frames there are.
func fill(t *testing.T, o *wire.Outbox) (sent int) {
	t.Helper()
	for o.Size() == 0 && o.Err() == nil {
		send(o, []byte("h"), make([]byte, 64<<10), true)
		sent += 4 + 1 + 64<<10
	}
	return sent
}

// bodies reads frames until the connection ends.
func bodies(t *testing.T, conn *net.UnixConn) (all [][]byte) {
	t.Helper()
	for {
		var prefix [4]byte
		if _, err := io.ReadFull(conn, prefix[:]); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Error(err)
			return all
		}
		body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
		if _, err := io.ReadFull(conn, body); err != nil {
			t.Error(err)
			return all
		}
		all = append(all, body)
	}
}

func wait(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

func TestOutboxSendsInOrder(t *testing.T) {
	const senders, each = 16, 400
	o, peer := outbox(t, 0, patience, nil)
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			var batch wire.Batch
			payload := bytes.Repeat([]byte{byte(sender)}, 40<<10)
			for n := range each {
				// Of all sizes, copied and not, flushed one by one and together.
				head := binary.BigEndian.AppendUint16([]byte{byte(sender)}, uint16(n))
				o.Append(&batch, head, payload[:n*n%len(payload)], n%2 == 0)
				if n%(sender+1) == 0 {
					batch.Flush()
				}
			}
			batch.Flush()
		})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		group.Wait()
		o.End()
		o.Wait()
	}()
	next := make([]int, senders)
	for _, body := range bodies(t, peer) {
		sender, n := body[0], int(binary.BigEndian.Uint16(body[1:]))
		if n != next[sender] {
			t.Fatalf("frame %d of sender %d came where %d was due", n, sender, next[sender])
		}
		if want := bytes.Repeat([]byte{sender}, n*n%(40<<10)); !bytes.Equal(body[3:], want) {
			t.Fatalf("frame %d of sender %d has another payload", n, sender)
		}
		next[sender]++
	}
	for sender, n := range next {
		if n != each {
			t.Errorf("of sender %d %d frames came, want %d", sender, n, each)
		}
	}
	wait(t, "Wait", ended)
	if o.Size() != 0 || !errors.Is(o.Err(), net.ErrClosed) {
		t.Errorf("after End: size %d, %v", o.Size(), o.Err())
	}
}

func TestOutboxGoesOnAfterFullSocket(t *testing.T) {
	const timeout = 30 * time.Millisecond
	drained := make(chan struct{}, 1)
	o, peer := outbox(t, 0, timeout, func() { drained <- struct{}{} })
	sent := fill(t, o)
	if o.Below(1) {
		t.Error("nothing waits, it says, and the socket is full")
	}
	if _, err := io.ReadFull(peer, make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	wait(t, "drained", drained)
	if o.Size() != 0 {
		t.Errorf("%d bytes wait in a drained outbox", o.Size())
	}
	// The deadline of the write that had to wait is no concern of a later one.
	<-time.After(2 * timeout)
	send(o, []byte("later"), nil, false)
	got := make([]byte, 9)
	if _, err := io.ReadFull(peer, got); err != nil || string(got[4:]) != "later" {
		t.Fatalf("got %q, %v; the outbox says %v", got, err, o.Err())
	}
}

// Whoever empties the outbox tells of it, also where the socket took all at once: a stream that waits for that would wait for ever.
func TestOutboxTellsWhenItWasDrained(t *testing.T) {
	told := make(chan struct{}, 8)
	var o *wire.Outbox
	o, _ = outbox(t, 0, patience, func() {
		if !o.Below(1) {
			t.Error("told that it is drained, while something waits")
		}
		told <- struct{}{}
	})
	var batch wire.Batch
	o.Append(&batch, []byte("frame"), nil, false)
	if !o.Below(10) || o.Below(9) {
		t.Error("9 bytes wait")
	}
	batch.Flush()
	wait(t, "told", told)
	send(o, []byte("frame"), nil, false) // nobody asked again
	if len(told) != 0 {
		t.Error("told once more")
	}
}

// Small frames between large ones share a buffer: what waits takes about as much memory as it says.
func TestOutboxTakesLittleMoreThanItHolds(t *testing.T) {
	const frames, size = 500, 40 << 10
	o, _ := outbox(t, 0, patience, nil)
	fill(t, o)
	payload := make([]byte, size)
	var batch wire.Batch
	before := heap()
	for range frames {
		o.Append(&batch, make([]byte, 30), payload, true) // one payload for all: the rest is overhead
	}
	if grown := int64(heap()) - int64(before); grown > 2<<20 {
		t.Errorf("%d frames took %d KiB beside their payloads", frames, grown>>10)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestOutboxLimit(t *testing.T) {
	o, peer := outbox(t, 1<<20, 0, func() { t.Error("drained, after it failed") })
	var batch wire.Batch
	frame := make([]byte, 60<<10)
	appended := 0
	for o.Err() == nil && appended < 100 {
		o.Append(&batch, frame, nil, false) // the socket takes some of them
		batch.Flush()
		appended++
	}
	if !errors.Is(o.Err(), wire.ErrSlowReader) || appended < 17 {
		t.Fatalf("after %d frames of 60 KiB: %v", appended, o.Err())
	}
	if o.Size() != 0 {
		t.Errorf("a failed outbox holds %d bytes", o.Size())
	}
	o.Wait()
	if n, err := io.Copy(io.Discard, peer); err != nil || n >= int64(appended*len(frame)) {
		t.Errorf("the peer read %d bytes of %d frames, %v", n, appended, err)
	}
}

func TestOutboxTakesOneFrameOverLimit(t *testing.T) {
	o, peer := outbox(t, 1000, patience, nil)
	send(o, make([]byte, 5000), nil, false)
	if n, err := io.ReadFull(peer, make([]byte, 5004)); err != nil {
		t.Fatalf("%d bytes came, %v; the outbox says %v", n, err, o.Err())
	}
}

func TestOutboxTimeLimit(t *testing.T) {
	const timeout = 50 * time.Millisecond
	o, peer := outbox(t, 0, timeout, nil)
	began := time.Now()
	fill(t, o)
	o.Wait()
	if took := time.Since(began); !errors.Is(o.Err(), wire.ErrSlowReader) || took < timeout {
		t.Errorf("after %v: %v", took, o.Err())
	}
	if _, err := io.Copy(io.Discard, peer); err != nil {
		t.Errorf("the peer's end: %v", err)
	}
}

// A peer that reads something within each time limit is not given up, though the socket never becomes half empty.
func TestOutboxBearsWithSlowReader(t *testing.T) {
	t.Parallel()
	const timeout, ticks, portion = 1200 * time.Millisecond, 6, 32 << 10
	o, peer := outbox(t, 0, timeout, nil)
	sent := fill(t, o)
	send(o, nil, make([]byte, ticks*portion), true)
	sent += 4 + ticks*portion
	tick := time.NewTicker(timeout / 4)
	defer tick.Stop()
	buf := make([]byte, portion)
	for range ticks {
		<-tick.C
		n, err := io.ReadFull(peer, buf)
		if sent -= n; err != nil {
			t.Fatalf("%v; the outbox says %v", err, o.Err())
		}
	}
	if _, err := io.ReadFull(peer, make([]byte, sent)); err != nil || o.Err() != nil {
		t.Fatalf("%v; the outbox says %v", err, o.Err())
	}
}

func TestOutboxEndSendsEverything(t *testing.T) {
	for name, peerWaits := range map[string]bool{"beside a reader": false, "into a full socket": true} {
		t.Run(name, func(t *testing.T) {
			o, peer := outbox(t, 0, patience, nil)
			var batch wire.Batch
			begin := make(chan struct{})
			got := make(chan [][]byte)
			go func() {
				<-begin
				got <- bodies(t, peer)
			}()
			if !peerWaits {
				close(begin)
			}
			for n := range 100 {
				o.Append(&batch, []byte{byte(n)}, make([]byte, 50<<10), n%2 == 0)
			}
			o.End()
			o.Append(&batch, []byte("too late"), nil, false)
			batch.Flush()
			if peerWaits {
				if o.Err() != nil {
					t.Errorf("an outbox that has yet to write says %v", o.Err())
				}
				close(begin)
			}
			all := <-got
			if len(all) != 100 {
				t.Fatalf("%d frames came, want 100", len(all))
			}
			for n, body := range all {
				if body[0] != byte(n) || len(body) != 1+50<<10 {
					t.Errorf("frame %d is number %d of %d bytes", n, body[0], len(body))
				}
			}
			o.Wait()
			if !errors.Is(o.Err(), net.ErrClosed) || o.Size() != 0 {
				t.Errorf("after End: size %d, %v", o.Size(), o.Err())
			}
		})
	}
}

// Wait after End is what a server does before it forgets a connection: it must cover a flush by somebody else.
func TestOutboxWaitAfterEnd(t *testing.T) {
	for range 200 {
		o, peer := outbox(t, 0, patience, nil)
		count := make(chan int)
		go func() { count <- len(bodies(t, peer)) }()
		var batch wire.Batch
		o.Append(&batch, nil, make([]byte, 300<<10), true)
		flushed := make(chan struct{})
		go func() {
			defer close(flushed)
			batch.Flush()
		}()
		o.End()
		o.Wait()
		if !errors.Is(o.Err(), net.ErrClosed) || o.Size() != 0 {
			t.Fatalf("after End and Wait %d bytes wait, %v", o.Size(), o.Err())
		}
		if n := <-count; n != 1 {
			t.Fatalf("%d frames came", n)
		}
		<-flushed
	}
}

func TestOutboxFail(t *testing.T) {
	reason := errors.New("the reason")
	o, peer := outbox(t, 0, 0, func() { t.Error("drained, after it failed") })
	fill(t, o)
	o.Fail(reason)
	o.Fail(errors.New("another"))
	o.Wait()
	send(o, []byte("too late"), nil, false)
	if o.Err() != reason || o.Size() != 0 { //nolint:errorlint // that very error
		t.Errorf("size %d, %v", o.Size(), o.Err())
	}
	if _, err := io.Copy(io.Discard, peer); err != nil {
		t.Errorf("the peer's end: %v", err)
	}
	o.End()
	if o.Err() != reason { //nolint:errorlint // that very error
		t.Errorf("after End: %v", o.Err())
	}
}

func TestOutboxPeerGone(t *testing.T) {
	for name, full := range map[string]bool{"at a flush": false, "in a write that waits": true} {
		t.Run(name, func(t *testing.T) {
			o, peer := outbox(t, 0, patience, nil)
			if full {
				fill(t, o)
			}
			if err := peer.Close(); err != nil {
				t.Fatal(err)
			}
			send(o, []byte("x"), nil, false)
			o.Wait()
			if got := wire.FromError(o.Err()); got == nil || got.Code != wire.CodeConnectionLost {
				t.Errorf("%v", o.Err())
			}
		})
	}
}

// What a peer had sent before it went is read in spite of a write to it that failed; and one that only takes nothing any more is given up.
func TestOutboxReadsOn(t *testing.T) {
	for _, whole := range []bool{true, false} {
		mine, peer := wiretest.Pair(t)
		o, err := wire.NewOutbox(mine, 0, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.ReadOn()
		if _, err := peer.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if whole {
			err = peer.Close()
		} else {
			err = peer.CloseRead()
		}
		if err != nil {
			t.Fatal(err)
		}
		for o.Err() == nil {
			send(o, []byte("h"), nil, true)
		}
		got, err := io.ReadAll(mine)
		if string(got) != "last words" || whole && err != nil && !errors.Is(err, syscall.ECONNRESET) || !whole && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %q, %v", got, err)
		}
		o.Fail(nil)
		o.Wait()
	}
}

func TestBatch(t *testing.T) {
	a, peerA := outbox(t, 0, patience, nil)
	b, peerB := outbox(t, 0, patience, nil)
	var batch wire.Batch
	batch.Flush() // of nothing
	for n := range 3 {
		a.Append(&batch, []byte{byte(n)}, nil, false)
		b.Append(&batch, []byte{byte(n)}, nil, false)
	}
	if a.Size() != 15 || b.Size() != 15 {
		t.Errorf("%d and %d bytes wait, want 15 each", a.Size(), b.Size())
	}
	batch.Flush()
	for _, peer := range []*net.UnixConn{peerA, peerB} {
		// One write each: all is there at once.
		buf := make([]byte, 100)
		if n, err := peer.Read(buf); err != nil || n != 15 {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
	a.Append(&batch, []byte("x"), nil, false)
	batch.Flush()
	if a.Size() != 0 || b.Size() != 0 {
		t.Errorf("%d and %d bytes wait behind a flush", a.Size(), b.Size())
	}
}

func TestBatchFlushIfDue(t *testing.T) {
	o, _ := outbox(t, 0, patience, nil)
	var batch wire.Batch
	batch.FlushIfDue() // of nothing
	began := time.Now()
	o.Append(&batch, []byte("x"), nil, false)
	for batch.FlushIfDue(); o.Size() > 0; batch.FlushIfDue() {
		if time.Since(began) > patience {
			t.Fatal("it is never due")
		}
	}
	if took := time.Since(began); took < 200*time.Microsecond {
		t.Errorf("due after %v", took)
	}
	// The next frame waits anew.
	o.Append(&batch, []byte("y"), nil, false)
	began = time.Now()
	if batch.FlushIfDue(); o.Size() == 0 && time.Since(began) < 200*time.Microsecond {
		t.Error("the second frame was due at once")
	}
}
