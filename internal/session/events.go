package session

import "github.com/dspex/dspex-sidecar/internal/events"

// tell publishes what became of a session: created, ended, expired, reset, moved or restored.
func (t *Table) tell(s *session, what string, more ...any) {
	if !t.cfg.Events.Heard() || s.ledger {
		return
	}
	fields := map[string]any{"session": s.key.ID, "owner": s.key.Owner, "what": what}
	for i := 0; i+1 < len(more); i += 2 {
		if name, ok := more[i].(string); ok {
			fields[name] = more[i+1]
		}
	}
	t.cfg.Events.Publish(events.Event{Kind: "session", Owner: s.key.Owner, Topic: s.key.ID, Fields: fields})
}

// trace publishes the head of a frame between the sidecar and a worker that is about the session.
func (t *Table) trace(s *session, kind, from, worker string, bytes int) {
	if !t.cfg.Events.FramesHeard() {
		return
	}
	to := "sidecar"
	if from == to {
		to = "worker"
	}
	t.cfg.Events.Publish(events.Event{Kind: "frame", Owner: s.key.Owner, Topic: s.key.ID, Fields: map[string]any{
		"session": s.key.ID, "owner": s.key.Owner, "kind": kind, "from": from, "to": to, "worker": worker, "bytes": bytes,
	}})
}
