package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"time"
)

// errBody is a body that no version of this store has written.
var errBody = errors.New("cannot be decoded")

func appendUint(b []byte, v uint64) []byte   { return binary.AppendUvarint(b, v) }
func appendCount(b []byte, n int) []byte     { return binary.AppendUvarint(b, uint64(n)) } //nolint:gosec // a length is not negative
func appendText(b []byte, s string) []byte   { return append(appendCount(b, len(s)), s...) }
func appendBytes(b []byte, v []byte) []byte  { return append(appendCount(b, len(v)), v...) }
func appendInt(b []byte, v int64) []byte     { return binary.AppendVarint(b, v) }
func appendLeft(b []byte, l Left) []byte     { return appendInt(appendInt(b, int64(l.Idle)), int64(l.Age)) }
func appendKey(b []byte, k AnswerKey) []byte { return appendText(appendText(b, k.Method), k.Key) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendAmounts(b []byte, a Amounts) []byte {
	return binary.LittleEndian.AppendUint64(appendInt(appendInt(b, a.Calls), a.Tokens), math.Float64bits(a.Cost))
}

func appendSpent(b []byte, s Spent) []byte {
	return appendAmounts(appendInt(appendAmounts(b, s.Life), s.Day), s.Today)
}

func appendEntries(b []byte, entries []entry) []byte {
	b = appendCount(b, len(entries))
	for _, e := range entries {
		b = appendBytes(append(appendText(b, e.key), byte(e.form)), e.value)
	}
	return b
}

func appendAnswers(b []byte, answers []Answer) []byte {
	b = appendCount(b, len(answers))
	for _, a := range answers {
		b = append(appendKey(b, a.AnswerKey), a.Params[:]...)
		if b = appendBool(b, a.Outcome != nil); a.Outcome != nil {
			b = appendBytes(b, a.Outcome)
		}
		b = appendInt(b, int64(a.Left))
	}
	return b
}

// appendTo encodes all of a session.
func (k *kept) appendTo(b []byte) []byte {
	b = appendText(appendText(b, k.owner), k.id)
	b = appendCount(b, len(k.labels))
	for _, name := range slices.Sorted(maps.Keys(k.labels)) {
		b = appendText(appendText(b, name), k.labels[name])
	}
	b = appendInt(appendInt(b, int64(k.ttl)), int64(k.maxAge))
	b = appendUint(appendBool(b, k.started), k.version)
	b = appendAnswers(appendEntries(b, k.entries), k.answers)
	return appendLeft(appendSpent(b, k.spent), k.left)
}

func (d *delta) appendTo(b []byte) []byte {
	b = appendBool(appendBool(appendUint(b, d.version), d.reset), d.started)
	b = appendCount(appendEntries(b, d.set), len(d.remove))
	for _, key := range d.remove {
		b = appendText(b, key)
	}
	b = appendCount(appendAnswers(b, d.answers), len(d.forget))
	for _, key := range d.forget {
		b = appendKey(b, key)
	}
	if b = appendBool(b, d.spent != nil); d.spent != nil {
		b = appendSpent(b, *d.spent)
	}
	return b
}

// decoder takes a body apart. After a mistake it yields zeros, and ok is false. What it yields does not share the body's memory.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) fail() { d.b, d.failed = nil, true }

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count is a number of things that take at least size bytes each, and are there.
func (d *decoder) count(size int) int {
	n := d.uint()
	if n > uint64(len(d.b)/size) { //nolint:gosec // a length is not negative
		d.fail()
		return 0
	}
	return int(n) //nolint:gosec // at most a length
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) bool() bool {
	v := d.take(1)
	if len(v) == 1 && v[0] > 1 {
		d.fail()
	}
	return len(v) == 1 && v[0] == 1
}

func (d *decoder) bytes() []byte           { return append([]byte{}, d.take(d.count(1))...) }
func (d *decoder) text() string            { return string(d.take(d.count(1))) }
func (d *decoder) duration() time.Duration { return time.Duration(d.int()) }
func (d *decoder) left() Left              { return Left{Idle: d.duration(), Age: d.duration()} }
func (d *decoder) key() AnswerKey          { return AnswerKey{Method: d.text(), Key: d.text()} }

func (d *decoder) amounts() Amounts {
	a := Amounts{Calls: d.int(), Tokens: d.int()}
	if cost := d.take(8); cost != nil {
		a.Cost = math.Float64frombits(binary.LittleEndian.Uint64(cost))
	}
	return a
}

func (d *decoder) spent() Spent { return Spent{Life: d.amounts(), Day: d.int(), Today: d.amounts()} }

func (d *decoder) entries() []entry {
	entries := make([]entry, 0, d.count(3))
	for range cap(entries) {
		e := entry{key: d.text()}
		if f := d.take(1); f != nil {
			e.form = form(f[0])
		}
		if e.value = d.bytes(); e.form > nameOnly {
			d.fail()
		}
		entries = append(entries, e)
	}
	return entries
}

func (d *decoder) answers() []Answer {
	var answers []Answer
	for range d.count(36) {
		a := Answer{AnswerKey: d.key()}
		copy(a.Params[:], d.take(len(a.Params)))
		if d.bool() {
			a.Outcome = d.bytes()
		}
		a.Left = d.duration()
		answers = append(answers, a)
	}
	return answers
}

// end says whether all of the body was good, and nothing is left over.
func (d *decoder) end() error {
	if d.failed || len(d.b) > 0 {
		return errBody
	}
	return nil
}

func decodeKept(number uint64, body []byte) (*kept, error) {
	d := decoder{b: body}
	k := &kept{number: number, owner: d.text(), id: d.text()}
	if n := d.count(2); n > 0 {
		k.labels = make(map[string]string, n)
		for range n {
			name := d.text()
			k.labels[name] = d.text()
		}
	}
	k.ttl, k.maxAge, k.started, k.version = d.duration(), d.duration(), d.bool(), d.uint()
	k.entries, k.answers, k.spent, k.left = d.entries(), d.answers(), d.spent(), d.left()
	k.size = len(body)
	if !slices.IsSortedFunc(k.entries, func(a, b entry) int { return cmpKeys(a, b.key) }) {
		d.fail()
	}
	return k, d.end()
}

func decodeDelta(body []byte) (*delta, error) {
	d := decoder{b: body}
	c := &delta{version: d.uint(), reset: d.bool(), started: d.bool(), set: d.entries()}
	for range d.count(1) {
		c.remove = append(c.remove, d.text())
	}
	c.answers = d.answers()
	for range d.count(2) {
		c.forget = append(c.forget, d.key())
	}
	if d.bool() {
		c.spent = new(d.spent())
	}
	return c, d.end()
}

// appendLefts encodes what is left of many sessions.
func appendLefts(b []byte, left map[uint64]Left) []byte {
	b = appendCount(b, len(left))
	for number, l := range left {
		b = appendLeft(appendUint(b, number), l)
	}
	return b
}

func decodeLefts(body []byte) (map[uint64]Left, error) {
	d := decoder{b: body}
	left := map[uint64]Left{}
	for range d.count(3) {
		left[d.uint()] = d.left()
	}
	return left, d.end()
}

// note is what the journal says of itself, so that after damage it can be told what was lost.
type note struct {
	start   uint64            // what comes before this sequence number has been retired
	from    uint64            // of all records from here to the note
	touched map[uint64]uint64 // this is the last of each session's
}

func (n *note) appendTo(b []byte) []byte {
	b = appendCount(appendUint(appendUint(b, n.start), n.from), len(n.touched))
	for number, seq := range n.touched {
		b = appendUint(appendUint(b, number), seq)
	}
	return b
}

func decodeNote(body []byte) (*note, error) {
	d := decoder{b: body}
	n := &note{start: d.uint(), from: d.uint(), touched: map[uint64]uint64{}}
	for range d.count(2) {
		n.touched[d.uint()] = d.uint()
	}
	return n, d.end()
}

func (d *Damage) appendTo(b []byte) []byte {
	return appendText(appendText(appendText(b, d.Owner), d.ID), d.Reason)
}

func decodeDamage(number uint64, body []byte) (*Damage, error) {
	d := decoder{b: bytes.Clone(body)}
	return &Damage{Number: number, Owner: d.text(), ID: d.text(), Reason: d.text()}, d.end()
}
