package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a reload would change is found as the sidecar itself reads: with its folder, its environment, and what references lead to.
func TestCompare(t *testing.T) {
	p := newPlace(t, self(t), "size = 2\nenv.KEY = 'file:key'\nenv.WORD = 'first'")
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	base := strings.Replace(string(text), "size = 2\n", "", 1) // newPlace says it, too
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(p.config, base)
	write(filepath.Join(p.dir, "key"), "s3cret-one")
	t.Setenv("DSPEX_LOG_LEVEL", "warn")
	p.serve(t)
	c := p.connect(t)
	compare := func(params params) (a params, keys string) {
		a = get(t, c, "admin.config.compare", params)
		for _, one := range a["changes"].([]any) {
			change, _ := one.(map[string]any)
			keys += fmt.Sprint(change["key"], " ", change["effect"], ", ")
		}
		if strings.Contains(fmt.Sprint(a), "s3cret") {
			t.Errorf("a secret is shown: %v", a)
		}
		return a, keys
	}
	if a, keys := compare(nil); keys != "" || a["valid"] != true {
		t.Errorf("%v", a)
	}
	write(filepath.Join(p.dir, "key"), "s3cret-two") // which nobody watches
	if a, keys := compare(nil); keys != "pools.default.env.KEY generation, " {
		t.Errorf("%v", a)
	}
	other := strings.Replace(base, "'first'", "'s3cret-word'", 1) + "[log]\nlevel = 'debug'\n"
	if a, keys := compare(params{"text": other}); keys != "pools.default.env.WORD generation, " {
		t.Errorf("%v", a)
	}
	a, _ := compare(params{"text": base + "sizes = 3\n"})
	if errors := fmt.Sprint(a["errors"]); a["valid"] != false || !strings.Contains(errors, "sizes") {
		t.Errorf("%v", a)
	}
	if err := os.Remove(filepath.Join(p.dir, "key")); err != nil {
		t.Fatal(err)
	}
	if a, _ = compare(nil); a["valid"] != false || !strings.Contains(fmt.Sprint(a["errors"]), "env.KEY") {
		t.Errorf("%v", a)
	}
}
