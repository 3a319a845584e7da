package wire

// segments are bytes that wait to be written, in order. What is copied in lies in pooled buffers, large payloads lie where they were.
type segments struct {
	list [][]byte
	room []byte              // what is free of the last buffer
	open bool                // the last of list ends where room begins
	used []*[bufferSize]byte // all the buffers under list
}

// keptSegments is how long a list may be to be kept for the next frames.
const keptSegments = 64

func (s *segments) copy(b []byte) {
	for len(b) > 0 {
		if len(s.room) == 0 {
			buf, _ := buffers.Get().(*[bufferSize]byte)
			s.used = append(s.used, buf)
			s.room, s.open = buf[:], false
		}
		if !s.open {
			s.list, s.open = append(s.list, s.room[:0]), true
		}
		n := copy(s.room, b)
		last := &s.list[len(s.list)-1]
		*last = (*last)[:len(*last)+n]
		s.room, b = s.room[n:], b[n:]
	}
}

// add takes a payload as it is; what is copied in after it goes on in the same buffer.
func (s *segments) add(payload []byte) {
	s.list, s.open = append(s.list, payload), false
}

// reset empties s and gives its buffers back. Nothing may be using them.
func (s *segments) reset() {
	for _, b := range s.used {
		buffers.Put(b)
	}
	if cap(s.list) > keptSegments {
		*s = segments{}
		return
	}
	clear(s.list)
	clear(s.used)
	s.list, s.used, s.room, s.open = s.list[:0], s.used[:0], nil, false
}

// consume takes the first n bytes off bufs, whose items it changes.
func consume(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}
