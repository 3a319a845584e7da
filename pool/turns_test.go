package pool

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// naive is what two turns must hold, as plain as can be.
type naive struct {
	owners [2]map[*owner]uint64 // the numbers of those with flows that wait there
	flows  map[*Flow]*naiveFlow
}

type naiveFlow struct {
	in     int // -1: nowhere
	number uint64
	left   int
}

func (n *naive) push(i int, f *Flow, number uint64) {
	if _, in := n.owners[i][f.owner]; !in {
		n.owners[i][f.owner] = number
	}
	it := n.flows[f]
	if it.in = i; it.left == 0 {
		it.number, it.left = number, f.turn.weight
	}
}

func (n *naive) leave(f *Flow) {
	i := n.flows[f].in
	n.flows[f].in = -1
	for other, it := range n.flows {
		if it.in == i && other.owner == f.owner {
			return
		}
	}
	delete(n.owners[i], f.owner)
}

func (n *naive) take(number uint64) (next *Flow) {
	var first *owner
	lowest := uint64(math.MaxUint64)
	for i := range n.owners {
		for o, number := range n.owners[i] {
			if number < lowest {
				first, lowest = o, number
			}
		}
	}
	for f, it := range n.flows {
		if it.in >= 0 && f.owner == first && (next == nil || it.number < n.flows[next].number) {
			next = f
		}
	}
	if next == nil {
		return nil
	}
	n.leave(next)
	n.flows[next].left--
	for i := range n.owners {
		if _, in := n.owners[i][first]; in {
			n.owners[i][first] = number
		}
	}
	return next
}

func TestTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		both := [2]turns{newTurns(), newTurns()}
		n := &naive{owners: [2]map[*owner]uint64{{}, {}}, flows: map[*Flow]*naiveFlow{}}
		var flows []*Flow
		for range 4 {
			o := &owner{}
			for i := range 4 {
				f := &Flow{owner: o, turn: flowTurn{weight: 1 + i%3}}
				flows = append(flows, f)
				n.flows[f] = &naiveFlow{in: -1}
			}
		}
		number := uint64(0)
		some, which := rapid.SampledFrom(flows), rapid.IntRange(0, 1)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				f, i := some.Draw(t, "flow"), which.Draw(t, "turns")
				if number++; f.turn.in == nil {
					both[i].push(f, number)
					n.push(i, f, number)
				}
			},
			"leave": func(t *rapid.T) {
				if f := some.Draw(t, "flow"); f.turn.in != nil {
					n.leave(f)
					f.leaveLocked()
				}
			},
			"take": func(t *rapid.T) {
				number++
				f := take(&both[0], &both[1], number)
				if want := n.take(number); f != want {
					t.Fatalf("took %p, want %p", f, want)
				}
			},
			"": func(t *rapid.T) {
				for i := range both {
					in := both[i].owners.Len()
					if both[i].empty() != (len(n.owners[i]) == 0) || in != len(n.owners[i]) || len(both[i].byOwner) != in {
						t.Fatalf("turns %d hold %d owners (%d by name), want %d", i, in, len(both[i].byOwner), len(n.owners[i]))
					}
				}
			},
		})
	})
}

// Turns cost nothing but moves in heaps.
func BenchmarkTurns(b *testing.B) {
	both := [2]turns{newTurns(), newTurns()}
	number := uint64(0)
	var owners [32]owner
	for i := range 1024 {
		number++
		both[i%2].push(&Flow{owner: &owners[i%32], turn: flowTurn{weight: 1 + i%3}}, number)
	}
	b.ReportAllocs()
	for b.Loop() {
		number += 2
		f := take(&both[0], &both[1], number)
		both[f.turn.number%2].push(f, number+1)
	}
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
