// Package shared keeps what administrators made available to all sessions, programs and datasets, in memory and, where there is a path, in one file of each kind that
// is written anew as a whole. It does not know what a program or a dataset is: workers check what they are handed.
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

const longestName = 128

// Limits are those of one kind of values.
type Limits struct {
	Of   string // what they are: "program"
	Most int    // values
	Each int    // bytes of one
	All  int    // bytes of all
}

// Programs go to each worker in one frame of at most so many bytes, all of them among other things.
func Programs(maxFrame int) Limits {
	most := min(4<<20, maxFrame/4)
	return Limits{Of: "program", Most: 256, Each: most, All: most}
}

// Datasets go to a worker one by one.
func Datasets(maxFrame int) Limits {
	return Limits{Of: "dataset", Most: 100, Each: maxFrame / 2, All: 64 << 20}
}

// magic begins the file, before a checksum of the rest.
func (l Limits) magic() string { return "dspex." + l.Of + "s/1\n" }

// ErrDamaged says that a file is not as it was written.
var ErrDamaged = errors.New("the file is damaged")

// Values are some by name. Make them with Open.
type Values struct {
	path   string // "": they end with the process
	limits Limits

	saving sync.Mutex // one change at a time, its file included

	mu     sync.Mutex // guards what follows; the map is replaced, not changed
	values map[string]msgpack.RawMessage
}

// Open reads the file, where there is one.
func Open(path string, limits Limits) (*Values, error) {
	p, magic := &Values{path: path, limits: limits, values: map[string]msgpack.RawMessage{}}, limits.magic()
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
func (p *Values) All() map[string]msgpack.RawMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.values
}

// Set puts a value in place of the one of that name; nil takes that out. It is in force, and in the file, when it returns without an error. It waits for the disk.
func (p *Values) Set(name string, value []byte) error {
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
			return wire.Errorf(wire.CodeStorageUnavailable, "the %ss for all cannot be kept: %v", p.limits.Of, err)
		}
	}
	p.mu.Lock()
	p.values = next
	p.mu.Unlock()
	return nil
}

func (p *Values) admit(name string, next map[string]msgpack.RawMessage) error {
	bytes := 0
	for k, v := range next {
		bytes += len(k) + len(v)
	}
	l := p.limits
	switch {
	case name == "" || len(name) > longestName:
		return wire.Errorf(wire.CodeInvalidParams, "a %s's name has 1 to %d bytes", l.Of, longestName)
	case len(next) > l.Most:
		return wire.Errorf(wire.CodeInvalidParams, "there are %d %ss for all, the most that there may be", l.Most, l.Of)
	case len(next[name]) > l.Each:
		return wire.Errorf(wire.CodeInvalidParams, "the %s takes %d bytes, and one for all may take %d", l.Of, len(next[name]), l.Each).With("limit", l.Each)
	case bytes > l.All:
		return wire.Errorf(wire.CodeInvalidParams, "the %ss for all would take %d bytes, and may take %d", l.Of, bytes, l.All).With("limit", l.All)
	}
	return nil
}

// save replaces the file: a crash leaves the old or the new one.
func (p *Values) save(values map[string]msgpack.RawMessage) (err error) {
	body, err := msgpack.Marshal(values)
	if err != nil {
		return err
	}
	data := binary.BigEndian.AppendUint32([]byte(p.limits.magic()), sum(body))
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
