package config

import (
	"strings"
)

// Example returns config.example.toml: every setting with its default and one line on it. What has no default stands
// there as a comment without a space after the "#".
func Example() string {
	e := &example{}
	e.line("# The configuration of dspex-sidecar: every setting, with its default. A file needs only what differs.")
	e.line("# docs/configuration.md explains it. The profile goes over the file, and DSPEX_<TABLE>_<KEY> over both.")
	for _, f := range fields() {
		e.field(f)
	}
	e.profiles()
	return e.text
}

// exampleIO is the variant of the profile prod for applications that mostly wait.
const exampleIO = `# Where calls mostly wait: size = "cpu*3", max_overflow = "cpu*2", health_check_interval = "15s".
`

// example is a file under way.
type example struct {
	text  string
	table string
}

func (e *example) line(parts ...string) { e.text += strings.Join(parts, "") + "\n" }

// enter begins a table, as a comment where it is one that nobody must have.
func (e *example) enter(table, comment string) {
	if table != e.table {
		e.table = table
		e.line()
		e.line(comment, "[", table, "]")
	}
}

func (e *example) field(f field) {
	i := strings.LastIndex(f.key, ".")
	table, name := f.key[:i], f.key[i+1:]
	comment, value := "", f.initial
	if value == "" {
		comment, value = "#", f.sample
	}
	switch {
	case table == modelsTable+".*":
		comment = "#"
		e.model(name)
	case table == embeddersTable+".*":
		comment = "#"
		e.enter("embedders.main", "#")
	case table == programsTable+".*":
		comment = "#"
		e.program(name)
	case name == "*":
		e.enter(table, "")
		name = "NAME"
	default:
		e.enter(table, "")
	}
	e.line("# ", f.doc)
	e.line(comment, name, " = ", value)
}

// model enters the table of a model. A model server's settings exclude a provider's and so stand in a table of their own.
func (e *example) model(name string) {
	switch name {
	case "model":
		e.enter("models.main", "#")
	case "command":
		e.enter("models.local", "#")
		e.line("#model = \"openai/local\"\n#adapter = \"json\"\n#response_schema = true")
	}
}

// program enters the table of a program; one of a signature stands in a table of its own.
func (e *example) program(name string) {
	switch name {
	case "program":
		e.enter("programs.triage", "#")
	case "signature":
		e.enter("programs.answer", "#")
	}
}

func (e *example) profiles() {
	for _, profile := range []string{"dev", "prod"} {
		settings := profileDefaults()[profile]
		for _, setting := range settings {
			i := strings.LastIndex(setting[0], ".")
			e.enter("profile."+profile+"."+setting[0][:i], "")
			e.line(setting[0][i+1:], " = ", setting[1])
		}
	}
	e.text += exampleIO
}
