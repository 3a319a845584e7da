package config

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/dspex/dspex-sidecar/internal/plainfile"
)

// document is a TOML file's values, and where its keys are.
type document struct {
	values map[string]any
	marks  map[string]mark // by dotted key; the deepest kept are maxDepth parts long
}

// mark is a place in a file, from 1; the zero mark is none.
type mark struct{ line, column int }

const (
	maxFile = 64 << 10 // bytes; a configuration is a few KiB, and the decoder's time grows with the square of its keys
	// maxDepth is more than any setting has parts (profile.dev.pools.default.env.NAME); deeper keys are unknown.
	maxDepth = 8
)

// readFile returns the file's bytes. The error has no position.
func readFile(path string) ([]byte, error) {
	file, err := plainfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("the file is longer than %d bytes", maxFile)
	}
	return data, err
}

// parseDocument reads TOML. An error of its syntax is a *toml.DecodeError.
func parseDocument(data []byte) (document, error) {
	doc := document{values: map[string]any{}, marks: map[string]mark{}}
	// Two passes: the decoder proper checks and gives the values, the parser under it gives the places.
	if err := toml.Unmarshal(data, &doc.values); err != nil {
		return document{}, err
	}
	_, err := doc.markAll(data, 0)
	return doc, err
}

// markAll marks all keys, or those before the one that begins in that line, and returns that.
func (d document) markAll(data []byte, line int) ([]string, error) {
	parser := unstable.Parser{}
	parser.Reset(data)
	places := places{data: data, line: 1}
	var table []string
	for parser.NextExpression() {
		node := parser.Expression()
		if node.Kind != unstable.KeyValue {
			table = nil
		}
		if key := node.Key(); line > 0 && key.Next() && places.at(int(key.Node().Raw.Offset)).line == line {
			return pathOf(table, node.Key()), nil
		}
		if node.Kind == unstable.KeyValue {
			d.markValue(table, node, &places)
		} else {
			table = d.markKey(nil, node.Key(), &places)
		}
	}
	return nil, parser.Error()
}

// pathOf is a dotted key below table.
func pathOf(table []string, parts unstable.Iterator) []string {
	path := slices.Clip(table)
	for parts.Next() {
		path = append(path, string(parts.Node().Data))
	}
	return path
}

// markValue marks a key and what is in it, where that is an inline table.
func (d document) markValue(table []string, node *unstable.Node, p *places) {
	path := d.markKey(table, node.Key(), p)
	value := node.Value()
	if value.Kind != unstable.InlineTable || len(path) >= maxDepth {
		return
	}
	for children := value.Children(); children.Next(); {
		if child := children.Node(); child.Kind == unstable.KeyValue {
			d.markValue(path, child, p)
		}
	}
}

// markKey marks each part of a dotted key below table, the first place winning, and returns the whole path, cut.
func (d document) markKey(table []string, parts unstable.Iterator, p *places) []string {
	path := slices.Clip(table)
	for parts.Next() && len(path) < maxDepth {
		node := parts.Node()
		path = append(path, string(node.Data))
		key := dotted(path...)
		if _, ok := d.marks[key]; !ok {
			d.marks[key] = p.at(int(node.Raw.Offset))
		}
	}
	return path
}

// places turns offsets, asked for in rising order, into lines and columns without reading the file again each time.
type places struct {
	data              []byte
	offset, line, bol int // bol: where the line begins
}

func (p *places) at(offset int) mark {
	for ; p.offset < offset; p.offset++ {
		if p.data[p.offset] == '\n' {
			p.line++
			p.bol = p.offset + 1
		}
	}
	return mark{p.line, offset - p.bol + 1}
}

// syntaxError turns the decoder's error into ours. Its longer text is not used: it shows the line, with what is in it.
func syntaxError(path string, data []byte, err error) *Error {
	out := &Error{File: path, Message: "is no TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		out.Line, out.Column = decode.Position()
		out.Key = dotted(decode.Key()...)
		out.nameRepeated(data)
	}
	return out
}

// repeatedPattern are the decoder's words for a key or a table that is there already.
var repeatedPattern = regexp.MustCompile(`^is no TOML: (?:key (.*) is already defined|table .* already exists.*)$`)

// nameRepeated says of a key that is set twice that it is, and where it was set first.
func (e *Error) nameRepeated(data []byte) {
	match := repeatedPattern.FindStringSubmatch(e.Message)
	if match == nil {
		return
	}
	doc := document{marks: map[string]mark{}}
	path, err := doc.markAll(data, e.Line)
	if err != nil || path == nil {
		return
	}
	e.Key = dotted(path...)
	if first, ok := doc.marks[e.Key]; ok {
		e.Message = fmt.Sprintf("is set twice: first in line %d", first.line)
	} else if match[1] != "" { // in an inline table
		e.Message = fmt.Sprintf("sets %s twice", quoteKey(match[1]))
	}
}

// dotted joins the parts of a key as TOML writes it.
func dotted(parts ...string) string {
	quoted := make([]string, len(parts))
	for i, part := range parts {
		quoted[i] = quoteKey(part)
	}
	return strings.Join(quoted, ".")
}

func quoteKey(part string) string {
	for _, r := range part {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return quote(part)
		}
	}
	if part == "" {
		return `""`
	}
	return part
}
