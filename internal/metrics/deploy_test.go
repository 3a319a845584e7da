package metrics

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What is shipped to look at metrics names those that there are, and its runbooks lead somewhere.
func TestDashboardAndAlertsNameMetricsThatExist(t *testing.T) {
	families := map[string]string{}
	for _, f := range Families() {
		families[f.Name] = f.Kind
	}
	root := filepath.Join("..", "..")
	used := map[string]bool{}
	name := regexp.MustCompile(`\bdspex_[a-z_]+`)
	for _, file := range []string{"deploy/grafana/dspex-sidecar.json", "deploy/prometheus/alerts.yml"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON", file)
		}
		for _, found := range name.FindAllString(string(text), -1) {
			base, bucket := strings.CutSuffix(found, "_bucket")
			if kind, ok := families[base]; !ok || bucket != (kind == histogram) {
				t.Errorf("%s: there is no %s", file, found)
			}
			used[base] = true
		}
		for _, link := range regexp.MustCompile(`runbook: (\S+)`).FindAllStringSubmatch(string(text), -1) {
			page, anchor, _ := strings.Cut(link[1], "#")
			if text, err := os.ReadFile(filepath.Join(root, page)); err != nil || !hasAnchor(string(text), anchor) {
				t.Errorf("%s: %s leads nowhere", file, link[1])
			}
		}
	}
	if len(used) < 25 {
		t.Errorf("only %d of %d metrics are looked at", len(used), len(families))
	}
}

// hasAnchor says whether a page has a heading of that anchor.
func hasAnchor(page, anchor string) bool {
	if anchor == "" {
		return true
	}
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			title = regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			if strings.ReplaceAll(title, " ", "-") == anchor {
				return true
			}
		}
	}
	return false
}
