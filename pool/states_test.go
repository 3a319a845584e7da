package pool

import (
	"slices"
	"testing"
)

// Of the changes of a worker's state those in the table go through, and each other is a bug that shows at once. A worker that is ready no more invites
// no pins.
func TestWorkerStates(t *testing.T) {
	for from := range legalWorker {
		for to := range legalWorker {
			from, to := workerState(from), workerState(to)
			p := &Pool{}
			w := &Worker{pool: p, state: from}
			w.inviteLocked(3)
			failed := func() (failed bool) {
				defer func() { failed = recover() != nil }()
				w.setStateLocked(to)
				return false
			}()
			legal := slices.Contains(legalWorker[from], to)
			if failed == legal || legal != (w.state == to && from != to) {
				t.Errorf("from %s to %s: failed: %v, now %s", from, to, failed, w.state)
			}
			if legal && to != workerReady && p.invites != 0 {
				t.Errorf("from %s to %s: %d pins are invited", from, to, p.invites)
			}
		}
	}
}
