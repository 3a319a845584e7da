package session

import (
	"slices"
	"strings"
)

// Query says which sessions List returns.
type Query struct {
	Owner  string
	All    bool // every owner's
	Labels map[string]string
	After  string // an id; with All, an owner, a zero byte and an id
	Limit  int
}

// List returns sessions in the order of owner and id, and whether there are more.
func (t *Table) List(q Query) (infos []Info, more bool) {
	after := Key{Owner: q.Owner, ID: q.After}
	if q.All {
		after.Owner, after.ID, _ = strings.Cut(q.After, "\x00")
	}
	t.mu.Lock()
	var found []*session
	for key, s := range t.sessions {
		if (q.All || key.Owner == q.Owner) && (q.After == "" || compare(key, after) > 0) && labelled(s, q.Labels) {
			found = append(found, s)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(found, func(a, b *session) int { return compare(a.key, b.key) })
	if len(found) > q.Limit {
		found, more = found[:q.Limit], true
	}
	infos = make([]Info, 0, len(found))
	for _, s := range found {
		infos = append(infos, t.info(s))
	}
	return infos, more
}

func compare(a, b Key) int {
	if c := strings.Compare(a.Owner, b.Owner); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

func labelled(s *session, labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := s.labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
