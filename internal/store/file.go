package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options are what a File can be told; the zero value is useful.
type Options struct {
	// Seal is the key of 32 bytes that secrets are sealed with; without one, only their names are kept.
	Seal []byte
	// Log is told of a disk that fails; nil: nobody.
	Log *slog.Logger
	// SegmentBytes is about how large a file of the journal becomes; 0: 32 MiB.
	SegmentBytes int64

	open opener // for tests
}

const minSegment = 4 << 10

var (
	errClosed  = errors.New("the session store is closed")
	errNotRead = errors.New("the session store was not loaded yet")
)

// File keeps sessions in a directory, as a journal in segments. What was done is on disk. One goroutine, the committer, writes: it
// takes all operations that wait, writes them at once and syncs once.
type File struct {
	dir    string
	opts   Options
	sealer *sealer
	log    *slog.Logger
	lock   *os.File

	// Guards what follows. Nothing slow is done under it.
	mu       sync.Mutex
	queue    []op
	loaded   bool
	closed   bool
	wake     chan struct{} // has room for one
	finished chan struct{} // closed by the committer at its end

	// The rest is the loader's, and then the committer's.
	journal
}

// journal is what the committer knows.
type journal struct {
	sessions map[uint64]*kept
	list     keptList
	segments []*segment // the last one is written to
	total    int64      // bytes of all segments
	next     uint64     // number of the next segment
	store    uint64
	out      file // nil: no segment can be written to
	tail     *tail

	seq     uint64 // of the last record
	start   uint64 // of the first record that has not been retired
	touched map[uint64]uint64
	from    uint64 // touched tells of records from here on
	unnoted int64  // bytes written since the last note
	// leftKnown: what is left of time limits is as it was last noted, unless the process ends otherwise than by Close.
	leftKnown bool
	fresh     []*kept // found damaged, and not written down yet

	buf       []byte // to be used again
	failed    error  // why out is nil
	copyAgain time.Time
	retry     time.Time
	backoff   time.Duration
}

// OpenFile opens the store in a directory, and makes it where there is none. Load comes next.
func OpenFile(dir string, opts Options) (f *File, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.SegmentBytes <= 0 {
		opts.SegmentBytes = 32 << 20
	}
	// Where files are so small that what each has beside its records counts, making space could go on without end.
	opts.SegmentBytes = max(opts.SegmentBytes, minSegment)
	if opts.open == nil {
		opts.open = openDisk
	}
	f = &File{
		dir: filepath.Clean(dir), opts: opts, log: opts.Log, wake: make(chan struct{}, 1), finished: make(chan struct{}),
		journal: journal{sessions: map[uint64]*kept{}, touched: map[uint64]uint64{}},
	}
	if f.sealer, err = newSealer(opts.Seal); err != nil {
		return nil, err
	}
	if f.lock, err = lockDir(f.dir); err != nil {
		return nil, fmt.Errorf("session store: %w", err)
	}
	if f.segments, err = listSegments(f.dir); err != nil {
		f.lock.Close()
		return nil, fmt.Errorf("session store: %w", err)
	}
	return f, nil
}

// op is one operation that waits.
type op struct {
	kind   kind
	number uint64
	record *Record
	change *Change
	left   map[uint64]Left
	done   func(error)

	// What the committer makes of it.
	kept  *kept
	delta *delta
	seq   uint64
	err   error
}

func (f *File) begin(o op) (now bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return true, errClosed
	case !f.loaded:
		return true, errNotRead
	}
	f.queue = append(f.queue, o)
	f.wakeLocked()
	return false, nil
}

func (f *File) wakeLocked() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Create keeps a new session.
func (f *File) Create(r *Record, done func(error)) (now bool, err error) {
	return f.begin(op{kind: kindCreate, number: r.Number, record: r, done: done})
}

// Commit keeps a change.
func (f *File) Commit(c *Change, done func(error)) (now bool, err error) {
	return f.begin(op{kind: kindChange, number: c.Number, change: c, done: done})
}

// Delete forgets a session; one that is not there is forgotten already.
func (f *File) Delete(number uint64, done func(error)) (now bool, err error) {
	return f.begin(op{kind: kindDelete, number: number, done: done})
}

// KeepLeft notes what is left of time limits; sessions that are not there are passed over.
func (f *File) KeepLeft(left map[uint64]Left, done func(error)) (now bool, err error) {
	return f.begin(op{kind: kindLeft, left: left, done: done})
}

// Close waits for all that was begun, and lets go of the directory. It is not called from a done.
func (f *File) Close() error {
	f.mu.Lock()
	first, loaded := !f.closed, f.loaded
	f.closed = true
	f.wakeLocked()
	f.mu.Unlock()
	if loaded {
		<-f.finished
	}
	if !first {
		return nil
	}
	var err error
	if f.out != nil {
		err = f.out.Close()
	}
	if f.tail != nil {
		err = errors.Join(err, f.tail.f.Sync())
		f.tail.f.Close()
	}
	f.lock.Close()
	return err
}
