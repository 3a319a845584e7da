// Package watch says when what files hold has changed: at once where the system tells of it, and within a few seconds where it does not.
// It compares contents, not times; what follows from a change is not its own.
package watch

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	// The system's notices on Linux, macOS and the BSDs by one interface; well kept, without dependencies but x/sys.
	"github.com/fsnotify/fsnotify"
)

// State is what a Look finds.
type State struct {
	Digest  string              // of what is there; another one means a change
	Folders []string            // whose notices may be of a change
	About   func(p string) bool // whether a notice that names this path may be
}

// Config is what Run takes. Look, Known and Changed are needed.
type Config struct {
	Look    func() State
	Known   func() string // the digest of what is in use; whoever uses something else in the meantime says so here
	Changed func()        // something else is there than what is in use; must not block

	// Quiet is how long nothing may change before it is looked at, so that a file that is being written is not looked at halfway; but no longer
	// than Most after the first notice. Poll is the time between two looks that nothing led to. Zero: the defaults.
	Quiet, Most, Poll time.Duration
	Log               *slog.Logger
}

const (
	defaultQuiet = 50 * time.Millisecond
	defaultMost  = time.Second
	defaultPoll  = 2 * time.Second
)

// Run watches until ctx is done.
func Run(ctx context.Context, cfg Config) {
	w := &watcher{cfg: cfg, watched: map[string]bool{}}
	if w.cfg.Log == nil {
		w.cfg.Log = slog.New(slog.DiscardHandler)
	}
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		w.cfg.Log.Warn("changes of files are noticed late: the system does not tell of them", "error", err.Error())
	} else {
		defer func() { _ = notices.Close() }() // nobody reads from it any more
		w.notices = notices
	}
	w.run(ctx)
}

type watcher struct {
	cfg     Config
	notices *fsnotify.Watcher // nil: the system tells nothing
	watched map[string]bool   // folders of the last look; whether they are watched
	about   func(string) bool
}

func (w *watcher) run(ctx context.Context) {
	poll := time.NewTicker(cmp.Or(w.cfg.Poll, defaultPoll))
	defer poll.Stop()
	quiet, most := stopped(), stopped()
	defer quiet.Stop()
	defer most.Stop()
	var events <-chan fsnotify.Event
	var errors <-chan error
	if w.notices != nil {
		events, errors = w.notices.Events, w.notices.Errors
	}
	w.look()
	waiting := false
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if !w.about(e.Name) {
				continue
			}
			if !waiting {
				waiting = true
				most.Reset(cmp.Or(w.cfg.Most, defaultMost))
			}
			quiet.Reset(cmp.Or(w.cfg.Quiet, defaultQuiet))
			continue
		case err := <-errors: // notices were lost, most likely: there were too many
			w.cfg.Log.Debug("notices of changed files lost", "error", err.Error())
		case <-quiet.C:
		case <-most.C:
		case <-poll.C:
			if waiting { // it is looked at soon, and maybe being written
				continue
			}
		}
		waiting = false
		quiet.Stop()
		most.Stop()
		w.look()
	}
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// look compares what is there with what is known, and watches the folders that it depends on. What changed before a folder was watched shows at another look.
func (w *watcher) look() {
	s := w.cfg.Look()
	for w.watch(s.Folders) {
		s = w.cfg.Look()
	}
	w.about = s.About
	if s.Digest != w.cfg.Known() {
		w.cfg.Changed()
	}
}

// watch has the system tell of changes in folders, and says whether it did not tell of one of them until now.
func (w *watcher) watch(folders []string) (more bool) {
	if w.notices == nil {
		return false
	}
	now := make(map[string]bool, len(folders))
	for _, folder := range folders {
		// Anew each time: of a folder that was removed and made again the system tells nothing otherwise.
		now[folder] = w.notices.Add(folder) == nil
		more = more || now[folder] && !w.watched[folder]
	}
	for folder := range w.watched {
		if _, still := now[folder]; !still {
			_ = w.notices.Remove(folder) // it may have gone by itself
		}
	}
	w.watched = now
	return more
}
