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
