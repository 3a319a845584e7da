package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a configuration. Its text never holds a secret's value.
type Error struct {
	File    string // the file's path, "environment NAME", "--profile", or "" for a default
	Line    int    // from 1; 0 where there is none
	Column  int    // from 1, in bytes; 0 where there is none
	Key     string // dotted, such as "pools.default.size"; "" where the file as a whole is meant
	Message string // what is wrong and what is allowed

	cause error
}

// Error gives the whole line: where, which key, what is wrong and what is allowed.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(clip(e.Key, 120) + " ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Unwrap returns the cause, such as the operating system's error.
func (e *Error) Unwrap() error { return e.cause }

// Errors is everything that is wrong with a configuration, in the order of the file. [Load] returns no other type.
type Errors []*Error

const shownErrors = 20

// Error gives one line for each error, the first twenty of them.
func (e Errors) Error() string {
	lines := make([]string, 0, shownErrors+1)
	for i, one := range e {
		if i == shownErrors {
			lines = append(lines, fmt.Sprintf("and %d more", len(e)-i))
			break
		}
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is and errors.As look into each of them.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// orNil returns the errors sorted, or nil where there are none.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}

// closest returns the candidate that word is most likely a misspelling of, or "".
func closest(word string, candidates []string) string {
	const longest = 40 // no name of ours is longer; a longer word is no misspelling of one
	best, bestDistance := "", min(3, 1+len(word)/4)
	if len(word) > longest {
		return ""
	}
	for _, candidate := range candidates {
		if d := distance(strings.ToLower(word), candidate); d < bestDistance || (d == bestDistance && best == "") {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance is Levenshtein's: how many bytes to insert, remove or change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
