package app

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a log that takes nothing until it is opened.
type gate struct {
	open chan struct{}
	bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(p)
}

// A log that nobody reads holds nobody up; what found no room is counted, and what may wait does.
func TestLogThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		var q *logQueue
		q = newLogQueue(g, func(lost int) { _, _ = fmt.Fprintf(q, "lost %d\n", lost) })
		_, _ = io.WriteString(q, "first\n")
		synctest.Wait() // it is being written
		line := strings.Repeat("x", mostWaiting/4-1) + "\n"
		for range 6 {
			_, _ = io.WriteString(q, line)
		}
		waited := make(chan struct{})
		go func() {
			_, _ = io.WriteString(patient{q}, "printed\n")
			close(waited)
		}()
		synctest.Wait()
		select {
		case <-waited:
			t.Error("there was no room")
		default:
		}
		close(g.open)
		<-waited
		q.close(time.Second)
		want := "first\n" + strings.Repeat(line, 4) + "lost 2\nprinted\n"
		if got := g.String(); len(got) != len(want) || !strings.Contains(got, "lost 2\n") || !strings.Contains(got, "printed\n") {
			t.Errorf("%d bytes, not %d: %s", len(got), len(want), strings.ReplaceAll(got, line, "line\n"))
		}
	})
}

// The end does not wait for a log that nobody reads, either.
func TestLogThatNobodyReadsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		q := newLogQueue(g, func(int) {})
		_, _ = io.WriteString(q, "never\n")
		began := time.Now()
		q.close(time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v", took)
		}
		close(g.open)
	})
}
