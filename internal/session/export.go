package session

import (
	"slices"

	"github.com/dspex/dspex-sidecar/wire"
)

// MaxLost is how many secrets' names an exported session may bring.
const MaxLost = 100

// Page is a part of an exported session.
type Page struct {
	Info    Info
	Started bool
	State   []byte   // an encoded map: the entries of this page, reserved keys too
	Lost    []string // the names of its secrets, which are not exported
	Next    string   // the key to go on after; "": this is the last page
}

// Export returns the entries of a session's last commit that come after a key, in their order: as many as take most bytes, and one at least.
// A session that is quarantined can be exported, one that is damaged cannot.
func (t *Table) Export(key Key, after string, most int) (*Page, error) {
	p, entries := &Page{}, map[string][]byte{}
	var damaged *wire.Error
	info, err := t.look(key, func(s *session) {
		damaged = s.damaged
		p.takeLocked(s, after, most, entries)
	})
	switch {
	case err != nil:
		return nil, err
	case damaged != nil:
		return nil, damaged
	}
	p.Info, p.State = info, wire.AppendMap(nil, entries)
	return p, nil
}

func (p *Page) takeLocked(s *session, after string, most int, entries map[string][]byte) {
	p.Started, p.Lost = s.started, slices.Clone(s.lost)
	for k := range s.secrets {
		p.Lost = append(p.Lost, k)
	}
	slices.Sort(p.Lost)
	keys := make([]string, 0, len(s.state))
	for k := range s.state {
		if k > after {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	size := 0
	for _, k := range keys {
		n := len(k) + len(s.state[k])
		if size > 0 && size+n > most {
			return
		}
		entries[k], p.Next = s.state[k], k
		size += n
	}
	p.Next = ""
}

// importing is the key of a session whose pages are coming in.
const importing = reserved + "importing"

// findImporting is the session of that key, if its pages are coming in.
func (t *Table) findImporting(key Key) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[key]
	switch {
	case s == nil:
		return nil, notFound(key)
	case s.state[importing] == nil:
		return nil, notImporting(key)
	}
	return s, nil
}

func notImporting(key Key) *wire.Error {
	return wire.Errorf(wire.CodeInvalidParams, "session %q is not being imported: a page is added only until the last one has come", key.ID)
}
