package session

import (
	"bytes"
	"slices"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// Key finds a session: ids are its owner's own.
type Key struct {
	Owner string // "uid:1000", or "token:" and a hash
	ID    string
}

// unknown is a version that nobody holds: it makes the next call restore the whole state.
const unknown = ^uint64(0)

// session is one session. All but what is set at its creation is guarded by Table.mu.
type session struct {
	key     Key
	id      []byte // key.ID
	number  uint64
	flow    *pool.Flow
	payer   string // "uid:1000": who made it
	labels  map[string]string
	created time.Time
	ttl     time.Duration
	maxAge  time.Duration // 0: none
	extra   int           // bytes of its labels, and of the names of lost secrets that it came with
	ledger  bool          // it holds what an owner's calls without a session have to keep, and no state
	damaged *wire.Error   // the store holds something else than was written: it is not served

	version uint64
	state   map[string][]byte // a key is in state or in secrets, never in both
	secrets map[string][]byte
	lost    []string // secrets that did not outlive the sidecar
	bytes   int      // of the state, the secrets and the answers
	spent   store.Spent
	lm      LMUse
	answers map[store.AnswerKey]*answer
	given   []store.AnswerKey // in the order in which they expire

	holder   *pool.Worker // the worker that the last call went to
	holds    uint64       // the version that it has
	behind   []string     // the keys in which that version differs from the state
	prepared *prepared    // a restore that was encoded ahead

	apart []*apart // calls that are not in its flow

	stored  bool // its creation is in force
	started bool // the first call has committed
	shared  bool // the flow has been told so
	ended   bool
	used    time.Time
	active  int // calls admitted and not finished
	calls   uint64
	overdue bool // its time is over, and calls are in it
	expiry  int  // place in the expiry heap, from 1
	expires time.Time
}

func (s *session) record() *store.Record {
	return &store.Record{
		Number: s.number, Owner: s.key.Owner, ID: s.key.ID, Labels: s.labels, TTL: s.ttl, MaxAge: s.maxAge,
		Started: s.started, Version: s.version, State: s.state, Secrets: s.secrets, Lost: s.lost, Left: s.left(time.Now()),
	}
}

var trueValue = []byte{0xc3} //nolint:gochecknoglobals // a constant

// headBytes is about what a session takes beside what is in it.
const headBytes = 1024

// head is what the session takes beside its state and its answers.
func (s *session) head() int { return headBytes + len(s.key.Owner) + len(s.key.ID) + s.extra }

// extraOf is what labels and names take.
func extraOf(labels map[string]string, names []string) (n int) {
	for k, v := range labels {
		n += len(k) + len(v)
	}
	for _, name := range names {
		n += len(name)
	}
	return n
}

// unusable says why the session takes no call; nil: it does.
func (s *session) unusable() error {
	switch {
	case s.damaged != nil:
		return s.damaged
	case s.state[importing] != nil:
		return wire.Errorf(wire.CodeSessionBusy, "session %q is being imported", s.key.ID)
	case s.maxAge > 0 && time.Since(s.created) >= s.maxAge: // it ends with the calls that are in it
		return notFound(s.key)
	}
	return nil
}

// size is what a key takes of the state.
func (s *session) size(k string) int {
	if v, ok := s.state[k]; ok {
		return len(k) + len(v)
	}
	if v, ok := s.secrets[k]; ok {
		return len(k) + len(v)
	}
	return 0
}

// grown is the size of the session if change were applied.
func (s *session) grown(c *store.Change) int {
	n := s.bytes
	if c.Reset {
		n -= s.stateBytes()
	}
	for i := range c.Answers {
		n += len(c.Answers[i].Outcome)
	}
	for k, v := range c.Set {
		n += len(k) + len(v) - s.size(k)
	}
	for k, v := range c.Secrets {
		n += len(k) + len(v) - s.size(k)
	}
	for _, k := range c.Delete {
		n -= s.size(k)
	}
	return n
}

// stateBytes is the size of the state and the secrets.
func (s *session) stateBytes() int {
	n := 0
	for k := range s.state {
		n += s.size(k)
	}
	for k := range s.secrets {
		n += s.size(k)
	}
	return n
}

// apply puts a committed change in force; what it says of answers is left to who made it. It returns by how much the session has grown.
func (s *session) apply(c *store.Change) (grew int) {
	before := s.bytes
	s.bytes = s.grown(c)
	if c.Reset {
		clear(s.state)
		clear(s.secrets)
		s.lost, s.started = nil, false
	}
	for k, v := range c.Set {
		s.state[k] = v
		delete(s.secrets, k)
	}
	for k, v := range c.Secrets {
		s.secrets[k] = v
		delete(s.state, k)
	}
	for _, k := range c.Delete {
		delete(s.state, k)
		delete(s.secrets, k)
	}
	if len(s.lost) > 0 {
		s.lost = slices.DeleteFunc(s.lost, func(k string) bool { return s.size(k) > 0 || slices.Contains(c.Delete, k) })
	}
	s.started = s.started || c.Started
	if c.Version != 0 {
		s.version = c.Version
	}
	return s.bytes - before
}

// holdsAlready says whether change would change nothing.
func (s *session) holdsAlready(c *store.Change) bool {
	for k, v := range c.Set {
		if old, ok := s.state[k]; !ok || !bytes.Equal(old, v) {
			return false
		}
	}
	return !c.Reset && len(c.Secrets) == 0 && !slices.ContainsFunc(c.Delete, func(k string) bool { return s.size(k) > 0 })
}

// maxBehind bounds how many keys are noted before the whole state is restored instead.
const maxBehind = 64

// fallsBehind notes that the holder's copy differs from the state in what change names.
func (s *session) fallsBehind(c *store.Change) {
	if s.holds == unknown || len(s.behind)+len(c.Set)+len(c.Secrets)+len(c.Delete) > maxBehind {
		s.holds, s.behind = unknown, nil
		return
	}
	for k := range c.Set {
		s.behind = append(s.behind, k)
	}
	for k := range c.Secrets {
		s.behind = append(s.behind, k)
	}
	s.behind = append(s.behind, c.Delete...)
}

// keepsUp notes that the holder's copy is the state.
func (s *session) keepsUp() { s.holds, s.behind = s.version, s.behind[:0] }
