package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// commands are all commands that are not hidden, as one types them.
func commands(t *testing.T) []string {
	t.Helper()
	parser, err := kong.New(&grammar{}, kong.Name(program))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var walk func(node *kong.Node, path string)
	walk = func(node *kong.Node, path string) {
		for _, child := range node.Children {
			if !child.Hidden {
				name := strings.TrimSpace(path + " " + child.Name)
				all = append(all, name)
				walk(child, name)
			}
		}
	}
	walk(parser.Model.Node, "")
	return all
}

func TestEveryCommandHasAnExample(t *testing.T) {
	for _, command := range commands(t) {
		o := run(t, nil, append(strings.Fields(command), "--help")...)
		o.expect(t, exitOK)
		if !strings.Contains(o.stdout, "Example:\n\n    "+program+" "+command) {
			t.Errorf("%s --help has no example:\n%s", command, o.stdout)
		}
	}
}

func TestDocumentationIsComplete(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	help := run(t, nil, "--help").stdout
	for _, command := range commands(t) {
		row := "\n| `" + command + "` |"
		_, rest, ok := strings.Cut(string(text), row)
		line, _, _ := strings.Cut(rest, "\n")
		if !ok || !strings.Contains(line, "`"+program+" "+command) {
			t.Errorf("docs/cli.md has no line %q with an example", row)
		}
	}
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitUnreachable, exitTimeout, exitDegraded, exitUnhealthy, exitInterrupted} {
		if row := fmt.Sprintf("\n| `%d` |", code); !strings.Contains(string(text), row) {
			t.Errorf("docs/cli.md has no line %q", row)
		}
		if line := fmt.Sprintf("\n    %-3d  ", code); !strings.Contains(help, line) {
			t.Errorf("--help has no line %q", line)
		}
	}
	if strings.Contains(help, "keeper") {
		t.Error("--help shows the keeper, which is not for people")
	}
}
