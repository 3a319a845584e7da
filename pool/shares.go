package pool

// shares counts what each T holds and knows at any time one that holds the most, in constant time: those that hold
// the same number stand in one set, and the largest number moves by one at a time.
type shares[T comparable] struct {
	count map[T]int
	sets  []map[T]struct{} // by number held
	most  int
}

func (s *shares[T]) add(t T, n int) {
	if s.count == nil {
		s.count = make(map[T]int)
	}
	old := s.count[t]
	now := old + n
	if old > 0 {
		delete(s.sets[old], t)
	}
	if now == 0 {
		delete(s.count, t)
	} else {
		for len(s.sets) <= now {
			s.sets = append(s.sets, nil)
		}
		if s.sets[now] == nil {
			s.sets[now] = make(map[T]struct{})
		}
		s.sets[now][t] = struct{}{}
		s.count[t] = now
		s.most = max(s.most, now)
	}
	for s.most > 0 && len(s.sets[s.most]) == 0 {
		s.most--
	}
}

// largest is one that holds the most, and how much; the zero T where none holds anything.
func (s *shares[T]) largest() (t T, n int) {
	if s.most > 0 {
		for t = range s.sets[s.most] {
			break
		}
	}
	return t, s.most
}
