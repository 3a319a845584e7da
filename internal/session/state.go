package session

import (
	"maps"
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
	TTL     time.Duration
	Calls   uint64
	Waiting int
}

// Get returns the last commit: what is known of the session, and its state without the reserved keys, encoded.
func (t *Table) Get(key Key) (Info, []byte, error) {
	t.mu.Lock()
	s := t.sessions[key]
	if s == nil {
		t.mu.Unlock()
		return Info{}, nil, notFound(key)
	}
	state := maps.Clone(s.state)
	t.mu.Unlock()
	maps.DeleteFunc(state, func(k string, _ []byte) bool { return strings.HasPrefix(k, reserved) })
	return t.info(s), wire.AppendMap(nil, state), nil
}

func (t *Table) info(s *session) Info {
	worker := s.flow.Worker()
	waiting, _ := s.flow.Waiting()
	t.mu.Lock()
	defer t.mu.Unlock()
	i := Info{
		Key: s.key, Worker: worker, Labels: s.labels, Version: s.version, Bytes: s.bytes, Age: time.Since(s.created),
		TTL: s.ttl, Calls: s.calls, Waiting: waiting,
	}
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
}

// Update submits u; done is called once, with the version that it made.
func (t *Table) Update(batch *wire.Batch, key Key, u Update, done func(*wire.Batch, uint64, error)) {
	set, err := clientState(append([]byte(nil), u.Set...))
	for _, k := range u.Delete {
		if err == nil {
			err = clientKey(k)
		}
	}
	if err != nil {
		done(batch, 0, err)
		return
	}
	s, err := t.use(key)
	if err != nil {
		done(batch, 0, err)
		return
	}
	t.submitUpdate(batch, s, &update{table: t, session: s, done: done, change: store.Change{Set: set, Delete: u.Delete}}, u.Deadline)
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
	t.Update(batch, s.key, u, done)
}

func (t *Table) submitUpdate(batch *wire.Batch, s *session, u *update, deadline time.Time) {
	u.call = &pool.Call{Method: []byte("session.update"), Owned: true, Deadline: deadline, Handler: u, Local: u.run}
	s.flow.Submit(batch, u.call)
}

// update is a Local call of the session's flow.
type update struct {
	table   *Table
	session *session
	call    *pool.Call
	change  store.Change
	done    func(*wire.Batch, uint64, error)
}

func (u *update) run(batch *wire.Batch) {
	t, s := u.table, u.session
	t.mu.Lock()
	t.lastVersion++
	u.change.Number, u.change.Expected, u.change.Version = s.number, s.version, t.lastVersion
	refused := t.admitLocked(s, &u.change)
	t.mu.Unlock()
	if refused != nil {
		u.end(batch, refused)
		return
	}
	if now, err := t.cfg.Store.Commit(&u.change, later(u.committed)); now {
		u.committed(batch, err)
	}
}

func (u *update) committed(batch *wire.Batch, err error) {
	t, s := u.table, u.session
	t.mu.Lock()
	switch {
	case s.ended:
		err = notFound(s.key)
	case err == nil:
		s.apply(&u.change)
	}
	t.mu.Unlock()
	u.end(batch, err)
}

func (u *update) end(batch *wire.Batch, err error) {
	u.done(batch, u.change.Version, err)
	u.session.flow.EndTurn(batch, u.call)
	u.Finish(batch)
}

// Settle is told of a failure before the update's turn came.
func (u *update) Settle(batch *wire.Batch, r *pool.Result) { u.done(batch, 0, r.Err) }

// Finish takes the update off the session's active calls.
func (u *update) Finish(*wire.Batch) {
	u.table.mu.Lock()
	u.session.active--
	u.session.used = time.Now()
	u.table.mu.Unlock()
}

// The rest of pool.Handler is for calls at a worker, which an update never is.

// Dispatch does nothing.
func (u *update) Dispatch(*pool.Target, *wire.RequestMeta) {}

// Item does nothing.
func (u *update) Item(*wire.Batch, []byte, bool) {}

// Change does nothing.
func (u *update) Change([]byte) error { return nil }

// Ask does nothing.
func (u *update) Ask(*wire.Batch, *pool.Ask) {}
