package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dspex/dspex-sidecar/wire"
)

// How deep objects and lists may nest: what the protocol allows, less what is around them in a request.
const (
	paramsDepth = wire.MaxDepth - 1 // the frame
	stateDepth  = wire.MaxDepth - 2 // the frame and the params
)

// decodeObject reads a JSON object, such as a call's params: a number without a fraction or exponent is an integer,
// {"$bytes": "base64"} is bytes, and a key that occurs twice is an error, as is whatever cannot be sent. What is its name
// in errors.
func decodeObject(text []byte, what string, depth int) (map[string]any, error) {
	v, err := decodeValue(text, depth)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf(`%s an object, such as {"name": "value"}`, what)
	}
	return m, nil
}

// decodeValue reads one value of any type, of no more levels than depth.
func decodeValue(text []byte, depth int) (any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not valid UTF-8")
	}
	d := jsonReader{json.NewDecoder(bytes.NewReader(text)), depth}
	d.UseNumber()
	v, err := d.value(1)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("at byte %d: something follows the object", d.InputOffset())
	}
	if at := loneSurrogate(text); at >= 0 {
		return nil, fmt.Errorf("at byte %d: %s is half of a character, and cannot be sent", at, text[at:at+len(`\ud800`)])
	}
	return v, nil
}

// loneSurrogate is where valid JSON escapes one half of a UTF-16 pair without the other, in whose place the decoder would put
// another character; -1 where it does not.
func loneSurrogate(text []byte) int {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		first, ok := escaped(text[i:])
		switch {
		case !ok: // another escape: what it is of does not begin one
			i++
		case !utf16.IsSurrogate(first):
			i += 5
		default:
			second, _ := escaped(text[i+6:])
			if utf16.DecodeRune(first, second) == utf8.RuneError {
				return i
			}
			i += 11
		}
	}
	return -1
}

// escaped reads the \uXXXX that text begins with.
func escaped(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}

// jsonReader reads values that nest no deeper than it says.
type jsonReader struct {
	*json.Decoder

	most int
}

// value reads the next value; an object or a list of it is at that depth, from 1.
func (d jsonReader) value(depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err //nolint:wrapcheck // decodeObject says where
	}
	switch token := token.(type) {
	case json.Number:
		return decodeNumber(token.String())
	case json.Delim:
		if token == '{' && depth <= d.most+1 { // one more: bytes are written as an object, and are none
			return d.object(depth)
		}
		if depth > d.most {
			return nil, d.tooDeep()
		}
		list := []any{}
		for d.More() {
			item, err := d.value(depth + 1)
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

func (d jsonReader) tooDeep() error {
	return fmt.Errorf("objects and lists are nested more than %d deep, which the protocol does not allow here", d.most)
}

func (d jsonReader) object(depth int) (any, error) {
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
		if m[key], err = d.value(depth + 1); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil { // the brace
		return nil, err //nolint:wrapcheck // as above
	}
	text, marked := m[bytesKey].(string)
	if !marked || len(m) != 1 {
		if depth > d.most {
			return nil, d.tooDeep()
		}
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
