package pool

import (
	"cmp"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// Apply changes the settings of a pool that runs. No call fails for it: those that wait keep the time limits that they began to wait with, and a
// queue that is longer than the new limit is only let shrink. What a worker is told when it starts (Concurrency, MaxFrame) counts for workers that start later, as
// does StartTimeout.
func (p *Pool) Apply(s Settings) error {
	return p.change(func(now *Settings) { *now = s }, p.saidLocked)
}

// Resize changes how many workers there are. Those that are too many end as planned, the ones with the fewest sessions first, and Size workers stay ready; what waited
// for them goes elsewhere, what runs finishes. What is below 0 stays as it is. It lasts until settings say something else of these two than they did before.
func (p *Pool) Resize(size, maxOverflow int) error {
	return p.change(func(now *Settings) {
		if size >= 0 {
			now.Size = size
		}
		if maxOverflow >= 0 {
			now.MaxOverflow = maxOverflow
		}
	}, p.applyLocked)
}

func (p *Pool) change(change func(*Settings), inForceLocked func(*Settings)) error {
	var batch wire.Batch
	defer batch.Flush()
	p.mu.Lock()
	defer p.unlock(&batch)
	next := p.cfg
	change(&next.Settings)
	if err := next.check(); err != nil {
		return err
	}
	inForceLocked(&next.Settings)
	p.ensureLocked()
	p.trimLocked(&batch)
	p.changedLocked()
	return nil
}

// saidLocked puts in force what settings say.
func (p *Pool) saidLocked(s *Settings) {
	meant := p.meantLocked(s)
	p.said = *s
	p.applyLocked(&meant)
}

// meantLocked is what settings amount to beside a Resize.
func (p *Pool) meantLocked(s *Settings) Settings {
	meant := *s
	if s.Size == p.said.Size {
		meant.Size = p.cfg.Settings.Size
	}
	if s.MaxOverflow == p.said.MaxOverflow {
		meant.MaxOverflow = p.cfg.Settings.MaxOverflow
	}
	return meant
}

// applyLocked puts settings in force, which have been checked.
func (p *Pool) applyLocked(s *Settings) {
	if *s == p.cfg.Settings {
		return
	}
	p.cfg.Settings = *s
	p.woken = p.woken || len(p.workers) > 0 // one that has workers is lazy no more
	p.mostSize = max(p.mostSize, s.Size)
	close(p.applied)
	p.applied = make(chan struct{})
}

// settings are those in force, and a channel that is closed when others are.
func (p *Pool) settings() (Settings, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.Settings, p.applied
}

// trimLocked retires workers that are too many: replaced ones, and those beyond what the settings say. It leaves Size workers ready, so that
// where others are still starting it is called again when they are there.
func (p *Pool) trimLocked(batch *wire.Batch) {
	for !p.closing && p.readyLocked() > p.cfg.Settings.Size {
		w := p.surplusLocked()
		if w == nil {
			return
		}
		w.log.Info("retiring worker", "reason", cmp.Or(w.recycle, "the pool has more than it should"))
		p.retireLocked(w, batch)
	}
}

// surplusLocked is the ready worker that can be spared most easily of those that are too many; nil where none is.
func (p *Pool) surplusLocked() *Worker {
	steady, overflow := 0, 0
	for _, w := range p.workers {
		switch {
		case w.state == workerDraining:
		case w.overflow:
			overflow++
		default:
			steady++
		}
	}
	s := &p.cfg.Settings
	var spare *Worker
	for _, w := range p.workers {
		many := steady > s.Size
		if w.overflow {
			many = overflow > s.MaxOverflow || w.replaced
		}
		if many && w.state == workerReady && (spare == nil || w.sparedBefore(spare)) {
			spare = w
		}
	}
	return spare
}

// sparedBefore says whether less is lost with w than with other: one that is to be recycled is as good as gone, a session's move costs a restore, and
// what runs finishes.
func (w *Worker) sparedBefore(other *Worker) bool {
	rank := func(w *Worker) int {
		switch {
		case w.replaced:
			return 0
		case w.recycle != "":
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(w), rank(other)), cmp.Compare(w.pins, other.pins), cmp.Compare(len(w.calls), len(other.calls))) < 0
}

// pace is a ticker whose period can change. It ticks when it has one.
type pace struct {
	*time.Ticker
	period time.Duration
}

func newPace() *pace {
	t := time.NewTicker(time.Hour)
	t.Stop()
	return &pace{Ticker: t}
}

// set lets it tick every d; 0: never. It starts over only where that is another period, so that changes one upon the other do not keep it from ticking.
func (p *pace) set(d time.Duration) {
	switch {
	case d == p.period:
	case d > 0:
		p.Reset(d)
	default:
		p.Stop()
	}
	p.period = d
}
