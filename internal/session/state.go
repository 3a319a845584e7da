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
	LM      LMUse
	Lost    []string    // secrets that did not outlive the sidecar
	Failed  *wire.Error // why it cannot be served; nil: it can
}

// Get returns the last commit: what is known of the session, and its state without the reserved keys, encoded.
func (t *Table) Get(key Key) (Info, []byte, error) {
	state := map[string][]byte{}
	i, err := t.look(key, func(s *session) {
		for k, v := range s.state {
			if !strings.HasPrefix(k, reserved) {
				state[k] = v
			}
		}
	})
	return i, wire.AppendMap(nil, state), err
}

// look gives what is known of a session, and has more be taken of the same commit, under the lock.
func (t *Table) look(key Key, more func(*session)) (Info, error) {
	t.mu.Lock()
	s := t.sessions[key]
	t.mu.Unlock()
	if s == nil {
		return Info{}, notFound(key)
	}
	flow := askFlow(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.ended || !s.stored {
		return Info{}, notFound(key)
	}
	more(s)
	return s.infoLocked(&flow), nil
}

// flowInfo is what the pool knows of a session.
type flowInfo struct {
	worker  string
	waiting int
	lost    *wire.Error
}

func askFlow(s *session) (f flowInfo) {
	f.worker = s.flow.Worker()
	f.waiting, _ = s.flow.Waiting()
	f.lost = s.flow.Lost()
	return f
}

func (t *Table) info(s *session) Info {
	flow := askFlow(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.infoLocked(&flow)
}

func (s *session) infoLocked(flow *flowInfo) Info {
	i := Info{
		Key: s.key, Worker: flow.worker, Labels: s.labels, Version: s.version, Bytes: s.bytes, Age: time.Since(s.created),
		TTL: s.ttl, MaxAge: s.maxAge, Calls: s.calls, Waiting: flow.waiting, Spent: s.spent, LM: s.lm, Lost: slices.Clone(s.lost), Failed: s.damaged,
	}
	if flow.lost != nil {
		i.Failed = flow.lost
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

	// A further page of a session that is being imported, whose Set may hold reserved keys.
	Imported bool
	More     bool // it is not the last
}

// Update submits u; done is called once, with the version of the state that came of it.
func (t *Table) Update(batch *wire.Batch, key Key, u Update, done func(*wire.Batch, uint64, error)) {
	s, err := t.find(key)
	if u.Imported { // which find refuses
		s, err = t.findImporting(key)
	}
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
	if n.imports = u.Imported; n.imports && !u.More {
		add(&n.change, nil, nil, []string{importing})
	}
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

// find is the session of that key, if it can be used.
func (t *Table) find(key Key) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[key]
	if s == nil {
		return nil, notFound(key)
	}
	if err := s.unusable(); err != nil {
		return nil, err
	}
	return s, nil
}
