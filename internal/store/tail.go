package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	tailName   = "tail"
	tailMagic  = "dspextal"
	tailHeader = 16
	tailEntry  = 20
	tailSlots  = 4096
)

// tail is a ring of the records that were last acknowledged: their sequence numbers and sessions. It is written in place after each
// sync, and not synced: it outlives the process, and usually not a power loss. It is how a journal whose end was cut is told from
// one that was not acknowledged further, and whose records are gone.
type tail struct{ f file }

// openTail reads the ring, by sequence number; bad counts entries that are not what was written. A missing one is made.
func openTail(dir string, open opener) (t *tail, known map[uint64]uint64, bad int, fresh bool, err error) {
	path := filepath.Join(dir, tailName)
	data, err := os.ReadFile(path)
	if fresh = errors.Is(err, os.ErrNotExist); err != nil && !fresh {
		return nil, nil, 0, false, err
	}
	known = map[uint64]uint64{}
	if !fresh {
		if bad, err = readTail(path, data, known); err != nil {
			return nil, nil, 0, false, err
		}
	}
	t = &tail{}
	if t.f, err = open(path, os.O_CREATE|os.O_RDWR); err != nil {
		return nil, nil, 0, false, err
	}
	if fresh || len(data) != tailHeader+tailSlots*tailEntry || bad > 0 {
		if err = t.rewrite(known); err != nil && fresh {
			t.f.Close()
			return nil, nil, 0, false, fmt.Errorf("%s: %w", path, err)
		}
	}
	return t, known, bad, fresh, nil
}

func readTail(path string, data []byte, known map[uint64]uint64) (bad int, err error) {
	switch {
	case len(data) != tailHeader+tailSlots*tailEntry:
		bad++
	case string(data[:8]) != tailMagic || sum(uint64(binary.LittleEndian.Uint32(data[8:])), 0, data[:12]) != binary.LittleEndian.Uint32(data[12:]):
		bad++
	case binary.LittleEndian.Uint32(data[8:]) != format:
		return 0, fmt.Errorf("%s: %w: it has format %d, this one reads up to %d", path, errFormat, binary.LittleEndian.Uint32(data[8:]), format)
	}
	for slot := 0; tailHeader+(slot+1)*tailEntry <= len(data); slot++ {
		e := data[tailHeader+slot*tailEntry:][:tailEntry]
		seq := binary.LittleEndian.Uint64(e)
		switch {
		case [tailEntry]byte(e) == [tailEntry]byte{}:
		case sum(0, 0, e[:16]) == binary.LittleEndian.Uint32(e[16:]):
			known[seq] = binary.LittleEndian.Uint64(e[8:])
		default:
			bad++
		}
	}
	return bad, nil
}

func appendTailEntry(b []byte, w written) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, w.seq), w.number)
	return binary.LittleEndian.AppendUint32(b, sum(0, 0, b[at:]))
}

// rewrite makes the whole file, so that nothing in it has to be allocated later.
func (t *tail) rewrite(known map[uint64]uint64) error {
	b := make([]byte, tailHeader+tailSlots*tailEntry)
	copy(b, tailMagic)
	binary.LittleEndian.PutUint32(b[8:], format)
	binary.LittleEndian.PutUint32(b[12:], sum(format, 0, b[:12]))
	for seq, number := range known {
		copy(b[tailHeader+int(seq%tailSlots)*tailEntry:], appendTailEntry(nil, written{seq, number}))
	}
	if _, err := t.f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := t.f.Truncate(int64(len(b))); err != nil {
		return err
	}
	return t.f.Sync()
}

// note adds records that are on disk, in order.
func (t *tail) note(records []written) error {
	if len(records) > tailSlots {
		records = records[len(records)-tailSlots:]
	}
	for len(records) > 0 {
		slot := int(records[0].seq % tailSlots)
		n := min(len(records), tailSlots-slot)
		b := make([]byte, 0, n*tailEntry)
		for _, w := range records[:n] {
			b = appendTailEntry(b, w)
		}
		if _, err := t.f.WriteAt(b, tailHeader+int64(slot)*tailEntry); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
