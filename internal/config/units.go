package config

import (
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// duration takes least and more; a zero value that was not read is shown as not given.
func duration(least time.Duration) kind[time.Duration] {
	return kind[time.Duration]{
		wants: fmt.Sprintf(`a duration of at least %s, such as "500ms", "5s", "10m" or "1h"`, showDuration(least)),
		parse: func(v any, _ scope) (time.Duration, error) {
			text, ok := v.(string)
			if !ok {
				return 0, errKind
			}
			d, err := time.ParseDuration(text)
			if err != nil || d < least {
				return 0, errKind
			}
			return d, nil
		},
		show: func(d time.Duration) string {
			if d == 0 && least > 0 {
				return ""
			}
			return quote(showDuration(d))
		},
	}
}

// showDuration leaves out what time.Duration's own text ends in: "10m0s" is "10m".
func showDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// byteUnits are the units of a number of bytes, largest first.
func byteUnits() []struct {
	name string
	size int
} {
	return []struct {
		name string
		size int
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}

func showBytes(n int) string {
	for _, unit := range byteUnits() {
		if n > 0 && n%unit.size == 0 {
			return strconv.Itoa(n/unit.size) + unit.name
		}
	}
	return strconv.Itoa(n)
}

func byteSize(low, high int) kind[int] {
	return kind[int]{
		wants: fmt.Sprintf(`a size from %s to %s, such as "512KiB", "16MiB", "1GiB", or a number of bytes`,
			showBytes(low), showBytes(high)),
		parse: func(v any, _ scope) (int, error) {
			n, unit := int64(0), 1
			switch v := v.(type) {
			case int64:
				n = v
			case string:
				for _, u := range byteUnits() {
					if number, ok := strings.CutSuffix(v, u.name); ok {
						v, unit = strings.TrimSuffix(number, " "), u.size
						break
					}
				}
				var err error
				if n, err = strconv.ParseInt(v, 10, 64); err != nil {
					return 0, errKind
				}
			default:
				return 0, errKind
			}
			if n < 0 || n > int64(high/unit) || int(n)*unit < low {
				return 0, errKind
			}
			return int(n) * unit, nil
		},
		show: func(n int) string {
			if text := showBytes(n); text != strconv.Itoa(n) {
				return quote(text)
			}
			return strconv.Itoa(n)
		},
	}
}

// workers takes a number of workers, or one by the CPUs.
func workers(low, high int) kind[Size] {
	return kind[Size]{
		wants: fmt.Sprintf(`a whole number from %d to %d, or "cpu", "cpu*1.5", "cpu*2" and so on`, low, high),
		parse: func(v any, s scope) (Size, error) {
			var size Size
			switch v := v.(type) {
			case int64:
				if v < int64(low) || v > int64(high) {
					return Size{}, errKind
				}
				return Size{Text: strconv.FormatInt(v, 10), N: int(v)}, nil
			case string:
				var ok bool
				if size, ok = parseSize(v, s.cpus); !ok {
					return Size{}, errKind
				}
			default:
				return Size{}, errKind
			}
			if size.N > high {
				return Size{}, fmt.Errorf("with %g CPUs that is %d", s.cpus(), size.N)
			}
			return size, nil
		},
		show: func(size Size) string {
			if _, err := strconv.Atoi(size.Text); err == nil {
				return size.Text
			}
			return quote(size.Text)
		},
	}
}

func fileMode() kind[fs.FileMode] {
	return kind[fs.FileMode]{
		wants: `the permissions as an octal string, such as "0660"`,
		parse: func(v any, _ scope) (fs.FileMode, error) {
			s, ok := v.(string)
			n, err := strconv.ParseUint(s, 8, 32)
			if !ok || err != nil || n > 0o777 {
				return 0, errKind
			}
			return fs.FileMode(n), nil
		},
		show: func(m fs.FileMode) string { return fmt.Sprintf(`"%04o"`, uint32(m)) },
	}
}

func logLevel() kind[slog.Level] {
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	return kind[slog.Level]{
		wants: `"debug", "info", "warn" or "error"`,
		parse: func(v any, _ scope) (slog.Level, error) {
			s, ok := v.(string)
			for _, level := range levels {
				if ok && s == strings.ToLower(level.String()) {
					return level, nil
				}
			}
			return 0, errKind
		},
		show: func(l slog.Level) string { return quote(strings.ToLower(l.String())) },
	}
}
