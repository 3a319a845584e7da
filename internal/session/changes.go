package session

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/wire"
)

// reserved begins the keys that the DSPy application alone writes.
const reserved = "dspex."

// merge adds the payload of one change frame, which is borrowed, to a call's change. Frames count in their order; within
// one, what is deleted goes after what is set.
func merge(c *store.Change, payload []byte) error {
	if err := wire.CheckContent(payload); err != nil {
		return err
	}
	parts, err := wire.SplitMap(payload)
	if err != nil {
		return err
	}
	var set, secrets map[string][]byte
	var deleted []string
	for name, raw := range parts {
		switch name {
		case "set":
			set, err = entriesOf(raw)
		case "secrets":
			secrets, err = entriesOf(raw)
		case "delete":
			deleted, err = textsOf(raw)
		default:
			err = wire.Errorf(wire.CodeInvalidFrame, "a change holds %q", name)
		}
		if err != nil {
			return err
		}
	}
	add(c, set, secrets, deleted)
	return nil
}

// add makes what is set, then what is secret, then what is deleted a part of the change. A key stays in one of the three.
func add(c *store.Change, set, secrets map[string][]byte, deleted []string) {
	if len(c.Delete) > 0 {
		c.Delete = slices.DeleteFunc(c.Delete, func(k string) bool { return set[k] != nil || secrets[k] != nil })
	}
	for k := range set {
		delete(c.Secrets, k)
	}
	c.Set = joined(c.Set, set)
	for k := range secrets {
		delete(c.Set, k)
	}
	c.Secrets = joined(c.Secrets, secrets)
	if len(deleted) == 0 {
		return
	}
	for _, k := range deleted {
		delete(c.Set, k)
		delete(c.Secrets, k)
	}
	c.Delete = append(c.Delete, deleted...)
	slices.Sort(c.Delete)
	c.Delete = slices.Compact(c.Delete)
}

func joined(to, from map[string][]byte) map[string][]byte {
	if to == nil {
		return from
	}
	maps.Copy(to, from)
	return to
}

// entriesOf splits an encoded map, which is borrowed. Each value gets memory of its own: one that shared its frame's would
// keep all of that for as long as it stays in the state.
func entriesOf(raw []byte) (map[string][]byte, error) {
	m, err := wire.SplitMap(raw)
	if err != nil {
		return nil, err
	}
	for k, v := range m {
		if k == "" || len(k) > wire.MaxStateKey {
			return nil, wire.Errorf(wire.CodeInvalidParams, "a key of the state is text of 1 to %d bytes", wire.MaxStateKey)
		}
		m[k] = bytes.Clone(v)
	}
	return m, nil
}

func textsOf(raw []byte) (texts []string, err error) {
	err = wire.Unmarshal(raw, &texts)
	return texts, err
}

// stateOf checks a map of state that a client sent, and splits it. Only one that was exported may have reserved keys; the DSPy application
// checks what is in those.
func stateOf(raw []byte, exported bool) (map[string][]byte, error) {
	if raw == nil {
		return map[string][]byte{}, nil
	}
	if err := wire.CheckContent(raw); err != nil {
		return nil, err
	}
	m, err := entriesOf(raw)
	if err != nil {
		return nil, err
	}
	for k := range m {
		if err := clientKey(k); err != nil && !exported {
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
