package session

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"syscall"

	"github.com/dspex/dspex-sidecar/internal/store"
)

// watched is a store whose disk is watched: when it fails, and when it works again, the log says so once.
type watched struct {
	store.Store

	log *slog.Logger

	mu      sync.Mutex // guards failure
	failure string     // empty: the last change was kept
}

// note takes an outcome in. Only the system's errors are the disk's.
func (w *watched) note(err error) {
	var number syscall.Errno
	if err != nil && !errors.As(err, &number) {
		return
	}
	now := ""
	if err != nil {
		now = reasonOf(err)
	}
	w.mu.Lock()
	before := w.failure
	w.failure = now
	w.mu.Unlock()
	switch {
	case now != "" && before == "":
		w.log.Error("the session store takes no changes: calls that make some are answered storage_unavailable", "error", err.Error())
	case now == "" && before != "":
		w.log.Info("the session store takes changes again")
	}
}

// noted is done, and notes the outcome.
func (w *watched) noted(done func(error)) func(error) {
	return func(err error) {
		w.note(err)
		done(err)
	}
}

// Create notes its outcome.
func (w *watched) Create(r *store.Record, done func(error)) (now bool, err error) {
	if now, err = w.Store.Create(r, w.noted(done)); now {
		w.note(err)
	}
	return now, err
}

// Commit notes its outcome.
func (w *watched) Commit(c *store.Change, done func(error)) (now bool, err error) {
	if now, err = w.Store.Commit(c, w.noted(done)); now {
		w.note(err)
	}
	return now, err
}

// StoreFailure says why the store takes no changes; empty: it does.
func (t *Table) StoreFailure() string {
	w, is := t.cfg.Store.(*watched)
	if !is {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// reasonOf is what clients are told of an error: not where the store is.
func reasonOf(err error) string {
	if path, is := errors.AsType[*fs.PathError](err); is {
		return path.Err.Error()
	}
	return err.Error()
}
