package session

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/heap"
	"github.com/dspex/dspex-sidecar/wire"
)

// newExpiries orders sessions by an instant at which they have to be looked at. A use does not move a session: it is put
// back when its instant comes and it turns out to have been used.
func newExpiries() heap.Heap[*session] {
	return heap.New(func(a, b *session) bool { return a.expires.Before(b.expires) }, func(s *session) *int { return &s.expiry })
}

func (t *Table) scheduleLocked(s *session) {
	s.expires = s.used.Add(s.ttl)
	t.expiries.Put(s)
	if t.expiries.First() == s {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// expire ends sessions that were not used for their time to live, until the table is closed.
func (t *Table) expire() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		expired, next := t.takeExpired(time.Now())
		var batch wire.Batch
		for _, s := range expired {
			t.clearAway(&batch, s, func(_ *wire.Batch, err error) {
				if err != nil {
					t.cfg.Log.Error("expired session not deleted from the store", "session_id", s.key.ID, "error", err.Error())
				}
			})
			t.cfg.Log.Info("session expired", "session_id", s.key.ID, "ttl", s.ttl.String())
		}
		batch.Flush()
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-t.wake:
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
		if s.expires = s.used.Add(s.ttl); s.active > 0 || s.expires.After(now) {
			t.expiries.Put(s)
			continue
		}
		t.removeLocked(s)
		expired = append(expired, s)
	}
	return expired, time.Hour
}
