package config

import (
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// filePath takes a path and makes it absolute from the configuration's folder.
func filePath(wants string) kind[string] {
	return kind[string]{
		wants: wants,
		parse: func(v any, s scope) (string, error) {
			p, ok := v.(string)
			if !ok || p == "" || strings.ContainsRune(p, 0) {
				return "", errKind
			}
			return absolute(p, s.dir), nil
		},
		show: showText,
	}
}

// program takes the name of a program to find in PATH, or a path to it: with a slash it is a path.
func program(wants string) kind[string] {
	k := filePath(wants)
	parse := k.parse
	k.parse = func(v any, s scope) (string, error) {
		if name, ok := v.(string); ok && name != "" && !strings.ContainsAny(name, "/\x00") {
			return name, nil
		}
		return parse(v, s)
	}
	return k
}

func absolute(p, dir string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// commandLine takes a program, found as program says, and its arguments.
func commandLine() kind[[]string] {
	argvs := list(`a list of strings, the program first: ["server", "--flag"]`, func(v any) (string, error) {
		s, err := as[string](v)
		if err != nil || strings.ContainsRune(s, 0) {
			return "", errKind
		}
		return s, nil
	}, quote)
	parse := argvs.parse
	argvs.parse = func(v any, s scope) ([]string, error) {
		argv, err := parse(v, s)
		if err != nil || len(argv) == 0 {
			return nil, errKind
		}
		argv[0], err = program("").parse(argv[0], s)
		return argv, err
	}
	show := argvs.show
	argvs.show = func(argv []string) string {
		if len(argv) == 0 {
			return ""
		}
		return show(argv)
	}
	return argvs
}

// variableNames takes names of environment variables, or beginnings that end in "*".
func variableNames(pattern *regexp.Regexp) kind[[]string] {
	return names(`names of environment variables, such as ["PATH", "LC_*"]; "*" alone is not one`, pattern)
}

// webAddress takes the base URL of a model's server.
func webAddress() kind[string] {
	return kind[string]{
		wants: `an http or https URL without user or password in it, such as "https://llm.example.com/v1"`,
		parse: func(v any, _ scope) (string, error) {
			s, ok := v.(string)
			u, err := url.Parse(s)
			if ok && strings.Contains(s, "@") { // a password may be in it
				return "", errHidden
			}
			if !ok || err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
				return "", errKind
			}
			return s, nil
		},
		show: showText,
	}
}

// httpAddress takes where to listen for HTTP.
func httpAddress() kind[string] {
	return kind[string]{
		wants: `"HOST:PORT", where HOST is an address or localhost, or "unix:" and a path`,
		parse: func(v any, s scope) (string, error) {
			text, ok := v.(string)
			if !ok {
				return "", errKind
			}
			if path, ok := strings.CutPrefix(text, unixPrefix); ok {
				path, err := filePath("a path").parse(path, s)
				return unixPrefix + path, err
			}
			host, port, err := net.SplitHostPort(text)
			n, wrong := strconv.ParseUint(port, 10, 16)
			if err != nil || wrong != nil || n == 0 || host != "localhost" && net.ParseIP(host) == nil {
				return "", errKind
			}
			return text, nil
		},
		show: showText,
	}
}

// names takes a list of texts that match the expression.
func names(wants string, pattern *regexp.Regexp) kind[[]string] {
	return list("a list of "+wants, func(v any) (string, error) {
		s, ok := v.(string)
		if !ok || !pattern.MatchString(s) {
			return "", errKind
		}
		return s, nil
	}, quote)
}

// errHidden is errKind for a value that must not be shown, since it may hold a secret.
var errHidden = errors.New("not of this kind, and not to be shown")

// reference takes a secret by reference only: a key in the file itself would be in every copy of the file.
func reference() kind[Secret] {
	return kind[Secret]{
		wants: `a reference to a secret, "env:NAME" or "file:PATH", since the key itself does not belong into the configuration`,
		parse: func(v any, s scope) (Secret, error) {
			secret, err := orReference().parse(v, s)
			if err == nil && secret.kind == "literal" {
				return Secret{}, errHidden
			}
			return secret, err
		},
		show: showSecret,
	}
}

// orReference takes a literal too.
func orReference() kind[Secret] {
	return kind[Secret]{
		wants: `a string: the value itself, or "env:NAME" or "file:PATH" where it is secret`,
		parse: func(v any, s scope) (Secret, error) {
			text, ok := v.(string)
			if !ok {
				return Secret{}, errHidden
			}
			return parseSecret(text, s.dir)
		},
		show: showSecret,
	}
}

func showSecret(s Secret) string { return showText(s.String()) }
