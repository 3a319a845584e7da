package app

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dspex/dspex-sidecar/internal/config"
)

// logs are the log: for the sidecar itself, which never waits for it, and for what its processes print, which does.
type logs struct {
	own, output *slog.Logger
	queue       *logQueue
}

func newLogs(cfg *config.Config, level slog.Leveler, w io.Writer) *logs {
	l := &logs{}
	l.queue = newLogQueue(w, func(lost int) {
		l.own.Error("log lines were left out: what reads the log is too slow", "lines", lost)
	})
	l.own, l.output = newLog(cfg, level, l.queue), newLog(cfg, level, patient{l.queue})
	return l
}

// close writes what is still to be written.
func (l *logs) close() { l.queue.close(lastWait) }

func newLog(cfg *config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(harmless{w}, options))
}

// harmless writes lines of JSON so that no terminal acts on what is in their strings: slog escapes the control characters of ASCII alone.
type harmless struct{ to io.Writer }

func (h harmless) Write(line []byte) (int, error) {
	for i := 0; i < len(line); {
		r, size := utf8.DecodeRune(line[i:])
		if r != '\n' && !strconv.IsPrint(r) {
			_, err := h.to.Write(escaped(line))
			return len(line), err
		}
		i += size
	}
	return h.to.Write(line)
}

func escaped(line []byte) []byte {
	out := make([]byte, 0, len(line)+16)
	for _, r := range string(line) {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
