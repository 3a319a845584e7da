package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dspex/dspex-sidecar/internal/plainfile"
)

// DSPy is the [dspy] table: what programs that clients make may do beside asking models.
type DSPy struct {
	MediaURLs        bool
	MediaFolders     []string // absolute
	ProgramOfThought bool
	CodeTimeout      time.Duration
	CodeMemory       int
}

// Optimize is the [optimize] table: where programs are evaluated and optimised.
type Optimize struct {
	Executor string // "local" or "ray"
	Address  string // of the Ray cluster
}

// Program is a [programs.NAME] table: one program that is there for all clients.
type Program struct {
	Program      string // "module:attribute"; "" where there is a signature
	Signature    string
	Module       string
	Parameters   map[string]any
	Tools        []string
	Description  string
	Instructions string
	Model        string // the name of a configured model; "": the default
	State        File
	Demos        File
	Memory       map[string]any
}

// File is a JSON file, read when the configuration is: other content is a change.
type File struct {
	Path    string
	Content string
}

// mostJSON is how large the files of a program may be, together with the frame that they go to workers in.
const mostJSON = 2 << 20

var (
	signaturePattern = regexp.MustCompile(`(?s)^.+$`)
	clusterPattern   = regexp.MustCompile(`^(ray://)?([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$`)
	kindPattern      = regexp.MustCompile(`^[A-Za-z_]\w{0,62}$`)
)

const programsTable = "programs"

func dspyFields() []field {
	d := func(c *Config) *DSPy { return &c.DSPy }
	return []field{
		setting("dspy.media_urls", "false", "", Generation, "Clients may give images as addresses, which the model's provider fetches.",
			in(boolean(), func(c *Config) *bool { return &d(c).MediaURLs })),
		setting("dspy.media_folders", "[]", "", Generation, "Clients may give media as paths of files in these folders.",
			in(folders(), func(c *Config) *[]string { return &d(c).MediaFolders })),
		setting("dspy.program_of_thought", "false", "", Generation, "Clients may make programs that run code which a model wrote, in a sandbox that has to be set up.",
			in(boolean(), func(c *Config) *bool { return &d(c).ProgramOfThought })),
		setting("dspy.code_timeout", `"30s"`, "", Generation, "How long one run of such code may take; the model is told, and asked again.",
			in(duration(time.Second), func(c *Config) *time.Duration { return &d(c).CodeTimeout })),
		setting("dspy.code_memory", `"512MiB"`, "", Generation, "How much memory such code may use.",
			in(byteSize(64<<20, 2<<30), func(c *Config) *int { return &d(c).CodeMemory })),
	}
}

func optimizeFields() []field {
	o := func(c *Config) *Optimize { return &c.Optimize }
	return []field{
		setting("optimize.executor", `"local"`, "", Generation, `Where evaluate_program and optimize_program run rows: "local", on threads of the run's process, or "ray", on a Ray cluster.`,
			in(oneOf("local", "ray"), func(c *Config) *string { return &o(c).Executor })),
		setting("optimize.address", "", `"ray://head.example:10001"`, Generation, "Of that cluster: ray://HOST:PORT, or HOST:PORT where this machine is one of its nodes.",
			in(text(`"ray://HOST:PORT" or "HOST:PORT"`, clusterPattern), func(c *Config) *string { return &o(c).Address })),
	}
}

func programFields() []field {
	prose := text("a text", signaturePattern)
	return []field{
		setting("programs.*.program", "", `"programs:triage"`, Generation,
			"A dspy.Module, its class, or a function that makes it: module:attribute, found as the application is.",
			inProgram(text(`"module:attribute"`, appPattern), func(p *Program) *string { return &p.Program })),
		setting("programs.*.signature", "", `"question -> answer"`, Generation, "In place of program: the signature of a program of module.",
			inProgram(text("a signature, such as \"question -> answer\"", signaturePattern), func(p *Program) *string { return &p.Signature })),
		setting("programs.*.module", `"predict"`, "", Generation, "What the signature is made into, as clients may choose it, too.",
			inProgram(text("the name of a module", kindPattern), func(p *Program) *string { return &p.Module })),
		setting("programs.*.parameters", "", `{ n = 3, reward = "brevity", threshold = 1.0 }`, Generation, "Of that module.",
			inProgram(inlineTable(), func(p *Program) *map[string]any { return &p.Parameters })),
		setting("programs.*.tools", "", `["price"]`, Generation, `Names of the application's tools, for the module "react".`,
			inProgram(optionalNames(), func(p *Program) *[]string { return &p.Tools })),
		setting("programs.*.description", "", `"Answers in a sentence."`, Generation, "What list_programs says of it.",
			inProgram(prose, func(p *Program) *string { return &p.Description })),
		setting("programs.*.instructions", "", `"Answer briefly."`, Generation, "What the model is told to do, with a signature.",
			inProgram(prose, func(p *Program) *string { return &p.Instructions })),
		setting("programs.*.model", "", `"main"`, Generation, "Name of the configured model that it uses; else the default.",
			inProgram(text("the name of a model", namePattern), func(p *Program) *string { return &p.Model })),
		setting("programs.*.state", "", `"triage.json"`, Generation, "JSON file with what DSPy's save, or export_program, wrote of the program.",
			inProgram(jsonFile(), func(p *Program) *File { return &p.State })),
		setting("programs.*.demos", "", `"examples.json"`, Generation, "JSON file with a list of examples, for a program of one predictor.",
			inProgram(jsonFile(), func(p *Program) *File { return &p.Demos })),
		setting("programs.*.memory", "", `{ turns = 20 }`, Generation, "How much of a conversation each session keeps: turns, or tokens, which are counted roughly.",
			inProgram(inlineTable(), func(p *Program) *map[string]any { return &p.Memory })),
	}
}

func inProgram[T any](k kind[T], at func(p *Program) *T) binding {
	return place[T]{k, func(c *Config, name string) *T { return at(c.Programs[name]) }}
}

// folders takes a list of paths, made absolute.
func folders() kind[[]string] {
	k := list("a list of folders", as[string], quote)
	parse := k.parse
	k.parse = func(v any, s scope) ([]string, error) {
		paths, err := parse(v, s)
		for i := range paths {
			if err == nil {
				paths[i], err = filePath("").parse(paths[i], s)
			}
		}
		return paths, err
	}
	return k
}

func optionalNames() kind[[]string] {
	k := names("names of tools", kindPattern)
	show := k.show
	k.show = func(items []string) string {
		if items == nil {
			return ""
		}
		return show(items)
	}
	return k
}

func jsonFile() kind[File] {
	path := filePath("a path of a JSON file")
	return kind[File]{
		wants: path.wants,
		parse: func(v any, s scope) (File, error) {
			p, err := path.parse(v, s)
			return File{Path: p}, err
		},
		show: func(f File) string { return showText(f.Path) },
	}
}

// inlineTable takes a table of texts, numbers and truth values.
func inlineTable() kind[map[string]any] {
	return kind[map[string]any]{
		wants: `a table of texts, numbers, true and false, such as { max_iters = 5 }`,
		parse: func(v any, _ scope) (map[string]any, error) {
			table, err := as[map[string]any](v)
			for key, one := range table {
				switch one.(type) {
				case string, bool, int64, float64:
				default:
					return nil, fmt.Errorf("its %s is %s", clip(key, 60), describe(one))
				}
			}
			return table, err
		},
		show: showTable,
	}
}

func showTable(table map[string]any) string {
	if len(table) == 0 {
		return ""
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(table)) {
		value := fmt.Sprint(table[key])
		switch one := table[key].(type) {
		case string:
			value = quote(one)
		case float64:
			if value = strconv.FormatFloat(one, 'f', -1, 64); !strings.Contains(value, ".") {
				value += ".0"
			}
		}
		parts = append(parts, quoteKey(key)+" = "+value)
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func (l *loader) checkPrograms(c *Config) {
	for _, name := range slices.Sorted(maps.Keys(c.Programs)) {
		p, key := c.Programs[name], func(last string) string { return dotted(programsTable, name, last) }
		if (p.Program == "") == (p.Signature == "") {
			l.fail(c.origins[dotted(programsTable, name)], dotted(programsTable, name), `needs either program or signature`)
		}
		for _, last := range []string{"module", "parameters", "tools", "instructions"} {
			if p.Signature == "" && c.Origin(key(last)) != "default" {
				l.failKey(c, key(last), "has an effect only with a signature")
			}
		}
		if p.Model != "" && c.Models[p.Model] == nil {
			l.failKey(c, key("model"), "names %q, which is no configured model", p.Model)
		}
		if n, ok := p.Memory["turns"].(int64); p.Memory != nil && (!ok || n < 1 || len(p.Memory) > 1) {
			if n, ok = p.Memory["tokens"].(int64); !ok || n < 1 || len(p.Memory) > 1 {
				l.failKey(c, key("memory"), "is { turns = N } or { tokens = N }")
			}
		}
		l.readJSON(c, key("state"), &p.State, &map[string]any{})
		l.readJSON(c, key("demos"), &p.Demos, &[]map[string]any{})
	}
}

// readJSON reads a file, and notes where it cannot be read or is of another form than into.
func (l *loader) readJSON(c *Config, key string, f *File, into any) {
	if f.Path == "" {
		return
	}
	file, err := plainfile.Open(f.Path)
	if err != nil {
		l.failKey(c, key, "cannot be read: %v", err)
		return
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, mostJSON+1))
	switch {
	case err != nil:
		l.failKey(c, key, "cannot be read: %v", err)
	case len(data) > mostJSON:
		l.failKey(c, key, "is larger than %s", showBytes(mostJSON))
	case !utf8.Valid(data):
		l.failKey(c, key, "is not in UTF-8")
	case string(bytes.TrimSpace(data)) == "null":
		l.failKey(c, key, "is not the JSON that it should be: null")
	default:
		if err := json.Unmarshal(data, into); err != nil {
			l.failKey(c, key, "is not the JSON that it should be: %v", err)
		}
		f.Content = string(data)
	}
}
