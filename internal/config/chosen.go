package config

import (
	"maps"
	"slices"
	"strings"
)

// chosen is a table of tables whose names the user chooses, such as [models.NAME].
type chosen struct {
	table  string
	one    string // what each of them is, in errors
	names  func(c *Config) []string
	add    func(c *Config, name string)
	show   func(c *Config, name string) string // what stands for one that came or went
	effect func(c *Config, name string) Effect // of its coming and going
}

func chosenTables() []chosen {
	return []chosen{
		{
			table: modelsTable, one: "a model",
			names: func(c *Config) []string { return slices.Sorted(maps.Keys(c.Models)) },
			add:   func(c *Config, name string) { c.Models[name] = &Model{} },
			show:  func(c *Config, name string) string { return quote(c.Models[name].Model) },
			effect: func(c *Config, name string) Effect {
				if c.Models[name].Command != nil { // a model server's address reaches workers when they start
					return Generation
				}
				return Live
			},
		},
		{
			table: embeddersTable, one: "an embedder",
			names:  func(c *Config) []string { return slices.Sorted(maps.Keys(c.Embedders)) },
			add:    func(c *Config, name string) { c.Embedders[name] = &Embedder{} },
			show:   func(c *Config, name string) string { return quote(c.Embedders[name].Model) },
			effect: func(*Config, string) Effect { return Live },
		},
		{
			table: programsTable, one: "a program",
			names: func(c *Config) []string { return slices.Sorted(maps.Keys(c.Programs)) },
			add:   func(c *Config, name string) { c.Programs[name] = &Program{} },
			show: func(c *Config, name string) string {
				return quote(c.Programs[name].Program + c.Programs[name].Signature)
			},
			effect: func(*Config, string) Effect { return Generation },
		},
	}
}

// chosenOf finds the table of tables that a key is in, or is.
func chosenOf(key string) (chosen, bool) {
	for _, c := range chosenTables() {
		if key == c.table || strings.HasPrefix(key, c.table+".") {
			return c, true
		}
	}
	return chosen{}, false
}

// addNamed adds a table of that name with its defaults, unless there is one.
func (l *loader) addNamed(c *Config, of *chosen, name string) {
	if slices.Contains(of.names(c), name) {
		return
	}
	of.add(c, name)
	for _, f := range l.fields {
		if strings.HasPrefix(f.key, of.table+".*.") {
			l.initialise(c, f, name)
		}
	}
}

// comings are the tables that only one of two configurations has.
func comings(before, after *Config) []Change {
	var out []Change
	for _, of := range chosenTables() {
		was, is := of.names(before), of.names(after)
		for _, name := range was {
			if !slices.Contains(is, name) {
				out = append(out, Change{Key: dotted(of.table, name), Old: of.show(before, name), Effect: of.effect(before, name)})
			}
		}
		for _, name := range is {
			if !slices.Contains(was, name) {
				out = append(out, Change{Key: dotted(of.table, name), New: of.show(after, name), Effect: of.effect(after, name)})
			}
		}
	}
	return out
}
