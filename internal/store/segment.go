package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// format is that of everything in a store's directory. All formats have the first 16 bytes of a file in common.
const format = 1

const (
	fileMagic     = "dspexjnl"
	segmentHeader = 40
	recordMagic   = "\xd5drc"
	recordHeader  = 52
	suffix        = ".journal"
)

// kind is what a record says.
type kind uint32

const (
	kindCreate kind = iota + 1 // all of a new session
	kindChange                 // a delta
	kindDelete                 // a session has ended
	kindCopy                   // all of a session again, so that older segments can go
	kindDamage                 // a session is damaged
	kindLeft                   // what is left of the time limits of many
	kindNote                   // about the journal itself
	kindEnd                    // the process ended in order, and what is left of time limits is what was noted
)

func table() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by the library

// sum binds what is checked to a place, so that bytes that were moved are not taken for what they were.
func sum(a, b uint64, data []byte) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], a)
	binary.LittleEndian.PutUint64(place[8:], b)
	return crc32.Update(crc32.Checksum(place[:], table()), table(), data)
}

// head is what a record's header says.
type head struct {
	kind   kind
	seq    uint64 // of all records of the store, without a gap
	number uint64 // of the session; 0: of none
	prev   uint64 // the sequence number of the session's record before this one
	synced uint64 // up to which all records were known to be on disk when this one was written
	length int
}

// finishRecord writes the header of a record whose body is what is in b from bodyAt on; recordHeader bytes before that are there for the header.
// Offset is where the header will be in the segment.
func finishRecord(b []byte, bodyAt int, segment uint64, offset int64, h head) error {
	body, header := b[bodyAt:], b[bodyAt-recordHeader:bodyAt]
	if uint64(len(body)) > 1<<32-1 {
		return fmt.Errorf("a record of %d bytes: 4 GiB is the most", len(body))
	}
	copy(header, recordMagic)
	binary.LittleEndian.PutUint32(header[8:], uint32(len(body))) //nolint:gosec // checked above
	binary.LittleEndian.PutUint32(header[12:], crc32.Checksum(body, table()))
	binary.LittleEndian.PutUint32(header[16:], uint32(h.kind))
	binary.LittleEndian.PutUint64(header[20:], h.seq)
	binary.LittleEndian.PutUint64(header[28:], h.number)
	binary.LittleEndian.PutUint64(header[36:], h.prev)
	binary.LittleEndian.PutUint64(header[44:], h.synced)
	binary.LittleEndian.PutUint32(header[4:], sum(segment, uint64(offset), header[8:])) //nolint:gosec // an offset is not negative
	return nil
}

// item is a record found in a segment.
type item struct {
	head

	body []byte // nil where it is not what was written
}

// scan finds the records in a segment: those whose header is intact. After what it cannot read it goes on at the next that it can.
func scan(segment uint64, data []byte) []item {
	var items []item
	for at := segmentHeader; at+recordHeader <= len(data); {
		h, crc, ok := parseHead(segment, data, at)
		if !ok {
			next := bytes.Index(data[at+1:], []byte(recordMagic))
			if next < 0 {
				break
			}
			at += 1 + next
			continue
		}
		found := item{head: h}
		at += recordHeader
		if h.length <= len(data)-at && crc32.Checksum(data[at:at+h.length], table()) == crc {
			found.body = data[at : at+h.length : at+h.length]
		}
		items = append(items, found)
		at += min(h.length, len(data)-at)
	}
	return items
}

func parseHead(segment uint64, data []byte, at int) (h head, crc uint32, ok bool) {
	b := data[at : at+recordHeader]
	if string(b[:4]) != recordMagic || binary.LittleEndian.Uint32(b[4:]) != sum(segment, uint64(at), b[8:]) { //nolint:gosec // an offset is not negative
		return head{}, 0, false
	}
	return head{
		length: int(binary.LittleEndian.Uint32(b[8:])), kind: kind(binary.LittleEndian.Uint32(b[16:])), seq: binary.LittleEndian.Uint64(b[20:]),
		number: binary.LittleEndian.Uint64(b[28:]), prev: binary.LittleEndian.Uint64(b[36:]), synced: binary.LittleEndian.Uint64(b[44:]),
	}, binary.LittleEndian.Uint32(b[12:]), true
}

// segment is one file of the journal. Nothing is ever appended to one that an earlier process wrote.
type segment struct {
	number uint64
	first  uint64 // the sequence number of its first record; records of the segment before from there on were never acknowledged
	size   int64
	path   string
	store  uint64 // which store it belongs to
	broken bool   // its header is not what was written
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, suffix))
}

func (s *segment) header() []byte {
	b := make([]byte, segmentHeader)
	copy(b, fileMagic)
	binary.LittleEndian.PutUint32(b[8:], format)
	binary.LittleEndian.PutUint64(b[16:], s.number)
	binary.LittleEndian.PutUint64(b[24:], s.first)
	binary.LittleEndian.PutUint64(b[32:], s.store)
	binary.LittleEndian.PutUint32(b[12:], sum(format, 0, b[16:]))
	return b
}

// errFormat is a store that a later version wrote.
var errFormat = errors.New("written by a later version of this program")

// listSegments reads the headers of all segments, in order.
func listSegments(dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segments []*segment
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), suffix)
		number, err := strconv.ParseUint(hex, 16, 64)
		if !ok || err != nil || len(hex) != 16 {
			continue
		}
		s := &segment{number: number, path: filepath.Join(dir, e.Name())}
		if err := s.readHeader(); err != nil {
			return nil, err
		}
		segments = append(segments, s)
	}
	slices.SortFunc(segments, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	return segments, sameStore(segments)
}

func (s *segment) readHeader() error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s.size = info.Size()
	b := make([]byte, segmentHeader)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		s.broken = true
		return ignoreEOF(err)
	}
	v := binary.LittleEndian.Uint32(b[8:])
	s.broken = string(b[:8]) != fileMagic || binary.LittleEndian.Uint32(b[12:]) != sum(uint64(v), 0, b[16:])
	if s.broken {
		return nil
	}
	if v != format {
		return fmt.Errorf("%s: %w: it has format %d, this one reads up to %d", s.path, errFormat, v, format)
	}
	s.first, s.store = binary.LittleEndian.Uint64(b[24:]), binary.LittleEndian.Uint64(b[32:])
	s.broken = binary.LittleEndian.Uint64(b[16:]) != s.number
	return nil
}

func sameStore(segments []*segment) error {
	var first *segment
	for _, s := range segments {
		switch {
		case s.broken:
		case first == nil:
			first = s
		case first.store != s.store:
			return fmt.Errorf("%s and %s are of two different stores: keep those of one", first.path, s.path)
		}
	}
	return nil
}
