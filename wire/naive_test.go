package wire_test

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"
)

// naive decodes as docs/protocol.md reads, with no care for speed or memory: the tests hold the package against it.
type naive struct {
	rest   []byte
	values int
	broken bool // in structure
	unfit  bool // in content
}

// decodeNaive decodes the one value that b is. Integers are int64, or uint64 beyond its range.
func decodeNaive(b []byte) (v any, structure, content bool) {
	n := naive{rest: b}
	v = n.value(0)
	structure = !n.broken && len(n.rest) == 0
	return v, structure, structure && !n.unfit
}

func (n *naive) take(count uint64) []byte {
	if n.broken || count > uint64(len(n.rest)) {
		n.broken = true
		return make([]byte, min(count, 16))
	}
	b := n.rest[:count]
	n.rest = n.rest[count:]
	return b
}

func (n *naive) number(width uint64) uint64 {
	var v uint64
	for _, d := range n.take(width) {
		v = v<<8 | uint64(d)
	}
	return v
}

func (n *naive) value(around int) any {
	n.values++
	if around > 64 || n.values > 4194304 {
		n.broken = true
	}
	if n.broken {
		return nil
	}
	c := n.take(1)[0]
	switch {
	case c < 0x80:
		return int64(c)
	case c >= 0xe0:
		return int64(c) - 256
	case c < 0x90:
		return n.table(uint64(c-0x80), around)
	case c < 0xa0:
		return n.list(uint64(c-0x90), around)
	case c < 0xc0:
		return n.text(uint64(c - 0xa0))
	}
	switch c {
	case 0xc0:
		return nil
	case 0xc2, 0xc3:
		return c == 0xc3
	case 0xc4, 0xc5, 0xc6:
		return append([]byte{}, n.take(n.number(1<<(c-0xc4)))...)
	case 0xca:
		return float64(math.Float32frombits(uint32(n.number(4))))
	case 0xcb:
		return math.Float64frombits(n.number(8))
	case 0xcc, 0xcd, 0xce, 0xcf:
		v := n.number(1 << (c - 0xcc))
		if v > math.MaxInt64 {
			return v
		}
		return int64(v)
	case 0xd0:
		return int64(int8(n.number(1)))
	case 0xd1:
		return int64(int16(n.number(2)))
	case 0xd2:
		return int64(int32(n.number(4)))
	case 0xd3:
		return int64(n.number(8))
	case 0xd9, 0xda, 0xdb:
		return n.text(n.number(1 << (c - 0xd9)))
	case 0xdc, 0xdd:
		return n.list(n.number(2<<(c-0xdc)), around)
	case 0xde, 0xdf:
		return n.table(n.number(2<<(c-0xde)), around)
	default:
		return n.timestamp(c)
	}
}

func (n *naive) timestamp(c byte) any {
	length := map[byte]uint64{0xd6: 4, 0xd7: 8, 0xc7: 12}[c]
	if c == 0xc7 && n.number(1) != 12 || length == 0 || n.take(1)[0] != 0xff {
		n.broken = true
		return nil
	}
	b := n.take(length)
	var seconds, nanoseconds uint64
	switch length {
	case 4:
		seconds = uint64(binary.BigEndian.Uint32(b))
	case 8:
		seconds, nanoseconds = binary.BigEndian.Uint64(b)%(1<<34), binary.BigEndian.Uint64(b)/(1<<34)
	case 12:
		seconds, nanoseconds = binary.BigEndian.Uint64(b[4:]), uint64(binary.BigEndian.Uint32(b))
	}
	n.unfit = n.unfit || nanoseconds >= 1e9
	return time.Unix(int64(seconds), int64(nanoseconds)).UTC()
}

func (n *naive) text(length uint64) string {
	s := string(n.take(length))
	n.unfit = n.unfit || !utf8.ValidString(s)
	return s
}

func (n *naive) list(items uint64, around int) any {
	list := []any{}
	if items > uint64(len(n.rest)) {
		n.broken = true
	}
	for i := uint64(0); i < items && !n.broken; i++ {
		list = append(list, n.value(around+1))
	}
	return list
}

func (n *naive) table(entries uint64, around int) any {
	m := map[string]any{}
	if 2*entries > uint64(len(n.rest)) {
		n.broken = true
	}
	for i := uint64(0); i < entries && !n.broken; i++ {
		key, isText := n.value(around + 1).(string)
		_, twice := m[key]
		n.unfit = n.unfit || !isText || twice
		m[key] = n.value(around + 1)
	}
	return m
}
