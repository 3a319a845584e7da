package launch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	keptLines = 40   // of what a process printed last: more than the traceback of a failed import has
	lineLimit = 4096 // bytes of a line; the rest is cut
	// outputWait is how long output is read on after its process ended, for what is still in the pipe.
	outputWait = 200 * time.Millisecond
)

// Output turns what a process prints into log lines, and keeps the last ones.
type Output struct {
	log     *slog.Logger
	readers sync.WaitGroup

	mu        sync.Mutex // guards what follows
	lines     []string
	ends      []*os.File
	listeners []chan<- string // want standard error, too
}

// NewOutput logs to log, which says whose output it is.
func NewOutput(log *slog.Logger) *Output { return &Output{log: log} }

// pipes makes the two ends that the process writes to; the caller closes them when the process has them.
func (o *Output) pipes() (stdout, stderr *os.File, err error) {
	stdout, err = o.pipe("stdout")
	if err != nil {
		return nil, nil, err
	}
	stderr, err = o.pipe("stderr")
	if err != nil {
		closeFiles(stdout)
		return nil, nil, err
	}
	return stdout, stderr, nil
}

// pipe is no os.Pipe, which makes the writer's end non-blocking, too: a process that prints faster than it is read would
// lose what it prints.
func (o *Output) pipe(stream string) (*os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("making a pipe for a process's output: %w", err)
	}
	err := unix.SetNonblock(fds[0], true)
	r, w := os.NewFile(uintptr(fds[0]), stream), os.NewFile(uintptr(fds[1]), stream)
	if err != nil {
		closeFiles(r, w)
		return nil, fmt.Errorf("making a pipe for a process's output: %w", err)
	}
	o.mu.Lock()
	o.ends = append(o.ends, r)
	o.mu.Unlock()
	o.readers.Go(func() { o.read(r, stream) })
	return w, nil
}

func (o *Output) read(r *os.File, stream string) {
	defer r.Close()
	buf := bufio.NewReaderSize(r, lineLimit)
	for {
		part, more, err := buf.ReadLine()
		line, cut := string(part), 0
		for more && err == nil {
			part, more, err = buf.ReadLine()
			cut += len(part)
		}
		if cut > 0 {
			line += fmt.Sprintf(" … (%d bytes more)", cut)
		}
		if line != "" {
			o.add(line, stream)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				o.log.Warn("output not read", "stream", stream, "error", err.Error())
			}
			return
		}
	}
}

func (o *Output) add(line, stream string) {
	call, line := ofCall(line)
	line = printable(line)
	o.mu.Lock()
	if len(o.lines) == keptLines {
		o.lines = o.lines[1:]
	}
	o.lines = append(o.lines, line)
	if stream == "stderr" {
		for _, listener := range o.listeners {
			select {
			case listener <- line:
			default:
			}
		}
	}
	o.mu.Unlock()
	o.log.Info("output", append(call, "stream", stream, "line", line)...)
}

// ofCall takes the mark off a line that a worker's call printed, and returns what it says (python's output.py).
func ofCall(line string) (call []any, text string) {
	parts := strings.SplitN(line, "\x1f", 4)
	if len(parts) != 4 || parts[0] != "" {
		return nil, line
	}
	if session := parts[1]; session != "" {
		call = append(call, "session_id", printable(session))
	}
	if id, err := strconv.ParseUint(parts[2], 10, 64); err == nil {
		call = append(call, "worker_request", id)
	}
	return call, parts[3]
}

// printable escapes control characters, so that no process writes to the terminal that shows the log.
func printable(line string) string {
	if strings.IndexFunc(line, func(r rune) bool { return !strconv.IsPrint(r) && r != '\t' }) < 0 {
		return line
	}
	q := strconv.Quote(line)
	return q[1 : len(q)-1]
}

// Last are the lines printed last.
func (o *Output) Last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.lines...)
}

// Close gives up on output whose process has gone and whose pipes somebody may still hold.
func (o *Output) Close() {
	o.mu.Lock()
	ends := o.ends
	o.ends = nil
	o.mu.Unlock()
	closeFiles(ends...)
	o.readers.Wait()
}

// Finish reads what an ended process has left in its pipes.
func (o *Output) Finish() {
	read := make(chan struct{})
	go func() { // ends with the pipes
		o.readers.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(outputWait):
		o.Close() // something that the process left behind holds them
		<-read
	}
}
