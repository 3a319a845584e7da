package store

import (
	"bytes"
	"reflect"
	"testing"
)

// seeds are the bodies of a store that has a record of each kind.
func seeds(f *testing.F) {
	f.Helper()
	for _, s := range goldenSegments(f) {
		for _, found := range scan(s.number, s.data) {
			f.Add(found.body)
		}
	}
}

type segmentData struct {
	number uint64
	data   []byte
}

// FuzzBody: no body makes a decoder fail other than by an error, or take more than in proportion to its length, and what was taken
// is written again as what it was.
func FuzzBody(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		if k, err := decodeKept(1, body); err == nil {
			again := k.appendTo(nil)
			if l, err := decodeKept(1, again); err != nil || !bytes.Equal(l.appendTo(nil), again) {
				t.Errorf("%x was taken, and its own form is not: %x", body, again)
			}
		}
		if d, err := decodeDelta(body); err == nil {
			again := d.appendTo(nil)
			if e, err := decodeDelta(again); err != nil || !bytes.Equal(e.appendTo(nil), again) {
				t.Errorf("%x was taken, and its own form is not: %x", body, again)
			}
			(&kept{}).apply(d)
		}
		if n, err := decodeNote(body); err == nil {
			if m, err := decodeNote(n.appendTo(nil)); err != nil || !reflect.DeepEqual(m, n) {
				t.Errorf("%x", body)
			}
		}
		if l, err := decodeLefts(body); err == nil {
			if m, err := decodeLefts(appendLefts(nil, l)); err != nil || !reflect.DeepEqual(m, l) {
				t.Errorf("%x", body)
			}
		}
		if d, err := decodeDamage(1, body); err == nil {
			if e, err := decodeDamage(1, d.appendTo(nil)); err != nil || *e != *d {
				t.Errorf("%x", body)
			}
		}
	})
}

// FuzzScan: whatever a file holds, scanning ends, and finds only what is whole.
func FuzzScan(f *testing.F) {
	for _, s := range goldenSegments(f) {
		f.Add(s.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		used := 0
		for _, found := range scan(1, data) {
			used += recordHeader + len(found.body)
		}
		if used > len(data) {
			t.Errorf("%d bytes hold %d", len(data), used)
		}
	})
}
