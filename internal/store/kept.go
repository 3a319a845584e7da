package store

import (
	"slices"
	"strings"
	"time"
)

// form is how a value is kept.
type form byte

const (
	plain    form = iota // as it is
	sealed               // by a key that this store may or may not have
	nameOnly             // only its name
)

type entry struct {
	key   string
	value []byte
	form  form
}

func cmpKeys(e entry, key string) int { return strings.Compare(e.key, key) }

// kept is a session as the file store keeps it in memory, so that it can be written again without reading. It shares the values
// with the session table. The committer alone uses it.
type kept struct {
	number      uint64
	owner, id   string
	labels      map[string]string
	ttl, maxAge time.Duration
	started     bool
	version     uint64
	entries     []entry // by key
	answers     []Answer
	spent       Spent
	left        Left

	damage string // what is wrong with it; nothing else is known then but number, and perhaps owner and id
	last   uint64 // the sequence number of its last record
	base   uint64 // and of the last one that holds all of it
	size   int    // of that record, about

	before, after *kept // by base
}

// delta is a Change with its secrets sealed.
type delta struct {
	version        uint64
	reset, started bool
	set            []entry
	remove         []string
	answers        []Answer
	forget         []AnswerKey
	spent          *Spent
}

func (k *kept) put(e entry) {
	at, found := slices.BinarySearchFunc(k.entries, e.key, cmpKeys)
	if found {
		k.size += len(e.value) - len(k.entries[at].value)
		k.entries[at] = e
		return
	}
	k.size += len(e.key) + len(e.value) + 3
	k.entries = slices.Insert(k.entries, at, e)
}

func (k *kept) remove(key string) {
	if at, found := slices.BinarySearchFunc(k.entries, key, cmpKeys); found {
		k.size -= len(key) + len(k.entries[at].value) + 3
		k.entries = slices.Delete(k.entries, at, at+1)
	}
}

func (k *kept) forget(key AnswerKey) {
	k.answers = slices.DeleteFunc(k.answers, func(a Answer) bool {
		if a.AnswerKey == key {
			k.size -= len(a.Outcome) + 36 + len(key.Method) + len(key.Key)
			return true
		}
		return false
	})
}

func (k *kept) apply(d *delta) {
	if d.version != 0 {
		k.version = d.version
	}
	if d.reset {
		for _, e := range k.entries {
			k.size -= len(e.key) + len(e.value) + 3
		}
		k.entries, k.started = nil, false
	}
	for _, key := range d.remove {
		k.remove(key)
	}
	for _, e := range d.set {
		k.put(e)
	}
	k.started = k.started || d.started
	for _, key := range d.forget {
		k.forget(key)
	}
	for _, a := range d.answers {
		k.forget(a.AnswerKey)
		k.answers = append(k.answers, a)
		k.size += len(a.Outcome) + 36 + len(a.Method) + len(a.Key)
	}
	if d.spent != nil {
		k.spent = *d.spent
	}
	k.left.Idle = k.ttl
}

// spoil forgets what is not to be served.
func (k *kept) spoil(reason string) {
	*k = kept{
		number: k.number, owner: k.owner, id: k.id, damage: reason, last: k.last, base: k.base, before: k.before, after: k.after,
		size: len(k.owner) + len(k.id) + len(reason),
	}
}

func (k *kept) report() Damage {
	return Damage{Number: k.number, Owner: k.owner, ID: k.id, Reason: k.damage}
}

// keptList holds sessions in the order of their base, so that those of the oldest segment are at its front.
type keptList struct {
	first, last *kept
	size        int64 // of all
}

func (l *keptList) remove(k *kept) {
	l.size -= int64(k.size + recordHeader)
	if k.before != nil {
		k.before.after = k.after
	} else {
		l.first = k.after
	}
	if k.after != nil {
		k.after.before = k.before
	} else {
		l.last = k.before
	}
	k.before, k.after = nil, nil
}

func (l *keptList) append(k *kept, base uint64) {
	l.size += int64(k.size + recordHeader)
	k.base, k.before = base, l.last
	if l.last != nil {
		l.last.after = k
	} else {
		l.first = k
	}
	l.last = k
}

// keep puts a session in force, all of which is in the record seq.
func (j *journal) keep(k *kept, seq uint64) {
	if old := j.sessions[k.number]; old != nil {
		j.list.remove(old)
	}
	k.last = seq
	j.sessions[k.number] = k
	j.list.append(k, seq)
}

func (j *journal) change(k *kept, d *delta, seq uint64) {
	j.list.size -= int64(k.size)
	k.apply(d)
	k.last = seq
	j.list.size += int64(k.size)
}

func (j *journal) drop(k *kept) {
	j.list.remove(k)
	delete(j.sessions, k.number)
}

func (j *journal) setLeft(left map[uint64]Left) {
	for number, l := range left {
		if k := j.sessions[number]; k != nil && k.damage == "" {
			k.left = l
		}
	}
}
