package packet

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type note struct {
	ID   int    `msgpack:"id"`
	Text string `msgpack:"text"`
}

func pair(t *testing.T, sendTimeout time.Duration) (a, b *Socket) {
	t.Helper()
	a, theirs, err := Pair(sendTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // a test may have closed it
	if b, err = Take(theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // likewise
	return a, b
}

func send(t *testing.T, s *Socket, n note, files ...int) {
	t.Helper()
	if err := s.Send(&n, files...); err != nil {
		t.Fatal(err)
	}
}

// files makes pipes of which one byte each can be read, and returns the ends to pass on.
func files(t *testing.T, count int) []int {
	t.Helper()
	var ends []int
	for i := range count {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() }) // read only
		ends = append(ends, int(r.Fd()))
	}
	return ends
}

func open(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestDescriptorsPass(t *testing.T) {
	a, b := pair(t, 0)
	before := open(t)
	send(t, a, note{1, "with two"}, files(t, 2)...)
	send(t, a, note{2, "with none"})
	var got note
	passed, err := b.Receive(&got)
	if err != nil || got != (note{1, "with two"}) || len(passed) != 2 {
		t.Fatalf("%+v, %v, %v", got, passed, err)
	}
	for i, fd := range passed {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is inherited by children (%v)", fd, err)
		}
		var content [2]byte
		if n, err := unix.Read(fd, content[:]); n != 1 || content[0] != byte('a'+i) {
			t.Errorf("descriptor %d has %q (%v)", i, content[:n], err)
		}
	}
	CloseFiles(passed)
	got = note{}
	if passed, err = b.Receive(&got); err != nil || got != (note{2, "with none"}) || len(passed) != 0 {
		t.Errorf("%+v, %v, %v", got, passed, err)
	}
	if after := open(t); after != before+2 {
		t.Errorf("%d descriptors, %d before and the two of the test", after, before)
	}
}

func TestWhatIsTooMuchIsNotSent(t *testing.T) {
	a, b := pair(t, 0)
	if err := a.Send(&note{1, strings.Repeat("x", maxPacket)}); err == nil || !strings.Contains(err.Error(), "shorten") {
		t.Errorf("a packet that is too long: %v", err)
	}
	if err := a.Send(&note{2, ""}, make([]int, maxFiles+1)...); err == nil || !strings.Contains(err.Error(), "at most 253") {
		t.Errorf("too many descriptors: %v", err)
	}
	longest := note{3, strings.Repeat("x", maxPacket-20)}
	send(t, a, longest)
	var got note
	if _, err := b.Receive(&got); err != nil || got != longest {
		t.Errorf("the longest packet: %d bytes, %v", len(got.Text), err)
	}
}

// A packet that cannot be used leaks none of its descriptors, and the next ones can be.
func TestUnusablePackets(t *testing.T) {
	for name, body := range map[string][]byte{
		"too long":       bytes.Repeat([]byte{0xc0}, maxPacket+1),
		"no MessagePack": {0xc1},
		"another type":   {0x2a},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, 0)
			ends := files(t, 2)
			before := open(t)
			if _, _, err := a.conn.WriteMsgUnix(body, unix.UnixRights(ends...), nil); err != nil {
				t.Fatal(err)
			}
			send(t, a, note{1, "the next"})
			var unusable *PacketError
			if passed, err := b.Receive(&note{}); !errors.As(err, &unusable) || passed != nil {
				t.Errorf("%v, %v", passed, err)
			}
			if after := open(t); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
			var got note
			if _, err := b.Receive(&got); err != nil || got != (note{1, "the next"}) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestEndOfFile(t *testing.T) {
	for name, end := range map[string]func(a, b *Socket) error{
		"closed":              func(a, _ *Socket) error { return a.Close() },
		"closed for writing":  func(a, _ *Socket) error { return a.CloseWrite() },
		"closed for reading":  func(_, b *Socket) error { return b.CloseRead() },
		"closed, not read it": func(a, b *Socket) error { return errors.Join(b.Send(&note{1, "unread"}), a.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, 0)
			if name != "closed, not read it" { // the kernel drops what waits, then
				send(t, a, note{1, "before"})
			}
			if err := end(a, b); err != nil {
				t.Fatal(err)
			}
			var got note
			if name != "closed, not read it" {
				if _, err := b.Receive(&got); err != nil || got.Text != "before" {
					t.Errorf("what was sent before: %+v, %v", got, err)
				}
			}
			if _, err := b.Receive(&got); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// The one who cannot take descriptors any more is told so, and still has the packet, which says whose they were.
func TestLostDescriptors(t *testing.T) {
	a, b := pair(t, 0)
	send(t, a, note{7, "with two"}, files(t, 2)...)
	before := open(t)
	func() {
		defer limitFiles(t, 1)()
		var got note
		passed, err := b.Receive(&got)
		if !errors.Is(err, errLostFiles) || passed != nil || got != (note{7, "with two"}) {
			t.Errorf("%+v, %v, %v", got, passed, err)
		}
	}()
	if after := open(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// limitFiles leaves room for so many descriptors more, until the returned function is called.
func limitFiles(t *testing.T, room int) func() {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var free []int
	for range room + 1 { // the lowest numbers that are free: what is open above them does not count
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		free = append(free, fd)
	}
	CloseFiles(free)
	low := limit
	low.Cur = uint64(free[room])
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
}

func TestSendGivesUpOnWhoReadsNothing(t *testing.T) {
	a, _ := pair(t, 50*time.Millisecond)
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		err = a.Send(&note{i, strings.Repeat("x", maxPacket/2)})
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a full queue: %v", err)
	}
}

func TestTakeWantsAPacketSocket(t *testing.T) {
	before := open(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if _, err := Take(os.NewFile(uintptr(fd), "stream")); err == nil || !strings.Contains(err.Error(), "not a packet socket") {
			t.Errorf("got %v", err)
		}
	}
	if after := open(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
