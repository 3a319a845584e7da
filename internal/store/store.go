// Package store owns how session state is kept: an interface, and the memory store. It knows records and versions, and
// not what they mean.
package store

import "time"

// Record is one session as it is kept. Values are encoded and never changed in place; the maps are the caller's again when the
// operation is done.
type Record struct {
	Number  uint64 // never used twice
	Owner   string
	ID      string
	Labels  map[string]string
	TTL     time.Duration
	Version uint64
	State   map[string][]byte // a key is in State or in Secrets
	Secrets map[string][]byte
}

// Change turns one version of a session into the next. A key is in one of Set, Secrets and Delete, and once; what it had
// before, in the state or among the secrets, is replaced.
type Change struct {
	Number   uint64
	Expected uint64 // the version that it changes
	Version  uint64
	Set      map[string][]byte
	Delete   []string
	Secrets  map[string][]byte
}

// Store keeps sessions. An operation is in force when it is done: either it returns now = true with its outcome, and done is
// not called, or it returns false and done is called once, from another goroutine, which may be before it has returned. One that
// fails has changed nothing, or what it changed is not seen again: a Version that failed is never Expected. Operations
// on one session do not overlap.
type Store interface {
	Create(r *Record, done func(error)) (now bool, err error)
	Commit(c *Change, done func(error)) (now bool, err error)
	Delete(number uint64, done func(error)) (now bool, err error)
	Close() error
}

// Memory keeps nothing beyond the process: the session table's own copy is all there is.
type Memory struct{}

// Create is done at once.
func (Memory) Create(*Record, func(error)) (now bool, err error) { return true, nil }

// Commit is done at once.
func (Memory) Commit(*Change, func(error)) (now bool, err error) { return true, nil }

// Delete is done at once.
func (Memory) Delete(uint64, func(error)) (now bool, err error) { return true, nil }

// Close has nothing to do.
func (Memory) Close() error { return nil }
