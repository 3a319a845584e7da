package cli

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestImportThatTakesTooLongLeavesNothing(t *testing.T) {
	raw, err := wire.Marshal(map[string]any{"format": 1})
	if err != nil {
		t.Fatal(err)
	}
	page := append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...)
	file := filepath.Join(t.TempDir(), "two pages")
	if err := os.WriteFile(file, append(append([]byte(exportMagic), page...), append(page, 0, 0, 0, 0)...), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan any, 1)
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		params, _ := m.Payload.(map[string]any)
		switch {
		case m.Method == "session.end":
			ended <- params["session"]
			p.Send(1, m.ID, nil, nil, map[string]any{})
		case m.Method == "session.import" && params["append"] == nil:
			p.Send(1, m.ID, nil, nil, map[string]any{"session": "s"})
		}
	})
	run(t, s, "sessions", "import", file, "--timeout", "100ms").expect(t, exitTimeout, "deadline_exceeded")
	select {
	case id := <-ended:
		if id != "s" {
			t.Errorf("%v was ended", id)
		}
	default:
		t.Error("half a session was left behind")
	}
}
