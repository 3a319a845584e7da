package wire

import (
	"math"
	"time"
	"unicode/utf8"
)

// maxTimeoutMS is the longest timeout that a time.Duration holds, 292 years; longer ones mean the same.
const maxTimeoutMS = math.MaxInt64 / int64(time.Millisecond)

// RequestMeta is the meta of a request, in either direction. Byte slices point into the frame that it was read from;
// App and Usage are undecoded values.
type RequestMeta struct {
	Session      []byte
	SessionToken []byte
	Pool         []byte
	Traceparent  []byte
	App          []byte
	TimeoutMS    int64 // -1: absent
	Stream       uint32
	RetrySafe    bool
	Parent       uint64

	// From clients only: the sidecar does not pass it on.
	IdempotencyKey []byte
	Detach         bool

	// On the worker channel only: what a client sends under these names means nothing.
	Call    uint64 // the call that a worker's request serves
	Key     uint64
	Version uint64
	Next    uint64
	Start   bool
}

// ResponseMeta is the meta of a response. RunUS and QueueUS are microseconds, -1 where absent.
type ResponseMeta struct {
	Worker  string
	QueueUS int64
	RunUS   int64
	Usage   []byte
	App     []byte
}

// ParseRequestMeta reads the meta of a request frame. Keys that it does not know are passed over. The error is an
// invalid_frame that names the key.
func ParseRequestMeta(b []byte, m *RequestMeta) error {
	*m = RequestMeta{TimeoutMS: -1}
	if err := CheckContent(b); err != nil {
		return err
	}
	p := mapReader{parser: parser{b: b}}
	for p.next() {
		switch string(p.key) {
		case "session":
			p.ok = p.text(&m.Session, 1, MaxSessionID) && !hasControl(m.Session)
		case "session_token":
			p.ok = p.text(&m.SessionToken, 0, MaxHead)
		case "pool":
			p.ok = p.text(&m.Pool, 0, MaxHead)
		case "traceparent":
			p.ok = p.text(&m.Traceparent, 0, MaxTrace)
		case "retry":
			v, ok := p.str()
			m.RetrySafe = string(v) == "safe"
			p.ok = ok && m.RetrySafe
		case "timeout_ms":
			v, ok := p.uint()
			m.TimeoutMS = int64(min(v, uint64(maxTimeoutMS)))
			p.ok = ok
		case "detach":
			v := p.raw()[0]
			m.Detach = v == 0xc3
			p.ok = m.Detach || v == 0xc2
		case "idempotency_key":
			p.ok = p.text(&m.IdempotencyKey, 1, MaxIdempotencyKey)
		case "stream":
			v, ok := p.uint()
			m.Stream = uint32(min(v, MaxCredit))
			p.ok = ok && v >= 1 && v <= MaxCredit
		case "app":
			m.App = p.mapOrNil()
			p.ok = m.App != nil
		case "parent":
			m.Parent, p.ok = p.uint()
		case "call":
			m.Call = p.uintOrZero()
		case "key":
			m.Key = p.uintOrZero()
		case "version":
			m.Version = p.uintOrZero()
		case "next":
			m.Next = p.uintOrZero()
		case "start":
			m.Start = p.raw()[0] == 0xc3
		default:
			p.raw()
		}
	}
	return p.err()
}

// ParseResponseMeta reads the meta of a response; usage and app stay undecoded. Keys that it does not know are passed over. The
// error is an invalid_frame that names the key.
func ParseResponseMeta(b []byte, m *ResponseMeta) error {
	*m = ResponseMeta{QueueUS: -1, RunUS: -1}
	p := mapReader{parser: parser{b: b}}
	for p.next() {
		switch string(p.key) {
		case "worker":
			var worker []byte
			p.ok = p.text(&worker, 0, MaxHead)
			m.Worker = string(worker)
		case "queue_us":
			m.QueueUS = p.micros()
		case "run_us":
			m.RunUS = p.micros()
		case "usage":
			m.Usage = p.mapOrNil()
			p.ok = m.Usage != nil
		case "app":
			m.App = p.mapOrNil()
			p.ok = m.App != nil
		default:
			p.raw()
		}
	}
	return p.err()
}

// mapReader walks over the entries of a scanned map, or of nil: after each next, the caller reads the value that stands
// behind key, and sets ok to false where its type is wrong.
type mapReader struct {
	parser
	key     []byte
	ok      bool
	begun   bool
	entries int
}

func (r *mapReader) next() bool {
	if !r.begun {
		h, err := headerAt(r.b, 0)
		r.begun, r.ok = true, err == nil && (h.class == classMap || h.class == classNil)
		r.entries, r.pos = h.items/2, h.size
	}
	if !r.ok || r.entries == 0 {
		return false
	}
	r.entries--
	if r.key, r.ok = r.str(); !r.ok {
		r.key = nil
	}
	return r.ok
}

func (r *mapReader) err() error {
	switch {
	case r.ok:
		return nil
	case r.key == nil:
		return Errorf(CodeInvalidFrame, "not a map, or with a key that is not text")
	default:
		return Errorf(CodeInvalidFrame, "%q has a value of a wrong type or out of range, or occurs twice", r.key)
	}
}

// micros reads a number of microseconds.
func (r *mapReader) micros() int64 {
	v, ok := r.uint()
	r.ok = ok
	return int64(min(v, MaxID))
}

func (p *parser) text(to *[]byte, least, most int) bool {
	s, ok := p.str()
	*to = s
	return ok && len(s) >= least && len(s) <= most && utf8.Valid(s)
}

// uintOrZero reads a non-negative integer, and passes over any other value.
func (p *parser) uintOrZero() uint64 {
	pos := p.pos
	v, ok := p.uint()
	if !ok {
		p.pos = pos
		p.raw()
		return 0
	}
	return v
}

// ValidSessionID says whether id may name a session: 1 to 128 bytes of UTF-8 without control characters.
func ValidSessionID[T string | []byte](id T) bool {
	return len(id) >= 1 && len(id) <= MaxSessionID && utf8.ValidString(string(id)) && !hasControl(id)
}

func hasControl[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}
