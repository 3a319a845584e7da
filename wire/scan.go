package wire

import (
	"encoding/binary"
	"errors"
)

// ErrStructure is what breaks the structure rules of docs/protocol.md. A connection that sends it ends.
var ErrStructure = errors.New("invalid MessagePack structure")

func structure(what string) error { return &structureError{what} }

type structureError struct{ what string }

func (e *structureError) Error() string { return ErrStructure.Error() + ": " + e.what }
func (e *structureError) Unwrap() error { return ErrStructure }

var (
	errCut      = structure("cut off")
	errLeftOver = structure("bytes left over")
	errDepth    = structure("nested deeper than 64")
	errItems    = structure("more items declared than bytes left")
	errValues   = structure("more than 4194304 values")
	errType     = structure("type 0xc1")
	errExt      = structure("an extension other than the timestamp")
	errNotArray = structure("the body is not one array")
)

// Scan checks the structure of one value that fills b. It allocates nothing, whatever b declares.
func Scan(b []byte) error {
	n, err := scanValue(b)
	if err != nil {
		return err
	}
	if n != len(b) {
		return errLeftOver
	}
	return nil
}

// scanValue returns the length of the value that b begins with.
func scanValue(b []byte) (int, error) {
	var left [MaxDepth]int // items still to come in each open container
	depth, pos, values := 0, 0, 0
	for {
		if values++; values > MaxValues {
			return 0, errValues
		}
		h, err := headerAt(b, pos)
		if err != nil {
			return 0, err
		}
		pos += h.size
		if h.items > 0 {
			if h.items > len(b)-pos {
				return 0, errItems
			}
			if depth == MaxDepth {
				return 0, errDepth
			}
			left[depth] = h.items
			depth++
			continue
		}
		for depth > 0 {
			if left[depth-1]--; left[depth-1] > 0 {
				break
			}
			depth--
		}
		if depth == 0 {
			return pos, nil
		}
	}
}

// class is what a value's first byte says it is.
type class uint8

const (
	classNil class = iota
	classBool
	classInt
	classFloat
	classStr
	classBin
	classArray
	classMap
	classTime
)

// header describes the value at one place: size is what stands before its items (for scalars, the whole value), data
// where in that its bytes begin, items how many values follow that belong to it (two for each map entry).
type header struct {
	class class
	size  int
	data  int
	items int
}

// headerAt reads the header of the value at b[pos:], and checks that what it claims to hold is there.
func headerAt(b []byte, pos int) (header, error) {
	if pos >= len(b) {
		return header{}, errCut
	}
	h, err := headerOf(b[pos:])
	if err == nil && h.size > len(b)-pos {
		return header{}, errCut
	}
	return h, err
}

func headerOf(b []byte) (header, error) {
	c := b[0]
	switch {
	case c <= 0x7f || c >= 0xe0:
		return header{classInt, 1, 0, 0}, nil
	case c <= 0x8f:
		return header{classMap, 1, 1, 2 * int(c&0x0f)}, nil
	case c <= 0x9f:
		return header{classArray, 1, 1, int(c & 0x0f)}, nil
	case c <= 0xbf:
		return header{classStr, 1 + int(c&0x1f), 1, 0}, nil
	}
	switch c {
	case 0xc0:
		return header{classNil, 1, 1, 0}, nil
	case 0xc2, 0xc3:
		return header{classBool, 1, 0, 0}, nil
	case 0xca:
		return header{classFloat, 5, 1, 0}, nil
	case 0xcb:
		return header{classFloat, 9, 1, 0}, nil
	case 0xcc, 0xd0:
		return header{classInt, 2, 1, 0}, nil
	case 0xcd, 0xd1:
		return header{classInt, 3, 1, 0}, nil
	case 0xce, 0xd2:
		return header{classInt, 5, 1, 0}, nil
	case 0xcf, 0xd3:
		return header{classInt, 9, 1, 0}, nil
	case 0xc1:
		return header{}, errType
	case 0xd6, 0xd7, 0xc7, 0xd4, 0xd5, 0xd8, 0xc8, 0xc9:
		return timestampHeader(b)
	}
	return lengthHeader(b)
}

// lengthHeader reads the types that carry a length of 1, 2 or 4 bytes: str, bin, array and map.
func lengthHeader(b []byte) (header, error) {
	var cl class
	var width int
	switch c := b[0]; c {
	case 0xc4, 0xc5, 0xc6:
		cl, width = classBin, 1<<(c-0xc4)
	case 0xd9, 0xda, 0xdb:
		cl, width = classStr, 1<<(c-0xd9)
	case 0xdc, 0xdd:
		cl, width = classArray, 2<<(c-0xdc)
	default: // 0xde, 0xdf
		cl, width = classMap, 2<<(c-0xde)
	}
	if len(b) < 1+width {
		return header{}, errCut
	}
	n := 0
	for _, d := range b[1 : 1+width] {
		n = n<<8 | int(d)
	}
	switch cl {
	case classArray:
		return header{cl, 1 + width, 1 + width, n}, nil
	case classMap:
		return header{cl, 1 + width, 1 + width, 2 * n}, nil
	default:
		return header{cl, 1 + width + n, 1 + width, 0}, nil
	}
}

// timestampHeader admits the timestamp extension in its three forms and no other extension.
func timestampHeader(b []byte) (header, error) {
	if len(b) < 3 && (b[0] == 0xc7 || len(b) < 2) {
		return header{}, errCut
	}
	switch {
	case b[0] == 0xd6 && b[1] == 0xff:
		return header{classTime, 6, 2, 0}, nil
	case b[0] == 0xd7 && b[1] == 0xff:
		return header{classTime, 10, 2, 0}, nil
	case b[0] == 0xc7 && b[1] == 12 && b[2] == 0xff:
		return header{classTime, 15, 3, 0}, nil
	}
	return header{}, errExt
}

// uintAt reads a non-negative integer of any width; ok is false for any other value.
func (h header) uintAt(b []byte) (v uint64, ok bool) {
	if h.class != classInt {
		return 0, false
	}
	v, negative := integerAt(b)
	return v, !negative
}

// integerAt reads an integer whose header has been read; a negative one is in two's complement.
func integerAt(b []byte) (v uint64, negative bool) {
	c := b[0]
	switch c {
	case 0xcc:
		return uint64(b[1]), false
	case 0xcd:
		return uint64(binary.BigEndian.Uint16(b[1:])), false
	case 0xce:
		return uint64(binary.BigEndian.Uint32(b[1:])), false
	case 0xcf:
		return binary.BigEndian.Uint64(b[1:]), false
	}
	n := int64(int8(c)) //nolint:gosec // the sign bit is wanted, here and below
	switch c {
	case 0xd0:
		n = int64(int8(b[1])) //nolint:gosec // see above
	case 0xd1:
		n = int64(int16(binary.BigEndian.Uint16(b[1:]))) //nolint:gosec // see above
	case 0xd2:
		n = int64(int32(binary.BigEndian.Uint32(b[1:]))) //nolint:gosec // see above
	case 0xd3:
		n = int64(binary.BigEndian.Uint64(b[1:])) //nolint:gosec // see above
	}
	return uint64(n), n < 0 //nolint:gosec // see above
}
