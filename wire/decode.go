package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// maxProblems bounds how many wrong parameters one error names.
const maxProblems = 20

// Unmarshal decodes b into what v points to, after it has checked structure and content, so that no declared length costs
// memory. Nothing is converted: text is not bytes, an integer has to fit, and a field of a struct that is not known is an
// error; nil leaves v, and makes a field zero. Errors: invalid_frame, or an invalid_params that names all that is wrong.
func Unmarshal(b []byte, v any) error {
	if err := Scan(b); err != nil {
		return Errorf(CodeInvalidFrame, "%v", err)
	}
	if err := CheckContent(b); err != nil {
		return err
	}
	if b[0] == 0xc0 {
		return nil
	}
	d := decoder{parser: parser{b: b}}
	d.value(reflect.ValueOf(v).Elem())
	if len(d.problems) == 0 {
		return nil
	}
	said, list := make([]string, len(d.problems)), make([]any, len(d.problems))
	for i, p := range d.problems {
		said[i] = strings.TrimSpace(p.path + " " + p.message)
		list[i] = map[string]any{"path": p.path, "message": p.message}
	}
	return Errorf(CodeInvalidParams, "%s", strings.Join(said, "; ")).With("errors", list)
}

// decoder walks over a value that has been checked, and sets Go values.
type decoder struct {
	parser
	problems []problem
}

type problem struct{ path, message string }

// value decodes the next value into v; what does not fit is noted and passed over.
func (d *decoder) value(v reflect.Value) {
	h, _ := headerAt(d.b, d.pos)
	if v.Type() == reflect.TypeFor[msgpack.RawMessage]() {
		v.SetBytes(bytes.Clone(d.raw()))
		return
	}
	switch kind := v.Kind(); {
	case kind == reflect.Interface:
		if x := d.any(); x != nil {
			v.Set(reflect.ValueOf(x))
		} else {
			v.SetZero()
		}
	case kind == reflect.Pointer:
		if h.class == classNil {
			d.pos += h.size
			v.SetZero()
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem())
	case kind == reflect.Struct:
		if d.begin(h, classMap, "a map") {
			d.record(v, h.items/2)
		}
	case kind == reflect.Map:
		if d.begin(h, classMap, "a map") {
			d.table(v, h.items/2)
		}
	case kind == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		if b, ok := d.bytes(h, classBin, "bytes"); ok {
			v.SetBytes(bytes.Clone(b))
		}
	case kind == reflect.Slice:
		if d.begin(h, classArray, "a list") {
			d.list(v, h.items)
		}
	case kind == reflect.String:
		if b, ok := d.bytes(h, classStr, "text"); ok {
			v.SetString(string(b))
		}
	case kind == reflect.Bool:
		if b, ok := d.bytes(h, classBool, "true or false"); ok {
			v.SetBool(b[0] == 0xc3)
		}
	default:
		d.number(h, v)
	}
}

func (d *decoder) record(v reflect.Value, entries int) {
	fields := fieldsOf(v.Type())
next:
	for range entries {
		key, _ := d.str()
		mark := len(d.problems)
		for _, f := range fields {
			if f.name != string(key) {
				continue
			}
			if to := v.Field(f.index); d.b[d.pos] == 0xc0 {
				d.pos++
				to.SetZero()
			} else {
				d.value(to)
			}
			d.under(mark, f.name)
			continue next
		}
		d.raw()
		d.note("is not known")
		d.under(mark, string(key))
	}
}

func (d *decoder) table(v reflect.Value, entries int) {
	t := v.Type()
	v.Set(reflect.MakeMap(t))
	for range entries {
		key, _ := d.str()
		mark := len(d.problems)
		item := reflect.New(t.Elem()).Elem()
		d.value(item)
		v.SetMapIndex(reflect.ValueOf(string(key)).Convert(t.Key()), item)
		d.under(mark, string(key))
	}
}

func (d *decoder) list(v reflect.Value, items int) {
	v.Set(reflect.MakeSlice(v.Type(), 0, min(items, 64)))
	for i := range items {
		v.Grow(1)
		v.SetLen(i + 1)
		mark := len(d.problems)
		d.value(v.Index(i))
		if len(d.problems) > mark {
			d.under(mark, fmt.Sprintf("[%d]", i))
		}
	}
}

func (d *decoder) number(h header, v reflect.Value) {
	n, negative := uint64(0), false
	if h.class == classInt {
		n, negative = integerAt(d.b[d.pos:])
	}
	switch {
	case v.CanFloat() && h.class == classFloat:
		v.SetFloat(float(d.b[d.pos:]))
	case v.CanFloat() && h.class == classInt && negative:
		v.SetFloat(float64(int64(n)))
	case v.CanFloat() && h.class == classInt:
		v.SetFloat(float64(n))
	case v.CanFloat():
		d.wrong(h, "a number")
		return
	case h.class != classInt:
		d.wrong(h, "an integer")
		return
	case v.CanInt() && negative == (int64(n) < 0) && !v.OverflowInt(int64(n)):
		v.SetInt(int64(n))
	case v.CanUint() && !negative && !v.OverflowUint(n):
		v.SetUint(n)
	default:
		d.note("is out of range")
	}
	d.pos += h.size
}

// any decodes to nil, bool, int64 (uint64 beyond it), float64, string, []byte, time.Time, []any and map[string]any.
func (d *decoder) any() any {
	h, _ := headerAt(d.b, d.pos)
	value := d.b[d.pos : d.pos+h.size]
	d.pos += h.size
	switch h.class {
	case classBool:
		return value[0] == 0xc3
	case classInt:
		n, negative := integerAt(value)
		if !negative && n > math.MaxInt64 {
			return n
		}
		return int64(n) //nolint:gosec // it fits
	case classFloat:
		return float(value)
	case classStr:
		return string(value[h.data:])
	case classBin:
		return bytes.Clone(value[h.data:])
	case classTime:
		return instant(value[h.data:])
	case classArray:
		list := make([]any, 0, min(h.items, 1024))
		for range h.items {
			list = append(list, d.any())
		}
		return list
	case classMap:
		m := make(map[string]any, min(h.items/2, 1024))
		for range h.items / 2 {
			key, _ := d.str()
			m[string(key)] = d.any()
		}
		return m
	default:
		return nil
	}
}

// begin goes to the first item of a container.
func (d *decoder) begin(h header, wanted class, name string) bool {
	if h.class != wanted {
		d.wrong(h, name)
		return false
	}
	d.pos += h.size
	return true
}

func (d *decoder) bytes(h header, wanted class, name string) ([]byte, bool) {
	if h.class != wanted {
		d.wrong(h, name)
		return nil, false
	}
	b := d.b[d.pos+h.data : d.pos+h.size]
	d.pos += h.size
	return b, true
}

func (d *decoder) wrong(h header, wanted string) {
	names := [...]string{
		classNil: "nil", classBool: "true or false", classInt: "an integer", classFloat: "a float", classStr: "text",
		classBin: "bytes", classArray: "a list", classMap: "a map", classTime: "a timestamp",
	}
	d.raw()
	d.note("must be " + wanted + ", not " + names[h.class])
}

func (d *decoder) note(message string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, problem{"", message})
	}
}

// under puts a step before the paths of the problems from mark on.
func (d *decoder) under(mark int, step string) {
	for i := mark; i < len(d.problems); i++ {
		switch p := &d.problems[i]; {
		case p.path == "" || p.path[0] == '[':
			p.path = step + p.path
		default:
			p.path = step + "." + p.path
		}
	}
}

func float(value []byte) float64 {
	if value[0] == 0xca {
		return float64(math.Float32frombits(binary.BigEndian.Uint32(value[1:])))
	}
	return math.Float64frombits(binary.BigEndian.Uint64(value[1:]))
}

// instant reads the three forms of a timestamp.
func instant(data []byte) time.Time {
	var seconds uint64
	switch len(data) {
	case 4:
		seconds = uint64(binary.BigEndian.Uint32(data))
	case 8:
		seconds = binary.BigEndian.Uint64(data) & (1<<34 - 1)
	default:
		seconds = binary.BigEndian.Uint64(data[4:])
	}
	return time.Unix(int64(seconds), int64(nanoseconds(data))).UTC() //nolint:gosec // 64 bits of two's complement
}

type field struct {
	name  string
	index int
}

var fieldCache sync.Map //nolint:gochecknoglobals // reflect.Type to []field: a cache without state

// fieldsOf lists the fields of a struct by the names that their msgpack tags give.
func fieldsOf(t reflect.Type) []field {
	if known, ok := fieldCache.Load(t); ok {
		return known.([]field) //nolint:forcetypeassert // nothing else is stored
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("msgpack"), ",")
		if name == "" {
			name = f.Name
		}
		if f.IsExported() && name != "-" {
			fields = append(fields, field{name, i})
		}
	}
	fieldCache.Store(t, fields)
	return fields
}
