package session

import (
	"slices"

	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// partLimit bounds a part of a restore: each of its values takes a byte at least, so that none is over wire.MaxValues.
	partLimit = wire.MaxValues - partHead
	// partHead is what a frame of session.restore takes beside its entries, at most.
	partHead = 1024
	// entryHead is what an entry takes beside its key and value, at most.
	entryHead = 5
	// prepareFrom is how much is worth encoding ahead, without a lock, rather than at the dispatch, under the pool's.
	prepareFrom = 128 << 10
)

// restore is what a worker's copy lacks of a session's state: all of it, or what changed since base.
type restore struct {
	number, version, base uint64
	id                    []byte
	entries               []entry
	gone                  []string // keys of base that the state does not have
	lost                  []string // secrets that did not outlive the sidecar
	bytes                 int
}

type entry struct {
	key    string
	value  []byte // never changed in place
	secret bool
}

// prepared is a restore that was encoded before its call was dispatched.
type prepared struct {
	version, base uint64
	parts         [][]byte
}

// lacksLocked is what a worker that holds base lacks.
func (s *session) lacksLocked(base uint64) *restore {
	r := &restore{number: s.number, version: s.version, base: base, id: s.id}
	add := func(k string, v []byte, secret bool) {
		r.entries = append(r.entries, entry{k, v, secret})
		r.bytes += len(k) + len(v) + entryHead
	}
	if base == 0 {
		r.lost = slices.Clone(s.lost)
		r.entries = make([]entry, 0, len(s.state)+len(s.secrets))
		for k, v := range s.state {
			add(k, v, false)
		}
		for k, v := range s.secrets {
			add(k, v, true)
		}
		return r
	}
	for _, k := range s.behind {
		if v, ok := s.state[k]; ok {
			add(k, v, false)
		} else if v, ok := s.secrets[k]; ok {
			add(k, v, true)
		} else {
			r.gone = append(r.gone, k)
			r.bytes += len(k) + entryHead
		}
	}
	return r
}

// parts encodes the params of session.restore: several where one frame of at most limit bytes does not hold all. A value that is
// in the state fits one frame: it was admitted for that.
func (r *restore) parts(limit int) [][]byte {
	room := min(limit-partHead, partLimit)
	var ends []int // of each part, in entries
	size := 0
	for _, k := range slices.Concat(r.gone, r.lost) {
		size += len(k) + entryHead
	}
	for i, e := range r.entries {
		n := len(e.key) + len(e.value) + entryHead
		if i > 0 && size+n > room {
			ends, size = append(ends, i), 0
		}
		size += n
	}
	ends = append(ends, len(r.entries))
	out := make([][]byte, len(ends))
	begin := 0
	for i, end := range ends {
		out[i] = r.part(i+1, len(ends), r.entries[begin:end])
		begin = end
	}
	return out
}

func (r *restore) part(part, parts int, entries []entry) []byte {
	size, secrets := partHead, 0
	for _, e := range entries {
		size += len(e.key) + len(e.value) + entryHead
		if e.secret {
			secrets++
		}
	}
	first := part == 1
	if first {
		for _, k := range slices.Concat(r.gone, r.lost) {
			size += len(k) + entryHead
		}
	}
	fields := 7
	if r.base != 0 {
		fields++
	}
	if first && len(r.gone) > 0 {
		fields++
	}
	if first && len(r.lost) > 0 {
		fields++
	}
	b := wire.AppendMapHeader(make([]byte, 0, size), fields)
	b = wire.AppendUint(wire.AppendString(b, "key"), r.number)
	b = wire.AppendString(wire.AppendString(b, "session"), r.id)
	b = wire.AppendUint(wire.AppendString(b, "version"), r.version)
	if r.base != 0 {
		b = wire.AppendUint(wire.AppendString(b, "base"), r.base)
	}
	b = wire.AppendUint(wire.AppendString(b, "part"), uint64(part))   //nolint:gosec // a small positive number
	b = wire.AppendUint(wire.AppendString(b, "parts"), uint64(parts)) //nolint:gosec // likewise
	if first && len(r.gone) > 0 {
		b = appendStrings(wire.AppendString(b, "delete"), r.gone)
	}
	if first && len(r.lost) > 0 {
		b = appendStrings(wire.AppendString(b, "lost"), r.lost)
	}
	for _, secret := range [...]bool{false, true} {
		name, n := "state", len(entries)-secrets
		if secret {
			name, n = "secrets", secrets
		}
		b = wire.AppendMapHeader(wire.AppendString(b, name), n)
		for _, e := range entries {
			if e.secret == secret {
				b = append(wire.AppendString(b, e.key), e.value...)
			}
		}
	}
	return b
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, 0xdc, byte(len(list)>>8), byte(len(list))) //nolint:gosec // at most 65,535: maxBehind, or MaxLost
	for _, s := range list {
		b = wire.AppendString(b, s)
	}
	return b
}

// baseLocked is the version to start from for the worker that the last call went to; 0 where that is nothing.
func (s *session) baseLocked(same bool) uint64 {
	if !same || s.holds == unknown {
		return 0
	}
	return s.holds
}

// restoreLocked sends what the worker lacks of the state ahead of a call.
func (t *Table) restoreLocked(s *session, to *pool.Target) {
	ready := s.prepared
	s.prepared = nil
	same := s.holder == to.Worker()
	base := s.baseLocked(same)
	switch {
	case to.Again:
		base = 0 // what was sent ahead may not have arrived, or the worker does not hold what it was thought to
	case same && s.holds == s.version, !same && s.version == 0 && len(s.lost) == 0:
		return // it holds the state; the empty one needs no words
	}
	if ready == nil || ready.version != s.version || ready.base != base {
		ready = &prepared{parts: s.lacksLocked(base).parts(to.MaxFrame())}
	}
	t.tell(s, "restored", "worker", to.Worker().ID())
	for _, part := range ready.parts {
		t.trace(s, "session.restore", "sidecar", to.Worker().ID(), len(part))
		to.Request("session.restore", part)
	}
}

// prepare encodes a large state ahead of a call that will most likely find a worker without it, so that the dispatch, which
// holds the pool's lock, does not have to.
func (t *Table) prepare(s *session) {
	pinned := s.flow.Worker()
	t.mu.Lock()
	same := s.holder != nil && s.holder.ID() == pinned
	base, limit := s.baseLocked(same), t.maxFrame
	var r *restore
	if limit > 0 && s.prepared == nil && (!same || s.holds != s.version) {
		r = s.lacksLocked(base)
	}
	t.mu.Unlock()
	if r == nil || r.bytes < prepareFrom {
		return
	}
	ready := &prepared{version: r.version, base: base, parts: r.parts(limit)}
	t.mu.Lock()
	if s.version == r.version && !s.ended {
		s.prepared = ready
	}
	t.mu.Unlock()
}
