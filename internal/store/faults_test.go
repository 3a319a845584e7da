package store

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// faulty is a disk on which writes or syncs of the journal fail, on demand.
type faulty struct {
	write, sync, truncate, open atomic.Pointer[error]
	short                       atomic.Bool // a write that fails has written half
}

type faultyFile struct {
	file

	disk *faulty
}

func failing(p *atomic.Pointer[error]) error {
	if e := p.Load(); e != nil {
		return *e
	}
	return nil
}

func (d *faulty) opener(path string, flags int) (file, error) {
	if filepath.Base(path) == tailName {
		return openDisk(path, flags)
	}
	if err := failing(&d.open); err != nil {
		return nil, err
	}
	f, err := openDisk(path, flags)
	return faultyFile{f, d}, err
}

func (f faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if err := failing(&f.disk.write); err != nil {
		n := 0
		if f.disk.short.Load() {
			n, _ = f.file.WriteAt(b[:len(b)/2], at)
		}
		return n, err
	}
	return f.file.WriteAt(b, at)
}

func (f faultyFile) Sync() error {
	if err := failing(&f.disk.sync); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f faultyFile) Truncate(size int64) error {
	if err := failing(&f.disk.truncate); err != nil {
		return err
	}
	return f.file.Truncate(size)
}

func put(number, version uint64) *Change {
	return &Change{Number: number, Expected: version - 1, Version: version, Set: map[string][]byte{"v": fmt.Append(nil, version)}}
}

// A disk that fails fails what came meanwhile, and nothing else; nothing that failed is seen again, and it goes on by itself.
func TestFailingDisk(t *testing.T) {
	noSpace, ioError, readOnly := error(syscall.ENOSPC), error(syscall.EIO), error(syscall.EROFS)
	for name, test := range map[string]struct {
		harm func(*faulty)
		want error
	}{
		"no space":               {func(d *faulty) { d.write.Store(&noSpace) }, noSpace},
		"no space, half written": {func(d *faulty) { d.short.Store(true); d.write.Store(&noSpace) }, noSpace},
		"sync":                   {func(d *faulty) { d.sync.Store(&ioError) }, ioError},
		"read-only":              {func(d *faulty) { d.write.Store(&readOnly); d.open.Store(&readOnly); d.truncate.Store(&readOnly) }, readOnly},
		"sync, then no new file": {func(d *faulty) { d.sync.Store(&ioError); d.open.Store(&noSpace) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			disk := &faulty{}
			f := reopen(t, dir, Options{open: disk.opener})
			must(t, create(f, &Record{Number: 1, Version: 1, State: map[string][]byte{"v": []byte("1")}}))
			must(t, commit(f, put(1, 2)))
			test.harm(disk)
			for range 3 {
				if err := commit(f, put(1, 3)); err == nil || (test.want != nil && !errors.Is(err, test.want)) {
					t.Errorf("a commit that could not be kept: %v", err)
				}
			}
			if err := create(f, &Record{Number: 2}); err == nil {
				t.Error("a creation that could not be kept was taken")
			}
			expect := func(dir string, version uint64) {
				t.Helper()
				g := reopen(t, dir, Options{})
				r := g.records[1]
				if len(g.damage) > 0 || len(g.records) != 1 || r.Version != version || string(r.State["v"]) != fmt.Sprint(version) {
					t.Errorf("after a crash here: %+v %+v", g.records, g.damage)
				}
				must(t, g.Close())
			}
			expect(crashed(t, dir), 2)
			disk.write.Store(nil)
			disk.sync.Store(nil)
			disk.open.Store(nil)
			disk.truncate.Store(nil)
			// The version that failed is not Expected again; the session goes on from the one before.
			var err error
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
				if err = commit(f, &Change{Number: 1, Expected: 2, Version: 5, Set: map[string][]byte{"v": []byte("5")}}); err == nil {
					break
				}
			}
			must(t, err)
			expect(crashed(t, dir), 5)
			must(t, f.Close())
			expect(dir, 5)
		})
	}
}

// crashed is what a crash would leave now.
func crashed(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range files(t, dir) {
		data, err := os.ReadFile(name)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, filepath.Base(name)), data, 0o600))
	}
	return to
}

// What a failed sync left in a file that could not be truncated is not seen either, once the next file was begun.
func TestNotTruncated(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{}
	f := reopen(t, dir, Options{open: disk.opener})
	must(t, create(f, &Record{Number: 1, Version: 1}))
	bad := error(syscall.EIO)
	disk.sync.Store(&bad)
	disk.truncate.Store(&bad)
	if err := commit(f, put(1, 2)); !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	disk.sync.Store(nil)
	must(t, create(f, &Record{Number: 2, Version: 1}))
	g := reopen(t, crashed(t, dir), Options{})
	if len(g.damage) > 0 || len(g.records) != 2 || g.records[1].Version != 1 {
		t.Errorf("%+v %+v", g.records, g.damage)
	}
}

// A real file system without space.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	f := reopen(t, dir, Options{SegmentBytes: 64 << 10})
	value := make([]byte, 10_000)
	kept := map[uint64]bool{}
	failed := 0
	for n := uint64(1); n < 200; n++ {
		err := create(f, &Record{Number: n, Version: 1, State: map[string][]byte{"a": value}})
		switch {
		case err == nil:
			kept[n] = true
		case errors.Is(err, syscall.ENOSPC):
			failed++
		default:
			t.Fatal(err)
		}
	}
	if failed < 50 || len(kept) < 50 {
		t.Fatalf("%d were kept, %d failed", len(kept), failed)
	}
	must(t, f.Close())
	f = reopen(t, dir, Options{SegmentBytes: 64 << 10})
	if len(f.damage) > 0 || len(f.records) != len(kept) {
		t.Errorf("%d sessions, %d expected; %+v", len(f.records), len(kept), f.damage)
	}
	must(t, f.Close())
}

const playsWriter = "STORE_TEST_WRITER"

// writer is TestKill's child: it commits in many sessions at once, and says what was done.
func writer(dir string) error {
	f, err := tryOpen(dir, Options{SegmentBytes: 64 << 10})
	if err != nil {
		return err
	}
	for _, r := range f.records {
		if v := string(r.State["v"]); v != fmt.Sprint(r.Version) && r.Version > 0 {
			fmt.Printf("error version %d holds %s\n", r.Version, v)
		}
		fmt.Printf("has %d %d\n", r.Number, r.Version)
	}
	for _, d := range f.damage {
		fmt.Printf("damage %+v\n", d)
	}
	out := make(chan string, 1000)
	for n := uint64(1); n <= 16; n++ {
		version := uint64(0)
		if r := f.records[n]; r != nil {
			version = r.Version
		} else if err := create(f, &Record{Number: n}); err != nil {
			return err
		}
		go func() {
			for {
				version++
				c := put(n, version)
				c.Set["fill"] = make([]byte, 300)
				if err := commit(f, c); err != nil {
					out <- fmt.Sprintf("error %v\n", err)
				}
				out <- fmt.Sprintf("done %d %d\n", n, version)
			}
		}()
	}
	for line := range out {
		fmt.Print(line)
	}
	return nil
}

func TestKill(t *testing.T) {
	dir := t.TempDir()
	last := map[uint64]uint64{}
	r := rand.New(rand.NewPCG(9, 9))
	for round := range 20 {
		c := exec.CommandContext(t.Context(), os.Args[0])
		c.Env = append(os.Environ(), playsWriter+"="+dir)
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		had := map[uint64]uint64{}
		limit := 200 + r.IntN(2000)
		lines := 0
		for s := bufio.NewScanner(out); s.Scan(); {
			var number, version uint64
			line := s.Text()
			switch {
			case strings.HasPrefix(line, "has"):
				_, err := fmt.Sscanf(line, "has %d %d", &number, &version)
				must(t, err)
				had[number] = version
			case strings.HasPrefix(line, "done "):
				if n, _ := fmt.Sscanf(line, "done %d %d", &number, &version); n == 2 {
					if lines == 0 {
						for number, version := range last {
							if had[number] < version {
								t.Errorf("round %d: session %d is at version %d, and %d was acknowledged", round, number, had[number], version)
							}
						}
					}
					lines++
					last[number] = version
				}
			case strings.HasPrefix(line, "damage"), strings.HasPrefix(line, "error"):
				t.Errorf("round %d: %s", round, line)
			}
			if lines == limit {
				must(t, c.Process.Signal(syscall.SIGKILL))
			}
		}
		if err := c.Wait(); err == nil {
			t.Error("the child ended by itself")
		}
		if lines < limit {
			t.Fatalf("round %d: the child did %d of %d", round, lines, limit)
		}
		if t.Failed() {
			return
		}
	}
}
