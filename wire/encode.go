package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
)

// Nil is the encoded nil, where a payload or meta has nothing to say.
var Nil = []byte{0xc0} //nolint:gochecknoglobals // a constant

// The Append functions write the head of a frame: everything but its length prefix and its payload, which the writer
// adds without copying large ones.

// AppendRequest writes the head of a request. A meta of nil is written as nil.
func AppendRequest(b []byte, id uint64, method []byte, m *RequestMeta) []byte {
	b = append(b, 0x95, byte(KindRequest))
	b = appendUint(b, id)
	b = appendStr(b, method)
	return appendRequestMeta(b, m)
}

// AppendResponse writes the head of a response that succeeded.
func AppendResponse(b []byte, id uint64, m *ResponseMeta) []byte {
	b = append(b, 0x95, byte(KindResponse))
	b = appendUint(b, id)
	b = appendResponseMeta(b, m)
	return append(b, 0xc0)
}

// AppendRawError writes a whole response that failed, whose error is encoded already.
func AppendRawError(b []byte, id uint64, m *ResponseMeta, err []byte) []byte {
	b = append(b, 0x95, byte(KindResponse))
	b = appendUint(b, id)
	b = appendResponseMeta(b, m)
	b = append(b, err...)
	return append(b, 0xc0)
}

// AppendError writes a whole response that failed.
func AppendError(b []byte, id uint64, m *ResponseMeta, e *Error) []byte {
	raw, err := Marshal(e)
	if err != nil { // details hold what cannot be encoded
		raw, _ = Marshal(&Error{Code: e.Code, Message: e.Message, Retryable: e.Retryable})
	}
	return AppendRawError(b, id, m, raw)
}

// AppendItem writes the head of an item.
func AppendItem(b []byte, id uint64) []byte {
	b = append(b, 0x94, byte(KindItem))
	b = appendUint(b, id)
	return append(b, 0xc0)
}

// AppendNotification writes the head of a notification.
func AppendNotification(b []byte, method string) []byte {
	b = append(b, 0x94, byte(KindNotification))
	b = appendStr(b, method)
	return append(b, 0xc0)
}

// AppendCancel writes a whole cancel.
func AppendCancel(b []byte, id uint64, reason string) []byte {
	b = append(b, 0x93, byte(KindCancel))
	b = appendUint(b, id)
	return appendStr(b, reason)
}

// AppendCredit writes a whole credit.
func AppendCredit(b []byte, id uint64, n uint32) []byte {
	b = append(b, 0x93, byte(KindCredit))
	b = appendUint(b, id)
	return appendUint(b, uint64(n))
}

func appendRequestMeta(b []byte, m *RequestMeta) []byte {
	if m == nil {
		return append(b, 0xc0)
	}
	at, n := len(b), byte(0)
	b = append(b, 0x80)
	number := func(key string, v uint64) {
		b, n = appendUint(appendStr(b, key), v), n+1
	}
	raw := func(key string, v []byte) {
		b, n = append(appendStr(b, key), v...), n+1
	}
	text := func(key string, v []byte) {
		b, n = appendStr(appendStr(b, key), v), n+1
	}
	if m.TimeoutMS >= 0 {
		number("timeout_ms", uint64(m.TimeoutMS))
	}
	if m.Session != nil {
		text("session", m.Session)
	}
	if m.Key != 0 {
		number("key", m.Key)
		number("version", m.Version)
	}
	if m.Next != 0 {
		number("next", m.Next)
	}
	if m.Start {
		raw("start", []byte{0xc3})
	}
	if m.Detach {
		raw("detach", []byte{0xc3})
	}
	if m.Stream != 0 {
		number("stream", uint64(m.Stream))
	}
	if m.Pool != nil {
		text("pool", m.Pool)
	}
	if m.SessionToken != nil {
		text("session_token", m.SessionToken)
	}
	if m.RetrySafe {
		text("retry", []byte("safe"))
	}
	if m.Traceparent != nil {
		text("traceparent", m.Traceparent)
	}
	if m.App != nil {
		raw("app", m.App)
	}
	if m.Call != 0 {
		number("call", m.Call)
	}
	if m.Parent != 0 {
		number("parent", m.Parent)
	}
	b[at] |= n
	return b
}

func appendResponseMeta(b []byte, m *ResponseMeta) []byte {
	if m == nil {
		return append(b, 0xc0)
	}
	at, n := len(b), byte(0)
	b = append(b, 0x80)
	if m.Worker != "" {
		b, n = appendStr(appendStr(b, "worker"), m.Worker), n+1
	}
	if m.QueueUS >= 0 {
		b, n = appendUint(appendStr(b, "queue_us"), uint64(m.QueueUS)), n+1
	}
	if m.RunUS >= 0 {
		b, n = appendUint(appendStr(b, "run_us"), uint64(m.RunUS)), n+1
	}
	if m.Usage != nil {
		b, n = append(appendStr(b, "usage"), m.Usage...), n+1
	}
	if m.App != nil {
		b, n = append(appendStr(b, "app"), m.App...), n+1
	}
	b[at] |= n
	return b
}

func appendUint(b []byte, v uint64) []byte {
	switch {
	case v <= 0x7f:
		return append(b, byte(v))
	case v <= 0xff:
		return append(b, 0xcc, byte(v))
	case v <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(v))
	case v <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
	}
}

func appendStr[T string | []byte](b []byte, s T) []byte {
	switch n := len(s); {
	case n <= 31:
		b = append(b, 0xa0|byte(n))
	case n <= 0xff:
		b = append(b, 0xd9, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n)) //nolint:gosec // bounded by the frame
	}
	return append(b, s...)
}

// Marshal encodes a value of the sidecar's own: params, results, errors. Maps are written with sorted keys, so that equal
// values have equal bytes.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.SetSortMapKeys(true)
	enc.UseCompactInts(true)
	enc.SetOmitEmpty(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	return buf.Bytes(), nil
}

// OrNil is v, or nil where v is zero: how results say that there is nothing.
func OrNil[T comparable](v T) any {
	if v == *new(T) {
		return nil
	}
	return v
}

// SplitMap splits an encoded map, whose structure Scan has passed, into its keys and undecoded values, which lie in b and
// whose content is not checked. A nil is the empty map. Errors: invalid_params where b is no map, invalid_frame where a key
// breaks the rules on content.
func SplitMap(b []byte) (map[string][]byte, error) {
	if len(b) == 0 || !isMapOrNil(b[0]) {
		return nil, Errorf(CodeInvalidParams, "a map is wanted")
	}
	m := make(map[string][]byte)
	r := mapReader{parser: parser{b: b}}
	for r.next() {
		_, twice := m[string(r.key)]
		m[string(r.key)], r.ok = r.raw(), !twice && utf8.Valid(r.key)
	}
	return m, r.err()
}

// AppendMap encodes a map of undecoded values.
func AppendMap(b []byte, m map[string][]byte) []byte {
	b = AppendMapHeader(b, len(m))
	for k, v := range m {
		b = append(appendStr(b, k), v...)
	}
	return b
}

// AppendMapHeader begins a map of n entries.
func AppendMapHeader(b []byte, n int) []byte {
	switch {
	case n <= 15:
		return append(b, 0x80|byte(n)) //nolint:gosec // at most 15
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 0xde), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(b, 0xdf), uint32(n)) //nolint:gosec // bounded by the frame
	}
}

// AppendString encodes text.
func AppendString[T string | []byte](b []byte, s T) []byte { return appendStr(b, s) }

// AppendUint encodes a non-negative integer.
func AppendUint(b []byte, v uint64) []byte { return appendUint(b, v) }
