package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// CheckContent checks one value, whose structure Scan has passed, by the rules that its final receiver holds: text is
// UTF-8, the keys of a map are text and differ, nanoseconds are in range. The error is an invalid_frame.
func CheckContent(b []byte) error {
	_, err := checkValue(b, 0)
	return err
}

func checkValue(b []byte, pos int) (int, error) {
	h, err := headerAt(b, pos)
	if err != nil {
		return 0, Errorf(CodeInvalidFrame, "%v", err)
	}
	value := b[pos : pos+h.size]
	switch h.class {
	case classStr:
		if !utf8.Valid(value[h.data:]) {
			return 0, Errorf(CodeInvalidFrame, "text that is not valid UTF-8, at byte %d", pos)
		}
	case classTime:
		if nanoseconds(value[h.data:]) > 999_999_999 {
			return 0, Errorf(CodeInvalidFrame, "a timestamp with more than 999999999 nanoseconds, at byte %d", pos)
		}
	case classMap:
		return checkMap(b, pos+h.size, h.items/2)
	case classArray:
		pos += h.size
		for range h.items {
			if pos, err = checkValue(b, pos); err != nil {
				return 0, err
			}
		}
		return pos, nil
	case classNil, classBool, classInt, classFloat, classBin:
	}
	return pos + h.size, nil
}

// checkMap compares small maps key by key and keeps a set for larger ones, so that many keys cost no square.
func checkMap(b []byte, pos, entries int) (int, error) {
	const small = 16
	var first [small][]byte
	var set map[string]struct{}
	if entries > small {
		set = make(map[string]struct{}, min(entries, 1024))
	}
	for i := range entries {
		h, err := headerAt(b, pos)
		if err != nil {
			return 0, Errorf(CodeInvalidFrame, "%v", err)
		}
		if h.class != classStr {
			return 0, Errorf(CodeInvalidFrame, "a map key that is not text, at byte %d", pos)
		}
		key := b[pos+h.data : pos+h.size]
		repeated := false
		if set != nil {
			_, repeated = set[string(key)]
			set[string(key)] = struct{}{}
		} else {
			for _, k := range first[:i] {
				repeated = repeated || string(k) == string(key)
			}
			first[i] = key
		}
		if repeated {
			return 0, Errorf(CodeInvalidFrame, "the map key %q occurs twice", key)
		}
		if pos, err = checkValue(b, pos); err != nil {
			return 0, err
		}
		if pos, err = checkValue(b, pos); err != nil {
			return 0, err
		}
	}
	return pos, nil
}

func nanoseconds(data []byte) uint64 {
	switch len(data) {
	case 8:
		return binary.BigEndian.Uint64(data) >> 34
	case 12:
		return uint64(binary.BigEndian.Uint32(data))
	default:
		return 0
	}
}
