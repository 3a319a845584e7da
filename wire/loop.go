package wire

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

// ErrAside is what a Handle says of a frame that it wants to have again outside the loop, since what it asks for may take a while.
var ErrAside = errors.New("to be handled outside the loop")

// Handle takes the next frame of a connection, or why there is none, as Reader.Next gives them. An error ends the reading. Where
// looped, it is a loop that calls: it must not take long, and can say ErrAside before it has done anything.
type Handle func(batch *Batch, body []byte, owned bool, err error, looped bool) error

const (
	// turn is how many connections a loop reads before it writes.
	turn = 64
	// turnsInARow is how many turns a loop takes before it lets other goroutines run.
	turnsInARow = 16
)

// Loops read many connections with a few goroutines, each of which handles all that has come on any of its own, and then writes once to
// each that something is to be sent to. What has to wait, for the rest of a frame, and what may take long, a large frame, is left to
// the goroutine of its connection. docs/adr/0020 says why.
type Loops struct {
	all  []*loop
	last atomic.Uint32 // that was given a connection
}

// NewLoops starts n of them. They end with Close.
func NewLoops(n int) (*Loops, error) {
	ls := new(Loops)
	for range n {
		l, err := newLoop()
		if err != nil {
			ls.Close()
			return nil, err
		}
		ls.all = append(ls.all, l)
	}
	return ls, nil
}

// Close ends the loops. Who is still served reads on in a goroutine of its own.
func (ls *Loops) Close() {
	for _, l := range ls.all {
		l.close()
	}
}

// Serve hands the frames of a connection to handle until that says that it is over, and returns what it said. Where ls is nil, the
// calling goroutine reads them all.
func (ls *Loops) Serve(r *Reader, o *Outbox, handle Handle) error {
	var batch Batch
	defer batch.Flush()
	var w *watch
	if ls != nil {
		w = &watch{loop: ls.all[int(ls.last.Add(1))%len(ls.all)], reader: r, handle: handle, back: make(chan error, 1)}
	}
	for {
		if !r.Ready() {
			batch.Flush()
			if w != nil && r.idle() {
				if err := w.wait(o); err != nil {
					return err
				}
			}
		}
		body, owned, err := r.Next()
		if err := handle(&batch, body, owned, err, false); err != nil {
			return err
		}
		batch.FlushIfDue()
	}
}

type loop struct {
	epoll  *os.File
	raw    syscall.RawConn
	done   chan struct{}
	batch  Batch // its goroutine's, as the next two
	events [turn]syscall.EpollEvent
	turns  int

	mu      sync.Mutex // guards what follows, and of watches what they say
	watched map[int32]*watch
	last    int32
	closed  bool
}

// watch is one connection that a loop reads at times.
type watch struct {
	loop   *loop
	reader *Reader // of whoever reads: the loop while number is not 0
	handle Handle
	back   chan error // the loop gives it back; nil: its goroutine is to go on reading

	// Guarded by loop.mu.
	number  int32
	reading bool // the loop does
	ended   bool // it was closed from this side, which the kernel does not tell of
}

func newLoop() (*loop, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err == nil {
		err = syscall.SetNonblock(fd, true) // so that the runtime's poller waits for it, as for a socket
	}
	if err != nil {
		return nil, fmt.Errorf("making an epoll: %w", err)
	}
	l := &loop{epoll: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), watched: make(map[int32]*watch)}
	if l.raw, err = l.epoll.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("waiting for an epoll: %w", err), l.epoll.Close())
	}
	go l.run() // close ends it, and waits for it
	return l, nil
}

func (l *loop) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.epoll.Close() // its goroutine learns of it
	<-l.done
	l.mu.Lock()
	for _, w := range l.watched {
		w.giveBackLocked(nil)
	}
	l.mu.Unlock()
}

// wait lets the loop read until that gives the connection back.
func (w *watch) wait(o *Outbox) error {
	w.reader.Release()
	if !o.onEnd(w.end) {
		return nil
	}
	defer o.onEnd(nil)
	go w.begin() // here it would double the stack of an idle connection, of which there may be ten thousand; it ends at once
	return <-w.back
}

// begin gives the connection to the loop, or back where that cannot be.
func (w *watch) begin() {
	if !w.loop.add(w) {
		w.back <- nil
	}
}

func (l *loop) add(w *watch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || w.ended {
		return false
	}
	for l.last++; l.last <= 0 || l.watched[l.last] != nil; l.last++ {
		l.last = max(l.last, 0)
	}
	if w.control(syscall.EPOLL_CTL_ADD, &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: l.last}) != nil {
		return false // closed, or the kernel has no room
	}
	w.number = l.last
	l.watched[w.number] = w
	return true
}

// control changes what the kernel tells of the connection.
func (w *watch) control(op int, event *syscall.EpollEvent) error {
	var err error
	inner := w.loop.raw.Control(func(epoll uintptr) {
		outer := w.reader.raw.Control(func(fd uintptr) { err = syscall.EpollCtl(int(epoll), op, int(fd), event) })
		err = errors.Join(err, outer)
	})
	return errors.Join(err, inner)
}

// giveBackLocked lets the connection's goroutine have it.
func (w *watch) giveBackLocked(err error) {
	_ = w.control(syscall.EPOLL_CTL_DEL, nil) // one that is closed is not there any more
	delete(w.loop.watched, w.number)
	w.number = 0
	w.back <- err
}

// end gives a connection back that was closed from this side, or is not to be read for much longer.
func (w *watch) end() {
	w.loop.mu.Lock()
	defer w.loop.mu.Unlock()
	w.ended = true
	if w.number != 0 && !w.reading {
		w.giveBackLocked(nil)
	}
}

func (l *loop) run() {
	defer close(l.done)
	_ = l.raw.Read(l.takeTurns) // until it is closed
	l.batch.Flush()
}

// takeTurns reads what is there. false, which it always says, means that it waits for more. It does not look once more before it waits: the
// runtime's poller tells of what has come since it looked, and what was there then has been read.
func (l *loop) takeTurns(epoll uintptr) bool {
	for n := turn; n == turn; {
		var err error
		if n, err = epollNow(epoll, l.events[:]); err != nil { // EINTR, or it is closed: not so that a wait of no time could say it
			return false
		}
		for i := range l.events[:n] {
			l.read(l.events[i].Fd, l.events[i].Events&^syscall.EPOLLIN != 0)
		}
		l.batch.Flush()
		if l.turns++; l.turns%turnsInARow == 0 {
			runtime.Gosched()
		}
	}
	return false
}

// read reads from one connection: once, or to its end where the other side has closed it, of which the kernel tells once.
func (l *loop) read(number int32, toEnd bool) {
	l.mu.Lock()
	w := l.watched[number]
	if w == nil { // given back since the kernel told of it
		l.mu.Unlock()
		return
	}
	w.reading = true
	l.mu.Unlock()
	over, err := w.read(&l.batch, toEnd)
	l.mu.Lock()
	w.reading = false
	if over || w.ended {
		w.giveBackLocked(err)
	}
	l.mu.Unlock()
}

// read handles what can be read at once, and says whether what follows is not for the loop.
func (w *watch) read(batch *Batch, toEnd bool) (over bool, err error) {
	r := w.reader
	r.begin(toEnd)
	defer r.rest()
	for {
		body, owned, err := r.Next()
		if errors.Is(err, errLater) {
			return !r.idle(), nil
		}
		err = w.handle(batch, body, owned, err, true)
		switch {
		case errors.Is(err, ErrAside):
			r.again(len(body))
			return true, nil
		case err != nil:
			return true, err
		}
		batch.FlushIfDue()
	}
}
