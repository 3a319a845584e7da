package session_test

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/store"
)

// shelf is a store that holds its callers to the contract, keeps what it is told, and fails and waits when the test says so.
type shelf struct {
	t testing.TB

	mu      sync.Mutex // guards what follows
	records map[uint64]*store.Record
	damaged []store.Damage
	last    map[uint64]chan struct{} // the last operation of a session that waits
	used    map[uint64]bool          // versions
	commits int
	fail    map[string]error         // what the next operation of that name says
	failing map[string]error         // what all of that name say
	slow    map[string]bool          // operations of that name wait for a go
	waiting chan func(outcome error) // each gives one of those its outcome
	closed  bool
}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	return &shelf{
		t: t, records: map[uint64]*store.Record{}, last: map[uint64]chan struct{}{}, used: map[uint64]bool{0: true}, fail: map[string]error{},
		failing: map[string]error{},
		slow:    map[string]bool{}, waiting: make(chan func(error), 64),
	}
}

// op does one operation: apply is called where it succeeds. One that is begun while others of the session wait comes after them.
func (s *shelf) op(name string, number uint64, done func(error), apply func() error) (now bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.t.Errorf("%s of session %d after the store was closed", name, number)
	}
	err = cmp.Or(s.fail[name], s.failing[name])
	delete(s.fail, name)
	before := s.last[number]
	if !s.slow[name] && before == nil {
		if err == nil {
			err = apply()
		}
		return true, err
	}
	outcome, ended := make(chan error, 1), make(chan struct{})
	if s.slow[name] {
		s.waiting <- func(e error) { outcome <- e }
	} else {
		outcome <- err
	}
	s.last[number] = ended
	go func() {
		err := <-outcome
		if before != nil {
			<-before
		}
		s.mu.Lock()
		if err == nil {
			err = apply()
		}
		if s.last[number] == ended {
			delete(s.last, number)
		}
		s.mu.Unlock()
		done(err)
		close(ended)
	}()
	return false, nil
}

// Load gives copies of what is kept.
func (s *shelf) Load(each func(*store.Record) error) ([]store.Damage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		kept := *r
		kept.State, kept.Secrets = maps.Clone(r.State), map[string][]byte{}
		kept.Answers = slices.Clone(r.Answers)
		kept.Lost = append(slices.Clone(r.Lost), slices.Sorted(maps.Keys(r.Secrets))...) // it has no key to seal them with
		if err := each(&kept); err != nil {
			return nil, err
		}
	}
	return slices.Clone(s.damaged), nil
}

func (s *shelf) KeepLeft(left map[uint64]store.Left, done func(error)) (now bool, err error) {
	return s.op("keep_left", 0, done, func() error {
		for n, l := range left {
			if r := s.records[n]; r != nil {
				r.Left = l
			}
		}
		return nil
	})
}

func (s *shelf) Create(r *store.Record, done func(error)) (now bool, err error) {
	kept := *r
	kept.State, kept.Secrets = maps.Clone(r.State), maps.Clone(r.Secrets)
	return s.op("create", r.Number, done, func() error {
		if s.records[r.Number] != nil || r.Version != 0 && s.used[r.Version] {
			s.t.Errorf("the number %d or the version %d was used before", r.Number, r.Version)
		}
		s.used[r.Version] = true
		s.records[r.Number] = &kept
		return nil
	})
}

func (s *shelf) Commit(c *store.Change, done func(error)) (now bool, err error) {
	s.mu.Lock()
	name := "note" // of something beside the state
	if c.Version != 0 {
		name = "commit"
		s.commits++
		if s.used[c.Version] {
			s.t.Errorf("version %d is used again", c.Version)
		}
		s.used[c.Version] = true
	}
	s.mu.Unlock()
	return s.op(name, c.Number, done, func() error {
		r := s.records[c.Number]
		if r == nil {
			return errGone
		}
		if c.Version != 0 && r.Version != c.Expected {
			s.t.Errorf("a commit of %+v to %+v", c, r)
			return nil
		}
		s.checkKeys(c)
		keep(r, c)
		return nil
	})
}

var errGone = errors.New("no such session")

// keep applies a change to a record.
func keep(r *store.Record, c *store.Change) {
	if c.Reset {
		clear(r.State)
		clear(r.Secrets)
		r.Lost, r.Started = nil, false
	}
	for k, v := range c.Set {
		r.State[k] = v
		delete(r.Secrets, k)
	}
	for k, v := range c.Secrets {
		r.Secrets[k] = v
		delete(r.State, k)
	}
	for _, k := range c.Delete {
		delete(r.State, k)
		delete(r.Secrets, k)
	}
	if c.Version != 0 {
		r.Version = c.Version
	}
	r.Started = r.Started || c.Started
	r.Left.Idle = r.TTL
	if c.Spent != nil {
		r.Spent = *c.Spent
	}
	r.Answers = slices.DeleteFunc(r.Answers, func(a store.Answer) bool {
		return slices.Contains(c.Forget, a.AnswerKey) ||
			slices.ContainsFunc(c.Answers, func(b store.Answer) bool { return a.AnswerKey == b.AnswerKey })
	})
	r.Answers = append(r.Answers, c.Answers...)
}

func (s *shelf) checkKeys(c *store.Change) {
	keys := slices.Concat(slices.Collect(maps.Keys(c.Set)), slices.Collect(maps.Keys(c.Secrets)), c.Delete)
	slices.Sort(keys)
	if len(slices.Compact(slices.Clone(keys))) != len(keys) {
		s.t.Errorf("a change names a key twice: %q", keys)
	}
}

func (s *shelf) Delete(number uint64, done func(error)) (now bool, err error) {
	return s.op("delete", number, done, func() error {
		delete(s.records, number)
		s.damaged = slices.DeleteFunc(s.damaged, func(d store.Damage) bool { return d.Number == number && number != 0 })
		return nil
	})
}

func (s *shelf) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *shelf) reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = false
}

// left is what was last noted of a session's time limits; it asks nobody.
func (s *shelf) left(id string) store.Left {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.ID == id {
			return r.Left
		}
	}
	return store.Left{}
}

// numbers are those that the store keeps.
func (s *shelf) numbers() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.records))
}

// snapshot is another shelf with what is kept now.
func (s *shelf) snapshot() *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := newShelf(s.t)
	for n, r := range s.records {
		kept := *r
		kept.State, kept.Secrets, kept.Answers = maps.Clone(r.State), maps.Clone(r.Secrets), slices.Clone(r.Answers)
		kept.Left.Idle = r.TTL // as after a crash
		o.records[n] = &kept
	}
	return o
}

// failNext makes the next operation of that name fail.
func (s *shelf) failNext(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[name] = err
}

// failAll makes all operations of that name fail, or, with nil, none any more.
func (s *shelf) failAll(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing[name] = err
}

// slowly makes the operations of that name wait, or not any more.
func (s *shelf) slowly(name string, slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow[name] = slow
}

// sessions is how many the store keeps, and commits how many it was asked for.
func (s *shelf) counts() (sessions, commits int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records), s.commits
}
