package wire_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/wire"
)

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := wire.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnmarshal(t *testing.T) {
	b := marshal(t, map[string]any{
		"text": "a", "small": -128, "count": uint64(1 << 63), "float": 3, "flag": true, "bytes": []byte{1}, "list": []string{"x"},
		"labels": map[string]any{"k": 7}, "maybe": "m", "raw": []any{1, nil}, "any": map[string]any{"n": []any{int64(-1)}},
		"nested": []any{map[string]any{"one": map[string]any{"text": "deep"}, "none": nil}},
	})
	var s shape
	if err := wire.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.Text != "a" || s.Small != -128 || s.Count != 1<<63 || s.Float != 3 || !s.Flag || s.Bytes[0] != 1 || s.List[0] != "x" ||
		s.Labels["k"] != 7 || *s.Maybe != "m" || string(s.Raw) != "\x92\x01\xc0" || s.Nested[0]["one"].Text != "deep" ||
		s.Nested[0]["none"] != nil || !same(s.Any, map[string]any{"n": []any{int64(-1)}}) {
		t.Errorf("%+v", s)
	}
	if err := wire.Unmarshal(marshal(t, map[string]any{"text": nil, "list": nil}), &s); err != nil || s.Text != "" || s.List != nil || s.Count == 0 {
		t.Errorf("nil fields: %+v, %v", s, err)
	}
	if err := wire.Unmarshal(wire.Nil, &s); err != nil || s.Count == 0 {
		t.Errorf("nil: %+v, %v", s, err)
	}
}

func TestUnmarshalNamesWhatIsWrong(t *testing.T) {
	wrong := map[string]any{
		"text": []byte("b"), "small": 128, "count": -1, "float": "1", "flag": 1, "bytes": "text", "list": []any{"ok", 1, nil},
		"labels": map[string]any{"k": 1.5}, "maybe": 1, "nested": []any{map[string]any{"a": map[string]any{"small": -129}}}, "Hidden": "x",
	}
	err := wire.Unmarshal(marshal(t, wrong), &shape{})
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeInvalidParams {
		t.Fatalf("%v", err)
	}
	var got []string
	for _, item := range e.Details["errors"].([]any) {
		at := item.(map[string]any)
		got = append(got, at["path"].(string)+" "+at["message"].(string))
	}
	slices.Sort(got)
	want := []string{
		"Hidden is not known", "bytes must be bytes, not text", "count is out of range", "flag must be true or false, not an integer",
		"float must be a number, not text", "labels.k must be an integer, not a float", "list[1] must be text, not an integer",
		"list[2] must be text, not nil", "maybe must be text, not an integer", "nested[0].a.small is out of range", "small is out of range",
		"text must be text, not bytes",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(e.Message, "nested[0].a.small is out of range") {
		t.Errorf("message: %s", e.Message)
	}
	var list []int
	if err := wire.Unmarshal(marshal(t, make([]string, 1000)), &list); !errors.As(err, &e) || len(e.Details["errors"].([]any)) != 20 {
		t.Errorf("of a thousand that are wrong: %v", err)
	}
	for code, bad := range map[wire.Code][]byte{wire.CodeInvalidFrame: {0x81, 0xa1, 0xff, 0x01}, wire.CodeInvalidParams: {0x90}} {
		if err := wire.Unmarshal(bad, &shape{}); !errors.Is(err, &wire.Error{Code: code}) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func TestSplitMap(t *testing.T) {
	parts := map[string][]byte{"a": {0x01}, "b": {0x91, 0xc0}, "": {0xa0}}
	for i := range 20 {
		parts[strings.Repeat("k", i+1)] = []byte{byte(i)}
	}
	got, err := wire.SplitMap(wire.AppendMap(nil, parts))
	if err != nil || !maps.EqualFunc(got, parts, slices.Equal[[]byte]) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := wire.SplitMap(wire.Nil); err != nil || len(got) != 0 {
		t.Errorf("nil: %v, %v", got, err)
	}
	for bad, code := range map[string]wire.Code{
		"\x90": wire.CodeInvalidParams, "": wire.CodeInvalidParams, "\x82\xa1a\x01\xa1a\x02": wire.CodeInvalidFrame,
		"\x81\x01\x01": wire.CodeInvalidFrame, "\x81\xa1\xff\x01": wire.CodeInvalidFrame,
	} {
		if _, err := wire.SplitMap([]byte(bad)); !errors.Is(err, &wire.Error{Code: code}) {
			t.Errorf("%q: %v, want %s", bad, err, code)
		}
	}
}

func TestMarshalIsTheSameEachTime(t *testing.T) {
	v := map[string]any{"b": 1, "a": map[string]any{"y": []byte{1}, "x": "t"}, "raw": msgpack.RawMessage{0x07}}
	want := marshal(t, v)
	for range 20 {
		if got := marshal(t, v); string(got) != string(want) {
			t.Fatalf("%x, then %x", want, got)
		}
	}
	if _, err := wire.Marshal(make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
}

// A client's unknown keys are ignored, those of the worker channel among them, and a timeout fits a time.Duration.
func TestRequestMeta(t *testing.T) {
	b := marshal(t, map[string]any{
		"version": "1.2", "key": []any{1}, "next": -1, "start": 1, "call": nil, "unheard-of": map[string]any{"a": 1},
		"timeout_ms": uint64(1<<64 - 1), "pool": strings.Repeat("p", 500), "session_token": "",
	})
	var m wire.RequestMeta
	if err := wire.ParseRequestMeta(b, &m); err != nil {
		t.Fatal(err)
	}
	if m.Version|m.Key|m.Next|m.Call != 0 || m.Start || len(m.Pool) != 500 || m.SessionToken == nil {
		t.Errorf("%+v", m)
	}
	if m.TimeoutMS*1e6 < 0 || m.TimeoutMS < 1e12 {
		t.Errorf("timeout_ms %d", m.TimeoutMS)
	}
	if err := wire.ParseRequestMeta(wire.Nil, &m); err != nil || m.TimeoutMS != -1 || m.Pool != nil {
		t.Errorf("nil: %+v, %v", m, err)
	}
	for id, want := range map[string]bool{"a": true, strings.Repeat("ü", 64): true, "": false, strings.Repeat("x", 129): false, "a\tb": false, "\xff": false} {
		if wire.ValidSessionID(id) != want || wire.ValidSessionID([]byte(id)) != want {
			t.Errorf("ValidSessionID(%q) is not %v", id, want)
		}
	}
}
