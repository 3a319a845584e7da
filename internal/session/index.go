package session

import (
	"slices"
	"sort"
	"strings"
)

// blockSize is how long a list of the index gets before it is split.
const blockSize = 512

// index has the sessions in the order of owner and id: a list of short sorted lists, none of them empty, so that adding and removing move
// a few hundred pointers at most, however many sessions there are.
type index struct{ blocks [][]*session }

// find returns the place of the first session whose key is not less than key.
func (x *index) find(key Key) (block, at int) {
	block = sort.Search(len(x.blocks), func(i int) bool {
		b := x.blocks[i]
		return compare(b[len(b)-1].key, key) >= 0
	})
	if block == len(x.blocks) {
		return block, 0
	}
	at, _ = slices.BinarySearchFunc(x.blocks[block], key, func(s *session, key Key) int { return compare(s.key, key) })
	return block, at
}

func (x *index) add(s *session) {
	block, at := x.find(s.key)
	if block == len(x.blocks) {
		if block == 0 {
			x.blocks = append(x.blocks, []*session{s})
			return
		}
		block--
		at = len(x.blocks[block])
	}
	b := slices.Insert(x.blocks[block], at, s)
	x.blocks[block] = b
	if len(b) > blockSize {
		half := len(b) / 2
		x.blocks[block] = slices.Clip(b[:half])
		x.blocks = slices.Insert(x.blocks, block+1, slices.Clone(b[half:]))
		clear(b[half:])
	}
}

func (x *index) remove(s *session) {
	block, at := x.find(s.key)
	if block == len(x.blocks) || x.blocks[block][at] != s {
		return
	}
	x.blocks[block] = slices.Delete(x.blocks[block], at, at+1)
	if len(x.blocks[block]) == 0 {
		x.blocks = slices.Delete(x.blocks, block, block+1)
	}
}

// from calls visit for the sessions from key on, in order, until it says no.
func (x *index) from(key Key, visit func(*session) bool) {
	block, at := x.find(key)
	for ; block < len(x.blocks); block, at = block+1, 0 {
		for _, s := range x.blocks[block][at:] {
			if !visit(s) {
				return
			}
		}
	}
}

func compare(a, b Key) int {
	if c := strings.Compare(a.Owner, b.Owner); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}
