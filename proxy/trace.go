package proxy

import "github.com/dspex/dspex-sidecar/internal/events"

// trace publishes the head of a frame between a client and the sidecar, where it is about a session and somebody wants to see that.
func (k *call) trace(kind string, fromClient bool, bytes int, more ...any) {
	hub := k.conn.server.cfg.Events
	if k.key.ID == "" || !hub.FramesHeard() {
		return
	}
	from, to := "sidecar", "client"
	if fromClient {
		from, to = to, from
	}
	fields := map[string]any{
		"session": k.key.ID, "owner": k.key.Owner, "kind": kind, "from": from, "to": to, "connection": k.conn.id, "id": k.id, "bytes": bytes,
	}
	for i := 0; i+1 < len(more); i += 2 {
		if name, ok := more[i].(string); ok {
			fields[name] = more[i+1]
		}
	}
	hub.Publish(events.Event{Kind: "frame", Owner: k.key.Owner, Topic: k.key.ID, Fields: fields})
}
