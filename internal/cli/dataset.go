package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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

// sendDataset makes a dataset of a file's rows, in parts, and returns how many there are.
func sendDataset(ctx context.Context, conn *client.Conn, e *Env, session, name, path string) (n int, err error) {
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
	err = readRows(e.Stdin, path, func(row map[string]any, bytes int) error {
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

// readRows hands the rows of a file to row, with about how many bytes each takes: of CSV where its name says so, else of JSON, one object a line; - is
// standard input.
func readRows(stdin io.Reader, path string, row func(row map[string]any, bytes int) error) error {
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
	if strings.EqualFold(filepath.Ext(path), ".csv") {
		read = readCSV
	}
	if err := read(file, row); err != nil {
		if _, is := errors.AsType[*wire.Error](err); is { // of what was done with a row
			return err
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

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

func readCSV(file io.Reader, row func(map[string]any, int) error) error {
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
		values, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		made, size := make(map[string]any, len(names)), 0
		for i, name := range names {
			made[name] = strings.ToValidUTF8(values[i], "\ufffd")
			size += len(name) + len(values[i])
		}
		if err := row(made, size); err != nil {
			return err
		}
	}
}
