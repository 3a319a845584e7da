package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

const (
	// A part of a dataset has so many rows, or bytes, at most: it goes in one request.
	partRows  = 500
	partBytes = 1 << 20
	// lineMost is how long a line of JSON may be.
	lineMost = wire.DefaultFrame / 2
)

// sendDataset makes a dataset of a file's rows for a program, in parts, and returns how many there are.
func sendDataset(ctx context.Context, conn *client.Conn, e *Env, session, of, name, path string) (n int, err error) {
	var columns map[string]kinds
	if isCSV(path) {
		if columns, err = columnKinds(ctx, conn, session, of); err != nil {
			return 0, err
		}
	}
	call := func(method string, params map[string]any) error {
		_, err := conn.Call(ctx, client.Request{Method: method, Session: session, Params: params})
		return err
	}
	if err := call("dataset.create", map[string]any{"name": name}); err != nil {
		return 0, err
	}
	var part []any
	size := 0
	send := func() error {
		if len(part) == 0 {
			return nil
		}
		n += len(part)
		err := call("dataset.append", map[string]any{"name": name, "rows": part})
		part, size = nil, 0
		return err
	}
	err = readRows(e.Stdin, path, columns, func(row map[string]any, bytes int) error {
		if len(part) == partRows || size+bytes > partBytes {
			if err := send(); err != nil {
				return err
			}
		}
		part, size = append(part, row), size+bytes
		return nil
	})
	if err == nil {
		err = send()
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: has no rows", path)
	}
	return n, err
}

// readRows hands the rows of a file to row, with about how many bytes each takes: of CSV, with values of the columns' kinds, where its name says so, else of
// JSON, one object a line; - is standard input.
func readRows(stdin io.Reader, path string, columns map[string]kinds, row func(row map[string]any, bytes int) error) error {
	file := stdin
	if path != "-" {
		opened, err := os.Open(path)
		if err != nil {
			return err
		}
		defer opened.Close()
		file = opened
	}
	read := readJSONLines
	if isCSV(path) {
		read = func(file io.Reader, row func(map[string]any, int) error) error { return readCSV(file, columns, row) }
	}
	if err := read(file, row); err != nil {
		if _, is := errors.AsType[*wire.Error](err); is { // of what was done with a row
			return err
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func isCSV(path string) bool { return strings.EqualFold(filepath.Ext(path), ".csv") }

func readJSONLines(file io.Reader, row func(map[string]any, int) error) error {
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, lineMost)
	for at := 1; lines.Scan(); at++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		values, err := decodeObject(text, "a row is", paramsDepth-2)
		if err != nil {
			return fmt.Errorf("line %d: %w", at, err)
		}
		if err := row(values, len(text)); err != nil {
			return err
		}
	}
	return lines.Err()
}
