package session

import (
	"container/heap"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// expiries orders sessions by an instant at which they have to be looked at. A use does not move a session: it is put
// back when its instant comes and it turns out to have been used.
type expiries []*session

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].expires.Before(e[j].expires) }
func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].expiry, e[j].expiry = i+1, j+1
}

func (e *expiries) Push(x any) {
	s, _ := x.(*session)
	*e = append(*e, s)
	s.expiry = len(*e)
}

func (e *expiries) Pop() any {
	old := *e
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*e = old[:len(old)-1]
	s.expiry = 0
	return s
}

func (t *Table) scheduleLocked(s *session) {
	s.expires = s.used.Add(s.ttl)
	heap.Push(&t.expiries, s)
	if s.expiry == 1 {
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
	for len(t.expiries) > 0 {
		s := t.expiries[0]
		if wait := s.expires.Sub(now); wait > 0 {
			return expired, wait
		}
		if s.active > 0 {
			s.used = now
		}
		if s.expires = s.used.Add(s.ttl); s.active > 0 || s.expires.After(now) {
			heap.Fix(&t.expiries, 0)
			continue
		}
		t.removeLocked(s)
		expired = append(expired, s)
	}
	return expired, time.Hour
}
