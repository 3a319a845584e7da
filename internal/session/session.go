package session

import (
	"maps"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
)

// Key finds a session: ids are its owner's own.
type Key struct {
	Owner string // "uid:1000", or "token:" and a hash
	ID    string
}

// unknown is a version that nobody holds: it makes the next call restore.
const unknown = ^uint64(0)

// session is one session. All but what is set at its creation is guarded by Table.mu.
type session struct {
	key     Key
	number  uint64
	flow    *pool.Flow
	labels  map[string]string
	created time.Time
	ttl     time.Duration

	version uint64
	state   map[string][]byte
	secrets map[string][]byte
	bytes   int

	holder  *pool.Worker // the worker that the last call went to
	holds   uint64       // the version that it has
	started bool         // the first call has committed
	ended   bool
	used    time.Time
	active  int // calls admitted and not finished
	calls   uint64
	expiry  int // place in the expiry heap, from 1
	expires time.Time
}

func (s *session) record() *store.Record {
	return &store.Record{Number: s.number, Owner: s.key.Owner, ID: s.key.ID, Version: s.version, State: s.state, Secrets: s.secrets}
}

// grown is the size of the state if change were applied.
func (s *session) grown(c *store.Change) int {
	n := s.bytes
	put := func(to map[string][]byte, k string, v []byte) {
		if old, ok := to[k]; ok {
			n -= len(k) + len(old)
		}
		if v != nil {
			n += len(k) + len(v)
		}
	}
	for k, v := range c.Set {
		put(s.state, k, v)
	}
	for k, v := range c.Secrets {
		put(s.secrets, k, v)
	}
	for _, k := range c.Delete {
		if _, again := c.Set[k]; again {
			n -= len(k) + len(c.Set[k])
			continue
		}
		put(s.state, k, nil)
		put(s.secrets, k, nil)
	}
	return n
}

// apply puts a committed change in force.
func (s *session) apply(c *store.Change) {
	s.bytes = s.grown(c)
	maps.Copy(s.state, c.Set)
	maps.Copy(s.secrets, c.Secrets)
	for _, k := range c.Delete {
		delete(s.state, k)
		delete(s.secrets, k)
	}
	s.version = c.Version
}
