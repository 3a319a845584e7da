// Package jsontext escapes what a terminal acts on in JSON that has been encoded: encoders escape the control characters of ASCII alone. It does not encode.
package jsontext

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Harmless is the text with every character escaped that cannot be printed, but for line ends; the text itself where there is none.
func Harmless(text []byte) []byte {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if !printed(r) {
			return escaped(text)
		}
		i += size
	}
	return text
}

func printed(r rune) bool { return r == '\n' || strconv.IsPrint(r) }

func escaped(text []byte) []byte {
	out := make([]byte, 0, len(text)+16)
	for _, r := range string(text) {
		switch {
		case printed(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
