package session

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/internal/heap"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// Config is what New takes.
type Config struct {
	Pool       *pool.Pool
	Store      store.Store
	TTL        time.Duration // since the last use
	Max        int           // sessions
	MaxState   int           // bytes of one session's state
	AutoCreate bool          // a call in an unknown session makes it
	Log        *slog.Logger
}

// Table holds all sessions. Make it with New, end it with Close.
type Table struct {
	cfg     Config
	tasks   sync.WaitGroup
	wake    chan struct{}
	stopped chan struct{}

	mu          sync.Mutex // guards what follows, and the sessions
	sessions    map[Key]*session
	byNumber    map[uint64]*session
	expiries    heap.Heap[*session]
	lastNumber  uint64
	lastVersion uint64
}

// New makes an empty table.
func New(cfg Config) *Table {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Table{
		cfg: cfg, wake: make(chan struct{}, 1), stopped: make(chan struct{}),
		sessions: make(map[Key]*session), byNumber: make(map[uint64]*session), expiries: newExpiries(),
	}
	t.tasks.Go(t.expire)
	return t
}

// Close stops expiry; the pool must have been closed before.
func (t *Table) Close() error {
	close(t.stopped)
	t.tasks.Wait()
	return t.cfg.Store.Close()
}

// Options are what a client may say when it makes a session.
type Options struct {
	State  []byte // an encoded map, borrowed; nil: empty
	TTL    time.Duration
	Labels map[string]string
}

// Create makes a session; done is called once, when it is durable.
func (t *Table) Create(batch *wire.Batch, key Key, o Options, done Done) {
	s, err := t.prepare(key, o)
	if err != nil {
		done(batch, err)
		return
	}
	finish := func(b *wire.Batch, err error) {
		if err != nil {
			t.mu.Lock()
			t.removeLocked(s)
			t.mu.Unlock()
		}
		done(b, err)
	}
	if now, err := t.cfg.Store.Create(s.record(), later(finish)); now {
		finish(batch, err)
	}
}

// Done ends an operation.
type Done func(batch *wire.Batch, err error)

// later makes what a store calls, from a goroutine of its own, of a Done.
func later(done Done) func(error) {
	return func(err error) {
		var b wire.Batch
		done(&b, err)
		b.Flush()
	}
}

// prepare checks what a session is to be and enters it into the table.
func (t *Table) prepare(key Key, o Options) (*session, error) {
	state, err := clientState(slices.Clone(o.State))
	if err != nil {
		return nil, err
	}
	s := &session{
		key: key, labels: o.Labels, ttl: t.cfg.TTL, created: time.Now(), used: time.Now(),
		state: state, secrets: map[string][]byte{},
	}
	if o.TTL > 0 {
		s.ttl = o.TTL
	}
	for k, v := range state {
		s.bytes += len(k) + len(v)
	}
	if s.bytes > t.cfg.MaxState {
		return nil, tooMuch(s, s.bytes, t.cfg.MaxState)
	}
	s.flow = t.cfg.Pool.NewFlow(key.Owner, true)
	t.mu.Lock()
	err = t.enterLocked(s)
	t.mu.Unlock()
	if err != nil {
		s.flow.Close(&wire.Batch{}, notFound(key))
		return nil, err
	}
	return s, nil
}

func (t *Table) enterLocked(s *session) error {
	if t.sessions[s.key] != nil {
		return wire.Errorf(wire.CodeSessionExists, "the session %q exists", s.key.ID)
	}
	if len(t.sessions) >= t.cfg.Max {
		return wire.Errorf(wire.CodeSessionLimit, "there are %d sessions already; end some, or raise sessions.max", len(t.sessions)).
			With("limit", t.cfg.Max)
	}
	t.lastNumber++
	s.number = t.lastNumber
	if len(s.state) > 0 {
		t.lastVersion++
		s.version = t.lastVersion
	}
	t.sessions[s.key], t.byNumber[s.number] = s, s
	t.scheduleLocked(s)
	return nil
}

func (t *Table) removeLocked(s *session) {
	s.ended = true
	delete(t.byNumber, s.number)
	if t.sessions[s.key] == s {
		delete(t.sessions, s.key)
	}
	t.expiries.Remove(s)
}

// Submit hands a call in the session to the pool.
func (t *Table) Submit(batch *wire.Batch, key Key, c *pool.Call) error {
	s, err := t.use(key)
	if err != nil {
		return err
	}
	c.Handler = &call{table: t, session: s, pool: c, inner: c.Handler}
	s.flow.Submit(batch, c)
	return nil
}

// use finds the session for one more call.
func (t *Table) use(key Key) (*session, error) {
	t.mu.Lock()
	s := t.sessions[key]
	if s == nil && t.cfg.AutoCreate {
		t.mu.Unlock()
		made, err := t.prepare(key, Options{})
		t.mu.Lock()
		if err != nil && t.sessions[key] == nil {
			t.mu.Unlock()
			return nil, err
		}
		if s = made; s == nil {
			s = t.sessions[key] // another call was first
		}
	}
	defer t.mu.Unlock()
	if s == nil {
		return nil, notFound(key)
	}
	s.active++
	s.calls++
	return s, nil
}

// End ends a session at once: its calls are settled session_not_found.
func (t *Table) End(batch *wire.Batch, key Key, done Done) {
	t.mu.Lock()
	s := t.sessions[key]
	if s == nil {
		t.mu.Unlock()
		done(batch, notFound(key))
		return
	}
	t.removeLocked(s)
	t.mu.Unlock()
	t.clearAway(batch, s, done)
}

// clearAway ends what is left of a session that is out of the table.
func (t *Table) clearAway(batch *wire.Batch, s *session, done Done) {
	s.flow.Close(batch, notFound(s.key))
	t.mu.Lock()
	holder := s.holder
	t.mu.Unlock()
	if holder != nil {
		holder.Notify(batch, "session.drop", dropParams(s.number, true))
	}
	if now, err := t.cfg.Store.Delete(s.number, later(done)); now {
		done(batch, err)
	}
}

// admitLocked says why a change cannot be made to a session, if it cannot.
func (t *Table) admitLocked(s *session, c *store.Change) *wire.Error {
	switch n := s.grown(c); {
	case s.ended:
		return notFound(s.key)
	case n > t.cfg.MaxState && n > s.bytes:
		return tooMuch(s, n, t.cfg.MaxState)
	}
	return nil
}

// Len is the number of sessions.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions)
}

func notFound(key Key) *wire.Error {
	return wire.Errorf(wire.CodeSessionNotFound, "no session %q: it was not created, has ended or has expired", key.ID)
}

func tooMuch(s *session, n, limit int) *wire.Error {
	return wire.Errorf(wire.CodeSessionLimit, "the state of session %q would take %d bytes, and may take %d (sessions.max_state)", s.key.ID, n, limit).
		With("limit", limit)
}

func dropParams(number uint64, ended bool) []byte {
	n := 1
	if ended {
		n = 2
	}
	b := wire.AppendMapHeader(nil, n)
	b = wire.AppendUint(append(wire.AppendString(b, "keys"), 0x91), number)
	if ended {
		b = append(wire.AppendString(b, "ended"), 0xc3)
	}
	return b
}
