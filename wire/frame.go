package wire

import (
	"math"
	"unicode/utf8"
)

// Kind is the first item of a frame.
type Kind uint8

// The kinds of docs/protocol.md.
const (
	KindRequest Kind = iota
	KindResponse
	KindNotification
	KindItem
	KindCancel
	KindCredit
	KindChange
	kinds // how many there are

	KindUnknown Kind = math.MaxUint8
)

// itemsOf is the number of items of each kind's array.
var itemsOf = [kinds]int{5, 5, 4, 4, 3, 3, 3} //nolint:gochecknoglobals // a constant table

// Frame is a parsed body. Its slices point into the body; Meta, Error and Payload are whole, undecoded values.
type Frame struct {
	Kind    Kind
	ID      uint64 // 0 for a notification
	Method  []byte // request, notification
	Meta    []byte // request, response, notification, item
	Error   []byte // response: nil where the call succeeded
	Payload []byte // params, result, item, changes
	Credit  uint32 // credit
	Reason  []byte // cancel
}

// FrameError is a head that cannot be read: it is answered with a protocol_error and does not end the connection. ID is 0 where it
// could not be read.
type FrameError struct {
	ID      uint64
	Message string
}

func (e *FrameError) Error() string { return e.Message }

// Parse checks the structure of a body and reads its envelope. Errors: ErrStructure (the connection ends), *FrameError
// (it goes on). A frame of an unknown kind is no error: its Kind is KindUnknown.
func Parse(body []byte) (Frame, error) {
	if err := Scan(body); err != nil {
		return Frame{}, err
	}
	return ParseScanned(body)
}

// ParseScanned is Parse for a body whose structure has been checked.
func ParseScanned(body []byte) (Frame, error) {
	h, err := headerAt(body, 0)
	if err != nil {
		return Frame{}, err
	}
	if h.class != classArray {
		return Frame{}, errNotArray
	}
	if h.items == 0 {
		return Frame{}, &FrameError{Message: "the frame has no kind"}
	}
	p := parser{b: body, pos: h.size}
	kind, ok := p.uint()
	if !ok {
		return Frame{}, &FrameError{Message: "the kind of a frame is a small integer"}
	}
	if kind >= uint64(kinds) {
		return Frame{Kind: KindUnknown}, nil
	}
	f := Frame{Kind: Kind(kind)}
	if f.Kind != KindNotification {
		if h.items < 2 {
			return Frame{}, &FrameError{Message: "the frame has no id"}
		}
		if f.ID, ok = p.uint(); !ok || f.ID == 0 || f.ID > MaxID {
			return Frame{}, &FrameError{Message: "a request id is an integer from 1 to 2^53-1"}
		}
	}
	if h.items != itemsOf[f.Kind] {
		return Frame{}, &FrameError{ID: f.ID, Message: "the frame has too few or too many items for its kind"}
	}
	if msg := p.fields(&f); msg != "" {
		return Frame{}, &FrameError{ID: f.ID, Message: msg}
	}
	return f, nil
}

const (
	metaWanted  = "meta is a map or nil"
	headTooLong = "the head is longer than 65536 bytes"
)

// parser walks over the values of a scanned body.
type parser struct {
	b   []byte
	pos int
}

// fields reads what follows the id, and returns what is wrong with it.
func (p *parser) fields(f *Frame) string {
	switch f.Kind {
	case KindRequest, KindNotification:
		method, ok := p.str()
		if !ok || len(method) == 0 || len(method) > MaxMethod || !utf8.Valid(method) {
			return "a method is text of 1 to 128 bytes"
		}
		f.Method = method
		return p.metaAndPayload(f)
	case KindResponse:
		if f.Meta = p.mapOrNil(); f.Meta == nil {
			return metaWanted
		}
		if f.Error = p.mapOrNil(); f.Error == nil {
			return "error is a map or nil"
		}
		if p.pos > MaxHead {
			return headTooLong
		}
		f.Payload = p.b[p.pos:]
		if f.Error[0] == 0xc0 {
			f.Error = nil
		} else if f.Payload[0] != 0xc0 {
			return "a response has an error or a result, not both"
		}
	case KindItem:
		return p.metaAndPayload(f)
	case KindCancel:
		if p.b[p.pos] == 0xc0 {
			return ""
		}
		reason, ok := p.str()
		if !ok || len(reason) > MaxReason || !utf8.Valid(reason) {
			return "the reason of a cancel is text of at most 256 bytes, or nil"
		}
		f.Reason = reason
	case KindCredit:
		n, ok := p.uint()
		if !ok || n == 0 || n > MaxCredit {
			return "a credit is an integer from 1 to 2^31-1"
		}
		f.Credit = uint32(n)
	case KindChange:
		f.Payload = p.b[p.pos:]
	case kinds, KindUnknown:
	}
	return ""
}

func (p *parser) metaAndPayload(f *Frame) string {
	if f.Meta = p.mapOrNil(); f.Meta == nil {
		return metaWanted
	}
	if p.pos > MaxHead {
		return headTooLong
	}
	f.Payload = p.b[p.pos:]
	if f.Kind != KindItem && !isMapOrNil(f.Payload[0]) {
		return "params is a map or nil"
	}
	return ""
}

func (p *parser) uint() (uint64, bool) {
	h, err := headerAt(p.b, p.pos)
	if err != nil {
		return 0, false
	}
	v, ok := h.uintAt(p.b[p.pos:])
	p.pos += h.size
	return v, ok
}

func (p *parser) str() ([]byte, bool) {
	h, err := headerAt(p.b, p.pos)
	if err != nil || h.class != classStr {
		return nil, false
	}
	s := p.b[p.pos+h.data : p.pos+h.size]
	p.pos += h.size
	return s, true
}

// mapOrNil passes over one map or nil and returns its bytes; nil where it is something else.
func (p *parser) mapOrNil() []byte {
	if !isMapOrNil(p.b[p.pos]) {
		return nil
	}
	return p.raw()
}

// raw passes over one value and returns its bytes.
func (p *parser) raw() []byte {
	n, err := scanValue(p.b[p.pos:])
	if err != nil {
		return nil
	}
	v := p.b[p.pos : p.pos+n]
	p.pos += n
	return v
}

func isMapOrNil(c byte) bool { return c == 0xc0 || c&0xf0 == 0x80 || c == 0xde || c == 0xdf }
