package session

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/heap"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/wire"
)

// newExpiries orders sessions by an instant at which they have to be looked at. A use does not move a session: it is put
// back when its instant comes and it turns out to have been used.
func newExpiries() heap.Heap[*session] {
	return heap.New(func(a, b *session) bool { return a.expires.Before(b.expires) }, func(s *session) *int { return &s.expiry })
}

// never is when a session without a time limit expires.
const never = 100 * 365 * 24 * time.Hour

// endsAt is when the session expires if it is not used any more.
func (s *session) endsAt() time.Time {
	at := s.used.Add(never)
	if s.ttl > 0 {
		at = s.used.Add(s.ttl)
	}
	if s.maxAge > 0 {
		if old := s.created.Add(s.maxAge); old.Before(at) {
			at = old
		}
	}
	return at
}

func (t *Table) scheduleLocked(s *session) {
	s.expires = s.endsAt()
	t.expiries.Put(s)
	if t.expiries.First() == s {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// leaveLocked counts a call less.
func (t *Table) leaveLocked(s *session) {
	s.active--
	s.used = time.Now()
	if s.active == 0 && s.overdue && !s.ended {
		s.overdue = false
		t.scheduleLocked(s)
	}
}

func (t *Table) leave(s *session) {
	t.mu.Lock()
	t.leaveLocked(s)
	t.mu.Unlock()
}

// keepEvery is how often the store is told what is left of time limits. After a crash a session has its whole ttl, and lives longer
// than its max_age by at most this.
const keepEvery = time.Minute

// expire ends sessions whose time is over, and sees to what the store has to do now and then, until the table is closed.
func (t *Table) expire() {
	timer, keep, again := time.NewTimer(time.Hour), time.NewTicker(keepEvery), time.NewTicker(deleteEvery)
	defer timer.Stop()
	defer keep.Stop()
	defer again.Stop()
	for {
		expired, next := t.takeExpired(time.Now())
		var batch wire.Batch
		for _, s := range expired {
			t.clearAway(&batch, s, func(*wire.Batch, error) {})
			t.tell(s, "expired")
			t.cfg.Log.Info("session expired", "session_id", s.key.ID, "ttl", s.ttl.String(), "age", time.Since(s.created).Round(time.Second).String())
		}
		batch.Flush()
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-t.wake:
		case <-again.C:
			t.deleteAgain()
		case <-keep.C:
			t.dropStale()
			if err := t.keepLeft(); err != nil {
				t.cfg.Log.Error("what is left of the sessions' time limits was not stored", "error", err.Error())
			}
		case <-t.stopped:
			return
		}
	}
}

func (t *Table) takeExpired(now time.Time) (expired []*session, next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := t.expiries.First(); s != nil; s = t.expiries.First() {
		if wait := s.expires.Sub(now); wait > 0 {
			return expired, wait
		}
		if s.active > 0 {
			s.used = now
		}
		s.expires = s.endsAt()
		if s.overdue = s.active > 0 && !s.expires.After(now); s.overdue {
			s.expires = now.Add(never) // it ends with its calls
		}
		if s.expires.After(now) {
			t.expiries.Put(s)
			continue
		}
		t.removeLocked(s)
		expired = append(expired, s)
	}
	return expired, time.Hour
}

// dropStale forgets answers that have been kept for long enough.
func (t *Table) dropStale() {
	var changes []*store.Change
	t.mu.Lock()
	now := time.Now()
	for _, s := range t.byNumber {
		if stale := t.takeStaleLocked(s, now); len(stale) > 0 {
			changes = append(changes, &store.Change{Number: s.number, Forget: stale})
		}
	}
	t.mu.Unlock()
	for _, c := range changes {
		t.commitAside(c, func(err error) {
			t.cfg.Log.Warn("answers that have expired are still in the store", "error", err.Error())
		})
	}
}

// commitAside begins a commit that nothing waits for.
func (t *Table) commitAside(c *store.Change, failed func(error)) {
	done := func(err error) {
		if err != nil {
			failed(err)
		}
	}
	if now, err := t.cfg.Store.Commit(c, done); now {
		done(err)
	}
}

// left is what is left of the session's time limits.
func (s *session) left(now time.Time) (l store.Left) {
	if s.ttl > 0 {
		l.Idle = s.ttl
		if s.active == 0 {
			l.Idle = max(1, s.ttl-now.Sub(s.used))
		}
	}
	if s.maxAge > 0 {
		l.Age = max(1, s.maxAge-now.Sub(s.created))
	}
	return l
}

// resume lets the time limits go on where they were.
func (s *session) resume(l store.Left, now time.Time) {
	if s.ttl > 0 && l.Idle > 0 {
		s.used = now.Add(l.Idle - s.ttl)
	}
	if s.maxAge > 0 && l.Age > 0 {
		s.created = now.Add(l.Age - s.maxAge)
	}
}

// keepLeft has the store note what is left of all time limits, and waits for that.
func (t *Table) keepLeft() error {
	t.mu.Lock()
	now := time.Now()
	all := make(map[uint64]store.Left, len(t.byNumber))
	for n, s := range t.byNumber {
		if s.stored && s.damaged == nil && !s.ended {
			all[n] = s.left(now)
		}
	}
	t.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	outcome := make(chan error, 1)
	if now, err := t.cfg.Store.KeepLeft(all, func(err error) { outcome <- err }); now {
		return err
	}
	return <-outcome
}
