package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// settable are values of all kinds; for each setting one of them is allowed and is not its default.
func settable() []any {
	return []any{
		true, int64(70000), int64(77), int64(7), 0.5, "7s", "70MiB", "0600", "debug", "text", "soft", "json", "low", "model", "file", "a:b", "env:A", "https://a.example", "openai/a",
		[]any{int64(7)},
		[]any{"A"},
		[]any{"a"},
		map[string]any{"a": int64(1)},
		"127.0.0.1:1",
		"ray",
		"/a",
	}
}

// A setting that was bound to another's place would change that one.
func TestEachSettingHasItsOwnPlace(t *testing.T) {
	l := &loader{fields: fields(), scope: scope{dir: "/d", cpus: func() float64 { return 1 }}}
	blank := func() *Config {
		c := l.blank()
		for _, of := range chosenTables() {
			l.addNamed(c, &of, "m")
		}
		c.Pool.Env["A"] = Secret{kind: "literal", value: "x"}
		c.Sessions.Weights["A"] = 1
		return c
	}
	for _, f := range l.fields {
		if f.key == "pools.default.start" { // one value is allowed, so it cannot change
			continue
		}
		old, c := blank(), blank()
		name := f.names(c)[0]
		for _, v := range settable() {
			_ = f.set(c, name, v, l.scope)
			if !f.same(old, c, name) {
				break
			}
		}
		changes := Diff(old, c)
		if len(changes) != 1 || changes[0].Key != f.keyFor(name) || changes[0].Effect != f.effect {
			t.Errorf("%s: %v", f.key, changes)
		}
	}
}

// A field of the structs without a setting could never be set.
func TestEachFieldHasASetting(t *testing.T) {
	settings := map[string]int{}
	for _, f := range fields() {
		settings[f.key[:strings.LastIndex(strings.TrimSuffix(f.key, ".*"), ".")]]++
	}
	for table, v := range map[string]any{
		"listen": Listen{}, "pools.default": Pool{}, "sessions": Sessions{}, "models.*": Model{}, "embedders.*": Embedder{}, "dspy": DSPy{}, "optimize": Optimize{}, "programs.*": Program{}, "log": Log{}, "http": HTTP{},
		"budgets.session": Budget{}, "budgets.session_day": Budget{}, "budgets.owner_day": Budget{},
	} {
		if n := reflect.TypeOf(v).NumField(); n != settings[table] {
			t.Errorf("[%s] has %d settings and %d fields", table, settings[table], n)
		}
	}
}

// Every default can be set by its variable, and then says so.
func TestEachSettingHasItsVariable(t *testing.T) {
	for _, f := range fields() {
		key, value := strings.Replace(f.key, "*", "m", 1), f.initial
		if value == "" {
			value = f.sample
		}
		text := "[models.m]\nmodel='x'"
		if strings.HasPrefix(key, embeddersTable) {
			text = "[embedders.m]\nmodel='x'"
		}
		if strings.HasPrefix(key, programsTable) {
			text = "[models.main]\nmodel='x'\n[programs.m]\n"
			if f.key != "programs.*.program" {
				text += "signature='a -> b'"
			}
		}
		if strings.HasSuffix(key, ".start_timeout") {
			text += "\ncommand = ['x']"
		}
		variable := variableFor(key)
		if f.isEntry() {
			variable = variableFor(strings.TrimSuffix(f.key, ".*")) + "_m"
		}
		if strings.HasSuffix(key, "put_price") {
			text += "\ninput_price = 1\noutput_price = 1"
		}
		text = needs(f.key) + text
		c, err := load(t, text, variable+"="+value)
		if err != nil {
			t.Error(err)
		} else if got := c.Origin(key); got != "environment "+variable {
			t.Errorf("%s is from %s", key, got)
		}
	}
}

// needs is what has to stand in a file beside a setting.
func needs(key string) string {
	switch {
	case key == "sessions.path", key == "sessions.key_file":
		return "[sessions]\nstore = 'file'\npath = '/x'\n"
	case key == "models.*.extraction_model":
		return "[models.local]\nmodel='x'\n"
	case strings.HasPrefix(key, weightTable):
		return "[sessions]\nweight_label = 'x'\n"
	}
	return ""
}

func TestExampleFile(t *testing.T) {
	hold(t, "../../config.example.toml", func(string) string { return Example() })
	c := mustLoad(t, Example())
	defaults, err := Load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if changes := Diff(defaults, c); len(changes) > 0 {
		t.Errorf("the example differs from the defaults: %v", changes)
	}
	whole := mustLoad(t, uncommented())
	for _, f := range fields() {
		key := f.keyFor(f.names(whole)[0])
		if strings.Contains(f.key, ".command") || strings.HasSuffix(f.key, "*.start_timeout") {
			key = strings.Replace(f.key, "*", "local", 1)
		} else if f.key == "programs.*.program" {
			key = "programs.triage.program"
		} else if strings.HasPrefix(f.key, programsTable) {
			key = strings.Replace(f.key, "*", "answer", 1)
		} else if _, named := chosenOf(f.key); named {
			key = strings.Replace(f.key, "*", "main", 1)
		}
		if whole.Origin(key) == "default" {
			t.Errorf("the example does not have %s", key)
		}
	}
}

// The built-in profiles and their tables in the example say the same.
func TestExampleProfiles(t *testing.T) {
	for profile := range profileDefaults() {
		bare, err := Load(Options{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		example, err := Load(Options{Profile: profile, Path: write(t, Example())})
		if err != nil {
			t.Fatal(err)
		}
		if changes := Diff(bare, example); len(changes) > 0 {
			t.Errorf("%s: %v", profile, changes)
		}
	}
}

// uncommented is the example with all settings in force.
func uncommented() string {
	text := regexp.MustCompile(`(?m)^#([A-Za-z[])`).ReplaceAllString(Example(), "$1")
	return strings.Replace(text, `store = "memory"`, `store = "file"`, 1) // which alone has a path
}

// hold compares a file with what makes it, and writes it where UPDATE is set in the environment.
func hold(t *testing.T, path string, wanted func(got string) string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && os.Getenv("UPDATE") == "" {
		t.Fatal(err)
	}
	got, want := string(data), wanted(string(data))
	if got == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s is not what the settings give; run UPDATE=1 go test ./internal/config", filepath.Base(path))
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The tables of docs/configuration.md are made from the fields.
func TestDocumentedSettings(t *testing.T) {
	hold(t, "../../docs/configuration.md", func(got string) string {
		tables := map[string]string{}
		for _, f := range fields() {
			i := strings.LastIndex(f.key, ".")
			table := f.key[:i]
			if tables[table] == "" {
				tables[table] = "| key | default | in force | meaning |\n| --- | --- | --- | --- |\n"
			}
			initial := "none"
			if f.initial != "" {
				initial = "`" + f.initial + "`"
			}
			tables[table] += "| `" + strings.Replace(f.key[i+1:], "*", "NAME", 1) + "` | " + initial + " | " + string(f.effect) + " | " + f.doc + " |\n"
		}
		section := regexp.MustCompile(`(?s)(<!-- settings of (\S+) -->\n).*?(<!-- end -->)`)
		seen := 0
		out := section.ReplaceAllStringFunc(got, func(s string) string {
			m := section.FindStringSubmatch(s)
			if tables[m[2]] == "" {
				t.Errorf("docs/configuration.md: there is no table %s", m[2])
			}
			seen++
			return m[1] + tables[m[2]] + m[3]
		})
		if seen != len(tables) {
			t.Errorf("docs/configuration.md has %d of %d tables", seen, len(tables))
		}
		return out
	})
}

// Every block of TOML in these pages loads as it stands.
func TestDocumentedBlocks(t *testing.T) {
	block := regexp.MustCompile("(?s)```toml\n(.*?)```")
	for _, page := range []string{"../../docs/configuration.md", "../../docs/models.md", "../../docs/sizing.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := block.FindAllSubmatch(text, -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no TOML", page)
		}
		for _, b := range blocks {
			if _, err := load(t, string(b[1])); err != nil {
				t.Errorf("%s:\n%s\n%v", filepath.Base(page), b[1], err)
			}
		}
	}
}
