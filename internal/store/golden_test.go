package store

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What format 1 was in its first version is read by every later one. UPDATE_GOLDEN makes the files again, which is right only for a
// format that no release has written.
func TestFormat1(t *testing.T) {
	golden := filepath.Join("testdata", "format1")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		writeGolden(t, golden)
	}
	dir := t.TempDir()
	for _, path := range files(t, golden) {
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600))
	}
	f := reopen(t, dir, Options{Seal: key(1)})
	if len(f.damage) != 1 || f.damage[0].ID == "" {
		t.Errorf("damage: %+v", f.damage)
	}
	var got strings.Builder
	for number := range uint64(64) {
		if r := f.records[number]; r != nil {
			got.WriteString(plainly(r) + "\n")
		}
	}
	want, err := os.ReadFile(golden + ".txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(golden+".txt", []byte(got.String()), 0o600))
	} else if must(t, err); string(want) != got.String() {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	if got.Len() < 1000 {
		t.Errorf("it holds little: %s", got.String())
	}
	must(t, f.Close())
}

// writeGolden makes a store that has a record of each kind.
func writeGolden(t *testing.T, golden string) {
	t.Helper()
	must(t, os.RemoveAll(golden))
	opts := Options{Seal: key(1), SegmentBytes: 1}
	f := reopen(t, golden, opts)
	u := newUser(42)
	for range 60 {
		u.step(t, f)
	}
	must(t, f.Close())
	path := segmentPath(golden, f.current().number)
	data, err := os.ReadFile(path)
	must(t, err)
	items := scan(f.current().number, data)
	slices.Reverse(items)
	items[slices.IndexFunc(items, func(i item) bool { return i.kind == kindChange })].body[0]++
	must(t, os.WriteFile(path, data, 0o600))
	f = reopen(t, golden, opts)
	for range 20 {
		must(t, create(f, u.record()))
	}
	must(t, f.Close())
	must(t, os.Remove(filepath.Join(golden, lockName)))
}
