package config

import (
	"maps"
	"slices"
	"strings"
)

// apply sets what a tree of tables gives; path is where in the configuration the tree stands.
func (l *loader) apply(c *Config, tree map[string]any, path []string, from source) {
	for _, k := range slices.Sorted(maps.Keys(tree)) {
		if len(l.errs) >= mostErrors {
			return
		}
		p := append(slices.Clip(path), k)
		key, v := dotted(p...), tree[k]
		if f, name, ok := l.find(p); ok {
			if l.checkName(p, from.origin(key)) {
				l.set(c, f, name, v, from.origin(key))
			}
			continue
		}
		if !l.isTable(p) {
			l.unknown(p, from.origin(key))
			continue
		}
		table, ok := v.(map[string]any)
		if !ok {
			l.fail(from.origin(key), key, "is a table, written [%s], not %s", key, describe(v))
			continue
		}
		if of, named := chosenOf(p[0]); named && len(p) == 2 {
			if !l.checkName(p, from.origin(key)) {
				continue
			}
			l.addNamed(c, &of, k)
			if _, ok := c.origins[key]; !ok {
				c.origins[key] = from.origin(key)
			}
		}
		l.apply(c, table, p, from)
	}
}

// find returns the setting at path and what stands for the "*" in its key.
func (l *loader) find(path []string) (f field, name string, ok bool) {
	for _, f := range l.fields {
		parts := strings.Split(f.key, ".")
		if len(parts) == len(path) && matches(parts, path) {
			if i := slices.Index(parts, "*"); i >= 0 {
				name = path[i]
			}
			return f, name, true
		}
	}
	return field{}, "", false
}

// isTable reports that settings are below path.
func (l *loader) isTable(path []string) bool {
	return slices.ContainsFunc(l.fields, func(f field) bool {
		parts := strings.Split(f.key, ".")
		return len(parts) > len(path) && matches(parts[:len(path)], path)
	})
}

func matches(pattern, path []string) bool {
	return slices.EqualFunc(pattern, path, func(a, b string) bool { return a == b || a == "*" })
}

// checkName notes where the name that a user chose, of a model or a variable, is none.
func (l *loader) checkName(path []string, from origin) bool {
	of, named := chosenOf(path[0])
	switch {
	case named && !namePattern.MatchString(path[1]):
		l.fail(from, dotted(path[:2]...), "is no name for %s: letters, digits, '_', '-' and '.', at most 63", of.one)
		return false
	case len(path) == 4 && dotted(path[:3]...) == envTable && !variablePattern.MatchString(path[3]):
		l.fail(from, dotted(path...), "is no name of an environment variable: letters, digits and '_', no digit first")
		return false
	}
	return true
}

// below lists what may stand below path.
func (l *loader) below(path []string) []string {
	var out []string
	for _, f := range l.fields {
		parts := strings.Split(f.key, ".")
		if len(parts) > len(path) && matches(parts[:len(path)], path) && !slices.Contains(out, parts[len(path)]) {
			out = append(out, parts[len(path)])
		}
	}
	if len(path) == 0 {
		out = append(out, "profile")
	}
	return out
}

// unknown notes a key that is no setting, with what was most likely meant.
func (l *loader) unknown(path []string, from origin) {
	key, last := dotted(path...), path[len(path)-1]
	if len(path) >= 2 && path[0] == "pools" {
		if len(path) == 2 {
			l.fail(from, key, "is a second pool: this version has one, [pools.default]")
			return
		}
	}
	siblings := l.below(path[:len(path)-1])
	hint := ""
	if meant := closest(last, siblings); meant != "" {
		hint = "; did you mean " + meant + "?"
	} else if table := l.tableOf(last); table != "" {
		hint = "; it belongs into [" + table + "]"
	}
	where := "at the top there are"
	if len(path) > 1 {
		where = "[" + dotted(path[:len(path)-1]...) + "] has"
	}
	l.fail(from, key, "is no setting%s (%s %s)", hint, where, strings.Join(siblings, ", "))
}

// tableOf returns the table that has a setting of that name, or "".
func (l *loader) tableOf(name string) string {
	for _, f := range l.fields {
		if table, ok := strings.CutSuffix(f.key, "."+name); ok && name != "*" {
			return strings.Replace(table, "*", "NAME", 1)
		}
	}
	return ""
}
