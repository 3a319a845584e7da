package session

import (
	"cmp"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/events"
	"github.com/dspex/dspex-sidecar/internal/heap"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// Config is what New takes.
type Config struct {
	Pool  *pool.Pool
	Store store.Store
	Settings
	Metrics *metrics.Metrics
	Events  *events.Hub
	Log     *slog.Logger
}

// Table holds all sessions. Make it with New, end it with Close.
type Table struct {
	cfg     Config // but for the settings
	now     atomic.Pointer[Settings]
	tasks   sync.WaitGroup
	wake    chan struct{}
	stopped chan struct{}

	mu          sync.Mutex // guards what follows, and the sessions
	sessions    map[Key]*session
	ledgers     map[string]*session // by payer
	byNumber    map[uint64]*session
	detached    map[string]detached // by payer
	bytes       int                 // of all sessions
	index       index
	expiries    heap.Heap[*session]
	damages     int             // of sessions that are damaged
	undeleted   map[uint64]bool // numbers that the store has to delete yet; true: it is at it. No more than there were sessions
	lastNumber  uint64
	lastVersion uint64
	maxFrame    int // of workers; 0: none has been used

	toldUndeleted bool // the log tells of what is not deleted
}

// New makes a table of the sessions that the store keeps. An error means that those cannot be read.
func New(cfg Config) (*Table, error) {
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if _, is := cfg.Store.(store.Memory); !is {
		cfg.Store = &watched{Store: cfg.Store, log: cfg.Log}
	}
	t := &Table{
		cfg: cfg, wake: make(chan struct{}, 1), stopped: make(chan struct{}), sessions: make(map[Key]*session),
		ledgers: make(map[string]*session), detached: make(map[string]detached), byNumber: make(map[uint64]*session), expiries: newExpiries(),
		undeleted: make(map[uint64]bool),
	}
	t.now.Store(&cfg.Settings)
	if err := t.load(); err != nil {
		return nil, err
	}
	t.deleteAgain()
	t.tasks.Go(t.expire)
	return t, nil
}

// Close stops expiry, and keeps what is left of the sessions' time limits; the pool must have been closed before.
func (t *Table) Close() error {
	close(t.stopped)
	t.tasks.Wait()
	t.deleteAgain()
	return errors.Join(t.keepLeft(), t.cfg.Store.Close())
}

// Options are what a client may say when it makes a session.
type Options struct {
	Payer  string        // "uid:1000": who makes it, and has turns and a budget for it
	State  []byte        // an encoded map, borrowed; nil: empty
	TTL    time.Duration // 0: Config.TTL
	MaxAge time.Duration // 0: Config.MaxAge
	Labels map[string]string

	// Of a session that was exported:
	Imported bool // State may hold reserved keys
	Started  bool
	Lost     []string // the names of its secrets
	More     bool     // further pages follow: until the last of them it takes no calls
}

// Create makes a session; done is called once, when it is durable.
func (t *Table) Create(batch *wire.Batch, key Key, o Options, done Done) {
	s, err := t.newSession(key, o)
	if err != nil {
		done(batch, err)
		return
	}
	_ = t.create(batch, s, done) // done is told
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

// newSession checks what a session is to be. It is not in the table yet.
func (t *Table) newSession(key Key, o Options) (*session, error) {
	state, err := stateOf(o.State, o.Imported)
	if err != nil {
		return nil, err
	}
	s := t.blank(key)
	s.state, s.labels, s.payer = state, o.Labels, o.Payer
	s.ttl, s.maxAge = cmp.Or(o.TTL, t.settings().TTL), cmp.Or(o.MaxAge, t.settings().MaxAge)
	s.started, s.lost, s.active = o.Started, o.Lost, 1
	s.extra = extraOf(o.Labels, o.Lost)
	if o.More {
		s.state[importing] = trueValue
	}
	s.bytes = s.stateBytes()
	if s.bytes > t.settings().MaxState {
		return nil, tooMuch(s, s.bytes, t.settings().MaxState)
	}
	s.flow = t.newFlow(s)
	return s, nil
}

// blank is a session without anything in it.
func (t *Table) blank(key Key) *session {
	now := time.Now()
	return &session{
		key: key, id: []byte(key.ID), created: now, used: now, state: map[string][]byte{}, secrets: map[string][]byte{},
	}
}

// enterLocked puts a session into the table. Its creation has the turn in its flow by then: whoever finds it comes after that.
func (t *Table) enterLocked(s *session) *wire.Error {
	if t.sessions[s.key] != nil {
		return wire.Errorf(wire.CodeSessionExists, "the session %q exists", s.key.ID)
	}
	if len(t.sessions) >= t.settings().Max {
		return wire.Errorf(wire.CodeSessionLimit, "there are %d sessions already; end some, or raise sessions.max", len(t.sessions)).
			With("limit", t.settings().Max)
	}
	if err := t.roomLocked(s.bytes + s.head()); err != nil {
		return err
	}
	t.lastNumber++
	s.number = t.lastNumber
	if len(s.state) > 0 {
		t.lastVersion++
		s.version = t.lastVersion
	}
	t.addLocked(s)
	return nil
}

func (t *Table) addLocked(s *session) {
	t.byNumber[s.number] = s
	t.bytes += s.bytes + s.head()
	if s.damaged != nil {
		t.damages++
	}
	if s.ledger {
		t.ledgers[s.payer] = s
	} else {
		t.sessions[s.key] = s
		t.index.add(s)
	}
	t.scheduleLocked(s)
}

// roomLocked says why all sessions together cannot be n bytes larger.
func (t *Table) roomLocked(n int) *wire.Error {
	if t.settings().MaxTotal == 0 || n <= 0 || t.bytes+n <= t.settings().MaxTotal {
		return nil
	}
	return wire.Errorf(wire.CodeSessionLimit, "all sessions take %d bytes, and with %d more would be over sessions.max_total; end some, or raise it", t.bytes, n).
		With("limit", t.settings().MaxTotal)
}

func (t *Table) removeLocked(s *session) {
	s.ended = true
	delete(t.byNumber, s.number)
	t.bytes -= s.bytes + s.head()
	if s.damaged != nil {
		t.damages--
	}
	switch {
	case s.ledger:
		delete(t.ledgers, s.payer)
	case t.sessions[s.key] == s:
		delete(t.sessions, s.key)
		t.index.remove(s)
	}
	t.expiries.Remove(s)
}

// Submit hands a call in the session to the pool; payer, such as "uid:1000", is who makes it.
func (t *Table) Submit(batch *wire.Batch, key Key, payer string, c *pool.Call) error {
	s, err := t.use(batch, key, payer)
	if err != nil {
		return err
	}
	ledger, refused := t.ledgerFor(batch, payer)
	if refused != nil {
		t.leave(s)
		return refused
	}
	c.Handler = &call{table: t, session: s, flow: s.flow, pool: c, inner: c.Handler, ledger: ledger}
	s.flow.Submit(batch, c)
	return nil
}

// use finds the session for one more call.
func (t *Table) use(batch *wire.Batch, key Key, payer string) (*session, error) {
	for {
		t.mu.Lock()
		if s := t.sessions[key]; s != nil {
			if err := s.unusable(); err != nil {
				t.mu.Unlock()
				return nil, err
			}
			alone := s.joinedLocked()
			t.mu.Unlock()
			if alone {
				t.prepare(s)
			}
			return s, nil
		}
		t.mu.Unlock()
		if !t.settings().AutoCreate {
			return nil, notFound(key)
		}
		s, err := t.newSession(key, Options{Payer: payer})
		if err != nil {
			return nil, err
		}
		s.joinedLocked()                                           // nobody else has it yet
		refused := t.create(batch, s, func(*wire.Batch, error) {}) // its flow tells its calls what went wrong
		switch {
		case refused == nil:
			return s, nil
		case refused.Code != wire.CodeSessionExists: // another call was first
			return nil, refused
		}
	}
}

// joinedLocked counts one more call, and says whether it may be worth to prepare for it.
func (s *session) joinedLocked() (alone bool) {
	s.active++
	s.calls++
	return s.active == 1 && s.bytes >= prepareFrom
}

// End ends a session at once: its calls are settled session_not_found. It has ended after an error of the store, too.
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
	t.tell(s, "ended")
	t.clearAway(batch, s, done)
}

// admitLocked says why a change cannot be made.
func (t *Table) admitLocked(s *session, c *store.Change) *wire.Error {
	if s.ended {
		return notFound(s.key)
	}
	n := s.grown(c)
	if n > t.settings().MaxState && n > s.bytes {
		c.Forget = append(c.Forget, t.takeStaleLocked(s, time.Now())...)
		n = s.grown(c)
	}
	if n > t.settings().MaxState && n > s.bytes {
		return tooMuch(s, n, t.settings().MaxState)
	}
	return t.roomLocked(n - s.bytes)
}

// Len is the number of sessions.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions)
}

// Bytes is what all sessions take, as MaxTotal counts it.
func (t *Table) Bytes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes
}

func notFound(key Key) *wire.Error {
	return wire.Errorf(wire.CodeSessionNotFound, "no session %q: it was not created, has ended or has expired", key.ID)
}

func notStored(err error) *wire.Error {
	return wire.Errorf(wire.CodeStorageUnavailable, "the session could not be stored: %s", reasonOf(err))
}

func tooMuch(s *session, n, limit int) *wire.Error {
	return wire.Errorf(wire.CodeSessionLimit, "session %q would take %d bytes, and may take %d (sessions.max_state)", s.key.ID, n, limit).
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
