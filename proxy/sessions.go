package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/wire"
)

// Limits of a session's labels.
const (
	maxLabels     = 32
	maxLabelKey   = 64
	maxLabelValue = 256
	maxListed     = 1000
)

type sessionParams struct {
	Session string             `msgpack:"session"`
	State   msgpack.RawMessage `msgpack:"state"`
	TTL     *int64             `msgpack:"ttl_ms"`
	MaxAge  *int64             `msgpack:"max_age_ms"`
	Labels  map[string]string  `msgpack:"labels"`
	Pool    string             `msgpack:"pool"`
	Token   bool               `msgpack:"token"`
}

func (s *Server) sessionCreate(batch *wire.Batch, who *Caller, params []byte, reply Reply) {
	p := sessionParams{Session: who.Session}
	err := wire.Unmarshal(params, &p)
	if err == nil {
		err = p.check()
	}
	if err == nil && who.Session != "" {
		_, err = named(who, p.Session)
	}
	if err == nil && s.isDraining() {
		err = wire.Errorf(wire.CodeDraining, "the sidecar is ending")
	}
	if err != nil {
		reply(batch, nil, err)
		return
	}
	if p.Session == "" {
		p.Session = random()
	}
	result := map[string]any{"session": p.Session}
	key := session.Key{Owner: who.Owner, ID: p.Session}
	if p.Token {
		token := random()
		key.Owner, result["token"] = tokenOwner(token), token
	}
	o := session.Options{Payer: who.Payer, State: p.State, Labels: p.Labels, TTL: timeOf(p.TTL), MaxAge: timeOf(p.MaxAge)}
	s.cfg.Sessions.Create(batch, key, o, func(b *wire.Batch, err error) { reply(b, result, err) })
}

func (p *sessionParams) check() error {
	if p.Session != "" {
		if err := checkID(p.Session); err != nil {
			return err
		}
	}
	switch {
	case !isTime(p.TTL):
		return wire.Errorf(wire.CodeInvalidParams, "ttl_ms is at least 1 and at most ten years")
	case !isTime(p.MaxAge):
		return wire.Errorf(wire.CodeInvalidParams, "max_age_ms is at least 1 and at most ten years")
	case p.Pool != "" && p.Pool != "default":
		return wire.Errorf(wire.CodeInvalidParams, "no pool %q", p.Pool)
	case len(p.State) > 0 && !isMap(p.State):
		return wire.Errorf(wire.CodeInvalidParams, "state is a map")
	}
	return checkLabels(p.Labels)
}

// isTime says whether a limit of time, in milliseconds, can be one; none is.
func isTime(ms *int64) bool {
	return ms == nil || *ms >= 1 && *ms <= int64(10*365*24*time.Hour/time.Millisecond)
}

// timeOf is such a limit; 0 where there is none.
func timeOf(ms *int64) time.Duration {
	if ms == nil {
		return 0
	}
	return time.Duration(*ms) * time.Millisecond
}

func checkID(id string) error {
	if !wire.ValidSessionID(id) {
		return wire.Errorf(wire.CodeInvalidParams, "a session id is text of 1 to %d bytes without control characters", wire.MaxSessionID)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return wire.Errorf(wire.CodeInvalidParams, "a session has at most %d labels", maxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > maxLabelKey || len(v) > maxLabelValue {
			return wire.Errorf(wire.CodeInvalidParams, "the label %.70q: a key has 1 to %d bytes, a value at most %d", k, maxLabelKey, maxLabelValue)
		}
	}
	return nil
}

func isMap(raw []byte) bool { return raw[0]&0xf0 == 0x80 || raw[0] == 0xde || raw[0] == 0xdf }

// random is 128 random bits, as text.
func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// keyOf is the session that a request is about: the caller's, or of any owner where an administrator names one.
func keyOf(who *Caller, id, owner string) (session.Key, error) {
	key, err := named(who, id)
	switch {
	case err != nil || owner == "" || owner == key.Owner:
		return key, err
	case !who.Admin:
		return key, wire.Errorf(wire.CodePermissionDenied, "only administrators see the sessions of others (listen.admin_uids)")
	}
	key.Owner = owner
	return key, nil
}

// named is the caller's session of that id, or of the id in meta where none is given.
func named(who *Caller, inParams string) (session.Key, error) {
	id := inParams
	if id == "" {
		id = who.Session
	}
	if id == "" {
		return session.Key{}, wire.Errorf(wire.CodeInvalidParams, "session is missing")
	}
	if who.Session != "" && who.Session != id {
		return session.Key{}, wire.Errorf(wire.CodeInvalidParams, "session is %q in params and %q in meta", id, who.Session)
	}
	return session.Key{Owner: who.Owner, ID: id}, nil
}

// onOne makes a Method of what is done to one session, which is all that its params name.
func onOne(do func(batch *wire.Batch, who *Caller, key session.Key, done session.Done)) Method {
	return func(batch *wire.Batch, who *Caller, params []byte, reply Reply) {
		var p struct {
			Session string `msgpack:"session"`
			Owner   string `msgpack:"owner"`
		}
		err := wire.Unmarshal(params, &p)
		var key session.Key
		if err == nil {
			key, err = keyOf(who, p.Session, p.Owner)
		}
		if err != nil {
			reply(batch, nil, err)
			return
		}
		do(batch, who, key, func(b *wire.Batch, err error) { reply(b, map[string]any{"session": key.ID}, err) })
	}
}

func (s *Server) sessionMove(who *Caller, params []byte) (any, error) {
	var p struct {
		Session string `msgpack:"session"`
		Owner   string `msgpack:"owner"`
		Worker  string `msgpack:"worker"`
	}
	if !who.Admin {
		return nil, wire.Errorf(wire.CodePermissionDenied, "only administrators move sessions (listen.admin_uids)")
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	key, err := keyOf(who, p.Session, p.Owner)
	if err != nil {
		return nil, err
	}
	return map[string]any{"session": key.ID}, s.cfg.Sessions.Move(key, p.Worker)
}

func (s *Server) sessionGet(who *Caller, params []byte) (any, error) {
	var p struct {
		Session string `msgpack:"session"`
		Owner   string `msgpack:"owner"`
		Reveal  bool   `msgpack:"reveal"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	key, err := keyOf(who, p.Session, p.Owner)
	if err != nil {
		return nil, err
	}
	info, state, err := s.cfg.Sessions.Get(key)
	if err != nil {
		return nil, err
	}
	m := infoMap(&info)
	m["state"], m["version"], m["lost"] = msgpack.RawMessage(state), info.Version, append([]string{}, info.Lost...)
	if key.Owner != who.Owner && !p.Reveal { // somebody else's words
		m["state"] = nil
	}
	delete(m, "owner")
	delete(m, "waiting")
	return m, nil
}

func labelsOf(i *session.Info) map[string]string {
	if i.Labels == nil {
		return map[string]string{}
	}
	return i.Labels
}

func infoMap(i *session.Info) map[string]any {
	var failed any
	if i.Failed != nil {
		failed = i.Failed.Message
	}
	return map[string]any{
		"session": i.Key.ID, "owner": i.Key.Owner, "worker": wire.OrNil(i.Worker), "labels": labelsOf(i), "bytes": i.Bytes, "age_ms": i.Age.Milliseconds(),
		"idle_ms": i.Idle.Milliseconds(), "ttl_ms": i.TTL.Milliseconds(), "max_age_ms": wire.OrNil(i.MaxAge.Milliseconds()), "calls": i.Calls, "waiting": i.Waiting,
		"spent": spentMap(i), "lm": lmMap(&i.LM), "failed": failed,
	}
}

// lmMap is nil where no language model did anything.
func lmMap(u *session.LMUse) any {
	if *u == (session.LMUse{}) {
		return nil
	}
	return map[string]any{
		"requests": u.Requests, "prompt_tokens": u.PromptTokens, "completion_tokens": u.CompletionTokens, "cost": u.Cost, "cache_hits": u.CacheHits,
		"took_us": u.TookUS, "waited_us": u.WaitedUS,
	}
}

// spentMap is nil where nothing is counted.
func spentMap(i *session.Info) any {
	life, today := &i.Spent.Life, &i.Spent.Today
	if life.Calls == 0 {
		return nil
	}
	return map[string]any{
		"life":  map[string]any{"calls": life.Calls, "tokens": life.Tokens, "cost": life.Cost},
		"today": map[string]any{"calls": today.Calls, "tokens": today.Tokens, "cost": today.Cost},
	}
}

func (s *Server) sessionUpdate(batch *wire.Batch, who *Caller, params []byte, reply Reply) {
	var p struct {
		Session string             `msgpack:"session"`
		Owner   string             `msgpack:"owner"`
		Set     msgpack.RawMessage `msgpack:"set"`
		Delete  []string           `msgpack:"delete"`
	}
	err := wire.Unmarshal(params, &p)
	var key session.Key
	if err == nil {
		key, err = keyOf(who, p.Session, p.Owner)
	}
	if err == nil && len(p.Set) > 0 && !isMap(p.Set) {
		err = wire.Errorf(wire.CodeInvalidParams, "set is a map")
	}
	if err != nil {
		reply(batch, nil, err)
		return
	}
	u := session.Update{Set: p.Set, Delete: p.Delete, Deadline: who.Deadline}
	s.cfg.Sessions.Update(batch, key, u, func(b *wire.Batch, version uint64, err error) {
		reply(b, map[string]any{"session": key.ID, "version": version}, err)
	})
}

func (s *Server) sessionList(who *Caller, params []byte) (any, error) {
	p := struct {
		Labels map[string]string `msgpack:"labels"`
		Limit  int               `msgpack:"limit"`
		After  string            `msgpack:"after"`
		All    bool              `msgpack:"all"`
	}{Limit: 100}
	if err := wire.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	switch {
	case p.Limit < 1 || p.Limit > maxListed:
		return nil, wire.Errorf(wire.CodeInvalidParams, "limit is 1 to %d", maxListed)
	case p.All && !who.Admin:
		return nil, wire.Errorf(wire.CodePermissionDenied, "only administrators list the sessions of all (listen.admin_uids)")
	}
	found, more := s.cfg.Sessions.List(session.Query{Owner: who.Owner, All: p.All, Labels: p.Labels, After: p.After, Limit: p.Limit})
	list := make([]map[string]any, 0, len(found))
	for i := range found {
		list = append(list, infoMap(&found[i]))
	}
	result := map[string]any{"sessions": list}
	if more {
		last := found[len(found)-1].Key
		result["next"] = last.ID
		if p.All {
			result["next"] = last.Owner + "\x00" + last.ID
		}
	}
	return result, nil
}

// closedTo says whether clients are told that the sidecar is ending.
func (s *Server) closedTo(admin bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining && (!admin || !s.reachable)
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}
