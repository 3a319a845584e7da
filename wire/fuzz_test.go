package wire_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/wire"
)

// seed adds the bodies of all vectors that are short enough to be changed with profit.
func seed(f *testing.F, add func(body []byte)) {
	f.Helper()
	for _, file := range vectors(f) {
		for _, v := range file {
			if v.Body != nil && len(v.Body) <= 4096 {
				add(v.Body)
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	seed(f, func(body []byte) { f.Add(body) })
	f.Fuzz(func(t *testing.T, b []byte) {
		value, structure, content := decodeNaive(b)
		err := wire.Scan(b)
		if (err == nil) != structure || err != nil && !errors.Is(err, wire.ErrStructure) {
			t.Fatalf("Scan: %v, want sound %v", err, structure)
		}
		if !structure {
			return
		}
		if err := wire.CheckContent(b); (err == nil) != content {
			t.Fatalf("CheckContent: %v, want sound %v", err, content)
		}
		var got any
		if err := wire.Unmarshal(b, &got); (err == nil) != content || content && !same(got, value) {
			t.Fatalf("Unmarshal: %v, %v; want %v", got, err, value)
		}
	})
}

func FuzzParse(f *testing.F) {
	seed(f, func(body []byte) { f.Add(body) })
	f.Add(request())
	f.Fuzz(func(t *testing.T, body []byte) {
		frame, err := wire.Parse(body)
		var unread *wire.FrameError
		if err != nil && !errors.Is(err, wire.ErrStructure) && !errors.As(err, &unread) {
			t.Fatalf("an error of another kind: %v", err)
		}
		if err != nil || frame.Kind == wire.KindUnknown {
			return
		}
		again := encodeAgain(t, &frame)
		if again == nil {
			return
		}
		got, err := wire.Parse(again)
		if err != nil {
			t.Fatalf("%x became %x: %v", body, again, err)
		}
		if got.Kind != frame.Kind || got.ID != frame.ID || got.Credit != frame.Credit || !bytes.Equal(got.Method, frame.Method) ||
			!bytes.Equal(got.Reason, frame.Reason) || !bytes.Equal(got.Payload, frame.Payload) || !bytes.Equal(got.Error, frame.Error) {
			t.Fatalf("%+v became %+v", frame, got)
		}
	})
}

// encodeAgain writes a frame from what was read of it, and compares what is read of the meta; nil: there is no writer for it, or
// its meta is refused.
func encodeAgain(t *testing.T, f *wire.Frame) []byte {
	t.Helper()
	switch f.Kind {
	case wire.KindRequest:
		var m, back wire.RequestMeta
		if wire.ParseRequestMeta(f.Meta, &m) != nil {
			return nil
		}
		if m.Key == 0 {
			m.Version = 0 // a version is that of a key
		}
		head := wire.AppendRequest(nil, f.ID, f.Method, &m)
		again := append(head, f.Payload...)
		if g, err := wire.Parse(again); err == nil {
			if err := wire.ParseRequestMeta(g.Meta, &back); err != nil || !reflect.DeepEqual(m, back) {
				t.Fatalf("meta %+v became %+v, %v", m, back, err)
			}
		}
		return again
	case wire.KindResponse:
		var m, back wire.ResponseMeta
		if wire.ParseResponseMeta(f.Meta, &m) != nil {
			return nil
		}
		again := append(wire.AppendResponse(nil, f.ID, &m), f.Payload...)
		if f.Error != nil {
			again = wire.AppendRawError(nil, f.ID, &m, f.Error)
		}
		if g, err := wire.Parse(again); err == nil {
			if err := wire.ParseResponseMeta(g.Meta, &back); err != nil || !reflect.DeepEqual(m, back) {
				t.Fatalf("meta %+v became %+v, %v", m, back, err)
			}
		}
		return again
	case wire.KindNotification:
		return append(wire.AppendNotification(nil, string(f.Method)), f.Payload...)
	case wire.KindItem:
		return append(wire.AppendItem(nil, f.ID), f.Payload...)
	case wire.KindCancel:
		return wire.AppendCancel(nil, f.ID, string(f.Reason))
	case wire.KindCredit:
		return wire.AppendCredit(nil, f.ID, f.Credit)
	default:
		return nil
	}
}

func FuzzReader(f *testing.F) {
	for _, v := range vectors(f, "framing.json")["framing.json"] {
		if len(v.Stream) <= 8192 {
			f.Add([]byte(v.Stream), []byte{1}, uint16(v.MaxFrame-1))
			f.Add([]byte(v.Stream), []byte{3, 200, 1, 7}, uint16(v.MaxFrame-1))
		}
	}
	f.Fuzz(func(t *testing.T, stream, portions []byte, limit uint16) {
		if len(stream) > 16<<10 {
			return
		}
		whole, peer := reader(t, int(limit)+1, patience)
		done := trickle(t, peer, stream, func() int { return len(stream) })
		want, wantIncomplete := events(t, whole)
		_ = peer.Close() // what follows broken framing is not read
		<-done

		split, peer := reader(t, int(limit)+1, patience)
		n := 0
		done = trickle(t, peer, stream, func() int {
			if n++; len(portions) == 0 {
				return 1
			}
			return int(portions[n%len(portions)])
		})
		got, incomplete := events(t, split)
		_ = peer.Close() // likewise
		<-done
		if !reflect.DeepEqual(got, want) || incomplete != wantIncomplete {
			t.Fatalf("%v, incomplete %v\nin portions %v, %v", want, wantIncomplete, got, incomplete)
		}
	})
}

// shape has a field of each sort that Unmarshal knows.
type shape struct {
	Text   string              `msgpack:"text"`
	Small  int8                `msgpack:"small"`
	Count  uint64              `msgpack:"count"`
	Float  float64             `msgpack:"float"`
	Flag   bool                `msgpack:"flag"`
	Bytes  []byte              `msgpack:"bytes"`
	List   []string            `msgpack:"list"`
	Labels map[string]int      `msgpack:"labels"`
	Maybe  *string             `msgpack:"maybe"`
	Raw    msgpack.RawMessage  `msgpack:"raw"`
	Any    any                 `msgpack:"any"`
	Nested []map[string]*shape `msgpack:"nested"`
	Hidden string              `msgpack:"-"`
}

func FuzzUnmarshal(f *testing.F) {
	seed(f, func(body []byte) { f.Add(body) })
	for _, v := range []any{
		&shape{Text: "a", Small: -3, Count: 1 << 63, Float: 1.5, Flag: true, Bytes: []byte{1}, List: []string{"x"}},
		map[string]any{"labels": map[string]any{"a": 1}, "nested": []any{map[string]any{"b": map[string]any{"small": 300}}}},
		map[string]any{"text": nil, "maybe": "m", "raw": []any{1}, "any": map[string]any{"t": 1.0}, "unknown": 1},
	} {
		b, err := wire.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var list []*shape
		var one shape
		_ = wire.Unmarshal(b, &list) // must not panic
		err := wire.Unmarshal(b, &one)
		if err != nil && !errors.Is(err, &wire.Error{Code: wire.CodeInvalidFrame}) && !errors.Is(err, &wire.Error{Code: wire.CodeInvalidParams}) {
			t.Fatalf("an error of another kind: %v", err)
		}
		var v, back any
		if wire.Unmarshal(b, &v) != nil {
			return
		}
		again, err := wire.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Unmarshal(again, &back); err != nil || !same(v, back) {
			t.Fatalf("%v became %v, %v", v, back, err)
		}
	})
}
