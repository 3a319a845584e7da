package config

import (
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// Size is a number of workers, as written and as it comes out on this machine.
type Size struct {
	Text string // "8", "cpu", "cpu*1.5"
	N    int
}

var sizeByCPU = regexp.MustCompile(`^cpu(?: ?\* ?([0-9]{1,3}(?:\.[0-9]{1,3})?))?$`)

// parseSize reads "cpu" or "cpu*FACTOR"; the product is rounded up and at least 1.
func parseSize(text string, cpus func() float64) (Size, bool) {
	match := sizeByCPU.FindStringSubmatch(text)
	if match == nil {
		return Size{}, false
	}
	factor := 1.0
	if match[1] != "" {
		factor, _ = strconv.ParseFloat(match[1], 64) // the expression lets only numbers through
	}
	if factor == 0 {
		return Size{}, false
	}
	// Cut what multiplying in binary adds, or 3 × 1.1 CPUs' worth of quota could round up twice.
	product := math.Round(factor*cpus()*1e6) / 1e6
	return Size{Text: text, N: max(1, int(math.Ceil(product)))}, true
}

// CPUs returns how many CPUs this process may use: the container's quota, which may be a fraction, where the control
// groups under root ("/" but in tests) set one, and no more than GOMAXPROCS, which follows the CPU affinity.
func CPUs(root string) float64 { return cpus(root, float64(runtime.GOMAXPROCS(0))) }

func cpus(root string, limit float64) float64 {
	for _, dir := range cgroupDirs(root) {
		quota, period := quotaOf(dir)
		if quota > 0 && period > 0 {
			limit = min(limit, quota/period)
		}
	}
	return limit
}

// cgroupDirs lists the folders of this process's control groups and of all above them, since each of them limits it.
// In a container the path in /proc may be the host's, of which only the root is mounted: that is covered by walking up.
func cgroupDirs(root string) []string {
	mount := filepath.Join(root, "sys/fs/cgroup")
	// Roots first, so that a quota is found without /proc too.
	dirs := []string{mount, filepath.Join(mount, "cpu"), filepath.Join(mount, "cpu,cpuacct")}
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return dirs
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy:controllers:path
		if len(parts) != 3 {
			continue
		}
		var bases []string
		switch {
		case parts[0] == "0": // version 2
			bases = []string{mount}
		case strings.Contains(","+parts[1]+",", ",cpu,"):
			bases = []string{filepath.Join(mount, "cpu"), filepath.Join(mount, parts[1])}
		}
		for _, base := range bases {
			for p := path.Clean("/" + parts[2]); p != "/"; p = path.Dir(p) {
				dirs = append(dirs, filepath.Join(base, p))
			}
		}
	}
	return dirs
}

// quotaOf returns quota and period in microseconds, 0 or less where the folder sets no limit.
func quotaOf(dir string) (quota, period float64) {
	if text, err := os.ReadFile(filepath.Join(dir, "cpu.max")); err == nil { // version 2: "150000 100000" or "max 100000"
		if _, err := fmt.Sscan(string(text), &quota, &period); err != nil {
			return 0, 0
		}
		return quota, period
	}
	return number(filepath.Join(dir, "cpu.cfs_quota_us")), number(filepath.Join(dir, "cpu.cfs_period_us"))
}

func number(file string) float64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		return 0
	}
	return n
}
