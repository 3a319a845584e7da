package permits

import (
	"container/list"
	"fmt"
	"time"
)

// model is one limited model: what is in flight, what waits, and what the last minute took. Guarded by Table.mu.
type model struct {
	table  *Table
	name   string
	limits Limits
	inUse  int
	until  time.Time // the provider wants to be left alone

	shares  map[string]*share
	turns   *list.List // of shares that wait, the next one first
	waiting int

	requests window
	tokens   window
	usual    float64 // tokens of a request, of late

	wake *time.Timer // set while something waits for time to pass
}

// share is what waits for one session, or one call without.
type share struct {
	name    string
	waiting *list.List // of permits, in the order in which they were asked for
	turn    *list.Element
}

func newModel(t *Table, name string) *model {
	return &model{table: t, name: name, shares: make(map[string]*share), turns: list.New()}
}

// refusalLocked says why an ask is not even queued; nil: it is.
func (m *model) refusalLocked(a *Ask, now time.Time) *RefusedError {
	if m.waiting >= mostWaiting {
		return &RefusedError{Why: fmt.Sprintf("%d requests wait for model %q already", m.waiting, m.name), Retry: time.Second}
	}
	return m.pausedLocked(a, a.Left, now)
}

// pausedLocked refuses what would wait in vain, or need not wait, while the provider wants to be left alone; left is how long it may still wait.
func (m *model) pausedLocked(a *Ask, left time.Duration, now time.Time) *RefusedError {
	paused := m.until.Sub(now)
	inVain, elsewhere := a.Left >= 0 && paused > left, a.NoPause && paused > brief
	if paused <= 0 || !inVain && !elsewhere {
		return nil
	}
	return &RefusedError{Why: fmt.Sprintf("the provider of model %q wants to be left alone for another %s", m.name, paused.Round(time.Millisecond)), Retry: paused}
}

func (m *model) waitLocked(p *permit, name string) {
	s := m.shares[name]
	if s == nil {
		s = &share{name: name, waiting: list.New()}
		s.turn = m.turns.PushBack(s)
		m.shares[name] = s
	}
	p.share, p.place = s, s.waiting.PushBack(p)
	m.waiting++
}

// leaveLocked takes a permit out of the queue.
func (m *model) leaveLocked(p *permit) {
	s := p.share
	s.waiting.Remove(p.place)
	p.place, p.share = nil, nil
	m.waiting--
	if s.waiting.Len() == 0 {
		m.turns.Remove(s.turn)
		delete(m.shares, s.name)
	}
}

// grantLocked grants what the limits let through, a share at a time, and sets the clock for the rest.
func (m *model) grantLocked(now time.Time) {
	var wait time.Duration
	for m.waiting > 0 {
		if m.limits.Concurrency > 0 && m.inUse >= m.limits.Concurrency {
			wait = 0 // the end of one will call again
			break
		}
		if wait = m.untilFreeLocked(now); wait > 0 {
			break
		}
		s := m.turns.Front().Value.(*share)    //nolint:forcetypeassert // nothing else is in it
		p := s.waiting.Front().Value.(*permit) //nolint:forcetypeassert // likewise
		m.turns.MoveToBack(s.turn)
		m.leaveLocked(p)
		p.granted = now
		m.inUse++
		m.requests.add(now, 1)
		m.table.later(p.answer, now.Sub(p.asked), nil)
	}
	m.stopLocked()
	if wait > 0 {
		m.wake = time.AfterFunc(wait, m.awake)
	}
}

func (m *model) stopLocked() {
	if m.wake != nil {
		m.wake.Stop()
		m.wake = nil
	}
}

func (m *model) awake() {
	m.table.mu.Lock()
	defer m.table.unlock()
	m.grantLocked(time.Now())
}

// untilFreeLocked is how long until time alone would let one more request begin; 0: it may now.
func (m *model) untilFreeLocked(now time.Time) time.Duration {
	wait := m.until.Sub(now)
	if l := m.limits.RequestsPerMinute; l > 0 {
		wait = max(wait, m.requests.untilBelow(now, l))
	}
	if l := m.limits.TokensPerMinute; l > 0 {
		// What is in flight will take tokens, too: as many as others did. Where nothing is, one may begin that no guess lets through.
		room := l - int(m.usual*float64(m.inUse))
		if m.inUse == 0 || room > 0 {
			wait = max(wait, m.tokens.untilBelow(now, max(1, room)))
		} else {
			wait = max(wait, step)
		}
	}
	return max(0, wait)
}

// endLocked notes what a request took.
func (m *model) endLocked(r Report, now time.Time) {
	m.inUse--
	if r.Tokens > 0 {
		m.tokens.add(now, r.Tokens)
		if m.usual == 0 {
			m.usual = float64(r.Tokens)
		}
		m.usual += (float64(r.Tokens) - m.usual) / 8
	}
	if r.Pause > 0 {
		if until := now.Add(min(r.Pause, longestPause)); until.After(m.until) {
			m.until = until
			m.refuseLocked(now)
		}
	}
}

// refuseLocked refuses those that wait already, when a pause begins, as it does those that come later.
func (m *model) refuseLocked(now time.Time) {
	for _, s := range m.shares {
		for at := s.waiting.Front(); at != nil; {
			p := at.Value.(*permit) //nolint:forcetypeassert // nothing else is in it
			at = at.Next()
			waited := now.Sub(p.asked)
			if refusal := m.pausedLocked(&p.ask, p.ask.Left-waited, now); refusal != nil {
				delete(m.table.held, p.ask.ID)
				m.leaveLocked(p)
				m.table.later(p.answer, waited, refusal)
			}
		}
	}
}
