// Package store owns how sessions are kept: an interface, the memory store and the file store. It knows records and versions, and
// not what they mean.
package store

import "time"

// Record is one session as it is kept. Values are encoded and never changed in place; the maps and slices are the caller's again when
// the operation is done.
type Record struct {
	Number  uint64 // never used twice: who holds an older number of the same owner and id holds nothing
	Owner   string
	ID      string
	Labels  map[string]string
	TTL     time.Duration // since the last use; 0: none
	MaxAge  time.Duration // since the creation; 0: none
	Started bool          // its first call has committed
	Version uint64
	State   map[string][]byte // a key is in one of State, Secrets and Lost
	Secrets map[string][]byte
	Lost    []string // secrets that were not kept, or cannot be opened any more
	Answers []Answer
	Spent   Spent
	Left    Left
}

// Change turns one version of a session into the next, or, where Version is 0, changes only what stands beside the state. A key is in
// one of Set, Secrets and Delete, and once; what it had before, in the state or among the secrets, is replaced.
type Change struct {
	Number   uint64
	Expected uint64 // the version that it changes
	Version  uint64
	Reset    bool // all of the state and the secrets goes first, and Started with it
	Set      map[string][]byte
	Delete   []string
	Secrets  map[string][]byte
	Started  bool        // it is from now on
	Answers  []Answer    // begun or given; each replaces that of its method and key
	Forget   []AnswerKey // answers that are not kept any longer
	Spent    *Spent      // nil: as it was
}

// AnswerKey names a call of a session that a client made with an idempotency key.
type AnswerKey struct{ Method, Key string }

// Answer is what is kept of such a call.
type Answer struct {
	AnswerKey

	Params  [32]byte // a hash of what it was called with
	Outcome []byte   // encoded; nil: the call has begun, and what became of it is not known
	Left    time.Duration
}

// Spent counts what a session's calls have taken.
type Spent struct {
	Life  Amounts
	Day   int64 // days since 1970-01-01 UTC, of Today
	Today Amounts
}

// Amounts are what calls take.
type Amounts struct {
	Calls  int64
	Tokens int64
	Cost   float64 // in US dollars
}

// Left is what is left of a session's time limits; 0 where it has none. It is kept in place of instants: the wall clock may jump. A Commit
// sets Idle to the session's TTL, and so does Load, for all sessions, where the end was no Close after a KeepLeft.
type Left struct{ Idle, Age time.Duration }

// Damage is a session of which the store holds something that is not what was written. It is not served.
type Damage struct {
	Number uint64 // 0: not known
	Owner  string // "" where it is not known
	ID     string
	Reason string
}

// Store keeps sessions. An operation is in force when it is done: either it returns now = true with its outcome, and done is
// not called, or it returns false and done is called once, from another goroutine, which may be before it has returned. One that
// fails has changed nothing, or what it changed is not seen again: a Version that failed is never Expected. Operations are done in
// the order in which they were begun.
type Store interface {
	// Load calls each with every session that is kept, before any other operation. What is damaged is returned.
	Load(each func(*Record) error) ([]Damage, error)
	// Create keeps a new session.
	Create(r *Record, done func(error)) (now bool, err error)
	// Commit keeps a change of one that is there.
	Commit(c *Change, done func(error)) (now bool, err error)
	// Delete forgets a session, a damaged one too.
	Delete(number uint64, done func(error)) (now bool, err error)
	// KeepLeft notes what is left of the time limits of all sessions, by number.
	KeepLeft(left map[uint64]Left, done func(error)) (now bool, err error)
	// Close ends the store when all that was begun is done.
	Close() error
}
