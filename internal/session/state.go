package session

import (
	"slices"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// Info is what is known of a session, but for its state.
type Info struct {
	Key     Key
	Worker  string // empty: not pinned
	Labels  map[string]string
	Version uint64
	Bytes   int
	Age     time.Duration
	Idle    time.Duration
	TTL     time.Duration // 0: none
	MaxAge  time.Duration // 0: none
	Calls   uint64
	Waiting int
	Spent   store.Spent
	Lost    []string    // secrets that did not outlive the sidecar
	Failed  *wire.Error // why it cannot be served; nil: it can
}

// Get returns the last commit: what is known of the session, and its state without the reserved keys, encoded.
func (t *Table) Get(key Key) (Info, []byte, error) {
	t.mu.Lock()
	s := t.sessions[key]
	if s == nil || !s.stored {
		t.mu.Unlock()
		return Info{}, nil, notFound(key)
	}
	state := make(map[string][]byte, len(s.state))
	for k, v := range s.state {
		if !strings.HasPrefix(k, reserved) {
			state[k] = v
		}
	}
	t.mu.Unlock()
	return t.info(s), wire.AppendMap(nil, state), nil
}

func (t *Table) info(s *session) Info {
	worker := s.flow.Worker()
	waiting, _ := s.flow.Waiting()
	lost := s.flow.Lost()
	t.mu.Lock()
	defer t.mu.Unlock()
	i := Info{
		Key: s.key, Worker: worker, Labels: s.labels, Version: s.version, Bytes: s.bytes, Age: time.Since(s.created),
		TTL: s.ttl, MaxAge: s.maxAge, Calls: s.calls, Waiting: waiting, Spent: s.spent, Lost: slices.Clone(s.lost), Failed: s.damaged,
	}
	if lost != nil {
		i.Failed = lost
	}
	roll(&i.Spent, time.Now())
	if s.active == 0 {
		i.Idle = time.Since(s.used)
	}
	return i
}

// Update is a change that comes from outside a call. It takes its turn among the session's calls.
type Update struct {
	Set      []byte // an encoded map, borrowed
	Delete   []string
	Deadline time.Time
	Imported bool // Set may hold reserved keys
}

// Update submits u; done is called once, with the version of the state that came of it.
func (t *Table) Update(batch *wire.Batch, key Key, u Update, done func(*wire.Batch, uint64, error)) {
	s, err := t.find(key)
	if err != nil {
		done(batch, 0, err)
		return
	}
	t.update(batch, s, u, done)
}

// UpdateNumber is Update for a worker's background task, which knows the session by its number.
func (t *Table) UpdateNumber(batch *wire.Batch, number uint64, u Update, done func(*wire.Batch, uint64, error)) {
	t.mu.Lock()
	s := t.byNumber[number]
	t.mu.Unlock()
	if s == nil {
		done(batch, 0, wire.Errorf(wire.CodeSessionNotFound, "no session with the key %d", number))
		return
	}
	t.update(batch, s, u, done)
}

func (t *Table) update(batch *wire.Batch, s *session, u Update, done func(*wire.Batch, uint64, error)) {
	set, err := stateOf(u.Set, u.Imported)
	for _, k := range u.Delete {
		if err == nil {
			err = clientKey(k)
		}
	}
	if err != nil {
		done(batch, 0, err)
		return
	}
	n := &turn{table: t, session: s, method: "session.update", done: done}
	add(&n.change, set, nil, u.Delete)
	n.take(batch, u.Deadline)
}

// Reset empties a session: its next call is its first again. It takes its turn among the session's calls.
func (t *Table) Reset(batch *wire.Batch, key Key, deadline time.Time, done Done) {
	s, err := t.find(key)
	if err != nil {
		done(batch, err)
		return
	}
	n := &turn{table: t, session: s, method: "session.reset", done: func(b *wire.Batch, _ uint64, err error) { done(b, err) }}
	n.change.Reset = true
	n.take(batch, deadline)
}

// Move has a session go on at another worker: that of the id, or, where it is empty, the least loaded other one. Where a call runs, it moves after
// that.
func (t *Table) Move(key Key, worker string) error {
	s, err := t.find(key)
	if err != nil {
		return err
	}
	if err := s.flow.Move(worker); err != nil {
		return err
	}
	return nil
}

// Forgive lets sessions that were quarantined come to workers again: those are of another generation.
func (t *Table) Forgive() {
	t.mu.Lock()
	flows := make([]*pool.Flow, 0, len(t.byNumber))
	for _, s := range t.byNumber {
		flows = append(flows, s.flow)
	}
	t.mu.Unlock()
	for _, f := range flows {
		f.Forgive()
	}
}

// take is submit for a session that is in the table.
func (u *turn) take(batch *wire.Batch, deadline time.Time) {
	u.table.mu.Lock()
	u.session.joinedLocked()
	u.table.mu.Unlock()
	u.submit(batch, deadline)
}

// find is the session of that key, if it can be used.
func (t *Table) find(key Key) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[key]
	switch {
	case s == nil:
		return nil, notFound(key)
	case s.damaged != nil:
		return nil, s.damaged
	}
	return s, nil
}
