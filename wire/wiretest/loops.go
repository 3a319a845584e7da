package wiretest

import (
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
)

// Loops are two that end after the test: whatever a connection does has to be right in either of them.
func Loops(tb testing.TB) *wire.Loops {
	tb.Helper()
	loops, err := wire.NewLoops(2)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(loops.Close)
	return loops
}
