package heap_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/dspex/dspex-sidecar/internal/heap"
)

type item struct{ key, place int }

// The heap holds what a plain set of items holds, and its first is one of the least.
func TestAgainstASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := heap.New(func(a, b *item) bool { return a.key < b.key }, func(i *item) *int { return &i.place })
		items := make([]*item, 20)
		for i := range items {
			items[i] = &item{}
		}
		in := map[*item]bool{}
		some, key := rapid.SampledFrom(items), rapid.IntRange(0, 9)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				i := some.Draw(t, "item")
				i.key = key.Draw(t, "key")
				h.Put(i)
				in[i] = true
			},
			"remove": func(t *rapid.T) {
				i := some.Draw(t, "item")
				h.Remove(i)
				delete(in, i)
			},
			"take": func(*rapid.T) {
				i := h.First()
				if i == nil {
					return
				}
				h.Remove(i)
				delete(in, i)
			},
			"": func(t *rapid.T) {
				first := h.First()
				if h.Len() != len(in) || (first == nil) != (len(in) == 0) {
					t.Fatalf("%d items, first %v; want %d", h.Len(), first, len(in))
				}
				places := map[int]bool{}
				for _, i := range items {
					if (i.place != 0) != in[i] || in[i] && (i.key < first.key || places[i.place]) {
						t.Fatalf("item %+v, in the set: %v, first %+v", i, in[i], first)
					}
					places[i.place] = true
				}
			},
		})
	})
}
