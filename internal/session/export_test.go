package session

import "github.com/dspex/dspex-sidecar/pool"

// PoolOf is the pool of a table.
func PoolOf(t *Table) *pool.Pool { return t.cfg.Pool }

// EncodeRestore encodes a whole state for a restore, and returns the bytes of it.
func EncodeRestore(state map[string][]byte, limit int) (n int) {
	s := &session{state: state}
	for _, part := range s.lacksLocked(0).parts(limit) {
		n += len(part)
	}
	return n
}
