package session_test

import (
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
	busy    map[uint64]string // the operation at work for a session
	used    map[uint64]bool   // versions
	commits int
	fail    map[string]error         // what the next operation of that name says
	slow    map[string]bool          // operations of that name wait for a go
	waiting chan func(outcome error) // each gives one of those its outcome
	closed  bool
}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	return &shelf{
		t: t, records: map[uint64]*store.Record{}, busy: map[uint64]string{}, used: map[uint64]bool{0: true}, fail: map[string]error{},
		slow: map[string]bool{}, waiting: make(chan func(error), 64),
	}
}

// op does one operation: apply is called where it succeeds.
func (s *shelf) op(name string, number uint64, done func(error), apply func() error) (now bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.busy[number]; other != "" {
		s.t.Errorf("%s of session %d, while %s is at work", name, number, other)
	}
	if s.closed {
		s.t.Errorf("%s of session %d after the store was closed", name, number)
	}
	err = s.fail[name]
	delete(s.fail, name)
	if !s.slow[name] {
		if err == nil {
			err = apply()
		}
		return true, err
	}
	s.busy[number] = name
	outcome := make(chan error, 1)
	s.waiting <- func(e error) { outcome <- e }
	go func() {
		err := <-outcome
		s.mu.Lock()
		delete(s.busy, number)
		if err == nil {
			err = apply()
		}
		s.mu.Unlock()
		done(err)
	}()
	return false, nil
}

func (s *shelf) Load(func(*store.Record) error) ([]store.Damage, error) { return nil, nil }

func (s *shelf) KeepLeft(map[uint64]store.Left, func(error)) (now bool, err error) { return true, nil }

func (s *shelf) Create(r *store.Record, done func(error)) (now bool, err error) {
	return s.op("create", r.Number, done, func() error {
		if s.records[r.Number] != nil || r.Version != 0 && s.used[r.Version] {
			s.t.Errorf("the number %d or the version %d was used before", r.Number, r.Version)
		}
		s.used[r.Version] = true
		kept := *r
		kept.State, kept.Secrets = maps.Clone(r.State), maps.Clone(r.Secrets)
		s.records[r.Number] = &kept
		return nil
	})
}

func (s *shelf) Commit(c *store.Change, done func(error)) (now bool, err error) {
	s.mu.Lock()
	s.commits++
	if s.used[c.Version] {
		s.t.Errorf("version %d is used again", c.Version)
	}
	s.used[c.Version] = true
	s.mu.Unlock()
	return s.op("commit", c.Number, done, func() error {
		r := s.records[c.Number]
		if r == nil || r.Version != c.Expected {
			s.t.Errorf("a commit of %+v to %+v", c, r)
			return nil
		}
		s.checkKeys(c)
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
		r.Version = c.Version
		return nil
	})
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
		if s.records[number] == nil {
			s.t.Errorf("session %d is deleted and was not there", number)
		}
		delete(s.records, number)
		return nil
	})
}

func (s *shelf) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// failNext makes the next operation of that name fail.
func (s *shelf) failNext(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[name] = err
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
