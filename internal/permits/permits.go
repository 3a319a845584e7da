// Package permits holds the limits of language models and embedders across all workers: how many requests to one may be in flight, how
// many may begin in a minute, how many tokens a minute may take, and the time that a provider wants to be left alone. It grants permits in
// fair turn, and takes back what a worker that died held. It knows neither providers nor the wire, and starts no process.
package permits

import (
	"container/list"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits are those of one model; zero: no limit.
type Limits struct {
	Concurrency       int
	RequestsPerMinute int
	TokensPerMinute   int
}

// Any says whether there is any limit.
func (l Limits) Any() bool { return l != Limits{} }

// ID names a permit: a worker numbers its own.
type ID struct {
	Worker string
	Number uint64
}

// Ask is a request for a permit.
type Ask struct {
	ID    ID
	Model string
	// Share is whose turn it takes: those of one share wait for each other, shares take turns.
	Share string
	// NoPause: refuse while the provider wants to be left alone; there is another model.
	NoPause bool
	// Left is how long it may wait; negative: without end. A pause that lasts longer refuses it at once, also one that begins while it waits.
	Left time.Duration
}

// Answer is what became of an ask; called once, without a lock. waited is below zero where the model has no limits. err is a [*RefusedError], or nil where the permit is granted.
type Answer func(waited time.Duration, err error)

// RefusedError says why there is no permit.
type RefusedError struct {
	Why   string
	Retry time.Duration // when it is worth another try; 0: not known
}

func (r *RefusedError) Error() string { return r.Why }

// mostWaiting bounds what waits for one model.
const mostWaiting = 100_000

// brief is a pause that is waited for even by those that have another model: who has slept as long as the provider wanted may be so much early.
const brief = 50 * time.Millisecond

// longestPause bounds what a provider may ask for.
const longestPause = 10 * time.Minute

// Table grants permits. End it with Close.
type Table struct {
	mu     sync.Mutex // guards what follows, and all of the models
	models map[string]*model
	held   map[ID]*permit // granted or waiting
	todo   []func()       // answers to be given when the lock is released
	closed bool
}

// New makes a table without limits.
func New() *Table { return &Table{models: make(map[string]*model), held: make(map[ID]*permit)} }

// permit is one that waits, or is granted.
type permit struct {
	ask     Ask
	model   *model
	share   *share
	place   *list.Element // in the share while it waits; nil: it is granted
	asked   time.Time
	granted time.Time
	answer  Answer
}

// Apply puts limits in force. Models that are not named have none; who waits for one of those is let go.
func (t *Table) Apply(limits map[string]Limits) {
	t.mu.Lock()
	defer t.unlock()
	for name, l := range limits {
		if t.models[name] == nil && l.Any() {
			t.models[name] = newModel(t, name)
		}
	}
	for name, m := range t.models {
		m.limits = limits[name]
		if m.limits.Any() {
			m.grantLocked(time.Now())
			continue
		}
		m.until = time.Time{}
		m.grantLocked(time.Now()) // all that wait
		delete(t.models, name)    // what is granted is given back without it
	}
}

// Ask asks for a permit; Done gives it back, or ends the wait.
func (t *Table) Ask(a Ask, answer Answer) {
	t.mu.Lock()
	defer t.unlock()
	m := t.models[a.Model]
	switch {
	case m == nil || t.closed:
		t.later(answer, -1, nil)
		return
	case t.held[a.ID] != nil:
		t.later(answer, 0, &RefusedError{Why: fmt.Sprintf("a second request for the permit %d", a.ID.Number)})
		return
	}
	now := time.Now()
	if refusal := m.refusalLocked(&a, now); refusal != nil {
		t.later(answer, 0, refusal)
		return
	}
	p := &permit{ask: a, model: m, asked: now, answer: answer}
	t.held[a.ID] = p
	m.waitLocked(p, a.Share)
	m.grantLocked(now)
}

// Report is what became of a request.
type Report struct {
	Tokens int
	Pause  time.Duration // the provider wants to be left alone for so long
}

// Done gives a permit back; one that still waits is not wanted any more, and is refused.
func (t *Table) Done(id ID, r Report) {
	t.mu.Lock()
	defer t.unlock()
	if p := t.held[id]; p != nil {
		now := time.Now()
		t.dropLocked(p, r, now)
		p.model.grantLocked(now)
	}
}

// Gone gives back all that a worker held: it is dead.
func (t *Table) Gone(worker string) {
	t.mu.Lock()
	defer t.unlock()
	now := time.Now()
	for id, p := range t.held { // all of it, before others get it
		if id.Worker == worker {
			t.dropLocked(p, Report{}, now)
		}
	}
	for _, m := range t.models {
		m.grantLocked(now)
	}
}

func (t *Table) dropLocked(p *permit, r Report, now time.Time) {
	delete(t.held, p.ask.ID)
	if p.place == nil {
		p.model.endLocked(r, now)
		return
	}
	p.model.leaveLocked(p)
	t.later(p.answer, now.Sub(p.asked), &RefusedError{Why: "it is not wanted any more"})
}

// Close lets all go that wait.
func (t *Table) Close() {
	t.Apply(nil)
	t.mu.Lock()
	defer t.unlock()
	t.closed = true
}

// State is how a model stands.
type State struct {
	Model  string
	Limits Limits
	InUse  int
	Queued int
	Paused time.Duration // for so long from now on
}

// States are those of all limited models, by name.
func (t *Table) States() []State {
	t.mu.Lock()
	defer t.unlock()
	now := time.Now()
	out := make([]State, 0, len(t.models))
	for _, m := range t.models {
		out = append(out, State{m.name, m.limits, m.inUse, m.waiting, max(0, m.until.Sub(now))})
	}
	slices.SortFunc(out, func(a, b State) int { return strings.Compare(a.Model, b.Model) })
	return out
}

func (t *Table) later(answer Answer, waited time.Duration, err *RefusedError) {
	t.todo = append(t.todo, func() {
		if err == nil {
			answer(waited, nil)
		} else {
			answer(waited, err)
		}
	})
}

// unlock releases the lock and gives the answers that were decided under it.
func (t *Table) unlock() {
	todo := t.todo
	t.todo = nil
	t.mu.Unlock()
	for _, f := range todo {
		f()
	}
}
