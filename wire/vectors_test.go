package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// vector is one of testdata/wire/*.json; its README says what the keys mean.
type vector struct {
	Name     string         `json:"name"`
	Body     hexParts       `json:"body"`
	Verdict  string         `json:"verdict"`
	Envelope map[string]any `json:"envelope"`
	Payload  hexParts       `json:"payload"`
	Value    vectorValue    `json:"value"`

	Stream     hexParts      `json:"stream"`
	MaxFrame   int           `json:"max_frame"`
	Events     []vectorEvent `json:"events"`
	Incomplete bool          `json:"incomplete"`
}

type vectorEvent struct {
	Body    hexParts `json:"body"`
	TooLong *struct {
		Length uint32  `json:"length"`
		Kind   *uint8  `json:"kind"`
		ID     *uint64 `json:"id"`
	} `json:"too_long"`
	Broken string `json:"broken"`
}

// hexParts is hex, or a list of hex and repetitions; nil where it is absent.
type hexParts []byte

func (h *hexParts) UnmarshalJSON(data []byte) error {
	*h = hexParts{}
	var parts []json.RawMessage
	if data[0] != '[' {
		parts = []json.RawMessage{data}
	} else if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	for _, part := range parts {
		text, times := "", 1
		if part[0] == '{' {
			var r struct{ Repeat [2]json.RawMessage }
			if err := errors.Join(json.Unmarshal(part, &r), json.Unmarshal(r.Repeat[1], &times)); err != nil {
				return err
			}
			part = r.Repeat[0]
		}
		if err := json.Unmarshal(part, &text); err != nil {
			return err
		}
		b, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		*h = append(*h, bytes.Repeat(b, times)...)
	}
	return nil
}

// vectorValue is a value with tags; set says that it is not absent.
type vectorValue struct {
	set   bool
	value any
}

func (v *vectorValue) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var raw any
	err := dec.Decode(&raw)
	v.set, v.value = true, untag(raw)
	return err
}

func untag(v any) any {
	switch v := v.(type) {
	case json.Number:
		return number(v.String(), strings.ContainsAny(v.String(), ".eE"))
	case []any:
		for i := range v {
			v[i] = untag(v[i])
		}
		return v
	case map[string]any:
		for k, item := range v {
			switch k {
			case "$bin":
				b, err := hex.DecodeString(item.(string))
				if err != nil {
					panic(err)
				}
				return b
			case "$int":
				return number(item.(string), false)
			case "$float":
				return number(item.(string), true)
			case "$timestamp":
				at := untag(item).([]any)
				return time.Unix(at[0].(int64), at[1].(int64)).UTC()
			}
			v[k] = untag(item)
		}
		return v
	default:
		return v
	}
}

func number(s string, float bool) any {
	if float {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			panic(err)
		}
		return f
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// same is DeepEqual that holds NaN equal to NaN, and 0 different from -0.
func same(a, b any) bool {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return ok && (math.Float64bits(a) == math.Float64bits(b) || a != a && b != b)
	case []any:
		b, ok := b.([]any)
		for i := range a {
			ok = ok && len(a) == len(b) && same(a[i], b[i])
		}
		return ok && len(a) == len(b)
	case map[string]any:
		b, ok := b.(map[string]any)
		for k := range a {
			_, there := b[k]
			ok = ok && there && same(a[k], b[k])
		}
		return ok && len(a) == len(b)
	default:
		return reflect.DeepEqual(a, b)
	}
}

// vectors reads one file, or all where none is named.
func vectors(tb testing.TB, names ...string) map[string][]vector {
	tb.Helper()
	folder := filepath.Join("..", "testdata", "wire")
	if len(names) == 0 {
		paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
		if err != nil || len(paths) < 7 {
			tb.Fatalf("the vectors in %s: %v, %v", folder, paths, err)
		}
		for _, path := range paths {
			names = append(names, filepath.Base(path))
		}
	}
	files := make(map[string][]vector)
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			tb.Fatal(err)
		}
		var file struct{ Vectors []vector }
		if err := json.Unmarshal(data, &file); err != nil || len(file.Vectors) == 0 {
			tb.Fatalf("%s: %d vectors, %v", name, len(file.Vectors), err)
		}
		files[name] = file.Vectors
	}
	return files
}

func TestVectors(t *testing.T) {
	for name, file := range vectors(t) {
		if name == "framing.json" {
			continue
		}
		for _, v := range file {
			t.Run(name+"/"+v.Name, func(t *testing.T) {
				f, err := wire.Parse(v.Body)
				if verdict := verdictOf(&f, err, name == "meta.json"); verdict != v.Verdict {
					t.Fatalf("verdict %s, want %s (%v)", verdict, v.Verdict, err)
				}
				switch v.Verdict {
				case "envelope":
					var frame *wire.FrameError
					errors.As(err, &frame)
					checkID(t, &v, frame.ID)
				case "content":
					checkID(t, &v, f.ID)
				case "ok":
					checkFrame(t, &v, &f)
				}
			})
		}
	}
}

// verdictOf spells an outcome as the vectors do.
func verdictOf(f *wire.Frame, err error, withMeta bool) string {
	var frame *wire.FrameError
	switch {
	case errors.Is(err, wire.ErrStructure):
		return "structure"
	case errors.As(err, &frame):
		return "envelope"
	case err != nil:
		return err.Error()
	case f.Kind == wire.KindUnknown:
		return "unknown_kind"
	}
	for _, value := range [][]byte{f.Meta, f.Error, f.Payload} {
		if value != nil {
			err = errors.Join(err, wire.CheckContent(value))
		}
	}
	if withMeta {
		err = errors.Join(err, wire.ParseRequestMeta(f.Meta, &wire.RequestMeta{}))
	}
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, &wire.Error{Code: wire.CodeInvalidFrame}):
		return "content"
	default:
		return err.Error()
	}
}

func checkID(t *testing.T, v *vector, got uint64) {
	t.Helper()
	want, _ := v.Envelope["id"].(float64) // nil: 0
	if got != uint64(want) {
		t.Errorf("id %d, want %v", got, v.Envelope["id"])
	}
}

func checkFrame(t *testing.T, v *vector, f *wire.Frame) {
	t.Helper()
	for key, raw := range v.Envelope {
		want, got := raw, any(nil)
		switch key {
		case "kind":
			got = float64(f.Kind)
		case "id":
			got = float64(f.ID)
		case "method":
			got = string(f.Method)
		case "meta":
			want, got = jsonValue(t, raw), decode(t, f.Meta)
		case "error":
			if want = jsonValue(t, raw); f.Error != nil {
				got = decode(t, f.Error)
			}
		case "reason":
			if f.Reason != nil {
				got = string(f.Reason)
			}
		case "n":
			got = float64(f.Credit)
		default:
			t.Errorf("the vector has an envelope with %q", key)
		}
		if !same(got, want) {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
	if v.Payload != nil && !bytes.Equal(f.Payload, v.Payload) {
		t.Errorf("payload %x, want %x", f.Payload, v.Payload)
	}
	if v.Value.set {
		if got := decode(t, f.Payload); !same(got, v.Value.value) {
			t.Errorf("value %v, want %v", got, v.Value.value)
		}
	}
}

// jsonValue reads what stands in an envelope, where json has made floats of integers.
func jsonValue(t *testing.T, v any) any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var value vectorValue
	if err := value.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return value.value
}

func decode(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := wire.Unmarshal(b, &v); err != nil {
		t.Errorf("decoding %x: %v", b, err)
	}
	return v
}
