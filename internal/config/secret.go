package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/plainfile"
)

// Secret says where a value is to be found: "env:NAME", "file:PATH", or, in [pools.NAME.env] only, the literal value.
// The zero Secret is none. Formatting, logging or marshalling one shows the reference and never a value.
type Secret struct {
	kind  string // "", "env", "file" or "literal"
	value string // the variable's name, the file's absolute path, or the literal value
}

// maxSecret bounds a secret's file, so that a reference to the wrong one reads little.
const maxSecret = 64 << 10

// parseSecret reads a reference; a relative path is taken from dir. Text that is none becomes a literal.
func parseSecret(text, dir string) (Secret, error) {
	kind, value, ok := strings.Cut(text, ":")
	switch {
	case strings.ContainsRune(text, 0):
		return Secret{}, errors.New("it holds a zero byte")
	case ok && kind == "env":
		if value == "" || strings.ContainsAny(value, "= ") {
			return Secret{}, errors.New(`after "env:" comes the name of an environment variable`)
		}
	case ok && kind == "file":
		if value == "" {
			return Secret{}, errors.New(`after "file:" comes a path`)
		}
		if !filepath.IsAbs(value) {
			value = filepath.Join(dir, value)
		}
	default:
		return Secret{kind: "literal", value: text}, nil
	}
	return Secret{kind: kind, value: value}, nil
}

// IsZero reports that there is no secret.
func (s Secret) IsZero() bool { return s.kind == "" }

// Resolve finds the value now, in environ (of the form of os.Environ) or in the file, without line ends at its end.
// A variable that is not set, an empty value, and a file over 64 KiB are errors; none of them holds the value.
func (s Secret) Resolve(environ []string) (string, error) {
	switch s.kind {
	case "env":
		value, _ := lookup(environ, s.value)
		if value == "" {
			return "", fmt.Errorf("%s: the environment variable is not set, or empty", s)
		}
		return value, nil
	case "file":
		return s.read()
	default:
		return s.value, nil
	}
}

func (s Secret) read() (string, error) {
	file, err := plainfile.Open(s.value)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", s, err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	switch {
	case len(text) > maxSecret:
		return "", fmt.Errorf("%s: the file is longer than %d bytes", s, maxSecret)
	case value == "" || strings.ContainsRune(value, 0):
		return "", fmt.Errorf("%s: the file is empty or holds a zero byte", s)
	}
	return value, nil
}

// String gives the reference, "" for none, and for a literal only that it is one.
func (s Secret) String() string {
	switch s.kind {
	case "":
		return ""
	case "literal":
		return "(literal, not shown)"
	default:
		return s.kind + ":" + s.value
	}
}

// Format writes what String gives whatever the verb, since %d and %#v would print the fields.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue is what String gives.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is what String gives; JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
