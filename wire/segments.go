package wire

// segments are bytes that wait to be written, in order. What is copied in lies in pooled buffers, large payloads lie where they were.
type segments struct {
	list [][]byte
	tail *[bufferSize]byte   // the buffer under the last of list, which may be appended to; nil where that is a payload
	used []*[bufferSize]byte // all the buffers under list
}

// keptSegments is how long a list may be to be kept for the next frames.
const keptSegments = 64

func (s *segments) copy(b []byte) {
	for len(b) > 0 {
		if s.tail == nil || len(s.list[len(s.list)-1]) == bufferSize {
			s.tail, _ = buffers.Get().(*[bufferSize]byte)
			s.used = append(s.used, s.tail)
			s.list = append(s.list, s.tail[:0])
		}
		last := &s.list[len(s.list)-1]
		n := min(len(b), bufferSize-len(*last))
		*last = append(*last, b[:n]...)
		b = b[n:]
	}
}

func (s *segments) add(payload []byte) {
	s.list = append(s.list, payload)
	s.tail = nil
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
	s.list, s.used, s.tail = s.list[:0], s.used[:0], nil
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
