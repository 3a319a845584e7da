package app

import (
	"io"
	"sync"
	"time"
)

// mostWaiting is how many bytes of log lines wait to be written at most.
const mostWaiting = 1 << 20

// logQueue takes log lines and writes them in a goroutine of its own: who logs, with a lock held perhaps, never waits for whoever reads the log. Lines that find no
// room are left out and counted.
type logQueue struct {
	to    io.Writer
	tell  func(lost int) // logs how many lines were left out
	ended chan struct{}  // closed when nothing is written any more

	mu     sync.Mutex // guards what follows
	change *sync.Cond // of what follows
	lines  []byte
	lost   int
	closed bool // it is to end when all is written
	over   bool // nothing is written any more
}

func newLogQueue(to io.Writer, tell func(lost int)) *logQueue {
	q := &logQueue{to: to, tell: tell, ended: make(chan struct{})}
	q.change = sync.NewCond(&q.mu)
	go q.run() // until close
	return q
}

// Write adds a line.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(line)
	return len(line), nil
}

func (q *logQueue) addLocked(line []byte) {
	if q.over || len(q.lines)+len(line) > mostWaiting {
		q.lost++
		return
	}
	q.lines = append(q.lines, line...)
	q.change.Broadcast()
}

// patient writes into the queue for those who may wait until there is room: what a worker prints slows the worker down, and is not left out.
type patient struct{ *logQueue }

// Write adds a line.
func (p patient) Write(line []byte) (int, error) {
	q := p.logQueue
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && len(q.lines)+len(line) > mostWaiting {
		q.change.Wait()
	}
	q.addLocked(line)
	return len(line), nil
}

func (q *logQueue) run() {
	defer close(q.ended)
	var spare []byte
	for {
		q.mu.Lock()
		for len(q.lines) == 0 && !q.closed {
			q.change.Wait()
		}
		lines, lost := q.lines, q.lost
		q.lines, q.lost = spare[:0], 0
		q.over = q.closed && len(lines) == 0 && lost == 0
		q.change.Broadcast()
		q.mu.Unlock()
		if q.over {
			return
		}
		_, _ = q.to.Write(lines) // a log that cannot be written has nobody to be told
		if lost > 0 {
			q.tell(lost)
		}
		spare = lines
	}
}

// close writes what waits, within the limit: a log that nobody reads may take no line any more.
func (q *logQueue) close(limit time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.change.Broadcast()
	q.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-q.ended:
	case <-timer.C:
	}
}
