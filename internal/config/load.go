package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Options says what a configuration is loaded from. The zero Options load the defaults.
type Options struct {
	Path    string         // the TOML file; "" for none
	Text    *string        // in place of the file's; nil: the file is read
	Profile string         // goes over DSPEX_PROFILE; "" for that one or none
	Environ []string       // in the form of os.Environ; nil for an empty environment
	Dev     bool           // while an application is written: tracebacks, and a log for people
	CPUs    func() float64 // how many CPUs there are to size pools by; nil for CPUs("/")
}

// Load reads a configuration: the defaults, the profile's own defaults, the file, the profile's tables in the file and
// the environment, each over the one before. What is wrong is returned all at once, as far as it can be told, as
// [Errors]; nothing is loaded then.
func Load(o Options) (*Config, error) {
	dir, err := filepath.Abs(filepath.Dir(o.Path)) // of "" that is the working folder
	if err != nil {
		return nil, Errors{{File: o.Path, Message: "has no absolute path: " + err.Error(), cause: err}}
	}
	if o.CPUs == nil {
		o.CPUs = func() float64 { return CPUs("/") }
	}
	l := &loader{Options: o, fields: fields(), scope: scope{dir: dir, cpus: o.CPUs}}
	doc := l.readDocument()
	c := l.blank()
	c.Path, c.Dir, c.Blank = o.Path, dir, l.noBytes
	l.chooseProfile(c, doc)
	l.applyBuiltIn(c)
	l.applyFile(c, doc)
	l.applyEnvironment(c)
	l.applyDev(c)
	if c.Listen.Socket == "" {
		c.Listen.Socket = DefaultSocket(o.Environ)
	}
	if len(l.errs) == 0 { // otherwise the values may not be those that are meant
		l.check(c)
	}
	if err := l.errs.orNil(); err != nil {
		return nil, err
	}
	return c, nil
}

// loader is the state of one Load.
type loader struct {
	Options
	fields  []field
	scope   scope
	noBytes bool // of the file
	errs    Errors
}

// origin says where a value was written.
type origin struct {
	file string // as Error.File
	mark
	text string // as Config.Origin
}

// mostErrors is how many errors are kept: a file with more of them is no configuration.
const mostErrors = 100

func (l *loader) fail(from origin, key, format string, args ...any) {
	if len(l.errs) >= mostErrors {
		return
	}
	message := fmt.Sprintf(format, args...)
	l.errs = append(l.errs, &Error{File: from.file, Line: from.line, Column: from.column, Key: key, Message: message})
}

// readDocument reads the file, or notes why it cannot and returns an empty document.
func (l *loader) readDocument() document {
	if l.Path == "" && l.Text == nil {
		return document{}
	}
	data, err := l.read()
	if err != nil {
		l.errs = append(l.errs, &Error{File: l.Path, Message: "cannot be read: " + err.Error(), cause: err})
		return document{}
	}
	l.noBytes = len(data) == 0
	doc, err := parseDocument(data)
	if err != nil {
		l.errs = append(l.errs, syntaxError(l.Path, data, err))
	}
	return doc
}

func (l *loader) read() ([]byte, error) {
	switch {
	case l.Text == nil:
		return readFile(l.Path)
	case len(*l.Text) > maxFile:
		return nil, fmt.Errorf("the text is longer than %d bytes", maxFile)
	}
	return []byte(*l.Text), nil
}

// blank returns the defaults.
func (l *loader) blank() *Config {
	c := &Config{Models: map[string]*Model{}, Embedders: map[string]*Embedder{}, Programs: map[string]*Program{}, origins: map[string]origin{}}
	c.Pool.Env = map[string]Secret{}
	c.Sessions.Weights = map[string]int{}
	for _, f := range l.fields {
		if !strings.Contains(f.key, "*") {
			l.initialise(c, f, "")
		}
	}
	return c
}

func (l *loader) initialise(c *Config, f field, name string) {
	if f.initial == "" {
		return
	}
	if v, ok := tomlValue(f.initial); ok {
		l.set(c, f, name, v, origin{text: "default"})
	}
}

// set reads a value into its place, or notes why it cannot.
func (l *loader) set(c *Config, f field, name string, v any, from origin) {
	key := f.keyFor(name)
	if err := f.set(c, name, v, l.scope); err != nil {
		l.fail(from, key, "%s", refusal(f, v, err))
		return
	}
	c.origins[key] = from
}

// refusal says what a value should have been.
func refusal(f field, v any, err error) string {
	switch {
	case errors.Is(err, errHidden):
		return "must be " + f.allowed()
	case errors.Is(err, errKind):
		return fmt.Sprintf("must be %s, not %s", f.allowed(), describe(v))
	default:
		return fmt.Sprintf("must be %s: %v", f.allowed(), err)
	}
}

// profileDefaults are the profiles that there are without a file: key and value as TOML. A file's own settings go
// over them, since they are defaults too.
func profileDefaults() map[string][][2]string {
	const pool = "pools.default."
	return map[string][][2]string{
		"dev": {
			{pool + "size", "2"}, {pool + "lazy", "true"}, {pool + "health_check_interval", `"60s"`}, {pool + "tracebacks", "true"},
		},
		"prod": {
			{pool + "size", `"cpu*2"`},
			{pool + "max_overflow", `"cpu"`},
			{pool + "checkout_timeout", `"10s"`},
			{pool + "health_check_interval", `"30s"`},
			{pool + "lazy", "false"},
		},
	}
}

// chooseProfile finds out which profile is meant, and that there is one of that name.
func (l *loader) chooseProfile(c *Config, doc document) {
	from := origin{file: "--profile"}
	c.Profile = l.Profile
	if c.Profile == "" {
		from.file = "environment DSPEX_PROFILE"
		c.Profile, _ = lookup(l.Environ, "DSPEX_PROFILE")
	}
	known := slices.Collect(maps.Keys(profileDefaults()))
	if own, ok := doc.values["profile"].(map[string]any); ok {
		known = slices.AppendSeq(known, maps.Keys(own))
	}
	slices.Sort(known)
	if c.Profile != "" && !slices.Contains(known, c.Profile) && len(l.errs) == 0 {
		l.fail(from, "", "there is no profile %s; there are %s", describe(c.Profile), strings.Join(slices.Compact(known), ", "))
	}
}

func (l *loader) applyBuiltIn(c *Config) {
	for _, setting := range profileDefaults()[c.Profile] {
		f, name, ok := l.find(strings.Split(setting[0], "."))
		if v, isValue := tomlValue(setting[1]); ok && isValue {
			l.set(c, f, name, v, origin{text: "profile " + c.Profile + ", built in"})
		}
	}
}

// applyDev sets what goes with `serve --dev`, unless the file or the environment say something else.
func (l *loader) applyDev(c *Config) {
	if !l.Dev {
		return
	}
	for key, value := range map[string]any{"pools.default.tracebacks": true, "log.format": "text"} {
		if f, name, ok := l.find(strings.Split(key, ".")); ok && c.Origin(key) == "default" {
			l.set(c, f, name, value, origin{text: "--dev"})
		}
	}
}

const mustBeTable = "must hold tables, such as"

// applyFile applies the file and the chosen profile's tables; those of other profiles are only checked.
func (l *loader) applyFile(c *Config, doc document) {
	base := maps.Clone(doc.values)
	delete(base, "profile")
	file := source{path: l.Path, marks: doc.marks}
	l.apply(c, base, nil, file)
	profiles, ok := doc.values["profile"].(map[string]any)
	if v := doc.values["profile"]; v != nil && !ok {
		l.fail(file.origin("profile"), "profile", "%s [profile.dev.pools.default], not %s", mustBeTable, describe(v))
	}
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		overlay := source{path: l.Path, marks: doc.marks, profile: name}
		tables, ok := profiles[name].(map[string]any)
		switch {
		case !ok:
			key := dotted("profile", name)
			l.fail(overlay.origin(""), key, "%s [%s.pools.default], not %s", mustBeTable, key, describe(profiles[name]))
		case name == c.Profile:
			l.apply(c, tables, nil, overlay)
		default:
			l.apply(l.blank(), tables, nil, overlay)
		}
	}
}

// source is the file, or one profile's tables in it.
type source struct {
	path    string
	marks   map[string]mark
	profile string
}

// origin says where a key of this source is.
func (s source) origin(key string) origin {
	from := origin{file: s.path}
	if s.profile != "" {
		key = strings.TrimSuffix(dotted("profile", s.profile)+"."+key, ".")
	}
	from.mark = s.marks[key]
	from.text = fmt.Sprintf("%s:%d", s.path, from.line)
	if s.profile != "" {
		from.text = "profile " + s.profile + ", " + from.text
	}
	return from
}
