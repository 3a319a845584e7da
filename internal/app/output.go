package app

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
)

const (
	keptLines = 20   // of what a process printed last
	lineLimit = 4096 // bytes of a line; the rest is cut
)

// output turns what a process prints into log lines, and keeps the last ones.
type output struct {
	log     *slog.Logger
	readers sync.WaitGroup

	mu    sync.Mutex // guards what follows
	lines []string
	ends  []*os.File
}

// newOutput logs to log, which says whose output it is.
func newOutput(log *slog.Logger) *output { return &output{log: log} }

// pipes makes the two ends that the process writes to; the caller closes them when the process has them.
func (o *output) pipes() (stdout, stderr *os.File, err error) {
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

func (o *output) pipe(stream string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.ends = append(o.ends, r)
	o.mu.Unlock()
	o.readers.Go(func() { o.read(r, stream) })
	return w, nil
}

func (o *output) read(r *os.File, stream string) {
	defer r.Close()
	buf := bufio.NewReaderSize(r, lineLimit)
	for {
		line, prefix, err := buf.ReadLine()
		if len(line) > 0 {
			o.add(string(line), stream)
		}
		for prefix && err == nil { // cut what is too long
			_, prefix, err = buf.ReadLine()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				o.log.Warn("output not read", "stream", stream, "error", err.Error())
			}
			return
		}
	}
}

func (o *output) add(line, stream string) {
	line = printable(line)
	o.mu.Lock()
	if len(o.lines) == keptLines {
		o.lines = o.lines[1:]
	}
	o.lines = append(o.lines, line)
	o.mu.Unlock()
	o.log.Info("output", "stream", stream, "line", line)
}

// printable escapes control characters, so that no process writes to the terminal that shows the log.
func printable(line string) string {
	if strings.IndexFunc(line, func(r rune) bool { return !strconv.IsPrint(r) && r != '\t' }) < 0 {
		return line
	}
	q := strconv.Quote(line)
	return q[1 : len(q)-1]
}

// last are the lines printed last.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.lines...)
}

// close gives up on output whose process has gone and whose pipes somebody may still hold.
func (o *output) close() {
	o.mu.Lock()
	ends := o.ends
	o.ends = nil
	o.mu.Unlock()
	closeFiles(ends...)
	o.readers.Wait()
}
