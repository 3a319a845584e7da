package session

import (
	"cmp"
	"fmt"
	"slices"
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
	newest := map[Key]*store.Record{} // there are two of a key where the older one ended, and was not deleted
	damaged, err := t.cfg.Store.Load(func(r *store.Record) error {
		t.lastNumber, t.lastVersion = max(t.lastNumber, r.Number), max(t.lastVersion, r.Version)
		if r.State[importing] != nil { // the sidecar ended before the last page had come
			t.cfg.Log.Warn("a session whose import was cut off is deleted", "number", r.Number)
			t.undeleted[r.Number] = false
			return nil
		}
		key := Key{Owner: r.Owner, ID: r.ID}
		older := newest[key]
		if older == nil || older.Number < r.Number {
			newest[key], r = r, older
		}
		if r != nil {
			t.undeleted[r.Number] = false
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the sessions that were stored cannot be read: %w", err)
	}
	slices.SortFunc(damaged, func(a, b store.Damage) int { return cmp.Compare(b.Number, a.Number) }) // the newest of a key first
	for i := range damaged {
		t.takeInDamageLocked(&damaged[i], newest)
	}
	for _, r := range newest {
		t.takeInLocked(r, now)
	}
	return nil
}

// TokenPrefix begins the owner of a session that has a token; a hash of the token follows.
const TokenPrefix = "token:"

// payerOf is who pays for a session that was stored: where it has a token, who made it is not known any more.
func payerOf(owner string) string {
	if strings.HasPrefix(owner, TokenPrefix) {
		return TokenPrefix
	}
	return owner
}

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
	s.extra, s.payer = extraOf(r.Labels, r.Lost), payerOf(r.Owner)
	s.flow = t.newFlow(s)
	t.addLocked(s)
}

// takeInDamageLocked makes a place for a session that cannot be served, so that its owner learns of it. What nobody can name, so that
// nobody could end it, is deleted: a session whose name is lost, and an owner's ledger, which begins anew.
func (t *Table) takeInDamageLocked(d *store.Damage, newest map[Key]*store.Record) {
	log := t.cfg.Log.With("session_id", d.ID, "owner", d.Owner, "number", d.Number, "reason", d.Reason)
	t.lastNumber = max(t.lastNumber, d.Number)
	key := Key{Owner: d.Owner, ID: d.ID}
	other := newest[key]
	switch {
	case d.Number == 0:
		log.Error("the session store holds damage that is no session's")
	case d.ID == "":
		log.Error("a stored session is damaged, and is deleted: nobody can name it")
		t.undeleted[d.Number] = false
	case other != nil && other.Number > d.Number, t.sessions[key] != nil:
		log.Error("a stored session is damaged, and is deleted: it had ended")
		t.undeleted[d.Number] = false
	default:
		log.Error("a stored session is damaged; its calls are answered session_lost until it is ended")
		if other != nil {
			delete(newest, key)
			t.undeleted[other.Number] = false
		}
		s := t.blank(key)
		s.number, s.stored, s.ttl, s.payer = d.Number, true, t.settings().TTL, payerOf(d.Owner)
		s.damaged = wire.Errorf(wire.CodeSessionLost, "what is stored of session %q is damaged: %s; end it, and begin another one", d.ID, d.Reason).
			With("reason", d.Reason)
		s.flow = t.newFlow(s)
		t.addLocked(s)
	}
}

// Damages is how many sessions are not served because the store holds them damaged, and have not ended.
func (t *Table) Damages() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.damages
}
