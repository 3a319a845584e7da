package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

const noLimit = ^uint64(0)

// loader replays the journal. Damage shows as sequence numbers that are missing, as bodies that are not what was written, and as records
// of a session that do not follow from the one before.
type loader struct {
	*journal

	names   map[uint64]uint64 // the sessions of the last records, by sequence number
	gone    map[uint64]uint64 // sessions that were deleted, and when
	notes   []noted
	holes   []hole // lost records of which the session is not known yet
	reports []Damage
	expect  uint64 // the next sequence number
}

type noted struct {
	*note

	seq uint64
}

// hole is from the first lost record to the one after the last.
type hole struct{ from, to uint64 }

// scanned is a segment with its records; the records share the memory of the whole file.
type scanned struct {
	*segment

	items []item
	limit uint64 // where the next segment begins
	err   error
}

// Load gives every session, and begins the work. What was found damaged stays so, and is returned every time, until it is deleted.
func (f *File) Load(each func(*Record) error) ([]Damage, error) {
	if f.tail != nil {
		return nil, errors.New("session store: it is loaded once")
	}
	l := &loader{journal: &f.journal, gone: map[uint64]uint64{}}
	t, names, bad, fresh, err := openTail(f.dir, f.opts.open)
	if err != nil {
		return nil, fmt.Errorf("session store: %w", err)
	}
	f.tail, l.names = t, names
	switch {
	case fresh && len(f.segments) > 0:
		l.report(tailName + " is missing: whether the end of the journal was cut cannot be told")
	case bad > 0:
		l.report(fmt.Sprintf("%s is damaged in %d places; the journal itself is read", tailName, bad))
	}
	if err := l.replay(); err != nil {
		return nil, fmt.Errorf("session store: %w", err)
	}
	for _, k := range f.sessions {
		if k.damage != "" {
			continue
		}
		if !l.leftKnown { // it may have been used until the end
			k.left.Idle = k.ttl
		}
		r, err := f.sealer.record(k)
		if err != nil {
			l.spoil(k, err.Error())
		} else if err := each(r); err != nil {
			return nil, err
		}
	}
	f.serve(l)
	for _, k := range f.sessions {
		if k.damage != "" {
			l.reports = append(l.reports, k.report())
		}
	}
	return l.reports, nil
}

// serve begins a segment of this process's own; where that cannot be, operations fail until it can.
func (f *File) serve(l *loader) {
	f.seq = l.expect - 1
	if f.store == 0 {
		f.store = rand.Uint64() | 1 //nolint:gosec // it is no secret
	}
	if err := f.openSegment(); err != nil {
		f.failed = err
		f.log.Error("the session store cannot write", "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded = true
	go f.run()
}

// replay reads all segments, the next one while the one before is taken in.
func (l *loader) replay() error {
	l.next = 1
	if n := len(l.segments); n > 0 {
		l.next = l.segments[n-1].number + 1
	}
	last, err := l.readLast()
	if err != nil {
		return err
	}
	l.begin(last)
	l.leftKnown = true // of nothing
	for s := range readAhead(l.segments) {
		if err == nil {
			err = s.err
		}
		if err == nil {
			l.take(s, s.limit)
		}
	}
	if err != nil {
		return err
	}
	if len(l.segments) > 0 {
		l.take(last, noLimit)
	}
	l.lostTail()
	l.resolve()
	return nil
}

// readAhead reads all segments but the last, one before it is asked for. All that it sends is to be received.
func readAhead(segments []*segment) <-chan scanned {
	all := make(chan scanned)
	go func() {
		defer close(all)
		for i, s := range segments[:max(len(segments)-1, 0)] {
			r := readSegment(s)
			r.limit = segments[i+1].first
			all <- r
		}
	}()
	return all
}

// readLast reads the last segment. One of which nothing is there to be read was being made when the process ended; had anything in it
// been acknowledged, the tail would say so.
func (l *loader) readLast() (scanned, error) {
	for len(l.segments) > 0 {
		s := l.segments[len(l.segments)-1]
		last := readSegment(s)
		if last.err != nil || !s.broken || len(last.items) > 0 {
			return last, last.err
		}
		if err := os.Remove(s.path); err != nil {
			return scanned{}, err
		}
		l.segments = l.segments[:len(l.segments)-1]
	}
	return scanned{}, nil
}

func readSegment(s *segment) scanned {
	data, err := os.ReadFile(s.path)
	r := scanned{segment: s, err: err}
	if err == nil {
		r.items = scan(s.number, data)
	}
	return r
}

// begin finds where the journal starts, in the notes of its last segment, and removes what was retired before.
func (l *loader) begin(last scanned) {
	l.start, l.expect, l.from = 1, 1, 1
	if len(l.segments) == 0 {
		return
	}
	for _, s := range l.segments {
		if !s.broken {
			l.store = s.store
			continue
		}
		l.report(fmt.Sprintf("the header of %s is damaged; its records are read", s.path))
		// A record's sequence number tells as well where the segment before ends.
		s.first = noLimit
		if found := readSegment(s); len(found.items) > 0 {
			s.first = found.items[0].seq
		}
	}
	for i := len(l.segments) - 2; i >= 0; i-- {
		l.segments[i].first = min(l.segments[i].first, l.segments[i+1].first)
	}
	l.start = l.segments[0].first
	for _, found := range last.items {
		if n, err := decodeNote(found.body); found.kind == kindNote && err == nil {
			l.start = n.start
		}
	}
	for len(l.segments) > 1 && l.segments[1].first <= l.start {
		if err := os.Remove(l.segments[0].path); err != nil && !errors.Is(err, os.ErrNotExist) {
			break
		}
		l.segments = l.segments[1:]
	}
	l.expect, l.from = l.start, l.start
}

// synced is up to where the last segment's records were acknowledged, as far as anything tells.
func (l *loader) synced(s scanned) uint64 {
	n := s.first - 1
	for _, found := range s.items {
		n = max(n, found.synced)
	}
	for seq := range l.names {
		n = max(n, seq)
	}
	return n
}

// take applies a segment's records up to limit, where the next segment begins.
func (l *loader) take(s scanned, limit uint64) {
	l.total += s.size
	synced := limit - 1
	if limit == noLimit {
		synced = l.synced(s)
	}
	for _, found := range s.items {
		if found.seq >= limit {
			break
		}
		if found.seq < l.expect {
			continue // retired
		}
		if found.seq > l.expect {
			l.lose(min(found.seq, synced+1), "a record is missing")
		}
		if found.seq > l.expect || (found.body == nil && found.seq > synced) {
			return // the end of what was acknowledged; what comes after it was torn
		}
		l.expect++
		if err := l.apply(found); err != nil {
			l.hurt(found, fmt.Sprintf("%s: record %d is not what was written", s.path, found.seq))
		}
	}
	if limit != noLimit {
		l.lose(limit, s.path+" was cut")
	}
}

// lostTail notices that more had been acknowledged than is there.
func (l *loader) lostTail() {
	end := l.expect
	for seq := range l.names {
		end = max(end, seq+1)
	}
	l.lose(end, "the end of the journal was cut")
}

// lose notes that the records up to end are gone.
func (l *loader) lose(end uint64, why string) {
	for ; l.expect < end; l.expect++ {
		l.leftKnown = false
		number, known := l.names[l.expect]
		switch n := len(l.holes); {
		case known:
			l.hurt(item{head: head{number: number, seq: l.expect}}, fmt.Sprintf("%s (record %d)", why, l.expect))
		case n > 0 && l.holes[n-1].to == l.expect:
			l.holes[n-1].to++
		default:
			l.holes = append(l.holes, hole{l.expect, l.expect + 1})
		}
	}
}

// hurt notes that a record of a session is lost.
func (l *loader) hurt(found item, why string) {
	k := l.sessions[found.number]
	l.leftKnown = false
	switch {
	case found.number == 0:
		l.report(why + ": time limits may be longer than they were")
	case found.kind == kindCopy && k != nil && k.damage == "" && k.last == found.prev:
		k.last = found.seq // nothing is lost: what it repeats was read
	default:
		l.spoilNumber(found.number, found.seq, why)
	}
}

func (l *loader) spoilNumber(number, seq uint64, why string) {
	k := l.sessions[number]
	if k == nil {
		k = &kept{number: number}
		l.keep(k, seq)
	}
	l.spoil(k, why)
	k.last = max(k.last, seq)
}

func (l *loader) spoil(k *kept, why string) {
	if k.damage != "" {
		return
	}
	l.list.size -= int64(k.size)
	k.spoil(why)
	l.list.size += int64(k.size)
	l.fresh = append(l.fresh, k)
}

func (l *loader) report(reason string) { l.reports = append(l.reports, Damage{Reason: reason}) }
