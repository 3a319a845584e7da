package app

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/config"
)

// Whatever a client or a worker says, a line of the log is one line, and no terminal acts on it.
func TestLogEscapesControlCharacters(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		var b strings.Builder
		cfg := &config.Config{Log: config.Log{Format: format}}
		newLog(cfg, slog.LevelInfo, &b).Info("client lost", "reason", "\x1b[2J\r\nforged\x07\u2028\u009b\U000e0001\x7f")
		line := strings.TrimSuffix(b.String(), "\n")
		if strings.ContainsAny(line, "\x1b\r\n\x07\u2028\u009b\U000e0001\x7f") || !strings.Contains(line, "forged") {
			t.Errorf("%s: %q", format, line)
		}
		if format == "json" && !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %q", line)
		}
	}
}
