package keeper

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
)

// freezeRounds bounds how often a tree is looked at for processes that still run before it is killed.
const freezeRounds = 50

// tree is a process, alive or gone, with all that belongs to it, on its way to the end.
type tree struct {
	root int
	// seen holds the members found so far: they stay members when the parent by which they were found is gone.
	seen map[procs.ID]bool
	// sessions holds the root and the members by number: what is in a session that one of them made is a member.
	sessions map[int]bool
}

// endTree has endTrees end a process and all that belongs to it. It changes nothing for one that is already on
// its way.
func (k *keeper) endTree(root int) {
	if k.trees[root] == nil {
		k.trees[root] = &tree{root: root, seen: make(map[procs.ID]bool), sessions: map[int]bool{root: true}}
	}
}

// endTrees stops every process of the trees, until a look finds none that runs, so that none can fork a child
// away from it, and then kills them all. A tree of which nothing is left is done with; others stay for the next
// time, since killing takes the kernel a moment.
func (k *keeper) endTrees() {
	var found map[int][]procs.Proc
	for range freezeRounds {
		if len(k.trees) == 0 {
			return
		}
		table, err := procs.Read()
		if err != nil {
			k.trouble(err)
			return
		}
		found = make(map[int][]procs.Proc, len(k.trees))
		running := false
		for root, t := range k.trees {
			found[root] = k.members(table, t)
			if !k.freeze(t, found[root]) {
				running = true
			}
		}
		if !running {
			break
		}
	}
	for root, members := range found {
		for _, p := range members {
			k.signal(p, unix.SIGKILL)
		}
		if len(members) == 0 {
			k.finishTree(k.trees[root])
		}
	}
}

// freeze stops the members that run and says whether none did.
func (k *keeper) freeze(t *tree, members []procs.Proc) bool {
	frozen := true
	for _, p := range members {
		if !t.seen[p.ID] && !p.Zombie() {
			t.seen[p.ID], t.sessions[p.PID] = true, true
			frozen = false
		}
		if !p.Frozen() {
			k.signal(p, unix.SIGSTOP)
			frozen = false
		}
	}
	return frozen
}

// members returns a tree's processes, parents first. Other children of the sidecar are none, nor what is below
// them: a worker that was forked by another child is one of its own once it is adopted.
func (k *keeper) members(table procs.Table, t *tree) []procs.Proc {
	other := func(p procs.Proc) bool { return k.children[p.PID] && p.PID != t.root }
	var members []procs.Proc
	in := make(map[int]bool)
	below := table.Below(k.self, other)
	if root := table[t.root]; k.children[t.root] && root.Parent != k.self {
		// It was adopted while the process that forked it, below another child, was still on its way out.
		if slices.ContainsFunc(table.Below(k.self, nil), func(p procs.Proc) bool { return p.ID == root.ID }) {
			below = append(append(below, root), table.Below(t.root, other)...)
		}
	}
	for _, p := range below {
		isRoot := p.PID == t.root && k.children[p.PID]
		if isRoot || t.seen[p.ID] || in[p.Parent] || t.sessions[p.Session] || p.Group == t.root {
			in[p.PID] = true
			members = append(members, p)
		}
	}
	return members
}

// signal reports failures only: a process may well be gone by now.
func (k *keeper) signal(p procs.Proc, signal unix.Signal) {
	if err := procs.Signal(p.ID, signal); err != nil {
		k.trouble(err)
	}
}

func (k *keeper) finishTree(t *tree) {
	delete(k.trees, t.root)
	count := 0
	for id := range t.seen {
		if id.PID != t.root {
			count++
		}
	}
	if count > 0 {
		k.send(&message{Cleared: &clearedNotice{PID: t.root, Count: count}})
	}
}

// untilPatrol is when the next look is due.
func (k *keeper) untilPatrol() time.Duration {
	if time.Now().Before(k.sweepEnds) {
		return sweepInterval
	}
	return patrolInterval
}

// patrol ends what came to the keeper from another child, dead or alive, has left that child's session, and was not adopted in time.
func (k *keeper) patrol() {
	pids, err := procs.Children(k.self)
	if err != nil {
		k.trouble(err)
		return
	}
	now, grace := time.Now(), orphanGrace
	if k.expected <= 0 && now.Before(k.sweepEnds) {
		grace = sweepGrace
	}
	present := make(map[procs.ID]time.Time)
	for _, pid := range pids {
		if k.children[pid] || k.trees[pid] != nil {
			continue
		}
		p, err := procs.ReadOne(pid)
		if err != nil || p.Zombie() || k.children[p.Session] {
			continue
		}
		since, known := k.orphans[p.ID]
		if !known {
			since = now
		}
		present[p.ID] = since
		if now.Sub(since) >= grace {
			k.endTree(pid)
			k.trees[pid].seen[p.ID] = true
		}
	}
	k.orphans = present
}
