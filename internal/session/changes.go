package session

import (
	"bytes"
	"maps"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/wire"
)

// reserved begins the keys that the DSPy application alone writes.
const reserved = "dspex."

// merge adds the payload of one change frame, which is borrowed, to a call's change.
func merge(c *store.Change, payload []byte) error {
	parts, err := wire.SplitMap(bytes.Clone(payload))
	if err != nil {
		return err
	}
	for name, raw := range parts {
		switch name {
		case "set":
			err = mergeMap(&c.Set, raw)
		case "secrets":
			err = mergeMap(&c.Secrets, raw)
		case "delete":
			var keys []string
			err = wire.Unmarshal(raw, &keys)
			c.Delete = append(c.Delete, keys...)
		default:
			err = wire.Errorf(wire.CodeInvalidFrame, "a change holds %q", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func mergeMap(to *map[string][]byte, raw []byte) error {
	m, err := wire.SplitMap(raw)
	if err != nil {
		return err
	}
	if *to == nil {
		*to = m
		return nil
	}
	maps.Copy((*to), m)
	return nil
}

// clientState checks a map of state that a client sent, and splits it.
func clientState(raw []byte) (map[string][]byte, error) {
	if raw == nil {
		return map[string][]byte{}, nil
	}
	if err := wire.CheckContent(raw); err != nil {
		return nil, err
	}
	m, err := wire.SplitMap(raw)
	if err != nil {
		return nil, err
	}
	for k := range m {
		if err := clientKey(k); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func clientKey(k string) error {
	switch {
	case k == "" || len(k) > wire.MaxStateKey:
		return wire.Errorf(wire.CodeInvalidParams, "a key of the state is text of 1 to %d bytes", wire.MaxStateKey)
	case strings.HasPrefix(k, reserved):
		return wire.Errorf(wire.CodeInvalidParams, "the key %q is reserved: keys that begin with %q are the DSPy application's", k, reserved)
	}
	return nil
}

// restoreParts encodes a state as the params of session.restore, in parts of at most limit bytes where it is large. A
// single value never exceeds a frame: it came in one.
func restoreParts(s *session, limit int) [][]byte {
	const overhead = 512
	type entry struct {
		secret bool
		key    string
	}
	parts, size := [][]entry{nil}, 0
	add := func(secret bool, m map[string][]byte) {
		for k, v := range m {
			n := len(k) + len(v) + 16
			if last := len(parts) - 1; size+n > limit-overhead && len(parts[last]) > 0 {
				parts, size = append(parts, nil), 0
			}
			last := len(parts) - 1
			parts[last] = append(parts[last], entry{secret, k})
			size += n
		}
	}
	add(false, s.state)
	add(true, s.secrets)
	out := make([][]byte, len(parts))
	for i, part := range parts {
		state, secrets := map[string][]byte{}, map[string][]byte{}
		for _, e := range part {
			if e.secret {
				secrets[e.key] = s.secrets[e.key]
			} else {
				state[e.key] = s.state[e.key]
			}
		}
		b := wire.AppendMapHeader(nil, 7)
		b = wire.AppendUint(wire.AppendString(b, "key"), s.number)
		b = wire.AppendString(wire.AppendString(b, "session"), s.key.ID)
		b = wire.AppendUint(wire.AppendString(b, "version"), s.version)
		b = wire.AppendUint(wire.AppendString(b, "part"), uint64(i+1))
		b = wire.AppendUint(wire.AppendString(b, "parts"), uint64(len(parts)))
		b = wire.AppendMap(wire.AppendString(b, "state"), state)
		out[i] = wire.AppendMap(wire.AppendString(b, "secrets"), secrets)
	}
	return out
}
