package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// bytesKey marks bytes, which JSON has none of: {"$bytes": "base64"}.
const bytesKey = "$bytes"

// encodeJSON writes a value of the protocol as JSON, with a line end; indent is "" for one line. Characters that a
// terminal would act on are escaped.
func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(forJSON(v)); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	out := make([]byte, 0, b.Len())
	for _, r := range b.String() {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out, nil
}

// forJSON puts what JSON knows in place of what it does not.
func forJSON(v any) any {
	switch v := v.(type) {
	case []byte:
		return map[string]any{bytesKey: base64.StdEncoding.EncodeToString(v)}
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case float64:
		return numberJSON(v)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = forJSON(item)
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, item := range v {
			m[key] = forJSON(item)
		}
		return m
	default:
		return v
	}
}

// numberJSON keeps floats apart from integers; those that are no number are text.
func numberJSON(f float64) any {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	text := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return json.RawMessage(text)
}

// decodeObject reads a JSON object as params: a number without a fraction or exponent is an integer, {"$bytes":
// "base64"} is bytes, and a key that occurs twice is an error.
func decodeObject(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("at byte %d: something follows the object", d.InputOffset())
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New(`params are an object, such as {"name": "value"}`)
	}
	return m, nil
}

func decodeValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err //nolint:wrapcheck // decodeObject says where
	}
	switch token := token.(type) {
	case json.Number:
		return decodeNumber(token.String())
	case json.Delim:
		if token == '{' {
			return decodeMap(d)
		}
		list := []any{}
		for d.More() {
			item, err := decodeValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err := d.Token() // the bracket
		return list, err    //nolint:wrapcheck // as above
	default:
		return token, nil // nil, bool, string
	}
}

func decodeMap(d *json.Decoder) (any, error) {
	m := map[string]any{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err //nolint:wrapcheck // decodeObject says where
		}
		key, _ := token.(string) // the decoder lets nothing else through
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("the key %q occurs twice", key)
		}
		if m[key], err = decodeValue(d); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil { // the brace
		return nil, err //nolint:wrapcheck // as above
	}
	text, marked := m[bytesKey].(string)
	if !marked || len(m) != 1 {
		return m, nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s takes base64: %w", bytesKey, err)
	}
	return data, nil
}

func decodeNumber(text string) (any, error) {
	if strings.ContainsAny(text, ".eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is out of range", text)
		}
		return f, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s is out of range: integers are from -2^63 to 2^64-1", text)
	}
	return n, nil
}
