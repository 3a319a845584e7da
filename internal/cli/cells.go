package cli

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/client"
)

// kinds are the types of JSON, and choice, that a column's values may have, all of them where none is known.
type kinds map[string]bool

// choice is the kind of texts of which an empty one is none: one of several, a date.
const choice = "choice"

// columnKinds are those of a program's inputs and outputs: a cell of CSV is text, of which only the program knows what it is.
func columnKinds(ctx context.Context, conn *client.Conn, session, name string) (map[string]kinds, error) {
	info, err := conn.Call(ctx, client.Request{Method: "get_program_info", Session: session, Params: map[string]any{"program": name}})
	if err != nil {
		return nil, err
	}
	found := map[string]kinds{}
	told := mapOf(info)
	for _, side := range []string{"inputs", "outputs"} {
		schema := mapOf(told[side])
		definitions := mapOf(schema["$defs"])
		for column, described := range mapOf(schema["properties"]) {
			found[column] = kinds{}
			found[column].add(described, definitions, 0)
		}
	}
	return found, nil
}

// add adds the types that a JSON schema allows.
func (k kinds) add(schema any, definitions map[string]any, depth int) {
	s := mapOf(schema)
	if depth > len(definitions)+8 { // one that is made of itself
		return
	}
	if name, is := s["type"].(string); is {
		if name == "string" && (s["enum"] != nil || s["const"] != nil || s["format"] != nil) {
			name = choice
		}
		k[name] = true
	}
	if name, is := s["$ref"].(string); is {
		k.add(definitions[strings.TrimPrefix(name, "#/$defs/")], definitions, depth+1)
	}
	for _, key := range []string{"anyOf", "oneOf", "allOf"} {
		members, _ := s[key].([]any)
		for _, member := range members {
			k.add(member, definitions, depth+1)
		}
	}
}

// read makes a value of a cell. An empty one of a column that is no text has no value: null, or else it is left out.
func (k kinds) read(text string) (value any, there bool, err error) {
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "" && k["null"]:
		return nil, true, nil
	case len(k) == 0 || k["string"]:
		return strings.ToValidUTF8(text, "\ufffd"), true, nil
	case trimmed == "":
		return nil, false, nil
	}
	if k[choice] {
		return strings.ToValidUTF8(text, "\ufffd"), true, nil
	}
	if k["integer"] {
		if n, err := strconv.ParseInt(trimmed, 10, 64); err == nil {
			return n, true, nil
		}
	}
	if k["number"] {
		if n, err := strconv.ParseFloat(trimmed, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
			return n, true, nil
		}
	}
	if lower := strings.ToLower(trimmed); k["boolean"] && (lower == "true" || lower == "false") {
		return lower == "true", true, nil
	}
	if k["array"] || k["object"] {
		value, _ := decodeValue([]byte(trimmed), paramsDepth-3) // nil where it is none
		if _, list := value.([]any); list && k["array"] {
			return value, true, nil
		}
		if _, object := value.(map[string]any); object && k["object"] {
			return value, true, nil
		}
	}
	return nil, false, fmt.Errorf("must be %s, is %s", k, shorten(strconv.Quote(text), 60))
}

func (k kinds) String() string {
	names := map[string]string{"array": "a list as JSON", "object": "an object as JSON", "integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "empty"}
	var told []string
	for _, kind := range slices.Sorted(maps.Keys(k)) {
		told = append(told, cmp.Or(names[kind], kind))
	}
	return strings.Join(told, ", or ")
}

// readCSV hands on the rows of a file whose first line names the columns.
func readCSV(file io.Reader, columns map[string]kinds, row func(map[string]any, int) error) error {
	r := csv.NewReader(file)
	names, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	names = slices.Clone(names)
	names[0] = strings.TrimPrefix(names[0], "\ufeff")
	for i, name := range names {
		if name == "" || slices.Contains(names[:i], name) {
			return fmt.Errorf("line 1: the columns need names, each another; column %d is %q", i+1, name)
		}
	}
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		made, size := make(map[string]any, len(names)), 0
		for i, name := range names {
			value, there, err := columns[name].read(cells[i])
			if err != nil {
				line, _ := r.FieldPos(i)
				return fmt.Errorf("line %d, column %q: %w", line, name, err)
			}
			if there {
				made[name] = value
			}
			size += len(name) + len(cells[i])
		}
		if err := row(made, size); err != nil {
			return err
		}
	}
}
