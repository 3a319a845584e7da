package shared

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, path string) *Values {
	t.Helper()
	p, err := Open(path, Programs(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProgramsAreThereAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "programs")
	p := open(t, path)
	for name, value := range map[string][]byte{"a": {0x81, 0xa1, 'k', 1}, "b": {2}, "gone": {3}} {
		if err := p.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Set("gone", nil); err != nil {
		t.Fatal(err)
	}
	again := open(t, path).All()
	if len(again) != 2 || !bytes.Equal(again["a"], []byte{0x81, 0xa1, 'k', 1}) || !bytes.Equal(again["b"], []byte{2}) {
		t.Errorf("%v", again)
	}
	if open(t, "").Set("a", []byte{1}) != nil {
		t.Error("without a file nothing can be kept")
	}
}

// Whatever byte of the file is another, or missing, it is noticed.
func TestDamageIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "programs")
	if err := open(t, path).Set("a", []byte{0xa3, 'x', 'y', 'z'}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for _, broken := range [][]byte{data[:i], append(append(bytes.Clone(data[:i]), data[i]^0x10), data[i+1:]...)} {
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path, Programs(1<<20)); !errors.Is(err, ErrDamaged) {
				t.Errorf("byte %d: %v", i, err)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	p := open(t, "")
	for _, name := range []string{"", string(make([]byte, 129))} {
		if p.Set(name, []byte{1}) == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if p.Set("a", make([]byte, 1<<18)) == nil {
		t.Error("more than a quarter of a frame was taken")
	}
	for i := range Programs(1 << 20).Most {
		if err := p.Set(string(rune('a'+i)), []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	if p.Set("one more", []byte{1}) == nil || len(p.All()) != Programs(1<<20).Most {
		t.Errorf("%d programs", len(p.All()))
	}
	d, err := Open("", Datasets(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if d.Set("a", make([]byte, 1<<19+1)) == nil {
		t.Error("a dataset of more than half a frame was taken")
	}
	for i := range 100 {
		if err := d.Set(string(rune('a'+i)), make([]byte, 1<<19)); err != nil {
			t.Fatal(err)
		}
	}
	if d.Set("one more", []byte{1}) == nil {
		t.Error("a hundred and one datasets were taken")
	}
	blocked := open(t, filepath.Join(t.TempDir(), "none", "programs"))
	if blocked.Set("a", []byte{1}) == nil || len(blocked.All()) != 0 {
		t.Error("what cannot be kept is in force")
	}
}
