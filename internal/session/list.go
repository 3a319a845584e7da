package session

import "strings"

// Query says which sessions List returns.
type Query struct {
	Owner  string
	All    bool // every owner's
	Labels map[string]string
	After  string // an id; with All, an owner, a zero byte and an id
	Limit  int
}

// scan is how many sessions are looked at under the table's lock at a time.
const scan = 1000

// List returns sessions in the order of owner and id, and whether there are more.
func (t *Table) List(q Query) (infos []Info, more bool) {
	from := Key{Owner: q.Owner, ID: q.After}
	if q.All {
		from.Owner, from.ID, _ = strings.Cut(q.After, "\x00")
	}
	if q.After != "" {
		from = from.next()
	}
	var found []*session
	for ended := false; !ended && len(found) <= q.Limit; {
		ended = true
		seen := 0
		t.mu.Lock()
		t.index.from(from, func(s *session) bool {
			if !q.All && s.key.Owner != q.Owner {
				return false
			}
			if s.stored && labelled(s, q.Labels) {
				found = append(found, s)
			}
			from = s.key.next()
			seen++
			ended = seen < scan
			return ended && len(found) <= q.Limit
		})
		t.mu.Unlock()
	}
	if len(found) > q.Limit {
		found, more = found[:q.Limit], true
	}
	infos = make([]Info, 0, len(found))
	for _, s := range found {
		infos = append(infos, t.info(s))
	}
	return infos, more
}

// next is the least key that is greater.
func (k Key) next() Key { return Key{Owner: k.Owner, ID: k.ID + "\x00"} }

func labelled(s *session, labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := s.labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
