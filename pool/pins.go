package pool

import (
	"cmp"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// A pin is made with a flow's first call: the least loaded worker gets it, among equals the one that has the fewest. A worker that gets ready later has none;
// it invites its fair share of those that there are. A flow takes up an invitation when its next call comes and none of its calls runs, if its worker has more
// than its share. So each worker that gets ready moves its share once, and no pin moves because flows come and go.

func (f *Flow) pinLocked(w *Worker) {
	if f.pin != w {
		f.unpinLocked()
		f.pin = w
		w.pins++
		f.pool.pins++
	}
}

func (f *Flow) unpinLocked() {
	if f.pin != nil {
		f.pin.pins--
		f.pool.pins--
		f.pin, f.stays = nil, false
	}
}

// inviteLocked lets a worker that has got ready take over pins.
func (p *Pool) inviteLocked(w *Worker) {
	stay := 0
	for _, other := range p.workers {
		if other.state == workerReady && !other.replaced {
			stay++
		}
	}
	p.pinShare = (p.pins + stay - 1) / stay
	w.inviteLocked(p.pinShare)
}

func (w *Worker) inviteLocked(n int) {
	w.pool.invites += n - w.invites
	w.invites = n
}

// spreadLocked moves a flow's pin to a worker that invites it.
func (p *Pool) spreadLocked(f *Flow) {
	if p.invites == 0 || f.pin.pins <= p.pinShare || f.stays || f.busyLocked() {
		return
	}
	var to *Worker
	for _, w := range p.workers {
		switch {
		case w.invites == 0:
		case w.pins >= p.pinShare:
			w.inviteLocked(0)
		case w.freeLocked() > 0 && (to == nil || w.pins < to.pins):
			to = w
		}
	}
	if to != nil {
		to.inviteLocked(to.invites - 1)
		f.pinLocked(to)
	}
}

// Move has the flow's pin go to the worker of that id, or, where id is empty, to the least loaded other one: at once, or when the calls that run have ended. What
// waits goes along.
func (f *Flow) Move(id string) *wire.Error {
	p := f.pool
	var batch wire.Batch
	defer batch.Flush()
	p.mu.Lock()
	defer p.unlock(&batch)
	switch {
	case f.dead != nil:
		return f.dead
	case f.lost != nil:
		return f.lost
	case !f.serial:
		return wire.Errorf(wire.CodeInvalidParams, "a connection's calls are pinned to no worker")
	}
	to, err := p.targetLocked(f, id)
	if err != nil {
		return err
	}
	f.leaveLocked()
	f.moveTo = to
	if f.busyLocked() {
		if c := f.head; c != nil { // it waits for a turn now, and not for a slot
			c.turn, c.checkout = time.Time{}, time.Time{}
			p.timeLocked(c)
		}
		return nil
	}
	f.moveLocked()
	p.offerLocked(f, &batch)
	return nil
}

// targetLocked is where Move moves a flow to.
func (p *Pool) targetLocked(f *Flow, id string) (*Worker, *wire.Error) {
	var best *Worker
	for _, w := range p.workers {
		switch {
		case w.state != workerReady:
		case id != "" && w.id == id:
			return w, nil
		case id != "" || w == f.pin:
		case best == nil || cmp.Or(cmp.Compare(len(w.calls), len(best.calls)), cmp.Compare(w.pins, best.pins)) < 0:
			best = w
		}
	}
	switch {
	case id != "":
		return nil, wire.Errorf(wire.CodeInvalidParams, "no worker %q of pool %s is ready: choose one that is, or none", id, p.cfg.Name)
	case best == nil:
		return nil, wire.Errorf(wire.CodeNoWorkers, "no other worker of pool %s is ready", p.cfg.Name)
	}
	return best, nil
}

// moveLocked does what Move asked for, when no call has the turn.
func (f *Flow) moveLocked() {
	to := f.moveTo
	if to == nil || f.busyLocked() {
		return
	}
	if f.moveTo = nil; to.state == workerReady { // else it stays, or goes where there is room
		f.pinLocked(to)
		f.stays = true
	}
}
