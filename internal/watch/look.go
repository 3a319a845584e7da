package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/plainfile"
)

// mostBytes of a file are looked at.
const mostBytes = 1 << 20

// Digest is that of a file's content, or of the reason why it cannot be read.
func Digest(path string) string {
	file, err := plainfile.Open(path)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(file, mostBytes)); err != nil {
		return "unreadable: " + err.Error()
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// File looks at one file, wherever the links on the way to it lead: a Kubernetes ConfigMap changes by another `..data`.
func File(path string) func() State {
	dir, name := filepath.Dir(path), filepath.Base(path)
	return func() State {
		folders, names := []string{dir}, []string{name}
		if target, err := os.Readlink(path); err == nil {
			first, _, _ := strings.Cut(target, "/")
			names = append(names, first)
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
			names = append(names, filepath.Base(real))
			folders = append(folders, filepath.Dir(real))
		}
		return State{Digest: Digest(path), Folders: folders, About: func(p string) bool { return slices.Contains(names, filepath.Base(p)) }}
	}
}

// mostFiles bounds what is looked at of a tree: more is no application, or one folder too high.
const mostFiles = 5000

// Python looks at the Python files in a folder and below. Left out are hidden folders, virtual environments, installed packages, and what tools make.
func Python(dir string) func() State {
	var seen, digest string
	return func() State {
		s := State{About: func(p string) bool { return strings.HasSuffix(p, ".py") || filepath.Ext(p) == "" }}
		var files []string
		var stat strings.Builder
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil //nolint:nilerr // gone, or not ours to read
			case entry.IsDir() && path != dir && skipped(path):
				return filepath.SkipDir
			case entry.IsDir():
				s.Folders = append(s.Folders, path)
			case strings.HasSuffix(path, ".py") && len(files) < mostFiles:
				files = append(files, path)
				if info, err := os.Stat(path); err == nil {
					fmt.Fprintf(&stat, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
				}
			}
			return nil
		})
		if stat.String() != seen || digest == "" { // else nobody has touched any
			seen, digest = stat.String(), digestAll(files)
		}
		s.Digest = digest
		return s
	}
}

func digestAll(files []string) string {
	sum := sha256.New()
	for _, path := range files {
		_, _ = fmt.Fprintf(sum, "%s\x00%s\x00", path, Digest(path)) // a hash takes everything
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// skipped says whether a folder holds no code of the application's own.
func skipped(dir string) bool {
	name := filepath.Base(dir)
	if strings.HasPrefix(name, ".") || slices.Contains([]string{"__pycache__", "node_modules", "site-packages", "build", "dist"}, name) {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "pyvenv.cfg"))
	return err == nil
}
