package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// image is a store's directory, and what it held: all of it acknowledged.
type image struct {
	files map[string][]byte
	want  map[uint64]*Record
}

// makeImage writes sessions into several segments. Without close, the files are as kill -9 leaves them.
func makeImage(t testing.TB, seed uint64, steps int, segmentBytes int64, closed bool) *image {
	t.Helper()
	dir := t.TempDir()
	m := &mapStore{records: map[uint64]*Record{}}
	u := newUser(seed)
	opts := Options{Seal: key(1), SegmentBytes: segmentBytes, open: unsynced}
	f := reopen(t, dir, opts)
	for i := range steps {
		u.step(t, m, f)
		if i == steps/2 {
			must(t, f.Close())
			f = reopen(t, dir, opts)
		}
	}
	if closed {
		must(t, f.Close())
	} else {
		m.crash()
	}
	im := &image{files: map[string][]byte{}, want: m.records}
	for _, path := range files(t, dir) {
		data, err := os.ReadFile(path)
		must(t, err)
		im.files[filepath.Base(path)] = data
	}
	must(t, f.Close())
	return im
}

// unsynced is a disk for tests in which no power is lost: the syncs would be most of their time.
func unsynced(path string, flags int) (file, error) {
	f, err := openDisk(path, flags)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ file }

func (unsyncedFile) Sync() error { return nil }

// inMemory is a directory in which making a file costs little, where there is one.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store") //nolint:usetesting // it is another file system
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func (im *image) lay(t testing.TB, change string, data []byte) string {
	t.Helper()
	dir := inMemory(t)
	for name, content := range im.files {
		if name == change {
			content = data
		}
		if content != nil {
			must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		}
	}
	return dir
}

// verdict opens a damaged store: each session is right or reported, at this start and at the next one. It returns how many are not served.
func (im *image) verdict(t testing.TB, what, dir string) (damaged int, refused bool) {
	t.Helper()
	for again := range 2 {
		f, err := tryOpen(dir, Options{Seal: key(1), open: unsynced})
		if err != nil {
			return 0, true
		}
		reported := map[uint64]bool{}
		for _, d := range f.damage {
			reported[d.Number] = true
		}
		damaged = 0
		for number, want := range im.want {
			got := f.records[number]
			switch {
			case got == nil && reported[number]:
				damaged++
			case got == nil:
				t.Errorf("%s (start %d): session %d is missing, and nothing names it: %+v", what, again, number, f.damage)
			case plainly(got) != plainly(want) && !im.onlyLeft(got, want, reported[0]):
				t.Errorf("%s (start %d): session %d is wrong: %+v\n got %s\nwant %s", what, again, number, f.damage, plainly(got), plainly(want))
			}
		}
		for number := range f.records {
			if im.want[number] == nil {
				t.Errorf("%s (start %d): session %d is there again: %+v", what, again, number, f.damage)
			}
			if reported[number] {
				t.Errorf("%s: session %d is served, and reported", what, number)
			}
		}
		must(t, f.Close())
	}
	return damaged, false
}

// onlyLeft says whether the records differ in nothing but what a lost note of time limits said, which was reported.
func (im *image) onlyLeft(got, want *Record, reported bool) bool {
	c := *got
	c.Left = want.Left
	return reported && plainly(&c) == plainly(want)
}

func TestFlippedBits(t *testing.T) {
	for _, closed := range []bool{true, false} {
		im := makeImage(t, 11, 400, 16<<10, closed)
		if _, refused := im.verdict(t, "unharmed", im.lay(t, "", nil)); refused {
			t.Fatal("refused")
		}
		r := rand.New(rand.NewPCG(3, 4))
		most, all := 0, 0
		for range 200 {
			name, at := im.somewhere(r)
			data := bytes.Clone(im.files[name])
			data[at] ^= 1 << r.IntN(8)
			what := fmt.Sprintf("closed %v, bit flipped in %s at %d", closed, name, at)
			n, refused := im.verdict(t, what, im.lay(t, name, data))
			if refused {
				t.Errorf("%s: refused", what)
			}
			most, all = max(most, n), all+n
			if t.Failed() {
				return
			}
		}
		t.Logf("of %d sessions, a bit cost %d at most, %.2f on average", len(im.want), most, float64(all)/200)
		if most > 1 {
			t.Errorf("a bit cost %d sessions", most)
		}
	}
}

// somewhere is a byte of any file, each file as often as another.
func (im *image) somewhere(r *rand.Rand) (string, int) {
	names := sortedNames(im.files)
	name := names[r.IntN(len(names))]
	return name, r.IntN(len(im.files[name]))
}

func TestCuts(t *testing.T) {
	for _, closed := range []bool{true, false} {
		im := makeImage(t, 12, 400, 16<<10, closed)
		r := rand.New(rand.NewPCG(5, 6))
		most, all := 0, 0
		for range 100 {
			name, at := im.somewhere(r)
			what := fmt.Sprintf("closed %v, %s cut at %d", closed, name, at)
			n, refused := im.verdict(t, what, im.lay(t, name, im.files[name][:at]))
			if refused {
				t.Errorf("%s: refused", what)
			}
			most, all = max(most, n), all+n
			if t.Failed() {
				return
			}
		}
		t.Logf("of %d sessions, a cut cost %d at most, %.2f on average", len(im.want), most, float64(all)/100)
	}
}

// Every byte, and the whole of each file.
func TestEveryCut(t *testing.T) {
	im := makeImage(t, 13, 16, 4<<10, false)
	var wait sync.WaitGroup
	for _, name := range sortedNames(im.files) {
		const workers = 8
		for w := range workers {
			wait.Go(func() {
				for at := w; at < len(im.files[name]); at += workers {
					if name == tailName {
						at += 800
					}
					what := fmt.Sprintf("%s cut at %d", name, at)
					if _, refused := im.verdict(t, what, im.lay(t, name, im.files[name][:min(at, len(im.files[name]))])); refused {
						t.Errorf("%s: refused", what)
					}
				}
			})
		}
	}
	wait.Wait()
	for _, name := range sortedNames(im.files) {
		im.verdict(t, name+" is missing", im.lay(t, name, nil))
	}
}

// Half a kilobyte of zeros, as a lost sector leaves them, costs no session that has nothing there.
func TestLostSectors(t *testing.T) {
	im := makeImage(t, 14, 600, 16<<10, false)
	r := rand.New(rand.NewPCG(7, 8))
	all := 0
	for range 60 {
		name, at := im.somewhere(r)
		data := bytes.Clone(im.files[name])
		clear(data[at/512*512 : min(len(data), at/512*512+512)])
		n, _ := im.verdict(t, fmt.Sprintf("%s without sector %d", name, at/512), im.lay(t, name, data))
		all += n
		if n > 10 {
			t.Errorf("a sector of %s at %d cost %d sessions", name, at/512*512, n)
		}
	}
	t.Logf("of %d sessions, a sector cost %.2f on average", len(im.want), float64(all)/60)
}

// What was torn, and not acknowledged, goes without a word.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{})
	must(t, create(f, &Record{Number: 1, Version: 1}))
	must(t, commit(f, &Change{Number: 1, Expected: 1, Version: 2, Set: map[string][]byte{"a": bytes.Repeat([]byte("a"), 100)}}))
	acknowledged, err := os.ReadFile(filepath.Join(dir, tailName))
	must(t, err)
	before, err := os.ReadFile(segmentPath(dir, 1))
	must(t, err)
	must(t, commit(f, &Change{Number: 1, Expected: 2, Version: 3, Set: map[string][]byte{"a": bytes.Repeat([]byte("b"), 100)}}))
	must(t, create(f, &Record{Number: 2, Version: 1}))
	after, err := os.ReadFile(segmentPath(dir, 1))
	must(t, err)
	must(t, f.Close())
	for at := len(before); at < len(after); at++ {
		for name, data := range map[string][]byte{"cut": after[:at], "with zeros from": append(bytes.Clone(after[:at]), make([]byte, len(after)-at)...)} {
			im := image{files: map[string][]byte{filepath.Base(segmentPath(dir, 1)): data, tailName: acknowledged}}
			g := reopen(t, im.lay(t, "", nil), Options{})
			if len(g.damage) > 0 || g.records[1] == nil || g.records[1].Version < 2 || len(g.records[1].State["a"]) != 100 {
				t.Fatalf("%s %d: %+v %+v", name, at, g.records[1], g.damage)
			}
			must(t, g.Close())
		}
	}
}

// A damaged session stays so until it is deleted; the others go on.
func TestDamagedUntilDeleted(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{SegmentBytes: 4 << 10})
	for n := range uint64(3) {
		must(t, create(f, &Record{Number: n + 1, Owner: "uid:1", ID: fmt.Sprint("s", n+1), Version: 1, State: map[string][]byte{"a": []byte("needle")}}))
	}
	must(t, commit(f, &Change{Number: 2, Expected: 1, Version: 2, Set: map[string][]byte{"a": []byte("other")}}))
	must(t, f.Close())
	data, err := os.ReadFile(segmentPath(dir, 1))
	must(t, err)
	data[bytes.LastIndex(data, []byte("other"))]++
	must(t, os.WriteFile(segmentPath(dir, 1), data, 0o600))
	for range 5 {
		f = reopen(t, dir, Options{SegmentBytes: 4 << 10})
		if len(f.damage) != 1 || f.damage[0].Number != 2 || f.damage[0].Owner != "uid:1" || f.damage[0].ID != "s2" || len(f.records) != 2 {
			t.Fatalf("%+v %+v", f.records, f.damage)
		}
		if err := commit(f, &Change{Number: 2, Expected: 1, Version: 2}); err == nil {
			t.Error("a change of a damaged session was taken")
		}
		for range 100 { // until the damaged place itself is gone
			must(t, create(f, &Record{Number: 9, State: map[string][]byte{"a": make([]byte, 500)}}))
			must(t, drop(f, 9))
		}
		must(t, f.Close())
	}
	if _, err := os.Stat(segmentPath(dir, 1)); err == nil {
		t.Error("the damaged file is still there")
	}
	f = reopen(t, dir, Options{})
	must(t, drop(f, 2))
	must(t, f.Close())
	if f = reopen(t, dir, Options{}); len(f.damage) > 0 {
		t.Errorf("%+v", f.damage)
	}
}

// Where nothing tells whose the lost records were, all that may be old is reported, and what was written after them is served.
func TestSuspects(t *testing.T) {
	dir := t.TempDir()
	f := reopen(t, dir, Options{})
	for n := range uint64(6) {
		must(t, create(f, &Record{Number: n + 1, Version: 1, State: map[string][]byte{"v": []byte("1")}}))
	}
	path := segmentPath(dir, 1)
	from, err := os.Stat(path)
	must(t, err)
	must(t, commit(f, put(1, 2)))
	must(t, commit(f, put(2, 2)))
	to, err := os.Stat(path)
	must(t, err)
	must(t, commit(f, put(2, 3))) // follows from what is lost
	must(t, create(f, &Record{Number: 7, Version: 1}))
	data, err := os.ReadFile(path) // without the note that the end writes
	must(t, err)
	must(t, f.Close())
	clear(data[from.Size():to.Size()])
	im := image{files: map[string][]byte{filepath.Base(path): data}}
	g := reopen(t, im.lay(t, "", nil), Options{})
	named := map[uint64]bool{}
	for _, d := range g.damage {
		named[d.Number] = true
	}
	if len(g.records) != 1 || g.records[7] == nil {
		t.Errorf("served: %+v", g.records)
	}
	for n := range uint64(7) { // 0: what is not known
		if !named[n] {
			t.Errorf("%d is not reported: %+v", n, g.damage)
		}
	}
}
