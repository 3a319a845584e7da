package config

import (
	"maps"
	"slices"
	"strings"
)

// Effect says what it takes to put a changed setting in force.
type Effect string

// The effects, from the least to the most.
const (
	Live       Effect = "live"       // at once, for what begins from now on
	Generation Effect = "generation" // by new workers that take over from the old
	Restart    Effect = "restart"    // only by a new start of the sidecar
)

// Setting is one setting that is in force.
type Setting struct {
	Key    string
	Value  string // as TOML; a secret's reference, never its value
	Origin string // as [Config.Origin]
}

// Settings returns all settings that have a value, in the order of the example file.
func (c *Config) Settings() []Setting {
	var out []Setting
	for _, one := range c.each() {
		if value := one.show(c, one.name); value != "" {
			key := one.keyFor(one.name)
			out = append(out, Setting{Key: key, Value: value, Origin: c.Origin(key)})
		}
	}
	return out
}

// Origin says where a setting's value came from: "default", "FILE:LINE", "profile NAME, FILE:LINE",
// "profile NAME, built in" or "environment VARIABLE".
func (c *Config) Origin(key string) string {
	if from, ok := c.origins[key]; ok {
		return from.text
	}
	return "default"
}

// each returns the settings of this configuration, one model after the other.
func (c *Config) each() []named {
	var out, ofTables []named
	for _, f := range fields() {
		_, inTable := chosenOf(f.key)
		for _, name := range f.names(c) {
			if inTable {
				ofTables = append(ofTables, named{f, name})
			} else {
				out = append(out, named{f, name})
			}
		}
	}
	table := func(n named) string { return n.key[:strings.Index(n.key, ".")] + "." + n.name }
	slices.SortStableFunc(ofTables, func(a, b named) int { return strings.Compare(table(a), table(b)) })
	return append(out, ofTables...)
}

// Change is a setting that differs between two configurations.
type Change struct {
	Key    string
	Old    string // as TOML, as [Setting.Value]; "" where it was not given
	New    string
	Effect Effect
}

// Diff returns what differs from before to after, in the order of the keys. A model or embedder that came or went is one change, of
// the key "models.NAME". Secrets are compared by reference: a new value behind the same reference is no change.
func Diff(before, after *Config) []Change {
	var out []Change
	for _, one := range before.each() {
		key := one.keyFor(one.name)
		switch has := one.in(after); {
		case !has && one.isEntry():
			out = append(out, Change{Key: key, Old: one.show(before, one.name), Effect: one.effect})
		case has && !one.same(before, after, one.name):
			out = append(out, Change{Key: key, Old: one.show(before, one.name), New: one.show(after, one.name), Effect: one.effect})
		}
	}
	for _, one := range after.each() {
		if one.isEntry() && !one.in(before) {
			out = append(out, Change{Key: one.keyFor(one.name), New: one.show(after, one.name), Effect: one.effect})
		}
	}
	out = append(out, comings(before, after)...)
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// in reports that the configuration has this setting's table or entry.
func (n named) in(c *Config) bool { return slices.Contains(n.names(c), n.name) }

// Kept returns after as it can be in force where before is: with the settings that only a restart changes as they are in before.
func Kept(before, after *Config) *Config {
	c := *after
	c.origins = maps.Clone(after.origins)
	for _, f := range fields() {
		if f.effect != Restart {
			continue
		}
		f.copy(&c, before, "")
		delete(c.origins, f.key)
		if from, ok := before.origins[f.key]; ok {
			c.origins[f.key] = from
		}
	}
	return &c
}
