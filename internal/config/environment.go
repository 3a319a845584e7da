package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

const envPrefix = "DSPEX_"

// otherVariables are ours without being settings: of the command line, the tests and the model server.
func otherVariables() []string {
	return []string{"DSPEX_SOCKET", "DSPEX_PROFILE", "DSPEX_LONG", "DSPEX_MODEL_LISTEN", "DSPEX_MODEL_KEY"}
}

// applyEnvironment sets what DSPEX_<TABLE>_<KEY> says.
func (l *loader) applyEnvironment(c *Config) {
	for _, entry := range slices.Sorted(slices.Values(l.Environ)) {
		variable, raw, ok := strings.Cut(entry, "=")
		if !ok || !strings.HasPrefix(variable, envPrefix) ||
			slices.Contains(otherVariables(), variable) || strings.HasPrefix(variable, "DSPEX_DEMO_") {
			continue
		}
		from := origin{file: "environment " + variable, text: "environment " + variable}
		found := l.findVariable(c, variable)
		switch len(found) {
		case 1:
			l.setVariable(c, found[0].field, found[0].name, raw, from)
		case 0:
			l.unknownVariable(c, variable, from)
		default:
			l.fail(from, "", "could be %s or %s: set it in the file", found[0].keyFor(found[0].name), found[1].keyFor(found[1].name))
		}
	}
}

// named is a field and what stands for its "*".
type named struct {
	field
	name string
}

// variableFor is the variable that sets a key: upper case, "_" for all that is no letter or digit.
func variableFor(key string) string {
	return envPrefix + strings.Map(func(r rune) rune {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return '_'
		}
		return r
	}, strings.ToUpper(key))
}

// findVariable returns the settings that a variable may mean: models by the names that the file has, variables of
// workers by whatever name comes after the prefix.
func (l *loader) findVariable(c *Config, variable string) []named {
	var found []named
	for _, f := range l.fields {
		if table, ok := strings.CutSuffix(f.key, ".*"); ok {
			name, below := strings.CutPrefix(variable, variableFor(table)+"_")
			if below && variablePattern.MatchString(name) {
				found = append(found, named{f, name})
			}
			continue
		}
		for _, name := range f.names(c) {
			if variableFor(strings.Replace(f.key, "*", name, 1)) == variable {
				found = append(found, named{f, name})
			}
		}
	}
	return found
}

// setVariable reads the value as TOML, and where that gives nothing of the setting's kind as a bare string.
func (l *loader) setVariable(c *Config, f field, name, raw string, from origin) {
	v, isTOML := tomlValue(raw)
	if !isTOML || f.set(c, name, v, l.scope) != nil && f.set(c, name, raw, l.scope) == nil {
		v = raw
	}
	l.set(c, f, name, v, from)
}

// unknownVariable notes a variable that looks like a setting and is none; others of that prefix are not ours to judge.
func (l *loader) unknownVariable(c *Config, variable string, from origin) {
	first, _, ok := strings.Cut(strings.TrimPrefix(variable, envPrefix), "_")
	tables := l.below(nil)
	if !ok || !slices.ContainsFunc(tables, func(table string) bool { return distance(strings.ToLower(first), table) <= 1 }) {
		return
	}
	known := map[string]string{} // what may have been written, in lower case, and the variable that was meant
	for _, f := range l.fields {
		for _, name := range f.names(c) {
			key := strings.Replace(f.key, "*", name, 1)
			known[strings.ToLower(variableFor(key))] = variableFor(key)
			if parts := strings.Split(f.key, "."); len(parts) == 3 && parts[0] == "pools" { // the pool's name is left out easily
				known[strings.ToLower(variableFor(parts[0]+"."+parts[2]))] = variableFor(key)
			}
		}
	}
	hint := ""
	if meant := closest(variable, slices.Sorted(maps.Keys(known))); meant != "" {
		hint = "; did you mean " + known[meant] + "?"
	}
	if first == "MODELS" {
		hint += "; models are set this way only where the file has them: " + strings.Join(slices.Sorted(maps.Keys(c.Models)), ", ")
	}
	l.fail(from, "", "is no setting%s", hint)
}

// tomlValue reads one TOML value.
func tomlValue(raw string) (any, bool) {
	var doc map[string]any
	if err := toml.Unmarshal([]byte("v = "+raw+"\n"), &doc); err != nil || len(doc) != 1 {
		return nil, false
	}
	return doc["v"], true
}
