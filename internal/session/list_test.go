package session_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

func many(_ *pool.Settings, c *session.Config) { c.Max = 100_000 }

// pages lists with a limit until there is no more, and checks each page's length.
func (b *rig) pages(q session.Query) (keys []session.Key) {
	b.t.Helper()
	for {
		infos, more := b.table.List(q)
		for i := range infos {
			keys = append(keys, infos[i].Key)
		}
		if !more {
			return keys
		}
		if len(infos) != q.Limit {
			b.t.Fatalf("a page of %d where there is more", len(infos))
		}
		last := infos[len(infos)-1].Key
		if q.After = last.ID; q.All {
			q.After = last.Owner + "\x00" + last.ID
		}
	}
}

func TestList(t *testing.T) {
	b := start(t, many)
	var all []session.Key
	owners := []string{"token:a", "uid:1", "uid:10", "uid:2"}
	for i := range 4000 { // several blocks of the index
		k := session.Key{Owner: owners[i%4], ID: fmt.Sprint("s", i/4)}
		all = append(all, k)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	label := func(k session.Key) string { return k.ID[len(k.ID)-1:] }
	for _, k := range all {
		o := session.Options{Labels: map[string]string{"last": label(k), "team": "red"}}
		if err := b.await(b.outcome(func(batch *wire.Batch, done session.Done) { b.table.Create(batch, k, o, done) })); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range all[:1500] {
		if err := b.await(b.outcome(func(batch *wire.Batch, done session.Done) { b.table.End(batch, k, done) })); err != nil {
			t.Fatal(err)
		}
	}
	left := slices.Clone(all[1500:])
	slices.SortFunc(left, func(a, b session.Key) int {
		if a.Owner != b.Owner {
			return strings.Compare(a.Owner, b.Owner)
		}
		return strings.Compare(a.ID, b.ID)
	})
	only := func(keep func(session.Key) bool) []session.Key {
		return slices.DeleteFunc(slices.Clone(left), func(k session.Key) bool { return !keep(k) })
	}
	for _, limit := range []int{1, 7, 500, 1000} {
		if got := b.pages(session.Query{All: true, Limit: limit}); !slices.Equal(got, left) {
			t.Errorf("all, %d a page: %d, want %d", limit, len(got), len(left))
		}
		for _, owner := range append(owners, "uid:", "uid:3") {
			want := only(func(k session.Key) bool { return k.Owner == owner })
			if got := b.pages(session.Query{Owner: owner, Limit: limit}); !slices.Equal(got, want) {
				t.Errorf("%s, %d a page: %d, want %d", owner, limit, len(got), len(want))
			}
			want = only(func(k session.Key) bool { return k.Owner == owner && label(k) == "7" })
			q := session.Query{Owner: owner, Limit: limit, Labels: map[string]string{"last": "7", "team": "red"}}
			if got := b.pages(q); !slices.Equal(got, want) {
				t.Errorf("%s with a label, %d a page: %d, want %d", owner, limit, len(got), len(want))
			}
		}
	}
	if got := b.pages(session.Query{All: true, Limit: 10, Labels: map[string]string{"none": ""}}); len(got) != 0 {
		t.Errorf("a label that none has, and an empty value: %d", len(got))
	}
	// What is listed after need not be there any more, nor ever have been.
	want := only(func(k session.Key) bool { return k.Owner == "uid:1" && k.ID > "s5x" })
	if got := b.pages(session.Query{Owner: "uid:1", After: "s5x", Limit: 100}); !slices.Equal(got, want) {
		t.Errorf("after one that is not there: %d, want %d", len(got), len(want))
	}
}
