// Package shared keeps the programs that administrators made available to all sessions, in memory and, where there is a path, in one file that is written anew as
// a whole. It does not know what a program is: workers check what they are handed.
package shared

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/wire"
)

// The limits: all of it goes to each worker in one frame, among other things.
const (
	mostPrograms = 256
	longestName  = 128
	mostBytes    = 4 << 20
)

// magic begins the file, before a checksum of the rest.
const magic = "dspex.programs/1\n"

// ErrDamaged says that a file is not as it was written.
var ErrDamaged = errors.New("the file is damaged")

// Programs are values by name. Make them with Open.
type Programs struct {
	path string // "": they end with the process
	most int    // bytes

	saving sync.Mutex // one change at a time, its file included

	mu     sync.Mutex // guards what follows; the map is replaced, not changed
	values map[string]msgpack.RawMessage
}

// Open reads the file, where there is one. maxFrame is the longest frame to a worker.
func Open(path string, maxFrame int) (*Programs, error) {
	p := &Programs{path: path, most: min(mostBytes, maxFrame/4), values: map[string]msgpack.RawMessage{}}
	if path == "" {
		return p, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	head := len(magic) + 4
	if len(data) < head || string(data[:len(magic)]) != magic || binary.BigEndian.Uint32(data[len(magic):]) != sum(data[head:]) {
		return nil, fmt.Errorf("%s: %w", path, ErrDamaged)
	}
	if err := wire.Unmarshal(data[head:], &p.values); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return p, nil
}

func sum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

// All are the values; they are not to be changed.
func (p *Programs) All() map[string]msgpack.RawMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.values
}

// Set puts a value in place of the one of that name; nil takes that out. It is in force, and in the file, when it returns without an error. It waits for the disk.
func (p *Programs) Set(name string, value []byte) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	next := maps.Clone(p.All())
	if value == nil {
		delete(next, name)
	} else {
		next[name] = slices.Clone(value)
	}
	if err := p.admit(name, next); err != nil {
		return err
	}
	if p.path != "" {
		if err := p.save(next); err != nil {
			return wire.Errorf(wire.CodeStorageUnavailable, "the programs for all cannot be kept: %v", err)
		}
	}
	p.mu.Lock()
	p.values = next
	p.mu.Unlock()
	return nil
}

func (p *Programs) admit(name string, next map[string]msgpack.RawMessage) error {
	bytes := 0
	for k, v := range next {
		bytes += len(k) + len(v)
	}
	switch {
	case name == "" || len(name) > longestName:
		return wire.Errorf(wire.CodeInvalidParams, "a program's name has 1 to %d bytes", longestName)
	case len(next) > mostPrograms:
		return wire.Errorf(wire.CodeInvalidParams, "there are %d programs for all, the most that there may be", mostPrograms)
	case bytes > p.most:
		return wire.Errorf(wire.CodeInvalidParams, "the programs for all would take %d bytes, and may take %d", bytes, p.most).With("limit", p.most)
	}
	return nil
}

// save replaces the file: a crash leaves the old or the new one.
func (p *Programs) save(values map[string]msgpack.RawMessage) (err error) {
	body, err := msgpack.Marshal(values)
	if err != nil {
		return err
	}
	data := binary.BigEndian.AppendUint32([]byte(magic), sum(body))
	beside := p.path + ".new"
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, body...))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(beside, p.path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(p.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
