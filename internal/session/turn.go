package session

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// turn is a call of a session's flow that is at work here and not at a worker: the creation of the session, which those of
// its calls that come at once wait for, or a change.
type turn struct {
	table   *Table
	session *session
	call    pool.Call
	method  string
	create  bool
	beside  bool               // the change is not one of the state
	imports bool               // it is a page of a session that is being imported
	once    *once              // the change notes that this call begins; nil: it does not
	refuse  func() *wire.Error // says, under the lock, why the change is not to be made; nil: nothing is against it
	change  store.Change
	done    func(batch *wire.Batch, version uint64, err error)
	refused *wire.Error // why the session could not be entered
}

// create enters a session into the table and has the store take it in; it says why the session was not entered, if it was not. done is
// called in any case. Calls that find the session meanwhile wait in its flow.
func (t *Table) create(batch *wire.Batch, s *session, done Done) (refused *wire.Error) {
	u := &turn{table: t, session: s, method: "session.create", create: true, done: func(b *wire.Batch, _ uint64, err error) { done(b, err) }}
	u.submit(batch, time.Time{}) // a flow that is new lets the turn come at once
	return u.refused
}

// submit lets the turn come; the session's active calls have been told of it.
func (u *turn) submit(batch *wire.Batch, deadline time.Time) {
	u.call = pool.Call{Method: []byte(u.method), Owned: true, Deadline: deadline, Handler: u, Local: u.run, Nested: u.call.Nested}
	u.session.flow.Submit(batch, &u.call)
}

// take is submit for a session that is in the table.
func (u *turn) take(batch *wire.Batch, deadline time.Time) {
	u.table.mu.Lock()
	u.session.joinedLocked()
	u.table.mu.Unlock()
	u.submit(batch, deadline)
}

// run is called when the turn has come.
func (u *turn) run(batch *wire.Batch) {
	if u.create {
		u.enter(batch)
		return
	}
	t, s := u.table, u.session
	t.mu.Lock()
	u.change.Number = s.number
	var refused *wire.Error
	if u.refuse != nil {
		refused = u.refuse()
	}
	nothing := !u.beside && s.holdsAlready(&u.change) || u.once != nil && u.once.over
	switch {
	case s.ended:
		refused = notFound(s.key)
	case refused != nil:
	case u.imports && s.state[importing] == nil:
		refused = notImporting(s.key)
	case nothing:
		u.change.Version = s.version
	default:
		if !u.beside {
			t.lastVersion++
			u.change.Expected, u.change.Version = s.version, t.lastVersion
		}
		refused = t.admitLocked(s, &u.change)
	}
	t.mu.Unlock()
	switch {
	case refused != nil:
		u.end(batch, refused)
	case nothing:
		u.end(batch, nil)
	default:
		if now, err := t.cfg.Store.Commit(&u.change, u.fromStore); now {
			u.committed(batch, err)
		}
	}
}

// enter puts a new session into the table and into the store.
func (u *turn) enter(batch *wire.Batch) {
	t, s := u.table, u.session
	t.mu.Lock()
	u.refused = t.enterLocked(s)
	record := s.record()
	t.mu.Unlock()
	if u.refused != nil {
		s.flow.Close(batch, u.refused)
		u.end(batch, u.refused)
	} else if now, err := t.cfg.Store.Create(record, u.fromStore); now {
		u.created(batch, err)
	}
}

// fromStore is called by a store that took its time.
func (u *turn) fromStore(err error) {
	var batch wire.Batch
	if u.create {
		u.created(&batch, err)
	} else {
		u.committed(&batch, err)
	}
	batch.Flush()
}

func (u *turn) created(batch *wire.Batch, err error) {
	t, s := u.table, u.session
	t.mu.Lock()
	switch {
	case s.ended:
		err = notFound(s.key)
	case err != nil:
		err = notStored(err)
		t.removeLocked(s)
	default:
		s.stored = true
	}
	t.mu.Unlock()
	if err != nil {
		s.flow.Close(batch, wire.FromError(err))
	} else {
		t.tell(s, "created")
	}
	u.end(batch, err)
}

func (u *turn) committed(batch *wire.Batch, err error) {
	t, s := u.table, u.session
	t.countCommit(err)
	t.mu.Lock()
	var holder *pool.Worker
	switch {
	case s.ended:
		err = notFound(s.key)
	case err != nil:
		err = notStored(err)
	default:
		t.bytes += s.apply(&u.change)
		if u.change.Reset {
			holder, s.holder = s.holder, nil
			s.shared = false
		} else if !u.beside {
			s.fallsBehind(&u.change)
		}
	}
	t.mu.Unlock()
	if err == nil && u.change.Reset {
		t.tell(s, "reset")
		s.flow.Share(false)
	}
	if err == nil && !u.beside {
		s.flow.Forgive() // its state is another one
	}
	if holder != nil {
		holder.Notify(batch, "session.drop", dropParams(s.number, true))
	}
	u.end(batch, err)
}

func (u *turn) end(batch *wire.Batch, err error) {
	u.done(batch, u.change.Version, err)
	u.Finish(batch, nil)
	u.session.flow.EndTurn(batch, &u.call)
}

// Settle is told of a failure before the turn came.
func (u *turn) Settle(batch *wire.Batch, r *pool.Result) {
	if u.create {
		u.refused = r.Err
		u.session.flow.Close(batch, r.Err)
	}
	u.done(batch, 0, r.Err)
}

// Finish takes the turn off the session's active calls.
func (u *turn) Finish(*wire.Batch, []byte) {
	u.table.leave(u.session)
}

// The rest of pool.Handler is for calls at a worker, which a turn never is.

// Dispatch does nothing.
func (u *turn) Dispatch(*pool.Target, *wire.RequestMeta) *wire.Error { return nil }

// Item does nothing.
func (u *turn) Item(*wire.Batch, []byte, bool) {}

// Change does nothing.
func (u *turn) Change([]byte) error { return nil }

// Ask does nothing.
func (u *turn) Ask(*wire.Batch, *pool.Ask) {}
