package watch

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// watched is a file, or a tree, that is watched.
type watched struct {
	t       *testing.T
	dir     string
	poll    time.Duration
	look    func() State
	with    func(dir string) func() State
	changed chan string // the digest at that time
}

// start watches what look looks at in a new folder, with hours between two polls unless the test is about those.
func start(t *testing.T, poll time.Duration, look func(dir string) func() State) *watched {
	t.Helper()
	w := &watched{t: t, dir: t.TempDir(), changed: make(chan string, 1000), poll: poll}
	w.write("dspex.toml", "first")
	w.watch(look)
	return w
}

func (w *watched) watch(look func(dir string) func() State) {
	t, poll := w.t, w.poll
	t.Helper()
	w.look, w.with = look(w.dir), look
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	looks, theirs := make(chan struct{}, 1000), look(w.dir)
	go func() {
		defer close(ended)
		known, seen := theirs().Digest, ""
		Run(ctx, Config{
			Poll: poll, Quiet: 10 * time.Millisecond, Most: 100 * time.Millisecond, Known: func() string { return known },
			Changed: func() {
				known = seen
				w.changed <- seen
			},
			Look: func() State {
				defer func() { looks <- struct{}{} }()
				s := theirs()
				seen = s.Digest
				return s
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	<-looks
}

// again watches what is there now, as after a start.
func (w *watched) again() {
	w.t.Helper()
	w.watch(w.with)
}

func file(dir string) func() State { return File(filepath.Join(dir, "dspex.toml")) }

func (w *watched) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// sees waits until the change that has led here is known, and nothing is to follow it.
func (w *watched) sees() {
	w.t.Helper()
	limit := time.After(patience)
	for want := w.look().Digest; ; {
		select {
		case got := <-w.changed:
			if got == want {
				return
			}
		case <-limit:
			w.t.Fatalf("nothing was noticed of %s", want)
		}
	}
}

func TestFile(t *testing.T) {
	w := start(t, time.Hour, file)
	path := filepath.Join(w.dir, "dspex.toml")
	for _, change := range []func(){
		func() { w.write("dspex.toml", "in place") },
		func() { // as some editors do
			w.do(os.Rename(path, path+"~"))
			w.write("dspex.toml", "renamed")
		},
		func() { // as others do
			w.write("next", "replaced")
			w.do(os.Rename(filepath.Join(w.dir, "next"), path))
		},
		func() { w.do(os.Remove(path)) },
		func() { w.write("dspex.toml", "made again") },
		func() { w.do(os.Truncate(path, 0)) },
		func() { w.do(os.Remove(path)); w.do(os.Mkdir(path, 0o700)) },
		func() { w.do(os.Remove(path)); w.write("dspex.toml", "no folder any more") },
	} {
		change()
		w.sees()
	}
}

// A Kubernetes ConfigMap is a link to a link to a folder, of which the second is swapped.
func TestConfigMap(t *testing.T) {
	for _, poll := range []time.Duration{time.Hour, 5 * time.Millisecond} {
		w := start(t, poll, func(dir string) func() State { return file(filepath.Join(dir, "map")) })
		path := func(name string) string { return filepath.Join(w.dir, "map", name) }
		for n := 1; n < 6; n++ {
			folder := fmt.Sprintf("..%d", n)
			w.write("map/"+folder+"/dspex.toml", folder)
			w.do(os.Symlink(folder, path("..data_tmp")))
			w.do(os.Rename(path("..data_tmp"), path("..data")))
			if n == 1 {
				w.do(os.Symlink("..data/dspex.toml", path("dspex.toml")))
				if poll == time.Hour { // its folder was not there to be watched
					w.again()
				}
				continue
			}
			w.do(os.RemoveAll(path(fmt.Sprintf("..%d", n-1))))
			w.sees()
		}
	}
}

// A file whose folder is removed and made again is found by the polls, and its notices come again.
func TestFolderMadeAgain(t *testing.T) {
	w := start(t, 5*time.Millisecond, func(dir string) func() State { return file(filepath.Join(dir, "sub")) })
	for n := range 3 {
		w.write("sub/dspex.toml", fmt.Sprint(n))
		w.sees()
		w.do(os.RemoveAll(filepath.Join(w.dir, "sub")))
		w.sees()
	}
}

// The last of many writes wins, and not each is told of.
func TestManyWrites(t *testing.T) {
	w := start(t, time.Hour, file)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	const writes = 50
	for n := range writes {
		w.write("dspex.toml", fmt.Sprint(n))
		<-tick.C
	}
	w.sees()
	if n := len(w.changed); n > 0 {
		t.Errorf("%d changes were told of after the last", n)
	}
}

// What is written again with the same content, touched, or beside it, is no change.
func TestNoChange(t *testing.T) {
	w := start(t, 5*time.Millisecond, file)
	w.write("dspex.toml", "first")
	w.do(os.Chtimes(filepath.Join(w.dir, "dspex.toml"), time.Unix(1, 0), time.Unix(1, 0)))
	w.write("other", "x")
	w.do(os.Chmod(filepath.Join(w.dir, "dspex.toml"), 0o640))
	w.write("dspex.toml", "second")
	w.sees()
	if n := len(w.changed); n > 0 {
		t.Errorf("%d changes too many", n)
	}
}

func TestPython(t *testing.T) {
	w := start(t, time.Hour, Python)
	for name, counts := range map[string]bool{
		"app.py": true, "shop/items.py": true, "shop/deep/er.py": true, "notes.txt": false, ".hidden/a.py": false, "__pycache__/a.py": false,
		"venv/lib/a.py": false, "node_modules/a.py": false,
	} {
		if !counts {
			w.write("venv/pyvenv.cfg", "")
			before := w.look().Digest
			w.write(name, "x = 1")
			if w.look().Digest != before {
				t.Errorf("%s counts", name)
			}
			continue
		}
		w.write(name, "x = 1")
		w.sees()
		w.write(name, "x = 2")
		w.sees()
	}
	w.do(os.RemoveAll(filepath.Join(w.dir, "shop")))
	w.sees()
}

// Where the system tells nothing, the polls find all.
func TestWithoutNotices(t *testing.T) {
	dir := t.TempDir()
	var content atomic.Pointer[[]byte]
	store := func(text string) { b := []byte(text); content.Store(&b) }
	store("1")
	changed := make(chan struct{}, 1000)
	w := &watcher{cfg: Config{Poll: time.Millisecond, Known: func() string { return "1" }, Changed: func() { changed <- struct{}{} }, Look: func() State {
		return State{Digest: string(bytes.Clone(*content.Load())), Folders: []string{dir}, About: func(string) bool { return true }}
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx)
	}()
	store("2")
	<-changed
	cancel()
	<-ended
}
