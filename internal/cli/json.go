package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dspex/dspex-sidecar/internal/jsontext"
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
	return jsontext.Harmless(b.Bytes()), nil
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
