package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func rowsOf(t *testing.T, name, text string) (rows []map[string]any, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err = readRows(nil, path, func(row map[string]any, _ int) error {
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

func TestRowsOfCSV(t *testing.T) {
	got, err := rowsOf(t, "x.CSV", "\ufefftext,answer\r\n\"a, \"\"b\"\"\r\nc\",1\nd,\n")
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
		if _, err := rowsOf(t, "x.csv", text); err == nil || !strings.Contains(err.Error(), told) || !strings.Contains(err.Error(), "x.csv: ") {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

func TestRowsOfJSONLines(t *testing.T) {
	got, err := rowsOf(t, "x.jsonl", "{\"a\": 1}\n\n{\"a\": [true]}\n")
	if err != nil || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
	for _, text := range []string{"{\"a\": 1}\n\n[1]\n", "{\"a\": 1}\n\n{\"a\": \n"} {
		if _, err := rowsOf(t, "x.jsonl", text); err == nil || !strings.Contains(err.Error(), "line 3: ") {
			t.Errorf("%q gives %v", text, err)
		}
	}
}
