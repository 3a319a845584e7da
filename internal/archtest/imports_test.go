package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dspex/dspex-sidecar"

// allowed says which of the project's packages each package may import. Imports point down only; a package that is not
// here is a decision to be taken. What else `wire` and others may import is in .golangci.yml.
func allowed() map[string][]string {
	return map[string][]string{
		"cmd/dspex-sidecar": {"internal/app", "internal/cli", "internal/keeper", "internal/config", "wire"},

		"internal/app": {
			"internal/admin", "proxy", "internal/runs", "internal/session", "internal/launch", "internal/keeper", "pool",
			"internal/procs", "internal/config", "internal/events", "internal/jsontext", "internal/metrics", "internal/permits", "internal/plainfile", "internal/shared", "internal/store", "internal/watch", "wire",
		},
		"bench/load":      {"wire"},
		"examples/gowire": {"wire"},
		"tests/model":     {},
		"internal/cli":    {"internal/client", "internal/config", "internal/jsontext", "internal/load", "wire"},
		"internal/load":   {"internal/client", "wire"},
		"internal/client": {"wire"},
		"internal/admin":  {"proxy", "internal/runs", "internal/session", "pool", "internal/events", "internal/metrics", "wire"},

		"proxy":            {"internal/runs", "internal/session", "pool", "internal/events", "internal/metrics", "wire"},
		"internal/runs":    {"internal/session", "pool", "internal/events", "internal/metrics", "wire"},
		"internal/session": {"pool", "internal/store", "internal/heap", "internal/events", "internal/metrics", "wire"},
		"pool":             {"internal/closed", "internal/heap", "internal/events", "internal/metrics", "wire"},

		"internal/launch": {"internal/closed", "internal/keeper", "internal/packet", "internal/procs", "pool", "wire"},
		"internal/keeper": {"internal/packet", "internal/procs", "wire"},

		"internal/archtest":  {},
		"internal/closed":    {},
		"internal/config":    {"internal/plainfile"},
		"internal/events":    {},
		"internal/heap":      {},
		"internal/metrics":   {},
		"internal/packet":    {},
		"internal/permits":   {},
		"internal/shared":    {"wire"},
		"internal/procs":     {},
		"internal/store":     {},
		"internal/watch":     {"internal/plainfile"},
		"internal/jsontext":  {},
		"internal/plainfile": {},
		"wire":               {},

		// Fakes and vectors that tests of several packages share.
		"pool/pooltest": {"pool", "wire", "wire/wiretest"},
		"wire/wiretest": {"wire"},
	}
}

// source is what `go list` says of a package, paths of the project's own packages cut to those of folders.
type source struct {
	ImportPath, Dir                    string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func TestImportsPointDown(t *testing.T) {
	table := allowed()
	for _, p := range sources(t) {
		permitted, known := table[p.ImportPath]
		if !known {
			t.Errorf("%s: not in the table of packages: say in imports_test.go what it may import", p.ImportPath)
			continue
		}
		for _, imported := range own(p.Imports) {
			if !slices.Contains(permitted, imported) {
				t.Errorf("%s imports %s: it may import %v", p.ImportPath, imported, permitted)
			}
		}
	}
}

// own returns those of the import paths that are the project's, as folders.
func own(paths []string) []string {
	var folders []string
	for _, p := range paths {
		if folder, ok := strings.CutPrefix(p, module+"/"); ok {
			folders = append(folders, folder)
		}
	}
	return folders
}

func sources(t *testing.T) []source {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", module+"/...")
	out, err := command.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p source
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module+"/")
		all = append(all, p)
	}
}
