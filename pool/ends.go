package pool

// endReason is why a worker ended, for those who count: why and the log say it in words.
type endReason string

const (
	endPlanned     endReason = "planned"      // recycled, retired, or the sidecar ends
	endFailedStart endReason = "failed_start" // it never got ready
	endCrashed     endReason = "crashed"      // by itself, or somebody else killed it
	endStuck       endReason = "stuck"        // it answered no heartbeat, or a call did not stop
	endMemory      endReason = "memory"       // memory_limit
	endKilled      endReason = "killed"       // an administrator wanted it
)

// endReasonLocked is why a worker that is dead ended.
func (w *Worker) endReasonLocked(starting, planned bool) endReason {
	switch {
	case planned:
		return endPlanned
	case w.end != "":
		return w.end
	case starting:
		return endFailedStart
	}
	return endCrashed
}
