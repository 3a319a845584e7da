package app

import (
	"io"
	"log/slog"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/jsontext"
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

// harmless writes lines of JSON so that no terminal acts on what is in their strings.
type harmless struct{ to io.Writer }

func (h harmless) Write(line []byte) (int, error) {
	_, err := h.to.Write(jsontext.Harmless(line))
	return len(line), err
}
