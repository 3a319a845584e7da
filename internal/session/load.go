package session

import (
	"fmt"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/wire"
)

// load fills the table with what the store keeps. Versions and numbers go on above all that were given: the workers that knew of higher ones
// have ended with the sidecar that gave them.
func (t *Table) load() error {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	var half []uint64
	damaged, err := t.cfg.Store.Load(func(r *store.Record) error {
		if r.State[importing] != nil { // the sidecar ended before the last page had come
			half = append(half, r.Number)
			t.lastNumber, t.lastVersion = max(t.lastNumber, r.Number), max(t.lastVersion, r.Version)
			return nil
		}
		t.takeInLocked(r, now)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the sessions that were stored cannot be read: %w", err)
	}
	for _, d := range damaged {
		t.cfg.Log.Error("a stored session is damaged; its calls are answered session_lost until it is ended",
			"session_id", d.ID, "owner", d.Owner, "number", d.Number, "reason", d.Reason)
		t.damages++
		if d.ID != "" {
			t.takeInDamagedLocked(&d)
		}
	}
	for _, number := range half {
		t.cfg.Log.Warn("a session whose import was cut off is deleted", "number", number)
		gone := func(err error) {
			if err != nil {
				t.cfg.Log.Error("it was not deleted from the store", "number", number, "error", err.Error())
			}
		}
		if now, err := t.cfg.Store.Delete(number, gone); now {
			gone(err)
		}
	}
	return nil
}

// tokenPrefix begins the owner of a session that has a token.
const tokenPrefix = "token:"

func (t *Table) takeInLocked(r *store.Record, now time.Time) {
	key := Key{Owner: r.Owner, ID: r.ID}
	s := t.blank(key)
	s.number, s.version, s.labels, s.ttl, s.maxAge = r.Number, r.Version, r.Labels, r.TTL, r.MaxAge
	s.started, s.stored, s.ledger, s.spent, s.lost = r.Started, true, r.ID == "", r.Spent, r.Lost
	if r.State != nil {
		s.state = r.State
	}
	if r.Secrets != nil {
		s.secrets = r.Secrets
	}
	s.bytes = s.stateBytes()
	s.takeInAnswers(r.Answers, now)
	s.resume(r.Left, now)
	s.extra = extraOf(r.Labels, r.Lost)
	if s.payer = r.Owner; strings.HasPrefix(r.Owner, tokenPrefix) { // who made it is not known any more
		s.payer = tokenPrefix
	}
	s.flow = t.newFlow(s)
	t.lastNumber, t.lastVersion = max(t.lastNumber, r.Number), max(t.lastVersion, r.Version)
	t.addLocked(s)
}

// takeInDamagedLocked makes a place for a session that cannot be served, so that its owner learns of it.
func (t *Table) takeInDamagedLocked(d *store.Damage) {
	s := t.blank(Key{Owner: d.Owner, ID: d.ID})
	s.number, s.stored = d.Number, true
	s.damaged = wire.Errorf(wire.CodeSessionLost, "what is stored of session %q is damaged: %s; end it, and begin another one", d.ID, d.Reason).
		With("reason", d.Reason)
	s.flow = t.newFlow(s)
	t.lastNumber = max(t.lastNumber, d.Number)
	t.addLocked(s)
}

// Damages is how many sessions the store turned out to hold damaged.
func (t *Table) Damages() int { return t.damages }
