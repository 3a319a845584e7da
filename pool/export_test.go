package pool

import "fmt"

// Books says what the pool still has in its books that a pool without flows and calls should not have; empty where nothing.
func (p *Pool) Books() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ""
	note := func(what string, n int) {
		if n != 0 {
			s += fmt.Sprintf("%s: %d; ", what, n)
		}
	}
	note("owners", len(p.owners))
	note("waiting", p.waiting)
	note("timers", p.timers.Len())
	note("shares", len(p.shares.count))
	note("turns", len(p.waitingAny.byOwner)+p.waitingAny.owners.Len())
	note("suspects", len(p.suspects.byOwner)+p.suspects.owners.Len())
	if p.held != nil {
		note("held", 1)
	}
	note("to do", len(p.todo))
	note("pins", p.pins)
	note("open", int(p.open.Load()))
	invites := 0
	for _, w := range p.workers {
		invites += w.invites
		note(w.id+", calls", len(w.calls))
		note(w.id+", asks", len(w.asks))
		note(w.id+", turns", len(w.waiting.byOwner)+w.waiting.owners.Len())
		note(w.id+", pins", w.pins)
	}
	note("invites too many", p.invites-invites)
	return s
}

// Suspect says whether the flow may have killed a worker.
func (f *Flow) Suspect() bool {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return f.suspect
}

// Held is the worker that is held for a suspect; empty where none is.
func (p *Pool) Held() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		return ""
	}
	return p.held.id
}
