package store

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// recorder notes how many bytes each sync covered.
type recorder struct {
	mu      sync.Mutex
	pending int
	groups  []int
}

type recordedFile struct {
	file

	r *recorder
}

func (r *recorder) opener(path string, flags int) (file, error) {
	f, err := openDisk(path, flags)
	if filepath.Base(path) == tailName {
		return f, err
	}
	return recordedFile{f, r}, err
}

func (f recordedFile) WriteAt(b []byte, at int64) (int, error) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.pending += len(b)
	return f.file.WriteAt(b, at)
}

func (f recordedFile) Sync() error {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.groups, f.r.pending = append(f.r.groups, f.r.pending), 0
	return f.file.Sync()
}

// take gives the groups since the last time.
func (r *recorder) take() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	groups := r.groups
	r.groups, r.pending = nil, 0
	return groups
}

// BenchmarkCommit compares the store with a bare write and sync of the same bytes, in the same groups, on the same disk. The two take
// turns, since what a sync takes changes from one second to the next; of-bare is the median of the turns.
func BenchmarkCommit(b *testing.B) {
	for _, row := range []struct {
		sessions int
		ledger   uint64
	}{{1, 0}, {64, 0}, {64, ledgerNumber}} {
		sessions, ledger := row.sessions, row.ledger
		b.Run(fmt.Sprintf("%d,ledger=%v", sessions, ledger != 0), func(b *testing.B) {
			r := &recorder{}
			f := reopen(b, b.TempDir(), Options{open: r.opener})
			for n := range sessions {
				must(b, create(f, &Record{Number: uint64(n) + 1}))
			}
			must(b, create(f, &Record{Number: ledgerNumber}))
			disk, err := openDisk(filepath.Join(b.TempDir(), "bare"), os.O_CREATE|os.O_RDWR)
			must(b, err)
			var at int64
			var store, bare time.Duration
			var shares []float64
			const each = 8
			version, commits := uint64(0), 0
			for b.Loop() {
				r.take()
				took := commitAll(b, f, sessions, ledger, version, each)
				version += each
				commits += sessions * each
				alone := writeBare(b, disk, &at, r.take())
				store, bare = store+took, bare+alone
				shares = append(shares, alone.Seconds()/took.Seconds())
			}
			must(b, disk.Close())
			must(b, f.Close())
			slices.Sort(shares)
			b.ReportMetric(float64(commits)/store.Seconds(), "commits/s")
			b.ReportMetric(float64(commits)/bare.Seconds(), "bare/s")
			b.ReportMetric(shares[len(shares)/2], "of-bare")
		})
	}
}

const ledgerNumber = 1000

// commitAll makes some commits in each of the sessions, side by side; before each, what their owner has spent is noted in its ledger.
func commitAll(b *testing.B, f Store, sessions int, ledger, version, each uint64) time.Duration {
	b.Helper()
	value := make([]byte, 500)
	start := time.Now()
	var wait sync.WaitGroup
	for n := range sessions {
		wait.Go(func() {
			for v := version; v < version+each; v++ {
				if ledger != 0 {
					_, _ = f.Commit(&Change{Number: ledger, Spent: &Spent{}}, func(error) {})
				}
				c := &Change{Number: uint64(n) + 1, Expected: v, Version: v + 1, Set: map[string][]byte{"k" + fmt.Sprint(v%4): value}}
				if err := commit(f, c); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	return time.Since(start)
}

func writeBare(b *testing.B, f file, at *int64, groups []int) time.Duration {
	b.Helper()
	data := make([]byte, 8<<20)
	start := time.Now()
	for _, n := range groups {
		_, err := f.WriteAt(data[:n], *at)
		must(b, err)
		must(b, f.Sync())
		*at += int64(n)
	}
	return time.Since(start)
}

// BenchmarkLoad reads 100,000 sessions of 2 KB.
func BenchmarkLoad(b *testing.B) {
	dir := b.TempDir()
	f := reopen(b, dir, Options{})
	var wait sync.WaitGroup
	for n := range uint64(100_000) {
		wait.Add(1)
		now, err := f.Create(&Record{
			Number: n + 1, Owner: "uid:1000", ID: fmt.Sprintf("session-%06d", n), Version: 1, TTL: time.Hour,
			State: map[string][]byte{"history": make([]byte, 1500), "settings": make([]byte, 400), "name": make([]byte, 100)},
		}, func(err error) {
			if err != nil {
				b.Error(err)
			}
			wait.Done()
		})
		if now {
			b.Fatal(err)
		}
	}
	wait.Wait()
	must(b, f.Close())
	f.journal = journal{}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		g, err := tryOpen(dir, Options{})
		must(b, err)
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/load")
		if len(g.records) != 100_000 {
			b.Fatalf("%d sessions", len(g.records))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-both")
		g.records = nil
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-store")
		must(b, g.Close())
		g.journal = journal{}
	}
}
