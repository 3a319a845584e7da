package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// field is one setting. The table of fields is the one place that says which settings there are: loading, comparing,
// config.example.toml and the tables of docs/configuration.md are made from it.
type field struct {
	key     string // dotted; "*" stands for a name that the user chooses
	initial string // the default as TOML; "" where the setting is not given by default
	sample  string // shown in the example where there is no default
	effect  Effect
	doc     string // one line
	binding
}

// binding ties a setting to its place in Config. name is what stands for "*", and "" elsewhere.
type binding interface {
	set(c *Config, name string, v any, s scope) error
	show(c *Config, name string) string // as TOML; "" where it is not given
	same(a, b *Config, name string) bool
	copy(to, from *Config, name string)
	allowed() string
}

// place is a binding to a variable that kind reads.
type place[T any] struct {
	kind kind[T]
	at   func(c *Config, name string) *T
}

func (p place[T]) set(c *Config, name string, v any, s scope) error {
	value, err := p.kind.parse(v, s)
	if err == nil {
		*p.at(c, name) = value
	}
	return err
}
func (p place[T]) show(c *Config, name string) string { return p.kind.show(*p.at(c, name)) }
func (p place[T]) same(a, b *Config, name string) bool {
	return reflect.DeepEqual(p.at(a, name), p.at(b, name))
}
func (p place[T]) copy(to, from *Config, name string) { *p.at(to, name) = *p.at(from, name) }
func (p place[T]) allowed() string                    { return p.kind.wants }

func in[T any](k kind[T], at func(c *Config) *T) binding {
	return place[T]{k, func(c *Config, _ string) *T { return at(c) }}
}

func inModel[T any](k kind[T], at func(m *Model) *T) binding {
	return place[T]{k, func(c *Config, name string) *T { return at(c.Models[name]) }}
}

func inEmbedder[T any](k kind[T], at func(e *Embedder) *T) binding {
	return place[T]{k, func(c *Config, name string) *T { return at(c.Embedders[name]) }}
}

// envEntry is the binding of one variable in [pools.default.env].
type envEntry struct{}

func (envEntry) set(c *Config, name string, v any, s scope) error {
	value, err := orReference().parse(v, s)
	if err == nil {
		c.Pool.Env[name] = value
	}
	return err
}
func (envEntry) show(c *Config, name string) string  { return showSecret(c.Pool.Env[name]) }
func (envEntry) same(a, b *Config, name string) bool { return a.Pool.Env[name] == b.Pool.Env[name] }
func (envEntry) copy(to, from *Config, name string)  { to.Pool.Env[name] = from.Pool.Env[name] }
func (envEntry) allowed() string                     { return orReference().wants }

// weightEntry is the binding of one entry of [sessions.weights].
type weightEntry struct{}

func (weightEntry) set(c *Config, name string, v any, s scope) error {
	value, err := weight().parse(v, s)
	if err == nil {
		c.Sessions.Weights[name] = value
	}
	return err
}

func (weightEntry) show(c *Config, name string) string {
	if n, ok := c.Sessions.Weights[name]; ok {
		return weight().show(n)
	}
	return ""
}

func (weightEntry) same(a, b *Config, name string) bool {
	return a.Sessions.Weights[name] == b.Sessions.Weights[name]
}

func (weightEntry) copy(to, from *Config, name string) {
	to.Sessions.Weights[name] = from.Sessions.Weights[name]
}
func (weightEntry) allowed() string { return weight().wants }

func weight() kind[int] { return integer(1, 100) }

// The tables whose keys the user chooses.
const (
	modelsTable    = "models"
	embeddersTable = "embedders"
	envTable       = "pools.default.env"
	weightTable    = "sessions.weights"
)

// names returns, sorted, what stands for "*" in the field's key in this configuration; [""] for a field without one.
func (f field) names(c *Config) []string {
	if of, named := chosenOf(f.key); named {
		return of.names(c)
	}
	switch {
	case strings.HasPrefix(f.key, envTable+"."):
		return slices.Sorted(maps.Keys(c.Pool.Env))
	case strings.HasPrefix(f.key, weightTable+"."):
		return slices.Sorted(maps.Keys(c.Sessions.Weights))
	default:
		return []string{""}
	}
}

// isEntry says whether the field is whatever key stands in a table.
func (f field) isEntry() bool { return strings.HasSuffix(f.key, ".*") }

// keyFor is the field's key with name for "*".
func (f field) keyFor(name string) string {
	return strings.Replace(f.key, "*", quoteKey(name), 1)
}

// setting makes a field.
func setting(key, initial, sample string, effect Effect, doc string, at binding) field {
	return field{key, initial, sample, effect, doc, at}
}
