package pool

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naive is two rings as plain lists: owners in turn order, and each one's flows.
type naive struct {
	owners [2][]*owner
	turns  [2]map[*owner]uint64
	flows  [2]map[*owner][]*Flow
	since  map[*Flow]uint64
}

func newNaive() *naive {
	n := &naive{since: map[*Flow]uint64{}}
	for i := range 2 {
		n.turns[i], n.flows[i] = map[*owner]uint64{}, map[*owner][]*Flow{}
	}
	return n
}

func (n *naive) push(i int, f *Flow, turn uint64) {
	if len(n.flows[i][f.owner]) == 0 {
		n.owners[i] = append(n.owners[i], f.owner)
		n.turns[i][f.owner] = turn
	}
	n.flows[i][f.owner] = append(n.flows[i][f.owner], f)
	n.since[f] = turn
}

func (n *naive) remove(i int, f *Flow) {
	n.flows[i][f.owner] = slices.DeleteFunc(n.flows[i][f.owner], func(other *Flow) bool { return other == f })
	if len(n.flows[i][f.owner]) == 0 {
		n.owners[i] = slices.DeleteFunc(n.owners[i], func(other *owner) bool { return other == f.owner })
	}
}

func (n *naive) toEnd(i int, o *owner, turn uint64) {
	if len(n.flows[i][o]) > 0 {
		n.owners[i] = append(slices.DeleteFunc(n.owners[i], func(other *owner) bool { return other == o }), o)
		n.turns[i][o] = turn
	}
}

func (n *naive) next() *Flow {
	var best *owner
	var turn uint64
	for i := range 2 {
		if len(n.owners[i]) > 0 && (best == nil || n.turns[i][n.owners[i][0]] < turn) {
			best, turn = n.owners[i][0], n.turns[i][n.owners[i][0]]
		}
	}
	var f *Flow
	for i := range 2 {
		if list := n.flows[i][best]; len(list) > 0 && (f == nil || n.since[list[0]] < n.since[f]) {
			f = list[0]
		}
	}
	return f
}

func TestRings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rings [2]ring
		n := newNaive()
		var flows []*Flow
		for range 4 {
			o := &owner{}
			for range 4 {
				flows = append(flows, &Flow{owner: o})
			}
		}
		at := func(f *Flow) int {
			if f.ring == &rings[1] {
				return 1
			}
			return 0
		}
		turn := uint64(0)
		some, which := rapid.SampledFrom(flows), rapid.IntRange(0, 1)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				f, i := some.Draw(t, "flow"), which.Draw(t, "ring")
				if turn++; f.ring == nil {
					rings[i].push(f, turn)
					n.push(i, f, turn)
				}
			},
			"remove": func(t *rapid.T) {
				if f := some.Draw(t, "flow"); f.ring != nil {
					n.remove(at(f), f)
					f.ring.remove(f)
				}
			},
			"next": func(t *rapid.T) {
				f := next(&rings[0], &rings[1])
				if want := n.next(); f != want {
					t.Fatalf("next is %p, want %p", f, want)
				}
				if f == nil {
					return
				}
				n.remove(at(f), f)
				f.ring.remove(f)
				turn++
				for i := range rings {
					rings[i].toEnd(f.owner, turn)
					n.toEnd(i, f.owner, turn)
				}
			},
			"": func(t *rapid.T) {
				for i := range rings {
					if rings[i].empty() != (len(n.owners[i]) == 0) || len(rings[i].byName) != len(n.owners[i]) {
						t.Fatalf("ring %d holds %d owners, want %d", i, len(rings[i].byName), len(n.owners[i]))
					}
				}
			},
		})
	})
}

func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s shares[int]
		held := map[int]int{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				who := rapid.IntRange(0, 5).Draw(t, "who")
				s.add(who, 1)
				held[who]++
			},
			"take": func(t *rapid.T) {
				if who := rapid.IntRange(0, 5).Draw(t, "who"); held[who] > 0 {
					s.add(who, -1)
					held[who]--
				}
			},
			"": func(t *rapid.T) {
				most, holders := 0, 0
				for _, n := range held {
					most = max(most, n)
					if n > 0 {
						holders++
					}
				}
				who, n := s.largest()
				if n != most || held[who] != most && most > 0 || len(s.count) != holders {
					t.Fatalf("largest is %d with %d, want %d; %d are counted, want %d", who, n, most, len(s.count), holders)
				}
			},
		})
	})
}
