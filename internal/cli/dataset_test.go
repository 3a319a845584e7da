package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func rowsOf(t *testing.T, name, text string, columns map[string]kinds) (rows []map[string]any, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err = readRows(nil, path, columns, func(row map[string]any, _ int) error {
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

func TestRowsOfCSV(t *testing.T) {
	got, err := rowsOf(t, "x.CSV", "\ufefftext,answer\r\n\"a, \"\"b\"\"\r\nc\",1\nd,\n", nil)
	want := []map[string]any{{"text": "a, \"b\"\nc", "answer": "1"}, {"text": "d", "answer": ""}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, err)
	}
	for text, told := range map[string]string{
		"a,a\n1,2\n":        `line 1: the columns need names, each another; column 2 is "a"`,
		"a,\n1,2\n":         `line 1: the columns need names, each another; column 2 is ""`,
		"a,b\n1,2\n3\n":     "record on line 3: wrong number of fields",
		"a,b\n1,2\n\"3,4\n": "line 3",
	} {
		if _, err := rowsOf(t, "x.csv", text, nil); err == nil || !strings.Contains(err.Error(), told) || !strings.Contains(err.Error(), "x.csv: ") {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

func TestCellsOfCSVHaveTheTypesOfTheSignature(t *testing.T) {
	optional := map[string]any{"anyOf": []any{map[string]any{"type": "number"}, map[string]any{"type": "null"}}}
	definitions := map[string]any{"D": map[string]any{"type": "object"}, "Loop": map[string]any{"$ref": "#/$defs/Loop"}}
	columns := map[string]kinds{}
	for name, schema := range map[string]any{
		"n": map[string]any{"type": "integer"}, "x": optional, "ok": map[string]any{"type": "boolean"}, "l": map[string]any{"type": "array"},
		"d": map[string]any{"$ref": "#/$defs/D"}, "s": map[string]any{"type": "string"}, "loop": definitions["Loop"],
		"day": map[string]any{"type": "string", "format": "date"},
	} {
		columns[name] = kinds{}
		columns[name].add(schema, definitions, 0)
	}
	got, err := rowsOf(t, "x.csv", "n,x,ok,l,d,s,loop,other,day\n 5 ,1.5,TRUE,\"[1, \"\"a\"\"]\",\"{\"\"a\"\": null}\",5,1,2,2026-01-02\n,,,,,,,,\n", columns)
	want := []map[string]any{
		{"n": int64(5), "x": 1.5, "ok": true, "l": []any{int64(1), "a"}, "d": map[string]any{"a": nil}, "s": "5", "loop": "1", "other": "2", "day": "2026-01-02"},
		{"x": nil, "s": "", "loop": "", "other": ""},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%#v %v", got, err)
	}
	for text, told := range map[string]string{
		"s,n\n\"a\nb\",1\nx,1.5\n":   `x.csv: line 4, column "n": must be a whole number, is "1.5"`,
		"x\nNaN\n":                   `line 2, column "x": must be empty, or a number, is "NaN"`,
		"ok\nyes\n":                  `line 2, column "ok": must be true or false, is "yes"`,
		"l\n{}\n":                    `line 2, column "l": must be a list as JSON, is "{}"`,
		"l\n\"[1],\"\"w\"\":[2]\"\n": `line 2, column "l": must be a list as JSON`,
		"d\n[]\n":                    `line 2, column "d": must be an object as JSON, is "[]"`,
		"n\n9223372036854775808\n":   `line 2, column "n": must be a whole number`,
	} {
		if _, err := rowsOf(t, "x.csv", text, columns); err == nil || !strings.Contains(err.Error(), told) {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

func TestRowsOfJSONLines(t *testing.T) {
	got, err := rowsOf(t, "x.jsonl", "{\"a\": 1}\n\n{\"a\": [true]}\n", nil)
	if err != nil || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
	for _, text := range []string{"{\"a\": 1}\n\n[1]\n", "{\"a\": 1}\n\n{\"a\": \n"} {
		if _, err := rowsOf(t, "x.jsonl", text, nil); err == nil || !strings.Contains(err.Error(), "line 3: ") {
			t.Errorf("%q gives %v", text, err)
		}
	}
}
