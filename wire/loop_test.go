package wire_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

// served is a connection that loops read.
type served struct {
	peer   *net.UnixConn
	outbox *wire.Outbox
	bodies [][]byte   // once ended
	ended  chan error // what Serve returned
}

// serve has a connection read by loops. Bodies that begin with 'a' are handled outside them.
func serve(t *testing.T, loops *wire.Loops) *served {
	t.Helper()
	mine, peer := wiretest.Pair(t)
	r, err := wire.NewReader(mine, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Release)
	s := &served{peer: peer, ended: make(chan error, 1)}
	if s.outbox, err = wire.NewOutbox(mine, 0, 0, nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.ended <- loops.Serve(r, s.outbox, func(batch *wire.Batch, body []byte, owned bool, err error, looped bool) error {
			switch {
			case err != nil:
				return err
			case looped && body[0] == 'a':
				return wire.ErrAside
			case looped && owned:
				return errors.New("a large frame came from the loop")
			}
			s.bodies = append(s.bodies, bytes.Clone(body))
			s.outbox.Append(batch, body[:1], nil, false)
			return nil
		})
	}()
	return s
}

// Frames of all lengths, however they come, are handled once, in order, and answered, by the loop or beside it.
func TestLoopsServe(t *testing.T) {
	loops := wiretest.Loops(t)
	random := rand.New(rand.NewPCG(1, 2))
	for _, most := range []int{1, 7, 3000, 70_000, 1 << 20} {
		var bodies [][]byte
		length := []int{1, 2, 500, 500, 500, 31_000, 40_000, 200_000}
		for i := range 40 {
			body := bytes.Repeat([]byte{"xya"[i%3]}, length[random.IntN(len(length))])
			body = body[:min(len(body), 50*most)] // or it takes long
			bodies = append(bodies, body)
		}
		s := serve(t, loops)
		trickle(t, s.peer, framed(bodies...), func() int { return random.IntN(most) + 1 })
		answered := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(s.peer) // what is missing shows below
			answered <- all
		}()
		if err := <-s.ended; !errors.Is(err, io.EOF) {
			t.Fatalf("portions of %d: %v", most, err)
		}
		s.outbox.End()
		s.outbox.Wait()
		var answers [][]byte
		for i, body := range bodies {
			if i >= len(s.bodies) || !bytes.Equal(s.bodies[i], body) {
				t.Fatalf("portions of %d: frame %d of %d is another one", most, i, len(s.bodies))
			}
			answers = append(answers, body[:1])
		}
		if got := <-answered; !bytes.Equal(got, framed(answers...)) {
			t.Errorf("portions of %d: %d bytes were answered", most, len(got))
		}
	}
}

// The kernel tells once of a frame and of the end behind it, where both were there when the loop looked.
func TestLoopsSeeTheEnd(t *testing.T) {
	loops := wiretest.Loops(t)
	var all sync.WaitGroup
	for range 100 {
		s := serve(t, loops)
		all.Go(func() {
			if _, err := s.peer.Write(framed([]byte("x"))); err != nil {
				t.Error(err)
			}
			if err := s.peer.CloseWrite(); err != nil {
				t.Error(err)
			}
			if err := <-s.ended; !errors.Is(err, io.EOF) || len(s.bodies) != 1 {
				t.Errorf("%d frames, then %v", len(s.bodies), err)
			}
		})
	}
	all.Wait()
}

// A connection that this side closes ends, and so does one that takes nothing any more, when what it has sent is read.
func TestLoopsLearnOfThisSidesEnd(t *testing.T) {
	loops := wiretest.Loops(t)
	s := serve(t, loops)
	if _, err := s.peer.Write(framed([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.peer, make([]byte, 5)); err != nil { // the loop has it
		t.Fatal(err)
	}
	s.outbox.Fail(net.ErrClosed)
	if err := <-s.ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	deaf := serve(t, loops)
	deaf.outbox.ReadOn()
	if err := deaf.peer.CloseRead(); err != nil {
		t.Fatal(err)
	}
	if _, err := deaf.peer.Write(framed([]byte("x"), []byte("y"))); err != nil {
		t.Fatal(err)
	}
	if err := <-deaf.ended; !errors.Is(err, wire.ErrFrameTimeout) || len(deaf.bodies) != 2 {
		t.Errorf("one that reads nothing: %d frames, then %v", len(deaf.bodies), err)
	}
}

// A connection outlives the loop that read it.
func TestLoopsClose(t *testing.T) {
	loops, err := wire.NewLoops(1)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, loops)
	for i := range 3 {
		if _, err := s.peer.Write(framed([]byte("x"))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s.peer, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			loops.Close()
		}
	}
	if err := s.peer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-s.ended; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
