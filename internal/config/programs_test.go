package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProgramsAreChecked(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "needs either program or signature"},
		{"program = 'a:b'\nsignature = 'a -> b'", "needs either program or signature"},
		{"program = 'os'", "module:attribute"},
		{"program = 'a:b'\nmodule = 'react'", "only with a signature"},
		{"signature = 'a -> b'\nmodel = 'none'", "no configured model"},
		{"signature = 'a -> b'\nmemory = { turns = 1, tokens = 2 }", "is { turns = N } or { tokens = N }"},
		{"signature = 'a -> b'\nmemory = { turns = 'x' }", "is { turns = N } or { tokens = N }"},
		{"signature = 'a -> b'\nparameters = { n = [1] }", "its n is"},
		{"signature = 'a -> b'\nstate = 'none.json'", "cannot be read"},
		{"signature = 'a -> b'\nstate = 'examples.json'", "not the JSON"},
		{"signature = 'a -> b'\ndemos = 'triage.json'", "not the JSON"},
		{"signature = 'a -> b'\ndemos = 'null.json'", "not the JSON"},
		{"signature = 'a -> b'\nstate = 'null.json'", "not the JSON"},
		{"signature = 'a -> b'\nstate = 'latin.json'", "UTF-8"},
		{"signature = 'a -> b'\nstate = '/dev/zero'", "it is a device"},
		{"signature = 'a -> b'\ndemos = 'pipe.json'", "it is a pipe"},
		{"signature = 'a -> b'\nmodule = 'os.system'", "the name of a module"},
	} {
		_, err := load(t, "[programs.p]\n"+c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q gives %v", c.text, err)
		}
	}
}

// A file with other content is a change, though the setting is the same.
func TestContentOfFilesIsCompared(t *testing.T) {
	path := write(t, "[programs.p]\nsignature = 'a -> b'\nstate = 'triage.json'\nparameters = { threshold = 1.0, reward = \"r\" }")
	read := func() *Config {
		c, err := Load(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := read()
	if changes := Diff(before, read()); len(changes) > 0 {
		t.Errorf("%v", changes)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "triage.json"), []byte(`{"self": {}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	changes := Diff(before, read())
	if len(changes) != 1 || changes[0].Key != "programs.p.state" || changes[0].Effect != Generation {
		t.Errorf("%v", changes)
	}
	if err := os.Truncate(filepath.Join(filepath.Dir(path), "triage.json"), mostJSON+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Options{Path: path}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v", err)
	}
}
