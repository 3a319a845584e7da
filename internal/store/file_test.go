package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestContract(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) Store{
		"map":  func(*testing.T) Store { return &mapStore{records: map[uint64]*Record{}} },
		"file": func(t *testing.T) Store { t.Helper(); return reopen(t, t.TempDir(), Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := make(t)
			u := newUser(1)
			a := u.record()
			must(t, create(s, a))
			if create(s, a) == nil {
				t.Error("a session was created twice")
			}
			c := &Change{Number: a.Number, Expected: a.Version, Version: 9}
			must(t, commit(s, c))
			if commit(s, c) == nil {
				t.Error("a change of an old version was taken")
			}
			must(t, commit(s, &Change{Number: a.Number, Spent: &Spent{Day: 1}})) // beside the state: of any version
			must(t, commit(s, &Change{Number: a.Number, Expected: 9, Version: 12}))
			must(t, drop(s, a.Number))
			must(t, drop(s, a.Number))
			if commit(s, &Change{Number: a.Number, Expected: 12, Version: 13}) == nil {
				t.Error("a change of a session that is gone was taken")
			}
			must(t, keepLeft(s, map[uint64]Left{a.Number: {}}))
			must(t, s.Close())
		})
	}
}

// Whatever is done, and however often the store is opened, it holds what the plainest one does.
func TestHoldsWhatItWasGiven(t *testing.T) {
	for _, size := range []int64{1, 4 << 10, 64 << 10, 0} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			opts := Options{Seal: key(1), SegmentBytes: size}
			m := &mapStore{records: map[uint64]*Record{}}
			u := newUser(uint64(size) + 7)
			for range 12 {
				f := reopen(t, dir, opts)
				if len(f.damage) > 0 {
					t.Fatalf("damage: %+v", f.damage)
				}
				sameRecords(t, f.records, m.records)
				for range 150 {
					u.step(t, m, f)
				}
				must(t, f.Close())
				if t.Failed() {
					return
				}
			}
			if n := len(files(t, dir)); n > 120 {
				t.Errorf("%d files are left", n)
			}
		})
	}
}

func TestOrderAndGroups(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{})
	var mu sync.Mutex
	var order []int
	var wait sync.WaitGroup
	note := func(i int) func(error) {
		wait.Add(1)
		return func(err error) {
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			wait.Done()
		}
	}
	// Operations of one session that do not wait for each other, among those of others.
	for i := range 500 {
		number := uint64(i/5 + 1)
		var now bool
		switch i % 5 {
		case 0:
			now, _ = f.Create(&Record{Number: number, ID: "x", Version: 1}, note(i))
		case 4:
			now, _ = f.Delete(number, note(i))
		default:
			now, _ = f.Commit(&Change{Number: number, Expected: uint64(i % 5), Version: uint64(i%5) + 1, Set: map[string][]byte{"a": {byte(i)}}}, note(i))
		}
		if now {
			t.Fatal("a file store was done at once")
		}
	}
	wait.Wait()
	if !slices.IsSorted(order) || len(order) != 500 {
		t.Errorf("done in another order: %v", order)
	}
	must(t, f.Close())
	if n := len(reopen(t, dir, Options{}).records); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	const word = "sk-unmistakable"
	f := reopen(t, dir, Options{Seal: key(1), SegmentBytes: 1})
	must(t, create(f, &Record{Number: 1, Version: 1, Secrets: map[string][]byte{"a": []byte(word), "b": {}}}))
	must(t, commit(f, &Change{Number: 1, Expected: 1, Version: 2, Secrets: map[string][]byte{"c": []byte(word)}}))
	must(t, f.Close())
	see := func(seal []byte, secrets, lost int) {
		t.Helper()
		f := reopen(t, dir, Options{Seal: seal, SegmentBytes: 1})
		r := f.records[1]
		if len(f.damage) > 0 || r == nil || len(r.Secrets) != secrets || len(r.Lost) != lost {
			t.Errorf("%+v, damage %v", r, f.damage)
		}
		if secrets > 0 && (string(r.Secrets["a"]) != word || (secrets == 3 && r.Secrets["b"] == nil)) {
			t.Errorf("%q", r.Secrets)
		}
		for range 30 { // so that all of it is copied
			must(t, create(f, &Record{Number: 2}))
			must(t, drop(f, 2))
		}
		must(t, f.Close())
	}
	see(key(1), 3, 0)
	see(key(2), 0, 3)
	see(nil, 0, 3)
	see(key(1), 3, 0)
	f = reopen(t, dir, Options{})
	must(t, commit(f, &Change{Number: 1, Expected: 2, Version: 3, Secrets: map[string][]byte{"c": []byte(word)}, Delete: []string{"b"}}))
	must(t, f.Close())
	see(key(1), 1, 1)
	for _, name := range files(t, dir) {
		if data, _ := os.ReadFile(name); strings.Contains(string(data), word) {
			t.Errorf("%s holds a secret", name)
		}
	}
}

// A sealed value that was put in another's place does not open.
func TestSealedForOnePlace(t *testing.T) {
	s, err := newSealer(key(1))
	must(t, err)
	e := s.seal(1, map[string][]byte{"a": []byte("x")})[0]
	if _, err := s.open(1, e); err != nil {
		t.Error(err)
	}
	if _, err := s.open(2, e); !errors.Is(err, errUnseal) {
		t.Errorf("another session: %v", err)
	}
	e.key = "b"
	if _, err := s.open(1, e); !errors.Is(err, errUnseal) {
		t.Errorf("another name: %v", err)
	}
	if _, err := OpenFile(t.TempDir(), Options{Seal: []byte("short")}); err == nil {
		t.Error("a short key was taken")
	}
}

func TestDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	f := reopen(t, dir, Options{})
	if _, err := OpenFile(dir, Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second one: %v", err)
	}
	must(t, create(f, &Record{Number: 1}))
	must(t, f.Close())
	if now, err := f.Delete(1, nil); !now || !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v %v", now, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, files(t, dir)[0]: 0o600, filepath.Join(dir, lockName): 0o600, filepath.Join(dir, tailName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	foreign := t.TempDir()
	must(t, os.WriteFile(filepath.Join(foreign, "letters.txt"), nil, 0o600))
	if _, err := OpenFile(foreign, Options{}); err == nil || !strings.Contains(err.Error(), "letters.txt") {
		t.Errorf("a foreign directory: %v", err)
	}
	if n := len(files(t, foreign)); n != 1 {
		t.Errorf("%d files in the foreign directory", n)
	}
}

func TestNewerFormat(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{})
	must(t, f.Close())
	path := segmentPath(dir, 1)
	data, err := os.ReadFile(path)
	must(t, err)
	data[8] = 2
	crc := sum(2, 0, data[16:segmentHeader])
	data[12], data[13], data[14], data[15] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	must(t, os.WriteFile(path, data, 0o600))
	if _, err := OpenFile(dir, Options{}); !errors.Is(err, errFormat) {
		t.Errorf("format 2: %v", err)
	}
}

func TestTwoStoresInOne(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b, b} {
		must(t, reopen(t, dir, Options{}).Close())
	}
	data, err := os.ReadFile(segmentPath(b, 2))
	must(t, err)
	must(t, os.WriteFile(segmentPath(a, 2), data, 0o600))
	if _, err := OpenFile(a, Options{}); err == nil || !strings.Contains(err.Error(), "two different stores") {
		t.Errorf("%v", err)
	}
}

// What is overwritten and deleted goes away, and what stays is not written more than about twice for each byte that comes.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{SegmentBytes: 64 << 10})
	value := make([]byte, 1000)
	for i := range uint64(200) {
		must(t, create(f, &Record{Number: i + 1, Version: 1, State: map[string][]byte{"a": value}}))
	}
	rounds := 3000
	var wait sync.WaitGroup
	for g := range uint64(20) {
		wait.Go(func() {
			for i := range uint64(rounds / 20) {
				if err := commit(f, &Change{Number: g + 1, Expected: i + 1, Version: i + 2, Set: map[string][]byte{"a": value}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	must(t, f.Close())
	var size int64
	for _, name := range files(t, dir) {
		info, err := os.Stat(name)
		must(t, err)
		size += info.Size()
	}
	if size > 2*(220<<10+64<<10)+200<<10 {
		t.Errorf("200 KB in force take %d bytes", size)
	}
	if per := float64(f.seq) / float64(rounds); per > 2.5 {
		t.Errorf("%.1f records were written for each", per)
	}
	g := reopen(t, dir, Options{})
	if len(g.records) != 200 || g.records[1].Version != uint64(rounds/20+1) || len(g.damage) > 0 {
		t.Errorf("%d sessions, %+v", len(g.records), g.damage)
	}
}
