package store

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// together has the committer take operations at once, and says of each whether it failed.
func together(f *File, ops ...op) string {
	ended := make(chan byte, len(ops))
	f.mu.Lock()
	for _, o := range ops {
		o.done = func(err error) {
			if err != nil {
				ended <- 'x'
			} else {
				ended <- '.'
			}
		}
		f.queue = append(f.queue, o)
	}
	f.wakeLocked()
	f.mu.Unlock()
	all := ""
	for range ops {
		all += string(<-ended)
	}
	return all
}

func creating(r *Record) op     { return op{kind: kindCreate, number: r.Number, record: r} }
func changing(c *Change) op     { return op{kind: kindChange, number: c.Number, change: c} }
func deleting(number uint64) op { return op{kind: kindDelete, number: number} }
func spending(number, n int) op {
	return changing(&Change{Number: uint64(number), Spent: &Spent{Day: int64(n), Life: Amounts{Calls: int64(n)}}})
}

// Operations of one session that come together are synced together, and each follows from the one before.
func TestOneSessionInAGroup(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{}
	f := reopen(t, dir, Options{open: r.opener})
	must(t, create(f, &Record{Number: 1, Version: 1}))
	ops := []op{
		changing(put(1, 2)), spending(1, 1), spending(1, 2), changing(put(1, 3)), changing(put(1, 3)), spending(1, 3), spending(1, 4),
		creating(&Record{Number: 1}), creating(&Record{Number: 2, Version: 1}), changing(put(2, 2)), spending(2, 5), deleting(2),
		spending(2, 6), changing(put(2, 3)), creating(&Record{Number: 2, ID: "again", Version: 7}), changing(put(2, 8)), changing(put(3, 1)),
	}
	r.take()
	if got := together(f.File, ops...); got != "....x..x....xx..x" {
		t.Errorf("got %s", got)
	}
	if groups := r.take(); len(groups) != 1 {
		t.Errorf("%d syncs: %v", len(groups), groups)
	}
	again := func(dir string) {
		t.Helper()
		g := reopen(t, dir, Options{})
		a, b := g.records[1], g.records[2]
		if len(g.damage) > 0 || a == nil || b == nil || a.Version != 3 || a.Spent.Day != 4 || b.ID != "again" || b.Version != 8 || b.Spent.Day != 0 {
			t.Errorf("%+v %+v %+v", a, b, g.damage)
		}
		must(t, g.Close())
	}
	again(crashed(t, dir))
	must(t, commit(f, put(1, 4)))
	must(t, commit(f, put(1, 5)))
	must(t, f.Close())
	g := reopen(t, dir, Options{})
	if a := g.records[1]; len(g.damage) > 0 || a.Version != 5 || a.Spent.Day != 4 {
		t.Errorf("%+v %+v", a, g.damage)
	}
}

// Of what one session has spent, only the newest is written.
func TestSpentIsMerged(t *testing.T) {
	r := &recorder{}
	dir := t.TempDir()
	f := reopen(t, dir, Options{open: r.opener})
	must(t, create(f, &Record{Number: 1}))
	seq := f.seq
	ops := make([]op, 5000)
	for i := range ops {
		ops[i] = spending(1, i+1)
	}
	r.take()
	together(f.File, ops...)
	if groups := r.take(); len(groups) != 1 || f.seq != seq+1 {
		t.Errorf("%d syncs, %d records", len(groups), f.seq-seq)
	}
	must(t, f.Close())
	if r := reopen(t, dir, Options{}).records[1]; r.Spent.Day != 5000 {
		t.Errorf("%+v", r)
	}
}

// All that is in a group fails with it, and what comes next follows from what was there before.
func TestOneSessionInAGroupThatFails(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{}
	f := reopen(t, dir, Options{open: disk.opener})
	must(t, create(f, &Record{Number: 1, Version: 1}))
	noSpace := error(syscall.ENOSPC)
	disk.write.Store(&noSpace)
	ops := []op{changing(put(1, 2)), spending(1, 1), changing(put(1, 3)), creating(&Record{Number: 2}), deleting(1)}
	if got := together(f.File, ops...); got != "xxxxx" {
		t.Errorf("got %s", got)
	}
	disk.write.Store(nil)
	ops = []op{changing(put(1, 4)), changing(&Change{Number: 1, Expected: 1, Version: 4, Started: true}), creating(&Record{Number: 2})}
	if got := together(f.File, ops...); got != "x.." {
		t.Errorf("got %s", got)
	}
	must(t, f.Close())
	g := reopen(t, dir, Options{})
	if a := g.records[1]; len(g.damage) > 0 || len(g.records) != 2 || a.Version != 4 || a.Spent.Day != 0 {
		t.Errorf("%+v %+v", g.records, g.damage)
	}
}

// What was left of time limits counts after an end in order; after any other, a session may have been used until then.
func TestIdleAfterTheEnd(t *testing.T) {
	dir := t.TempDir()
	noted, full := Left{Idle: time.Minute, Age: time.Hour}, Left{Idle: time.Hour, Age: time.Hour}
	expect := func(what string, o *opened, a, b Left) {
		t.Helper()
		if len(o.damage) > 0 || o.records[1].Left != a || o.records[2].Left != b {
			t.Errorf("%s: %+v, %+v, %+v", what, o.records[1].Left, o.records[2].Left, o.damage)
		}
	}
	keepAll := func(o *opened) error { return keepLeft(o, map[uint64]Left{1: noted, 2: noted}) }
	disk := &faulty{}
	f := reopen(t, dir, Options{})
	for n := range uint64(2) {
		r := &Record{Number: n + 1, TTL: time.Hour, MaxAge: 2 * time.Hour, Left: Left{Idle: time.Hour, Age: 2 * time.Hour}}
		must(t, create(f, r))
	}
	must(t, keepAll(f))
	expect("killed", reopen(t, crashed(t, dir), Options{}), full, full)
	must(t, f.Close())
	f = reopen(t, dir, Options{open: disk.opener})
	expect("closed", f, noted, noted)
	expect("closed, opened and killed", reopen(t, crashed(t, dir), Options{}), full, full)
	must(t, f.Close())
	f = reopen(t, dir, Options{open: disk.opener})
	expect("opened and closed", f, noted, noted)
	must(t, commit(f, put(1, 1)))
	must(t, f.Close())
	f = reopen(t, dir, Options{open: disk.opener})
	expect("used", f, full, noted)
	bad := error(syscall.ENOSPC)
	disk.write.Store(&bad)
	if err := keepAll(f); err == nil {
		t.Error("kept on a full disk")
	}
	disk.write.Store(nil)
	must(t, f.Close())
	f = reopen(t, dir, Options{})
	expect("closed, and not noted", f, full, full)
	must(t, f.Close())
	f = reopen(t, dir, Options{})
	expect("the same again", f, full, full)
	must(t, keepAll(f))
	must(t, f.Close())
	expect("noted", reopen(t, dir, Options{}), noted, noted)
}

// The names of secrets that a session came without stay, until it has them or the names are deleted.
func TestLostNames(t *testing.T) {
	for name, s := range map[string]Store{
		"map": &mapStore{records: map[uint64]*Record{}}, "file": reopen(t, t.TempDir(), Options{Seal: key(1)}),
	} {
		t.Run(name, func(t *testing.T) {
			expect := func(want string) {
				t.Helper()
				if f, ok := s.(*opened); ok {
					must(t, f.Close())
					s = reopen(t, f.dir, Options{Seal: key(1)})
					if got := fmt.Sprint(s.(*opened).records[1].Lost); got != want {
						t.Errorf("%s are lost, not %s", got, want)
					}
					return
				}
				_, err := s.Load(func(r *Record) error {
					if got := fmt.Sprint(r.Lost); got != want {
						t.Errorf("%s are lost, not %s", got, want)
					}
					return nil
				})
				must(t, err)
			}
			must(t, create(s, &Record{Number: 1, State: map[string][]byte{"x": {1}}, Lost: []string{"a", "b", "c", "d"}}))
			expect("[a b c d]")
			must(t, commit(s, &Change{
				Number: 1, Version: 1, Set: map[string][]byte{"a": {1}}, Secrets: map[string][]byte{"b": {1}}, Delete: []string{"c"},
			}))
			expect("[d]")
			must(t, commit(s, &Change{Number: 1, Expected: 1, Version: 2, Reset: true}))
			expect("[]")
		})
	}
}

// An import may name a key twice, or one that it has: a key is kept once.
func TestLostNamesTwice(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{})
	must(t, create(f, &Record{Number: 1, State: map[string][]byte{"x": {1}}, Lost: []string{"x", "b", "a", "b"}}))
	must(t, f.Close())
	f = reopen(t, dir, Options{})
	if r := f.records[1]; len(f.damage) > 0 || fmt.Sprint(r.Lost) != "[a b]" || len(r.State) != 1 {
		t.Errorf("%+v %+v", r, f.damage)
	}
}
