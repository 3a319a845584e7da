package session

import (
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// deleteEvery is how often it is tried again to delete what the store could not delete.
const deleteEvery = 10 * time.Second

// clearAway ends what is left of a session that is out of the table.
func (t *Table) clearAway(batch *wire.Batch, s *session, done Done) {
	s.flow.Close(batch, notFound(s.key))
	t.closeApart(batch, s)
	t.mu.Lock()
	holder := s.holder
	t.mu.Unlock()
	if holder != nil {
		holder.Notify(batch, "session.drop", dropParams(s.number, true))
	}
	t.forget(batch, s, done)
}

// forget deletes a session from the store. Where that fails it is tried again: what is not deleted is there again after the next start.
func (t *Table) forget(batch *wire.Batch, s *session, done Done) {
	ended := func(b *wire.Batch, err error) {
		t.deleted(s.number, err)
		if err != nil {
			err = wire.Errorf(wire.CodeStorageUnavailable, "session %q has ended, but is not deleted from the store yet, which is tried again: %s",
				s.key.ID, reasonOf(err))
		}
		done(b, err)
	}
	if now, err := t.cfg.Store.Delete(s.number, later(ended)); now {
		ended(batch, err)
	}
}

// deleted notes whether the store has deleted a session.
func (t *Table) deleted(number uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		t.undeleted[number] = false
		if !t.toldUndeleted {
			t.toldUndeleted = true
			t.cfg.Log.Error("a session that has ended is not deleted from the store; until all are, it is tried again",
				"number", number, "every", deleteEvery.String(), "error", err.Error())
		}
		return
	case len(t.undeleted) == 0:
		return
	}
	delete(t.undeleted, number)
	if len(t.undeleted) == 0 && t.toldUndeleted {
		t.toldUndeleted = false
		t.cfg.Log.Info("all sessions that have ended are deleted from the store")
	}
}

// deleteAgain begins to delete what has to be, and is not under way.
func (t *Table) deleteAgain() {
	var numbers []uint64
	t.mu.Lock()
	for number, underWay := range t.undeleted {
		if !underWay {
			t.undeleted[number] = true
			numbers = append(numbers, number)
		}
	}
	t.mu.Unlock()
	for _, number := range numbers {
		ended := func(err error) { t.deleted(number, err) }
		if now, err := t.cfg.Store.Delete(number, ended); now {
			ended(err)
		}
	}
}
