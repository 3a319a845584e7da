package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// scope is what reading a value may depend on besides its text.
type scope struct {
	dir  string // where relative paths are from
	cpus func() float64
}

// kind is a type of setting: what it takes in words, how it is read from what TOML gives, and how it is shown, as TOML.
type kind[T any] struct {
	wants string
	// parse returns errKind where v is not of this kind at all, and any other error where there is more to say.
	parse func(v any, s scope) (T, error)
	show  func(T) string
}

// errKind says no more than that the value is not what the setting takes.
var errKind = errors.New("not of this kind")

// quote writes a TOML string.
func quote(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			b.WriteString(`\u00` + string(hex[r>>4]) + string(hex[r&15]))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func boolean() kind[bool] {
	return kind[bool]{
		wants: "true or false",
		parse: func(v any, _ scope) (bool, error) { return as[bool](v) },
		show:  strconv.FormatBool,
	}
}

// as takes v where it is a T.
func as[T any](v any) (T, error) {
	t, ok := v.(T)
	if !ok {
		return t, errKind
	}
	return t, nil
}

func integer(low, high int) kind[int] {
	return kind[int]{
		wants: fmt.Sprintf("a whole number from %d to %d", low, high),
		parse: func(v any, _ scope) (int, error) {
			n, ok := v.(int64)
			if !ok || n < int64(low) || n > int64(high) {
				return 0, errKind
			}
			return int(n), nil
		},
		show: strconv.Itoa,
	}
}

// optionalCount is 0 where the setting is not given.
func optionalCount(high int) kind[int] {
	k := integer(1, high)
	k.show = func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	return k
}

// optionalFloat is nil where the setting is not given.
func optionalFloat(high float64) kind[*float64] {
	return kind[*float64]{
		wants: fmt.Sprintf("a number from 0 to %g", high),
		parse: func(v any, _ scope) (*float64, error) {
			f, ok := v.(float64)
			if n, whole := v.(int64); whole {
				f, ok = float64(n), true
			}
			if !ok || !(f >= 0 && f <= high) { // not (f < 0 || f > high): that lets NaN through
				return nil, errKind
			}
			return &f, nil
		},
		show: func(f *float64) string {
			if f == nil {
				return ""
			}
			return strconv.FormatFloat(*f, 'f', -1, 64)
		},
	}
}

// optionalInteger is nil where the setting is not given.
func optionalInteger(low, high int) kind[*int] {
	k := integer(low, high)
	return kind[*int]{
		wants: k.wants,
		parse: func(v any, s scope) (*int, error) {
			n, err := k.parse(v, s)
			if err != nil {
				return nil, err
			}
			return &n, nil
		},
		show: func(n *int) string {
			if n == nil {
				return ""
			}
			return k.show(*n)
		},
	}
}

// stops takes texts at which an answer ends.
func stops() kind[[]string] {
	k := list("a list of 1 to 4 texts", func(v any) (string, error) {
		s, ok := v.(string)
		if !ok || s == "" || len(s) > 256 {
			return "", errKind
		}
		return s, nil
	}, quote)
	parse, show := k.parse, k.show
	k.parse = func(v any, s scope) ([]string, error) {
		texts, err := parse(v, s)
		if err == nil && (len(texts) == 0 || len(texts) > 4) {
			return nil, errKind
		}
		return texts, err
	}
	k.show = func(texts []string) string {
		if texts == nil {
			return ""
		}
		return show(texts)
	}
	return k
}

// share takes a part of a whole.
func share() kind[float64] {
	optional := optionalFloat(1)
	return kind[float64]{
		wants: optional.wants,
		parse: func(v any, s scope) (float64, error) {
			f, err := optional.parse(v, s)
			if err != nil {
				return 0, err
			}
			return *f, nil
		},
		show: func(f float64) string { return optional.show(&f) },
	}
}

// text takes strings that match the expression, or are empty where empty is allowed by it.
func text(wants string, pattern *regexp.Regexp) kind[string] {
	return kind[string]{
		wants: wants,
		parse: func(v any, _ scope) (string, error) {
			s, ok := v.(string)
			if !ok || !pattern.MatchString(s) {
				return "", errKind
			}
			return s, nil
		},
		show: showText,
	}
}

// showText shows the empty string as not given.
func showText(s string) string {
	if s == "" {
		return ""
	}
	return quote(s)
}

// oneOf takes one of the names.
func oneOf(names ...string) kind[string] {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quote(name)
	}
	return kind[string]{
		wants: strings.Join(quoted, " or "),
		parse: func(v any, _ scope) (string, error) {
			s, ok := v.(string)
			if !ok || !slices.Contains(names, s) {
				return "", errKind
			}
			return s, nil
		},
		show: showText,
	}
}

// list takes an array and reads each of its items.
func list[T any](wants string, item func(v any) (T, error), show func(T) string) kind[[]T] {
	return kind[[]T]{
		wants: wants,
		parse: func(v any, _ scope) ([]T, error) {
			items, err := as[[]any](v)
			if err != nil {
				return nil, err
			}
			out := make([]T, len(items))
			for i, one := range items {
				if out[i], err = item(one); err != nil {
					return nil, fmt.Errorf("its item %d is %s", i+1, describe(one))
				}
			}
			return out, nil
		},
		show: func(items []T) string {
			parts := make([]string, len(items))
			for i, one := range items {
				parts[i] = show(one)
			}
			return "[" + strings.Join(parts, ", ") + "]"
		},
	}
}

func userIDs() kind[[]uint32] {
	return list("a list of numeric user ids, such as [1000, 1001]", func(v any) (uint32, error) {
		n, ok := v.(int64)
		if !ok || n < 0 || n > 1<<32-2 { // 2³²−1 is the kernel's "no such id"
			return 0, errKind
		}
		return uint32(n), nil
	}, func(n uint32) string { return strconv.FormatUint(uint64(n), 10) })
}

// clip cuts text to a number of bytes and says so by an ellipsis.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// describe shows a value in an error, cut to a length.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return quote(clip(strings.ToValidUTF8(v, "\ufffd"), 60))
	case int64, float64, bool:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}
