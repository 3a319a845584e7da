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

// Prepare encodes a session's state ahead of its next call, if that is worth it, and says how many parts are ready.
func Prepare(t *Table, key Key) int {
	t.mu.Lock()
	s := t.sessions[key]
	t.mu.Unlock()
	t.prepare(s)
	return Prepared(t, key)
}

// Prepared is how many parts are ready for a session.
func Prepared(t *Table, key Key) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.sessions[key].prepared; p != nil {
		return len(p.parts)
	}
	return 0
}
