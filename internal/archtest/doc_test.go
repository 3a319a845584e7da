package archtest

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

func TestOnePackageComment(t *testing.T) {
	for _, p := range sources(t) {
		var with []string
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc.Text() != "" {
				with = append(with, name)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s: one file has the package comment that says what it owns and what it does not; here: %v", p.ImportPath, with)
		}
	}
}
