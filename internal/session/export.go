package session

import (
	"slices"

	"github.com/dspex/dspex-sidecar/wire"
)

// MaxLost is how many secrets' names an exported session may bring.
const MaxLost = 1000

// Page is a part of an exported session.
type Page struct {
	Info    Info
	Started bool
	State   []byte   // an encoded map: the entries of this page, reserved keys too
	Lost    []string // the names of its secrets, which are not exported
	Next    string   // the key to go on after; "": this is the last page
}

// Export returns the entries of a session's last commit that come after a key, in their order: as many as take most bytes, and one at least.
// A session that cannot be served can be exported, as far as its state is known.
func (t *Table) Export(key Key, after string, most int) (*Page, error) {
	t.mu.Lock()
	s := t.sessions[key]
	if s == nil || !s.stored {
		t.mu.Unlock()
		return nil, notFound(key)
	}
	keys := make([]string, 0, len(s.state))
	for k := range s.state {
		if k > after {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	p := &Page{Started: s.started, Lost: slices.Clone(s.lost)}
	for k := range s.secrets {
		p.Lost = append(p.Lost, k)
	}
	entries, size := map[string][]byte{}, 0
	for _, k := range keys {
		n := len(k) + len(s.state[k])
		if size > 0 && size+n > most {
			break
		}
		entries[k], p.Next = s.state[k], k
		size += n
	}
	if len(entries) == len(keys) {
		p.Next = ""
	}
	t.mu.Unlock()
	slices.Sort(p.Lost)
	p.Info, p.State = t.info(s), wire.AppendMap(nil, entries)
	return p, nil
}
