package archtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// VERSION is the one place; Python's packaging wants it spelled out.
func TestOneVersion(t *testing.T) {
	root := filepath.Join("..", "..")
	version := strings.TrimSpace(read(t, filepath.Join(root, "VERSION")))
	if version == "" {
		t.Fatal("VERSION is empty")
	}
	for file, want := range map[string]string{
		"clients/python/pyproject.toml": `version = "` + version + `"`,
		"python/pyproject.toml":         `version = "` + version + `"`,
		"CHANGELOG.md":                  "## [" + version + "]",
	} {
		if !strings.Contains(read(t, filepath.Join(root, file)), "\n"+want) {
			t.Errorf("%s has no line %q, as VERSION says", file, want)
		}
	}
	if want := `"dspex==` + version + `"`; !strings.Contains(read(t, filepath.Join(root, "python/pyproject.toml")), want) {
		t.Errorf("python/pyproject.toml does not depend on %s", want)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
